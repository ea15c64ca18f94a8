#!/usr/bin/env python3
"""overload.py - what a service still does when far more is asked of it than it can do.

    tools/overload.py --taca build/taca                             models/demo
    tools/overload.py --taca build/taca --serve build/release/tests/server/taca_fake \\
        --model /tmp --env TACA_FAKE_STEP_MS=0 --env TACA_FAKE_PIXEL_NS=600 --steps 4

Starts a service of its own for each policy, finds the rate from which goodput (pictures within
--within times what they take alone, a second) grows no more, then asks for 5 and 10 times that. Prints
a table in Markdown: goodput, its share of the best, how much of the time went into pictures that were
in time (what each takes alone, so joint steps may make it more than 1; with sizes mixed, goodput
falls when the service can choose less among them, this does not), and how soon the others were
refused. With --policies edf,fcfs the goodputs of the policies can be compared. Wants a quiet machine,
or one whose engine only pretends. Standard library only."""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request


def options():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--taca", required=True, help="the program that asks")
    p.add_argument("--serve", help="the program that serves, if it is another")
    p.add_argument("--model", help="of the service")
    p.add_argument("--env", action="append", default=[], help="NAME=VALUE of the service")
    p.add_argument("--serve-arg", action="append", default=[], help="one more of its options")
    p.add_argument("--policies", default="edf")
    p.add_argument("--mix", default="128")
    p.add_argument("--steps", type=int, default=0)
    p.add_argument("--within", type=float, default=3)
    p.add_argument("--seconds", type=float, default=10, help="of each run")
    p.add_argument("--first-rate", type=float, default=1, help="where the search for the best begins")
    return p.parse_args()


class Service:
    def __init__(self, o, policy):
        self.folder = tempfile.TemporaryDirectory()
        port_file = os.path.join(self.folder.name, "port")
        command = [o.serve or o.taca, "serve", "--port", "0", "--port-file", port_file, "--policy",
                   policy, "--admin-listen", "none", "--log-level", "warn"] + o.serve_arg
        if o.model:
            command += ["--model", o.model]
        env = dict(os.environ, **dict(x.split("=", 1) for x in o.env))
        self.process = subprocess.Popen(command, env=env)
        end = time.monotonic() + 60
        while not os.path.exists(port_file) or not os.path.getsize(port_file):
            self.check(end)
        with open(port_file, encoding="ascii") as f:
            self.url = f"http://127.0.0.1:{int(f.read())}"
        while not self.ready():
            self.check(end)

    def check(self, end):
        if self.process.poll() is not None or time.monotonic() > end:
            sys.exit("the service did not start")
        time.sleep(0.05)

    def ready(self):
        try:
            return urllib.request.urlopen(self.url + "/readyz", timeout=2).status == 200
        except (urllib.error.URLError, OSError):
            return False

    def close(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)
        self.folder.cleanup()


def run(o, service, rate):
    """The line of all sizes that `taca bench --server --json` prints."""
    n = max(20, int(rate * o.seconds))
    done = subprocess.run([o.taca, "bench", "--server", service.url, "--rate", f"{rate:.3f}",
                           "--requests", str(n), "--mix", o.mix, "--steps", str(o.steps), "--within",
                           str(o.within), "--warm", "3", "--json"],
                          capture_output=True, text=True, check=False)
    rows = [json.loads(x) for x in done.stdout.splitlines() if x.startswith("{")]
    if not rows:
        sys.exit("taca bench: " + done.stderr[-1000:])
    row = next(r for r in rows if r["side_px"] == 0)
    row["asked"] = rate
    # a second of asking: what is late is done in the time after that, and counts for nothing
    row["goodput"] = row["in_time"] / (n / rate)
    row["useful"] = sum(r["in_time"] * r["alone_ms"] / 1e3 for r in rows if r["side_px"]) / (n / rate)
    # what is still in the line must not be counted against the next run
    time.sleep(1)
    return row


def search(o, service):
    """Runs until goodput no longer grows, the best of them, and the least rate that gives nearly
    as much: goodput is flat beyond, so the best alone would say little about what is asked."""
    rate, rows = o.first_rate, []
    while True:
        rows.append(run(o, service, rate))
        best = max(rows, key=lambda r: r["goodput"])
        full = min(r["asked"] for r in rows if r["goodput"] >= 0.9 * best["goodput"])
        if rate >= 1.9 * full or len(rows) > 14:
            return rows, best, full
        rate *= 1.4


def show(rows, best):
    for r in rows:
        late = r.get("refused_p99_ms")
        print(f"| {r['policy']} | {r['asked']:.1f} | {r['n']} | {r['ok']} | {r['refused']} | "
              f"{r['failed']} | {r['goodput']:.2f} | {r['goodput'] / best['goodput']:.2f} | {r['useful']:.2f} | "
              f"{'' if late is None else format(late, '.1f')} |", flush=True)


def main():
    o = options()
    print("| policy | asked a second | requests | done | refused | failed | goodput | of the best | "
          "useful | refused within, p99, ms |\n|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for policy in o.policies.split(","):
        service = Service(o, policy)
        try:
            rows, best, full = search(o, service)
            rows += [run(o, service, full * k) for k in (5, 10)]
        finally:
            service.close()
        for r in rows:
            r["policy"] = policy
        show(rows, best)


if __name__ == "__main__":
    main()
