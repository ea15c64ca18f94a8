#!/usr/bin/env python3
"""Workers that die or hang, drains, signals, configurations; see fake_service.py."""

import concurrent.futures
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

from fake_service import BINARY, MODEL, PATIENCE, Service, error_of, events_of, run


def test_a_killed_worker_costs_time_and_nothing_else():
    asked = [dict(prompt=f"p{i}", seed=i, steps=20) for i in range(4)]
    with Service(step_ms=0) as s:
        alone = [s.png(**a) for a in asked]
    with Service(step_ms=100 * PATIENCE) as s:  # none is done before all have come
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            pending = [pool.submit(s.png, **a) for a in asked]
            stream = pool.submit(s.post, prompt="s", steps=20, stream=True)
            m = s.until(lambda m: m["taca_requests_running"] == 5)
            steps = m["taca_steps_total"]
            s.until(lambda m: m["taca_steps_total"] >= steps + 5)
            os.kill(s.worker(), signal.SIGKILL)
            assert [p.result() for p in pending] == alone
            kinds = [e["type"] for e in events_of(stream.result()[2])]
        assert "retrying" in kinds and kinds[-1] == "completed", kinds
        assert s.metrics()['taca_worker_restarts_total{reason="signal"}'] == 1


def test_without_a_worker_it_is_not_ready_and_then_it_is_again():
    with Service() as s:
        assert s.request("GET", "/readyz")[0] == 200
        os.kill(s.worker(), signal.SIGKILL)
        s.until(lambda m: m["taca_model_loaded"] == 0)
        assert s.request("GET", "/readyz")[0] == 503
        assert s.request("GET", "/livez")[0] == 200
        s.until(lambda m: m["taca_model_loaded"] == 1)
        assert s.request("GET", "/readyz")[0] == 200


def test_a_request_that_kills_workers_fails_alone():
    with Service(step_ms=10) as s:
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            bad = pool.submit(s.post, prompt="crash", steps=5)
            good = [pool.submit(s.post, prompt=f"good {i}", steps=5) for i in range(2)]
            status, _, body = bad.result()
            assert status == 500 and error_of(body)["code"] == "worker_lost", body
            assert [g.result()[0] for g in good] == [200, 200]
        assert s.metrics()['taca_worker_restarts_total{reason="signal"}'] == 4


def test_a_worker_that_hangs_is_replaced():
    with Service("--step-timeout", 0.5 * PATIENCE, step_ms=10) as s:
        status, _, body = s.post(prompt="hang", steps=5, deadline_ms=int(900 * PATIENCE))
        assert status == 504, (status, body)
        assert s.png(prompt="fine", steps=5)
        assert s.metrics()['taca_worker_restarts_total{reason="hang"}'] >= 1


def test_a_broken_device_ends_its_worker():
    with Service(step_ms=10) as s:
        status, _, body = s.post(prompt="device", steps=5, deadline_ms=600)
        assert status == 504, (status, body)
        assert s.png(prompt="fine", steps=5)
        m = s.metrics()
        assert m['taca_worker_restarts_total{reason="device"}'] >= 1
        assert m['taca_gpu_errors_total{gpu="0",code="device"}'] >= 1


def test_the_worker_does_not_outlive_the_service():
    s = Service(step_ms=20)
    held = s.open_raw(prompt="a", steps=100)
    s.until(lambda m: m["taca_requests_running"] == 1)
    worker = s.worker()
    s.process.kill()
    s.process.wait()
    held.close()
    end = time.monotonic() + 5 * PATIENCE
    while os.path.exists(f"/proc/{worker}") and time.monotonic() < end:
        with open(f"/proc/{worker}/stat", encoding="ascii") as f:
            if f.read().rpartition(")")[2].split()[0] == "Z":
                break  # dead; whoever inherited it has not looked yet
        time.sleep(0.02)
    assert time.monotonic() < end, "the worker is still there"


def test_the_worker_has_no_descriptor_but_its_own():
    with Service() as s:
        held = s.open_raw(prompt="a", steps=100)
        names = os.listdir(f"/proc/{s.worker()}/fd")
        assert sorted(map(int, names))[:5] == [0, 1, 2, 3, 4] and len(names) <= 5, names
        held.close()


# ---- the end ------------------------------------------------------------------------------------


