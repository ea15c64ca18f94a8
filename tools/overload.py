#!/usr/bin/env python3
"""overload.py - what a service still does when far more is asked of it than it can do.

    tools/overload.py --taca build/taca                             models/demo
    tools/overload.py --taca build/taca --serve build/release/tests/server/taca_fake \\
        --model /tmp --env TACA_FAKE_STEP_MS=0 --env TACA_FAKE_PIXEL_NS=1500 --steps 4
    tools/overload.py --taca build/taca --serve ... --flood 10000
    tools/overload.py --taca build/taca --model models/demo --share 50

Starts a service for each policy, finds the rate from which goodput (pictures within --within times
what they take alone, a second) grows no more, then asks for 3 and 10 times that; policies take turns,
so that they meet the same neighbours. Prints a table in Markdown: goodput, its share of the best, how
much of the time went into pictures that were in time (what each takes alone, so joint steps may make
it more than 1), how soon the others were refused, and how soon /livez answered meanwhile. The last
table is the verdict. --apart keeps the asker on the first processor and the services on the others,
as if it were another machine. --flood fills the line with background jobs instead and tells the
service's CPU time for each, and then the loop's for each step. --share asks for pictures one after
the other and tells what of the time is not the engine's. Wants a quiet machine, or one whose engine
only pretends. Standard library only."""

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

PROBE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/server/probe.py")


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
    p.add_argument("--grow", type=float, default=1.5, help="from one rate of the search to the next")
    p.add_argument("--apart", action="store_true", help="asker and services on processors of their own")
    p.add_argument("--share", type=int, default=0, help="so many pictures, instead of all else")
    p.add_argument("--flood", type=int, default=0, help="so many background jobs, instead of all else")
    return p.parse_args()


def apart(o, which):
    cpus = sorted(os.sched_getaffinity(0))
    if o.apart and which(cpus):
        os.sched_setaffinity(0, which(cpus))


class Service:
    def __init__(self, o, policy):
        self.folder = tempfile.TemporaryDirectory()
        port_file = os.path.join(self.folder.name, "port")
        command = [o.serve or o.taca, "serve", "--port", "0", "--port-file", port_file, "--policy",
                   policy, "--admin-listen", "none", "--log-level", "warn"] + o.serve_arg
        if o.model:
            command += ["--model", o.model]
        env = dict(os.environ, **dict(x.split("=", 1) for x in o.env))
        self.process = subprocess.Popen(command, env=env,
                                        preexec_fn=lambda: apart(o, lambda cpus: cpus[1:]))
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

    def waiting(self):
        with urllib.request.urlopen(self.url + "/v1/queue", timeout=10) as r:
            q = json.load(r)
        return q["waiting"] + q["running"]

    def settle(self):
        """What is still in the line must not be counted against the next run."""
        end = time.monotonic() + 30
        while self.waiting() and time.monotonic() < end:
            time.sleep(0.1)

    def cpu_s(self, pid=None, loop=False):
        """Of the service itself, or of its loop's thread alone: its workers are other processes."""
        total = 0  # by thread and in nanoseconds: ticks are as long as a request
        tasks = f"/proc/{pid or self.process.pid}/task"
        for thread in [str(self.process.pid)] if loop else os.listdir(tasks):
            with open(f"{tasks}/{thread}/schedstat", encoding="ascii") as f:
                total += int(f.read().split()[0])
        return total / 1e9

    def workers(self):
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children", encoding="ascii") as f:
            return f.read().split()

    def metrics(self):
        with urllib.request.urlopen(self.url + "/metrics", timeout=10) as r:
            rows = (x.rsplit(" ", 1) for x in r.read().decode().splitlines() if not x.startswith("#"))
            return {name: float(value) for name, value in rows}

    def close(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)
        self.folder.cleanup()


def run(o, service, rate):
    """The line of all sizes that `taca bench --server --json` prints."""
    n = max(20, int(rate * o.seconds))
    probe = subprocess.Popen([sys.executable, PROBE, service.url.rsplit(":", 1)[1], str(o.seconds)],
                             stdout=subprocess.PIPE, text=True)
    cpu = service.cpu_s()
    done = subprocess.run([o.taca, "bench", "--server", service.url, "--rate", f"{rate:.3f}",
                           "--requests", str(n), "--mix", o.mix, "--steps", str(o.steps), "--within",
                           str(o.within), "--warm", "3", "--json"],
                          capture_output=True, text=True, check=False)
    cpu = service.cpu_s() - cpu
    livez = json.loads(probe.communicate()[0])
    rows = [json.loads(x) for x in done.stdout.splitlines() if x.startswith("{")]
    if not rows:
        sys.exit("taca bench: " + done.stderr[-1000:])
    row = next(r for r in rows if r["side_px"] == 0)
    row["asked"] = rate
    # a second of asking: what is late is done in the time after that, and counts for nothing
    row["goodput"] = row["in_time"] / (n / rate)
    row["useful"] = sum(r["in_time"] * r["alone_ms"] / 1e3 for r in rows if r["side_px"]) / (n / rate)
    row["cpu_ms"] = cpu / n * 1e3
    row["livez_ms"] = livez["p99_ms"]
    service.settle()
    return row


class Search:
    """Rates until goodput no longer grows, then 3 and 10 times the least that gives nearly the best:
    goodput is flat beyond, so the best alone would say little about what is asked."""

    def __init__(self, o, policy):
        self.o, self.policy, self.service = o, policy, Service(o, policy)
        self.rows, self.rate, self.beyond = [], o.first_rate, []

    def best(self):
        return max(self.rows, key=lambda r: r["goodput"])

    def go_on(self):
        """False when all is known."""
        if len(self.beyond) == 2:
            return False
        if self.rate is None:
            self.beyond.append(run(self.o, self.service, self.full * (10 if self.beyond else 3)))
            return True
        self.rows.append(run(self.o, self.service, self.rate))
        self.full = min(r["asked"] for r in self.rows if r["goodput"] >= 0.9 * self.best()["goodput"])
        enough = self.rate >= 1.9 * self.full or len(self.rows) > 12
        self.rate = None if enough else self.rate * self.o.grow
        return True


