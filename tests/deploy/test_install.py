"""The installed program: any prefix, its demo model found, its metrics those of the handbook."""
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

from common import (DEPLOY, check, documented_metrics, equal, finish, metrics_in, run, skip, tool)

build = pathlib.Path(os.environ.get("TACA_BUILD_DIR", ""))
with tempfile.TemporaryDirectory(prefix="taca-install-") as temp:
    prefix = pathlib.Path(temp) / "any where"
    done = run(os.environ.get("TACA_CMAKE", "cmake"), "--install", build, "--prefix", prefix)
    if done.returncode:
        sys.exit(done.stdout)
    taca = prefix / "bin/taca"
    plain = {k: v for k, v in os.environ.items() if not k.startswith("TACA_")}

    for path in ("share/taca/models/demo/model_index.json", "share/doc/taca/LICENSE"):
        check((prefix / path).is_file(), f"{path} is installed")
    unit = (prefix / "lib/systemd/system/taca.service").read_text()
    check(f"ExecStart={prefix}/bin/taca serve" in unit, "the unit starts the installed program")

    def works_far_from_its_sources():
        picture = pathlib.Path(temp) / "out.png"
        made = run(taca, "generate", "a red cube", "--steps", "1", "-o", picture, cwd="/", env=plain)
        equal(made.returncode, 0, f"taca generate ({made.stdout.strip()})")
        equal(picture.read_bytes()[:8], b"\x89PNG\r\n\x1a\n", "the picture's signature")

    def refuses_to_be_open_without_a_word():
        opened = run(taca, "serve", "--host", "0.0.0.0", "--port", "0", cwd="/", env=plain)
        equal(opened.returncode, 78, "exit code of serve on every address without --insecure")

    def serves_the_metrics_of_the_handbook():
        port_file = pathlib.Path(temp) / "port"
        # some supervisors leave standard descriptors closed; sockets must not get their numbers
        service = subprocess.Popen(
            ["sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', taca, "serve", "--port", "0", "--port-file",
             port_file, "--admin-listen", "none", "--drain-grace", "0"], cwd="/", env=plain)
        try:
            until = time.monotonic() + 60
            while not (port_file.exists() and port_file.read_text()):
                check(time.monotonic() < until and service.poll() is None, "the service starts")
                if service.poll() is not None or time.monotonic() > until:
                    return
                time.sleep(0.05)
            where = "http://127.0.0.1:" + port_file.read_text().strip()
            well = run(taca, "healthcheck", "--url", where + "/livez", env=plain)
            equal(well.returncode, 0, f"taca healthcheck ({well.stdout.strip()})")
            with urllib.request.urlopen(where + "/metrics", timeout=10) as reply:
                text = reply.read().decode()
        finally:
            service.send_signal(signal.SIGTERM)
            equal(service.wait(timeout=30), 0, "exit code after SIGTERM")
        families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
        documented = documented_metrics()
        bases = {n for n in documented if not n.endswith(("_bucket", "_sum", "_count"))}
        equal(families - bases, set(), "metrics that docs/metrics.md does not name")
        equal(bases - families, set(), "metrics that /metrics does not have")
        for name in ("prometheus/rules.yaml", "grafana/dashboard.json"):
            used = metrics_in((DEPLOY / name).read_text())
            equal(used - set(documented) - {"taca_"}, set(), f"unknown metrics in {name}")
        if tool("promtool"):
            linted = run(tool("promtool"), "check", "metrics", input=text)
            equal(linted.returncode, 0, f"promtool check metrics ({linted.stdout.strip()})")
        else:
            skip("no promtool: the format of /metrics is not checked here")

    works_far_from_its_sources()
    refuses_to_be_open_without_a_word()
    serves_the_metrics_of_the_handbook()
finish("installation")