def test_a_drain_answers_everything_in_flight():
    with Service("--drain-grace", 0.4 * PATIENCE, "--max-batch-images", 2,
                 step_ms=20 * PATIENCE) as s:
        with concurrent.futures.ThreadPoolExecutor(10) as pool:
            pending = [pool.submit(s.post, prompt=f"p{i}", steps=10) for i in range(6)]
            stream = pool.submit(s.post, prompt="s", steps=10, stream=True)
            s.until(lambda m: m["taca_requests_running"] + m["taca_requests_waiting"] == 7)
            s.process.send_signal(signal.SIGTERM)
            s.wait_for(lambda r: r["msg"].startswith("draining"))
            assert s.request("GET", "/readyz")[0] == 503
            late = pool.submit(s.post, prompt="late", steps=2)  # within the grace: still served
            time.sleep(0.6 * PATIENCE)
            try:
                status, _, body = s.post(prompt="too late", steps=2)
                assert status == 503 and error_of(body)["code"] == "draining", (status, body)
            except OSError:
                pass  # already gone
            assert [p.result()[0] for p in pending] == [200] * 6
            assert late.result()[0] == 200, late.result()
            assert events_of(stream.result()[2])[-1]["type"] == "completed"
        assert s.process.wait(10 * PATIENCE) == 0


def test_a_drain_ends_what_takes_too_long():
    with Service("--drain-timeout", 0.5 * PATIENCE, step_ms=50 * PATIENCE) as s:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            a = pool.submit(s.post, prompt="a", steps=100)
            b = pool.submit(s.post, prompt="b", steps=100, stream=True)
            s.until(lambda m: m["taca_requests_running"] == 2)
            start = time.monotonic()
            s.process.send_signal(signal.SIGTERM)
            status, _, body = a.result()
            assert status == 503 and error_of(body)["code"] == "draining", (status, body)
            last = events_of(b.result()[2])[-1]
            assert last["type"] == "error" and last["error"]["code"] == "draining", last
        assert s.process.wait(10 * PATIENCE) == 0
        assert time.monotonic() - start < 3 * PATIENCE


def test_a_drain_runs_what_fits_and_sends_the_rest_away_early():
    with Service("--drain-timeout", 4 * PATIENCE, "--max-batch-images", 1,
                 step_ms=50 * PATIENCE) as s:
        s.png(prompt="so that costs are known", steps=4)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            pending = []
            for i in range(4):  # one after the other: 1, 1, 5 and 5 s on a fast machine
                pending.append(pool.submit(s.post, prompt=f"p{i}", steps=20 if i < 2 else 100))
                s.until(lambda m, n=i + 1:
                        m["taca_requests_running"] + m["taca_requests_waiting"] == n)
            s.process.send_signal(signal.SIGTERM)
            assert pending[3].result()[0] == 503
            assert not pending[1].done(), "the last one waited for its refusal"
            assert [p.result()[0] for p in pending[:2]] == [200, 200]
        assert s.process.wait(10 * PATIENCE) == 0


def test_a_second_signal_and_an_interrupt_leave_at_once():
    for first in (signal.SIGTERM, None):
        with Service("--drain-grace", 30, step_ms=50 * PATIENCE) as s:
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                a = pool.submit(s.post, prompt="a", steps=100)
                s.until(lambda m: m["taca_requests_running"] == 1)
                start = time.monotonic()
                if first:
                    s.process.send_signal(first)
                    s.wait_for(lambda r: r["msg"].startswith("draining"))
                s.process.send_signal(first or signal.SIGINT)
                assert a.result()[0] == 503
            assert s.process.wait(10 * PATIENCE) == 0
            assert time.monotonic() - start < 2 * PATIENCE


def test_signals_that_mean_nothing_do_nothing():
    with Service() as s:
        for number in (signal.SIGPIPE, signal.SIGUSR1):
            s.process.send_signal(number)
            assert s.png(prompt="a", steps=2)


# ---- configuration, log, metrics ----------------------------------------------------------------


def test_a_bad_configuration_is_refused_with_its_reason():
    broken = tempfile.mkdtemp(prefix="broken-")
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    for args, expect, word in [
            (["--model", "/nowhere"], 78, "/nowhere"),
            (["--model", broken], 78, "no model here"),
            (["--host", "0.0.0.0"], 78, "--insecure"),
            (["--max-batch-images", "0"], 2, "max-batch-images"),
            (["--prot", "1"], 2, "prot"),
            (["--host", "127.0.0.1", "--port", str(port)], 1, str(port))]:
        run = subprocess.run([BINARY, "serve", "--model", MODEL, "--port", "0", "--admin-listen",
                              "none", *args], stderr=subprocess.PIPE, text=True, timeout=30,
                             check=False)
        assert run.returncode == expect and word in run.stderr, (args, run)
    taken.close()
    os.rmdir(broken)


if __name__ == "__main__":
    sys.exit(run(globals()))
