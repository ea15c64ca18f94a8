"""The Dockerfile, read: what a reviewer would look for, and hadolint where it is to be had."""
import json
import re
import shlex

from common import ROOT, check, equal, finish, project_version, run, skip, tool

text = (ROOT / "Dockerfile").read_text()
joined = re.sub(r"\\\n", " ", "\n".join(l for l in text.splitlines() if not l.startswith("#")))
steps = [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]
stages = [i for i, (word, _) in enumerate(steps) if word == "FROM"]
# "${BASE} AS build" and the steps after it, in order
parts = [(steps[i][1].partition(" AS "), steps[i + 1:end])
         for i, end in zip(stages, stages[1:] + [len(steps)])]
named = {name: (base, body) for (base, _, name), body in parts}
last = named["runtime"][1]


def one(word, where=last):
    found = [rest for w, rest in where if w == word]
    equal(len(found), 1, f"number of {word} in its stage")
    return found[-1] if found else ""


equal([name for (_, _, name), _ in parts], ["build", "build-cuda", "runtime", "cuda", ""], "stages")
for name in ("build", "runtime"):
    equal(named[name][0], "${BASE}", f"{name} stands on the argument")
equal(named[""], ("runtime", []), "what is built without a target")
# the image with the CUDA backend is the other one and a module
equal(named["cuda"][0], "runtime", "cuda stands on runtime")
equal([w for w, _ in named["cuda"][1]], ["COPY", "ENV"], "what cuda adds")
check("--from=build-cuda" in one("COPY", named["cuda"][1]), "cuda's files come from build-cuda")
check("need_cuda" in one("RUN", named["build-cuda"][1]), "the compiler comes from tools/cuda.sh")
base = one("ARG", steps[:stages[0]]).partition("=")[2]
check(":" in base and not base.endswith(":latest"), f"the base {base} has a version")
equal(one("USER"), "65532:65532", "USER")
equal(one("STOPSIGNAL"), "SIGTERM", "STOPSIGNAL")
equal(json.loads(one("ENTRYPOINT")), ["/usr/local/bin/taca"], "ENTRYPOINT")
equal(json.loads(one("CMD")), ["serve"], "CMD")
equal(json.loads(one("HEALTHCHECK").partition("CMD")[2]), ["/usr/local/bin/taca", "healthcheck"],
      "HEALTHCHECK")
equal(one("EXPOSE").split(), ["8080", "8081"], "EXPOSE")
env = dict(pair.split("=", 1) for pair in one("ENV").split())
equal(env.get("TACA_HOST"), "0.0.0.0", "TACA_HOST")
equal(env.get("TACA_LOG_FORMAT"), "json", "TACA_LOG_FORMAT")
check("TACA_INSECURE" not in env, "opening up is left to who runs the image")
labels = dict(pair.split("=", 1) for pair in shlex.split(one("LABEL")))
for name in ("title", "description", "version", "revision", "licenses"):
    check(f"org.opencontainers.image.{name}" in labels, f"label {name}")
args = dict(rest.partition("=")[::2] for w, rest in last if w == "ARG")
equal(args.get("VERSION"), project_version(), "VERSION")
check("REVISION" in args and 'TACA_COMMIT="$REVISION"' in one("RUN", [s for s in named["build"][1] if "cmake" in s[1]]),
      "the commit is told to the label and to the program")
check(not any(w == "ADD" for w, _ in steps), "no ADD")
check(not re.search(r"curl|wget|https?://", joined), "nothing is downloaded but packages")

# the last stage installs libraries that run, and the build stage the list of ./run
packages = re.search(r"no-install-recommends\s+([a-z0-9 -]+?)\s*&&", one("RUN")).group(1).split()
check(not any(p.endswith("-dev") or p in ("gcc", "cmake") for p in packages),
      "no compiler and no headers in the last stage")
build = " ".join(rest for w, rest in named["build"][1] if w == "RUN")
check("BUILD_PACKAGES[@]" in build, "the build stage takes its packages from tools/packages.sh")
headers = re.findall(r"lib([a-z0-9]+)-dev", (ROOT / "tools/packages.sh").read_text())
for name in set(headers) - {"c6"}:
    check(any(p.startswith("lib" + name) for p in packages), f"lib{name} of the build also runs")

ignored = (ROOT / ".dockerignore").read_text().split()
for name in (".git", "build"):
    check(name in ignored, f".dockerignore leaves out {name}")

if tool("hadolint"):
    # DL3008: versions of Debian packages are those of the base's release, security fixes included
    # DL3006: the base's tag stands in its argument
    lint = run(tool("hadolint"), "--ignore", "DL3008", "--ignore", "DL3006", ROOT / "Dockerfile")
    equal(lint.returncode, 0, f"hadolint:\n{lint.stdout}")
else:
    skip("no hadolint (tests/deploy/tools.sh fetches it)")
finish("Dockerfile")
