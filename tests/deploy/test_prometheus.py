"""The alert rules: valid, over metrics that exist, and each tested by a case that fires and one
that does not - which is itself tested: a rule that never fires makes promtool fail."""
import pathlib
import shutil
import tempfile

from common import (DEPLOY, check, documented_metrics, equal, finish, load_yaml, metrics_in, run,
                    skip_all, tool)

folder = DEPLOY / "prometheus"
groups = load_yaml((folder / "rules.yaml").read_text())[0]["groups"]
rules = {rule["alert"]: rule for group in groups for rule in group["rules"]}
tests = load_yaml((folder / "rules_test.yaml").read_text())[0]["tests"]

documented = documented_metrics()
for name, rule in rules.items():
    equal(metrics_in(rule["expr"]) - set(documented), set(), f"{name} names unknown metrics")
    check(rule["labels"].get("severity") in ("page", "ticket"), f"{name} has a severity")
    check({"summary", "description"} <= set(rule["annotations"]), f"{name} explains itself")
    cases = [c for t in tests for c in t["alert_rule_test"] if c["alertname"] == name]
    check(any(c.get("exp_alerts") for c in cases), f"{name} has a case that fires")
    check(any(not c.get("exp_alerts") for c in cases),
          f"{name} has a case that does not fire")
for wanted in ("QueueBacklogHigh", "NoStepProgress", "ErrorRate", "RejectRate", "WorkerRestarts",
               "NotReady", "Absent"):
    check("Taca" + wanted in rules, f"there is an alert Taca{wanted}")

promtool = tool("promtool")
if not promtool:
    skip_all("no promtool (Debian: prometheus)")
for command in (("check", "rules", "rules.yaml"), ("check", "config", "prometheus.yml"),
                ("test", "rules", "rules_test.yaml")):
    done = run(promtool, *command, cwd=folder)
    equal(done.returncode, 0, f"promtool {' '.join(command)}:\n{done.stdout}")
with tempfile.TemporaryDirectory(prefix="taca-rules-") as temp:
    temp = pathlib.Path(temp)
    shutil.copy(folder / "rules_test.yaml", temp)
    text = (folder / "rules.yaml").read_text()
    (temp / "rules.yaml").write_text(text.replace("alert: Taca", "alert: Gone"))
    done = run(promtool, "test", "rules", "rules_test.yaml", cwd=temp)
    for name in rules:
        check(f"alertname: {name}," in done.stdout, f"the tests miss {name} when it is gone")
finish(f"{len(rules)} alerts")
