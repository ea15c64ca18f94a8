#!/usr/bin/env python3
"""test_report.py TACA SOURCE_DIR - the report of a GPU run reads what `taca bench` writes, and the run
names tests that exist."""
import json
import pathlib
import re
import subprocess
import sys
import tempfile

taca, source = sys.argv[1], pathlib.Path(sys.argv[2])
named = re.search('op_tests="([^"]+)"', (source / "tools/gpu/check").read_text())[1].split()
missing = [t for t in named if not (source / f"tests/kernels/{t}.c").is_file()]
assert named and not missing, f"tools/gpu/check names tests that do not exist: {missing}"
bench = subprocess.run([taca, "bench", "--json", "--no-picture", "--no-process", "--no-http",
                        "--only", "gate", "--budget", "1"], capture_output=True, text=True, check=True)
rows = [json.loads(line) for line in bench.stdout.splitlines()]
timed = [r for r in rows if "wall_ms" in r]
assert timed, "bench --only gate timed nothing"
for r in rows:
    r["device"] = True  # as if a GPU had done it
median = sorted(timed[0]["wall_ms"])[2]
torch = [dict(name="copy", way="eager", gbyte=1, ms=dict(median=2)),
         dict(name=timed[0]["name"], way="eager", gflop=1, ms=dict(median=3 * median))]

with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    (folder / "bench.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "torch.jsonl").write_text("".join(json.dumps(r) + "\n" for r in torch))
    subprocess.run([sys.executable, "-B", source / "tools/gpu/report.py", folder], check=True)
    report = json.loads((folder / "report.json").read_text())
    table = (folder / "report.md").read_text()

assert report["ceilings"]["copy_gb_s"] == 500, report["ceilings"]
assert len(report["rows"]) == len(timed), report["rows"]
first = report["rows"][0]
assert first["ms"] == median and abs(first["eager"] - 3) < 1e-9, first
share = timed[0]["mbyte"] / median / 500
assert abs(first["share"] - share) < 1e-9, (first, share)
assert f"| {first['name']} | {first['dtype']} | {median:.3f} |" in table, table
print(f"{len(timed)} rows in the report")