def milliseconds(value):
    return "" if value is None else format(value, ".1f")


def show(s):
    for r in s.rows + s.beyond:
        print(f"| {s.policy} | {r['asked']:.1f} | {r['n']} | {r['ok']} | {r['refused']} | "
              f"{r['failed']} | {r['goodput']:.2f} | {r['goodput'] / s.best()['goodput']:.2f} | "
              f"{r['useful']:.2f} | {milliseconds(r.get('refused_p99_ms'))} | {r['livez_ms']:.1f} | "
              f"{r['cpu_ms']:.2f} |", flush=True)


def verdict(searches):
    print("\n| policy | best goodput | of the first | 3 x: of the best | 10 x: of the best | "
          "refused within, p99, ms | /livez p99, ms |\n|---|---|---|---|---|---|---|")
    for s in searches:
        best = s.best()["goodput"]
        three, ten = s.beyond
        print(f"| {s.policy} | {best:.2f} | {best / searches[0].best()['goodput']:.2f} | "
              f"{three['goodput'] / best:.2f} | {ten['goodput'] / best:.2f} | "
              f"{milliseconds(ten.get('refused_p99_ms'))} | {ten['livez_ms']:.1f} |")


def loop_ms_a_step(service, seconds):
    def seen():
        steps = [v for k, v in service.metrics().items() if k.startswith("taca_step_duration_seconds_count")]
        return service.cpu_s(loop=True), sum(steps)

    cpu, steps = seen()
    time.sleep(seconds)
    cpu_after, steps_after = seen()
    return (cpu_after - cpu) / max(steps_after - steps, 1) * 1e3


def flood(o):
    """The line grows to so many; each tenth of them is told, and then what a step costs the loop."""
    o.serve_arg += ["--max-queue", str(2 * o.flood), "--max-backlog-seconds", "0", "--start-timeout", "0"]
    service = Service(o, o.policies.split(",")[0])
    print("| waiting | jobs accepted a second | service CPU ms a job |\n|---|---|---|", flush=True)
    try:
        for tenth in range(10):
            cpu, begun = service.cpu_s(), time.monotonic()
            for i in range(o.flood // 10):
                body = json.dumps({"prompt": "a", "seed": i, "steps": 50}).encode()
                r = urllib.request.Request(service.url + "/v1/generate", body, method="POST", headers={
                    "Content-Type": "application/json", "Prefer": "respond-async"})
                with urllib.request.urlopen(r, timeout=60) as answer:
                    answer.read()
            took = time.monotonic() - begun
            print(f"| {service.waiting()} | {o.flood / 10 / took:.0f} | "
                  f"{(service.cpu_s() - cpu) / (o.flood / 10) * 1e3:.2f} |", flush=True)
        print(f"\nloop CPU ms a step, while all wait: {loop_ms_a_step(service, o.seconds):.2f}")
    finally:
        service.process.kill()


def share(o):
    """By CPU time, which neighbours do not take, and by the clock of the service's own metrics."""
    service = Service(o, o.policies.split(",")[0])

    def ask(seed):
        body = json.dumps({"prompt": "a red cube", "seed": seed}).encode()
        r = urllib.request.Request(service.url + "/v1/generate", body, method="POST",
                                   headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(r, timeout=600) as answer:
            answer.read()

    def look():
        m = service.metrics()
        stage = "taca_stage_duration_seconds_sum"
        return {"service": service.cpu_s(), "loop": service.cpu_s(loop=True),
                "engine": sum(service.cpu_s(pid) for pid in service.workers()),
                "stages": {k.split('"')[1]: v for k, v in m.items() if k.startswith(stage)},
                "whole": sum(v for k, v in m.items()
                             if k.startswith("taca_http_request_duration_seconds_sum") and "generate" in k)}
    try:
        for i in range(3):
            ask(i)
        a = look()
        for i in range(o.share):
            ask(100 + i)
        b = look()
    finally:
        service.close()
    cpu = {k: (b[k] - a[k]) * 1e3 / o.share for k in ("service", "loop", "engine")}
    every, edge = cpu["service"] + cpu["engine"], cpu["service"] - cpu["loop"]
    stages = {k: (b["stages"][k] - a["stages"][k]) * 1e3 / o.share for k in b["stages"]}
    whole = (b["whole"] - a["whole"]) * 1e3 / o.share
    print(f"CPU ms a picture: engine {cpu['engine']:.2f}, loop {cpu['loop']:.2f}, HTTP + JSON + PNG "
          f"{edge:.2f}: {edge / every:.4f} of all, with the loop {cpu['service'] / every:.4f}")
    print(f"clock, ms a picture: {whole:.2f} in all; " +
          ", ".join(f"{k} {v:.2f}" for k, v in stages.items()))


def main():
    o = options()
    if o.share:
        share(o)
        return
    if o.flood:
        flood(o)
        return
    searches = [Search(o, policy) for policy in o.policies.split(",")]
    apart(o, lambda cpus: cpus[:1])
    try:
        while any([s.go_on() for s in searches]):
            pass
    finally:
        for s in searches:
            s.service.close()
    print("| policy | asked a second | requests | done | refused | failed | goodput | of the best | "
          "useful | refused within, p99, ms | /livez p99, ms | service CPU ms a request |\n"
          "|---|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for s in searches:
        show(s)
    verdict(searches)


if __name__ == "__main__":
    main()
