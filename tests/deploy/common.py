"""common.py - what the deploy tests share: checks that count, tools that may be missing."""
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
TOOLS = ROOT / "build/tools/python/bin"

# the tools' interpreter has the YAML parser and the Kubernetes schemas
if (TOOLS / "python3").exists() and "TACA_DEPLOY_TOOLS" not in os.environ:
    os.environ["TACA_DEPLOY_TOOLS"] = "1"
    os.execv(TOOLS / "python3", [str(TOOLS / "python3"), *sys.argv])

failures = []
skips = []


def check(good, says):
    """One sentence that must be true."""
    if not good:
        failures.append(says)
        print("FAILED:", says)


def equal(found, wanted, what):
    check(found == wanted, f"{what}: found {found!r}, wanted {wanted!r}")


def skip(why):
    """A part that cannot run here; the rest goes on."""
    skips.append(why)
    print("skipped:", why)


def skip_all(why):
    print("skipped:", why)
    sys.exit(77)


def finish(what):
    if failures:
        sys.exit(f"{len(failures)} checks failed")
    print(f"{what}: fine" + (f", {len(skips)} parts skipped" if skips else ""))


def tool(name):
    """The path of a program, or None."""
    beside = TOOLS / name
    return str(beside) if beside.exists() else shutil.which(name)


def run(*command, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **options}
    return subprocess.run([str(c) for c in command], check=False, **options)


def load_yaml(text):
    try:
        import yaml
    except ImportError:
        skip_all("no YAML parser for python (Debian: python3-yaml)")
    return list(yaml.safe_load_all(text))


def project_version():
    text = (ROOT / "CMakeLists.txt").read_text()
    return re.search(r"project\(taca VERSION ([0-9.]+)", text).group(1)


def default_of(flag):
    """The default that `taca serve --help` prints, in seconds or whatever its unit is."""
    build = pathlib.Path(os.environ.get("TACA_BUILD_DIR", ROOT / "build/release"))
    if not (build / "taca").exists():
        return None
    text = run(build / "taca", "serve", "--help").stdout
    found = re.search(rf"--{flag} .*\[([0-9.e+]+)\]", text)
    return float(found.group(1)) if found else None


# ---- metrics ---------------------------------------------------------------------------------------

def documented_metrics():
    """name -> type, from the tables of docs/metrics.md; histograms with their three series."""
    metrics = {}
    for line in (ROOT / "docs/metrics.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) < 4 or cells[2] not in ("counter", "gauge", "histogram"):
            continue
        for name in re.findall(r"`([a-z_]+)`", cells[1]):
            metrics[name] = cells[2]
    for name, kind in list(metrics.items()):
        if kind == "histogram":
            metrics.update({name + end: kind for end in ("_bucket", "_sum", "_count")})
    return metrics


def metrics_in(expression):
    """Names of ours and of the process in a PromQL expression, labels' values left out."""
    bare = re.sub(r'"[^"]*"', "", expression)
    return set(re.findall(r"\b(?:taca|process)_[a-z_]+", bare))
