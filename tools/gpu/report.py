#!/usr/bin/env python3
"""report.py DIR - bench.jsonl and torch.jsonl of one run as one JSON and one table.

Every time of ours stands beside PyTorch's of the same name, with the ratio, and as a share of the
ceilings that the same run measured: a matrix product of 8192 for arithmetic, a copy for memory.
"""
import json
import pathlib
import sys

MEDIAN = 2  # taca bench gives its times as [fastest, first quartile, median, third quartile]


def rows(path):
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]


def main():
    folder = pathlib.Path(sys.argv[1])
    ours = [r for r in rows(folder / "bench.jsonl") if r.get("device") and "wall_ms" in r]
    theirs = rows(folder / "torch.jsonl")
    if not ours:
        sys.exit("report: no figures of a device in bench.jsonl")
    torch = {(r["name"], r["way"]): r["ms"]["median"] for r in theirs}
    cubes = [r["gflop"] / r["wall_ms"][MEDIAN] for r in ours if r["name"] == "a cube of 8192" and r["dtype"] == "bf16"]
    cubes += [r["gflop"] / r["ms"]["median"] for r in theirs if r["name"] == "a cube of 8192"]
    copies = [r["gbyte"] / r["ms"]["median"] for r in theirs if r["name"] == "copy"]
    tflops, gbs = max(cubes, default=0), max(copies, default=0) * 1e3
    table = []
    for r in ours:
        ms = r["wall_ms"][MEDIAN]
        line = dict(name=r["name"], dtype=r["dtype"], ms=ms, ratio_taca=r.get("ratio"))
        if r.get("gflop") and tflops:
            line["share"] = r["gflop"] / ms / tflops
        elif r.get("mbyte") and gbs:
            line["share"] = r["mbyte"] / ms / gbs
        for way in ("eager", "compiled"):
            if (r["name"], way) in torch:
                line[way] = torch[r["name"], way] / ms
        table.append(line)
    report = dict(ceilings=dict(tflops=tflops, copy_gb_s=gbs), rows=table)
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    out = [f"Ceilings of this run: {tflops:.0f} TFLOP/s (bf16, 8192 cubed), copy {gbs:.0f} GB/s.", "",
           "| what | dtype | ms | share of ceiling | eager / ours | compiled / ours | to the plain run |",
           "|---|---|---:|---:|---:|---:|---:|"]
    for r in table:
        cells = [f"{r[k]:.2f}" if r.get(k) else "" for k in ("share", "eager", "compiled", "ratio_taca")]
        out.append(f"| {r['name']} | {r['dtype']} | {r['ms']:.3f} | " + " | ".join(cells) + " |")
    (folder / "report.md").write_text("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
