#!/usr/bin/env python3
"""What `taca bench --json` printed, as tables in docs/performance.md and a plot beside it.

    build/taca bench --json --no-picture --models > bench.jsonl
    tools/bench_report.py bench.jsonl [more.jsonl ...]

Everything between the two marks in the page is replaced; the words around it are people's. Shares
are those of each run's own ceilings."""

import html
import json
import pathlib
import sys

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs"
BEGIN, END = "<!-- bench_report.py -->", "<!-- end -->"
GROUPS = [("model", "Whole forwards"), ("linear", "Linear maps"), ("attention", "Attention"),
          ("conv", "Convolutions and group norm"), ("by row", "Row by row")]
COLOURS = {"f32": "#7a869a", "bf16": "#2f6fde", "int8": "#d9731a"}


def read(paths):
    rows = []
    for path in paths:
        for line in open(path, encoding="utf-8"):
            row = json.loads(line)
            if "group" in row:
                rows.append(row)
    return rows


def ceilings(rows):
    best = {}
    for r in rows:
        if r["group"] == "ceiling":
            key = (r["name"], r["dtype"])
            best.setdefault(key, {}).setdefault(r["threads"], []).append(
                r.get("gflop") or r["mbyte"] * 1e-3)
    threads = sorted({t for v in best.values() for t in v})
    out = ["| ceiling | unit | " + " | ".join(f"{t} thread{'s' * (t > 1)}" for t in threads) + " |",
           "|---|---|" + "---|" * len(threads)]
    for (name, dtype), by in best.items():
        unit = {"": "GB/s", "int8": "GOP/s"}.get(dtype, "GFLOP/s")
        cells = []
        for t in threads:
            v = by.get(t)
            cells.append("" if not v else f"{max(v):.0f}" if len(v) == 1 or
                         max(v) - min(v) < 1 else f"{min(v):.0f} .. {max(v):.0f}")
        out.append(f"| {name} | {unit} | " + " | ".join(cells) + " |")
    return out


def table(rows):
    out = ["| | | threads | runs | ms wall: fastest, quartiles | ms CPU: fastest, median | rate | "
           "share of the ceiling, by CPU time | |", "|---|---|---|---|---|---|---|---|---|"]
    for r in rows:
        w, c = r["wall_ms"], r["cpu_ms"]
        digits = 3 if c[0] < 10 else 1 if c[0] < 100 else 0
        number = lambda x: f"{x:.{digits}f}"
        rate = share = note = ""
        if r.get("gflop"):
            rate = f"{r['gflop'] / c[0] * 1e3 * r['threads']:.0f} GFLOP/s"
            share = f"{r['cpu_share']:.2f}"
        elif r.get("mbyte"):
            rate = f"{r['mbyte'] / c[0] * r['threads']:.1f} GB/s"
        if r.get("ratio"):
            note = f"ratio {r['ratio']:.3f}"
        out.append(f"| {r['name']} | {r['dtype']} | {r['threads']} | {r['n']} | {number(w[0])}; "
                   f"{number(w[1])}, {number(w[2])}, {number(w[3])} | {number(c[0])}, "
                   f"{number(c[2])} | {rate} | {share} | {note} |")
    return out


def plot(rows):
    bars = [r for g, _ in GROUPS for r in rows if r["group"] == g and r.get("cpu_share")]
    left, width, step, top = 360, 420, 19, 46
    height = top + step * len(bars) + 12
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 70}" '
           f'height="{height}" font-family="sans-serif" font-size="12" fill="#1c2430">',
           '<rect width="100%" height="100%" fill="#ffffff"/>',
           f'<text x="{left}" y="16" font-weight="bold">share of the ceiling of the same run, by '
           'CPU time</text>']
    for i, (dtype, colour) in enumerate(COLOURS.items()):
        x = 12 + 70 * i
        out.append(f'<rect x="{x}" y="7" width="11" height="11" fill="{colour}"/>'
                   f'<text x="{x + 16}" y="17">{dtype}</text>')
    for k in range(0, 6):
        x = left + width * k / 5
        out.append(f'<line x1="{x}" y1="{top - 6}" x2="{x}" y2="{height - 8}" stroke="#d5dbe3"/>'
                   f'<text x="{x}" y="{top - 12}" text-anchor="middle">{k / 5:.1f}</text>')
    for i, r in enumerate(bars):
        y, share = top + step * i, r["cpu_share"]
        name = html.escape(f"{r['name']} ({r['threads']} thread{'s' * (r['threads'] > 1)})")
        out.append(f'<text x="{left - 8}" y="{y + 11}" text-anchor="end" font-size="11">{name}'
                   f'</text><rect x="{left}" y="{y}" width="{width * min(share, 1.08):.1f}" '
                   f'height="14" fill="{COLOURS.get(r["dtype"], "#999")}"/>'
                   f'<text x="{left + width * min(share, 1.08) + 6:.1f}" y="{y + 11}">'
                   f'{share:.2f}</text>')
    out.append("</svg>")
    return "\n".join(out) + "\n"


def main(paths):
    rows = read(paths)
    body = ceilings(rows) + ["", "![share of the ceiling](performance.svg)", ""]
    for group, title in GROUPS:
        mine = [r for r in rows if r["group"] == group]
        if mine:
            body += [f"### {title}", ""] + table(mine) + [""]
    page = DOCS / "performance.md"
    text = page.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    page.write_text(head + BEGIN + "\n" + "\n".join(body) + "\n" + END + tail, encoding="utf-8")
    (DOCS / "performance.svg").write_text(plot(rows), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1:])
