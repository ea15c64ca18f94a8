#!/usr/bin/env python3
"""The service over an engine that opens and decodes beside its steps (TACA_FAKE_SIDE_MS): steps go on
meanwhile, the pictures are the same, and a worker that is lost with both at work loses nobody.

usage: beside_test.py TACA_FAKE"""

import concurrent.futures
import os
import signal
import sys
import time

import fake_service as base
from fake_service import Service

BESIDE = "taca_forwards_beside_total"
SMALL = dict(width=64, height=64, steps=3)
LONG = dict(width=64, height=64, steps=100)


def overlapping(side_ms, *args, step_ms=10):
    return Service("--no-calibrate", *args, step_ms=step_ms, env={"TACA_FAKE_SIDE_MS": str(side_ms)})


def begin(pool, s, **fields):
    return pool.submit(s.post, "image/png", **fields)


def png(future):
    status, _, body = future.result()
    assert status == 200, (status, body[:300])
    return body


def restarts(m):
    return sum(v for k, v in m.items() if k.startswith("taca_worker_restarts_total"))


def test_steps_go_on_while_another_is_opened_and_decoded():
    with Service() as s:
        want = [s.png(prompt=p, seed=k, **SMALL) for k, p in enumerate("abcd")]
        assert s.metrics()[BESIDE] == 0
    start = time.monotonic()
    with overlapping(100) as s, concurrent.futures.ThreadPoolExecutor() as pool:
        long = begin(pool, s, prompt="long", seed=1, **LONG)
        s.until(lambda m: m["taca_steps_total"] > 0)
        got = [begin(pool, s, prompt=p, seed=k, **SMALL) for k, p in enumerate("abcd")]
        assert [png(f) for f in got] == want
        png(long)
        # each was opened and decoded for 100 ms beside the long one, whose steps take 10 ms
        m = s.until(lambda m: m["taca_requests_running"] == 0)
        assert m[BESIDE] > 8, m
        # no more than there was of it, though its commands overlap
        assert 0 < m['taca_gpu_busy_seconds_total{gpu="0"}'] < time.monotonic() - start


def test_one_by_itself_is_opened_stepped_and_decoded_in_turn():
    with overlapping(1) as s:
        first = s.png(prompt="a", seed=3, **SMALL)
        assert first == s.png(prompt="a", seed=3, **SMALL)
        assert s.metrics()[BESIDE] == 0


def test_who_leaves_while_it_is_opened_or_decoded_is_forgotten():
    with overlapping(80, step_ms=10) as s, concurrent.futures.ThreadPoolExecutor() as pool:
        long = begin(pool, s, prompt="long", seed=1, **LONG)
        s.until(lambda m: m["taca_steps_total"] > 0)
        for wait in (0, 0.1, 0.2):  # opened, decoded or so
            c = s.open_raw(prompt="leaves", **SMALL)
            s.until(lambda m: m["taca_requests_running"] + m["taca_requests_waiting"] == 2)
            time.sleep(wait)
            c.close()
            s.until(lambda m: m["taca_requests_running"] + m["taca_requests_waiting"] <= 1)
        assert s.png(prompt="stays", **SMALL)
        png(long)
        assert restarts(s.metrics()) == 0


def test_a_worker_lost_with_both_at_work_loses_nobody():
    with Service() as s:
        want = [s.png(prompt="short", seed=1, **SMALL), s.png(prompt="long", seed=1, **LONG)]
    with overlapping(400) as s, concurrent.futures.ThreadPoolExecutor() as pool:
        long = begin(pool, s, prompt="long", seed=1, **LONG)
        s.until(lambda m: m["taca_steps_total"] > 0)
        short = begin(pool, s, prompt="short", seed=1, **SMALL)
        beside = s.until(lambda m: m[BESIDE] > 0)[BESIDE]  # its opening is at work
        os.kill(s.worker(), signal.SIGKILL)
        s.until(lambda m: restarts(m) == 1 and m[BESIDE] > beside)
        assert [png(short), png(long)] == want
        assert s.metrics()['taca_worker_restarts_total{reason="signal"}'] == 1


def test_a_decoding_that_hangs_is_noticed_though_steps_go_on():
    with overlapping(1, "--step-timeout", "1", "--max-retries", "0", step_ms=30) as s, \
            concurrent.futures.ThreadPoolExecutor() as pool:
        s.png(prompt="a", **SMALL)  # what things take is known
        long = begin(pool, s, prompt="long", seed=1, **LONG)
        s.until(lambda m: m["taca_steps_total"] > SMALL["steps"])
        stuck = begin(pool, s, prompt="stuck", **SMALL)
        m = s.until(lambda m: m['taca_worker_restarts_total{reason="hang"}'] > 0, timeout=30)
        assert m[BESIDE] > 5, m[BESIDE]  # it was not silent
        for future in (stuck, long):
            status, _, body = future.result()
            assert status == 500 and b"worker_lost" in body, (status, body)
        s.png(prompt="a", **SMALL)


if __name__ == "__main__":
    sys.exit(base.run(globals()))
