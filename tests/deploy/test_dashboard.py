"""The dashboard: valid JSON, a grid without collisions, PromQL that parses, metrics that exist."""
import json
import pathlib
import tempfile

from common import DEPLOY, check, documented_metrics, equal, finish, metrics_in, run, skip, tool

board = json.loads((DEPLOY / "grafana/dashboard.json").read_text())
panels = board["panels"]
equal(board["id"], None, "the id, which is the importing Grafana's to choose")
check(board["uid"] and board["title"], "it has a uid and a title")
equal([p["title"] for p in panels if p["type"] == "row"],
      ["Traffic", "Queue", "Batching", "Stages", "Memory and process", "Cancels and rejections",
       "Devices and keys"],
      "rows")
equal(len({p["id"] for p in panels}), len(panels), "different ids")

taken = {}
for panel in panels:
    at = panel["gridPos"]
    check(at["x"] + at["w"] <= 24, f"{panel['title']} lies within the grid")
    for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"])
                 for y in range(at["y"], at["y"] + at["h"])):
        check(cell not in taken, f"{panel['title']} covers {taken.get(cell)}")
        taken[cell] = panel["title"]

expressions = [(a["name"], a["expr"]) for a in board["annotations"]["list"]]
for panel in panels:
    if panel["type"] == "row":
        continue
    check(panel.get("description"), f"{panel['title']} says what it shows")
    equal(panel["datasource"]["uid"], "${datasource}", f"{panel['title']}: data source")
    refs = [t["refId"] for t in panel["targets"]]
    equal(len(set(refs)), len(refs), f"{panel['title']}: different refIds")
    expressions += [(panel["title"], t["expr"]) for t in panel["targets"]]

documented = documented_metrics()
used = set()
for title, expression in expressions:
    equal(metrics_in(expression) - set(documented), set(), f"{title} names unknown metrics")
    check('job="$job"' in expression, f"{title} keeps to the job that was chosen")
    used |= metrics_in(expression)
bases = {n for n in documented if not n.endswith(("_bucket", "_sum", "_count"))}
unseen = {n for n in bases if not any(u.startswith(n) for u in used)}
if unseen:
    print("no panel shows", ", ".join(sorted(unseen)))

variables = {v["name"] for v in board["templating"]["list"]}
equal(variables, {"datasource", "job", "instance", "model"}, "variables")
if tool("promtool"):
    rules = []
    for i, (_, expression) in enumerate(expressions):
        for name, value in {"$__rate_interval": "5m", "$job": "taca", "$instance": ".*",
                            "$model": ".*"}.items():
            expression = expression.replace(name, value)
        rules.append({"record": f"panel:{i}", "expr": expression})
    with tempfile.TemporaryDirectory(prefix="taca-board-") as temp:
        # JSON is YAML
        path = pathlib.Path(temp) / "rules.yaml"
        path.write_text(json.dumps({"groups": [{"name": "board", "rules": rules}]}))
        done = run(tool("promtool"), "check", "rules", path)
        equal(done.returncode, 0, f"PromQL of the panels:\n{done.stdout}")
else:
    skip("no promtool: PromQL is not parsed")
finish(f"{len(expressions)} expressions in {len(panels)} panels")
