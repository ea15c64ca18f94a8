"""load_command.py TACA - `taca bench --server` against a make-believe service whose times are known: when requests
are sent, from when they are timed, and what is said about those that were refused or lost."""

import http.server
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree

TACA = sys.argv[1]
failed = 0


def check(ok, what, detail=""):
    global failed
    if not ok:
        failed += 1
        print(f"FAILED: {what} {detail}")


class Fake(http.server.BaseHTTPRequestHandler):
    """Makes one picture at a time, each in `takes_s`; `says` chooses the status by the body."""

    takes_s, one_at_a_time, bodies, heads = 0.0, threading.Lock(), [], []

    def says(self, body):
        return 200

    def do_POST(self):  # noqa: N802 - the library's name
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.bodies.append(body)
        self.heads.append(dict(self.headers))
        status = self.says(body)
        if status == 200:
            with self.one_at_a_time:
                time.sleep(self.takes_s)
        if status == 0:
            return  # hangs up
        self.send_response(status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass


def bench(fake, *options, folder=None):
    """The objects on stdout, the samples, the plot."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), fake)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    with tempfile.TemporaryDirectory() as d:
        p = subprocess.run([TACA, "bench", "--server", f"http://127.0.0.1:{server.server_port}/base/", "--json", "--warm",
                            "1", "--samples", d + "/s.jsonl", "--plot", d + "/p.svg", *options],
                           capture_output=True, text=True, check=False, timeout=60)
        server.shutdown()
        server.server_close()
        check(p.returncode == 0, "exit code", p.stderr)
        rows = [json.loads(line) for line in p.stdout.splitlines()]
        with open(d + "/s.jsonl", encoding="utf-8") as s, open(d + "/p.svg", encoding="utf-8") as svg:
            return rows, [json.loads(line) for line in s], svg.read()


def each_is_timed_from_its_own_moment_however_late_the_server_is():
    class Slow(Fake):
        takes_s, bodies = 0.1, []

    rows, samples, svg = bench(Slow, "--rate", "20", "--requests", "12", "--no-poisson", "--within", "3")
    gaps = [b["at_ms"] - a["at_ms"] for a, b in zip(samples, samples[1:])]
    check(all(abs(g - 50) < 1e-6 for g in gaps), "even distances", str(gaps))
    # one is due every 50 ms and done every 100, whichever of them the fake takes first: the k-th end is after
    # 100 (k + 1) ms, counted from the moments that were due; a closed loop would see 100 ms each
    for k, ms in enumerate(sorted(s["at_ms"] + s["took_ms"] for s in samples)):
        check(ms >= 100 * (k + 1) - 5, f"the {k}-th was done when it could be", f"{ms} ms")
    row = rows[0]
    check((row["n"], row["ok"], row["refused"], row["failed"]) == (12, 12, 0, 0), "all came", str(row))
    check(row["alone_ms"] >= 95, "the time alone", str(row))
    late = sum(s["took_ms"] > 3 * row["alone_ms"] for s in samples)
    check(row["in_time"] == 12 - late, "in time is within 3 times that", str(row))
    check(len({(b["seed"], b["prompt"]) for b in Slow.bodies}) == len(Slow.bodies), "no two pictures are the same")
    check(xml.etree.ElementTree.fromstring(svg).tag.endswith("svg"), "the plot is SVG")
    check(svg.count("<circle") == 12 + 1, "a point each, and the legend")


def poisson_moments_and_the_mix_are_as_asked_and_repeatable():
    class Quick(Fake):
        bodies, heads = [], []

    how = ("--rate", "400", "--requests", "300", "--mix", "64:3,128:1", "--steps", "2", "--taca", "--api-key", "secret")
    rows, samples, _ = bench(Quick, *how)
    gaps = [b["at_ms"] - a["at_ms"] for a, b in zip(samples, samples[1:])]
    mean = sum(gaps) / len(gaps)
    spread = math.sqrt(sum((g - mean) ** 2 for g in gaps) / len(gaps)) / mean
    # of 299 exponential gaps the mean strays by 6 % and the spread by 6 %, one in a thousand by 19 %
    check(abs(mean / 2.5 - 1) < 0.2 and abs(spread - 1) < 0.2, "exponential gaps", f"mean {mean} ms, spread {spread}")
    small = sum(s["side_px"] == 64 for s in samples)
    check(abs(small - 225) < 25, "three quarters are small", str(small))
    check([r["side_px"] for r in rows] == [64, 128, 0] and rows[0]["n"] == small, "a row for each size and for all")
    asked = [b for b in Quick.bodies if "seed" in b and b["seed"] < 300]
    check(sum(b["taca"] for b in asked) == 150, "half with TACA")
    check(all(b["steps"] == 2 for b in asked), "steps")
    check(all(h["Authorization"] == "Bearer secret" for h in Quick.heads), "the key")
    again = bench(Quick, *how)[1]
    check([(s["at_ms"], s["side_px"]) for s in again] == [(s["at_ms"], s["side_px"]) for s in samples], "repeatable")
    other = bench(Quick, *how, "--seed", "2")[1]
    check(other[9]["at_ms"] != samples[9]["at_ms"], "another seed, other moments")


def what_is_refused_or_lost_has_no_latency():
    class Picky(Fake):
        bodies = []

        def says(self, body):
            if body["seed"] > 1000:  # alone
                return 200
            return {0: 429, 1: 503, 2: 0, 3: 500}.get(body["seed"], 200)

    rows, samples, svg = bench(Picky, "--rate", "100", "--requests", "10")
    row = rows[-1]
    check((row["n"], row["ok"], row["refused"], row["failed"]) == (10, 6, 2, 2), "counted apart", str(row))
    check([s["status"] for s in samples[:4]] == [429, 503, 0, 500], "statuses", str(samples))
    check(row["in_time"] <= 6, "nothing of it is in time", str(row))
    check(svg.count('class="refused"') == 2 and svg.count('class="failed"') == 2, "marks")


def mistakes_are_named():
    for argv, words in [
        (["--server", "ftp://x"], "http://"),
        (["--server", "http://127.0.0.1:1", "--mix", "64:0"], "--mix must be SIDE:SHARE"),
        (["--server", "http://127.0.0.1:1"], "refused"),
        (["--server", "http://127.0.0.1:1", "--plot", "/nowhere/p.svg"], "/nowhere/p.svg: No such file"),
        (["--model", "/nowhere"], "/nowhere: No such file"),
        (["--transformer", "/nowhere"], "/nowhere: No such file"),
    ]:
        p = subprocess.run([TACA, "bench", *argv], capture_output=True, text=True, check=False, timeout=20)
        check(p.returncode != 0 and words in p.stderr, f"{argv} says {words}", p.stderr)
        check(not p.stdout, f"{argv} is found before anything is measured", p.stdout)


for test in (each_is_timed_from_its_own_moment_however_late_the_server_is,
             poisson_moments_and_the_mix_are_as_asked_and_repeatable, what_is_refused_or_lost_has_no_latency,
             mistakes_are_named):
    print("  " + test.__name__, flush=True)
    test()
os._exit(1 if failed else 0)  # threads of the fake may still hold connections
