"""compose.yaml: closed by default, patient, its mounts there."""
import re

from common import (DEPLOY, check, default_of, equal, finish, load_yaml, project_version, run, skip,
                    tool)

compose = load_yaml((DEPLOY / "compose.yaml").read_text())[0]
services = compose["services"]
taca = services["taca"]
equal(set(services), {"taca", "prometheus", "grafana"}, "services")
equal(taca["image"], f"taca:{project_version()}", "the image's version")
check("profiles" not in taca, "the service starts without a profile")
equal(taca.get("read_only"), True, "read_only")
equal(taca.get("user"), "65532:65532", "user")
check(taca.get("mem_limit") and taca.get("pids_limit"), "memory and processes are limited")

grace = int(re.fullmatch(r"(\d+)s", taca["stop_grace_period"]).group(1))
drain = float(taca["environment"]["TACA_DRAIN_TIMEOUT"])
check(grace >= drain + 10, f"stop_grace_period {grace} s covers the drain of {drain} s")
if default_of("drain-timeout") is None:
    skip("no built taca: names of the environment are not compared with --help")
else:
    for name in taca["environment"]:
        flag = name.removeprefix("TACA_").lower().replace("_", "-")
        check(flag in ("insecure", "model", "job-store") or default_of(flag) is not None, f"{name} exists")

for name, service in services.items():
    check(not service.get("privileged"), f"{name} is not privileged")
    equal(service.get("cap_drop"), ["ALL"], f"{name}: cap_drop")
    equal(service.get("security_opt"), ["no-new-privileges:true"], f"{name}: security_opt")
    check(re.search(r":v?\d+(\.\d+)+$", service["image"]), f"{name}: an image with a version")
    for port in service["ports"]:
        check(port.startswith("127.0.0.1:"), f"{name}: port {port} stays on this machine")
    for mount in service["volumes"]:
        source = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", mount).split(":")[0]
        if source.startswith("."):
            check((DEPLOY / source).exists(), f"{name}: {source} is there to be mounted")
            check(mount.endswith(":ro"), f"{name}: {source} is mounted read-only")
        else:
            check(source in compose["volumes"], f"{name}: volume {source} is declared")
    if name != "taca":
        equal(service.get("profiles"), ["monitoring"], f"{name}: only when asked for")

scrape = load_yaml((DEPLOY / "prometheus/prometheus.yml").read_text())[0]["scrape_configs"]
equal([(job["job_name"], job["static_configs"][0]["targets"]) for job in scrape],
      [("taca", ["taca:8081"])], "what is scraped")
if tool("check-jsonschema"):
    done = run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec",
               DEPLOY / "compose.yaml")
    equal(done.returncode, 0, f"schema of compose files:\n{done.stdout}")
else:
    skip("no check-jsonschema: the schema is not checked (tests/deploy/tools.sh fetches it)")
finish("compose.yaml")
