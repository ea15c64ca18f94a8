#!/usr/bin/env python3
"""Who waits how long and who is refused: the line, deadlines, leaving; see fake_service.py."""

import concurrent.futures
import math
import os
import select
import signal
import socket
import struct
import sys
import time

from fake_service import PATIENCE, Service, error_of, events_of, run


def test_a_full_queue_says_when_to_come_back():
    with Service("--max-queue", 2, "--max-batch-images", 1) as s:
        s.png(prompt="so that costs are known", steps=4)
        os.kill(s.worker(), signal.SIGSTOP)  # nobody is done before all have come
        with concurrent.futures.ThreadPoolExecutor(9) as pool:
            def ask(i):  # with time enough, so that the first stays the first
                return pool.submit(s.post, prompt="a", seed=i, steps=10, deadline_ms=600000)
            taken = [ask(0)]
            s.until(lambda m: m["taca_requests_running"] == 1)
            taken += [ask(1), ask(2)]
            s.until(lambda m: m["taca_requests_waiting"] == 2)
            full = [r.result() for r in [ask(i) for i in range(3, 9)]]
            assert [r[0] for r in full] == [429] * 6, [r[0] for r in full]
            os.kill(s.worker(), signal.SIGCONT)
            assert [r.result()[0] for r in taken] == [200] * 3
        for _, headers, body in full:
            assert error_of(body)["code"] == "queue_full"
            assert 1 <= int(headers["retry-after"]) <= 60, headers
            assert headers["x-queue-depth"] == "2", headers
        m = s.metrics()
        assert m['taca_rejected_total{reason="queue_full"}'] == 6
        assert m['taca_requests_total{outcome="rejected"}'] == 6


def test_an_event_stream_is_refused_with_a_status_too():
    with Service("--max-queue", 0, "--max-batch-images", 1, step_ms=50 * PATIENCE) as s:
        held = s.open_raw(prompt="a", steps=20)
        s.until(lambda m: m["taca_requests_running"] == 1)
        status, _, body = s.post(prompt="b", stream=True)
        assert status == 429 and error_of(body)["code"] == "queue_full", (status, body)
        held.close()


def test_a_client_that_leaves_frees_the_worker_within_a_step():
    with Service(step_ms=50 * PATIENCE) as s:
        sockets = [s.open_raw(prompt="a", steps=100, seed=1),
                   s.open_raw(prompt="a", steps=100, seed=2, stream=True)]
        s.until(lambda m: m["taca_requests_running"] == 2 and m["taca_steps_total"] >= 4)
        for x in sockets:
            x.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            x.close()
        s.until(lambda m: m["taca_requests_running"] == 0, 1)
        done = s.metrics()["taca_steps_total"]
        time.sleep(0.3 * PATIENCE)
        assert s.metrics()["taca_steps_total"] <= done + 2
        m = s.metrics()
        assert m['taca_cancelled_total{reason="disconnect"}'] == 2
        assert m['taca_requests_total{outcome="cancelled"}'] == 2


def test_on_disconnect_continue_finishes_all_the_same():
    with Service(step_ms=20 * PATIENCE) as s:
        x = s.open_raw(prompt="a", steps=10, on_disconnect="continue")
        s.until(lambda m: m["taca_requests_running"] == 1)
        x.close()
        s.until(lambda m: m['taca_requests_total{outcome="ok"}'] == 1, 5)


def test_a_deadline_ends_a_request_and_its_work():
    # what a step takes is measured with others, so these seem to fit
    with Service(step_ms=1) as s:
        start = time.monotonic()
        status, _, body = s.post(prompt="slow", steps=100, deadline_ms=300)
        took = time.monotonic() - start
        assert status == 504 and error_of(body)["code"] == "deadline_exceeded", body
        assert 0.29 <= took < 1.5 * PATIENCE, took
        m = s.until(lambda m: m["taca_requests_running"] == 0)
        assert m['taca_requests_total{outcome="expired"}'] == 1
    with Service(step_ms=1) as s:
        _, _, body = s.post(prompt="slow", steps=100, deadline_ms=300, stream=True)
        last = events_of(body)[-1]
        assert (last["type"], last["reason"]) == ("cancelled", "deadline"), last


def test_a_deadline_that_cannot_be_met_is_refused_at_once():
    with Service(step_ms=20) as s:
        s.wait_for(lambda r: r["msg"].startswith("calibrated"))
        status, headers, body = s.post(prompt="a", steps=100, deadline_ms=400)
        e = error_of(body)
        assert status == 429 and (e["code"], e["param"]) == ("deadline_infeasible", "deadline_ms"), body
        assert 1 <= int(headers["retry-after"]) <= 60 and "deadline_ms is 400" in e["message"], body
        m = s.metrics()
        assert m['taca_rejected_total{reason="deadline_infeasible"}'] == 1 and m["taca_steps_total"] == 0
        assert s.post(prompt="a", steps=2, deadline_ms=60000)[0] == 200


def test_a_request_that_cannot_start_in_time_is_never_run():
    with Service("--max-batch-images", 1, step_ms=30 * PATIENCE) as s:
        held = s.open_raw(prompt="a", steps=30)
        s.until(lambda m: m["taca_requests_running"] == 1)
        # longer, so due later: a short one would go first
        status, _, body = s.post(prompt="b", steps=60, start_timeout_ms=150)
        assert status == 504 and error_of(body)["code"] == "start_timeout", body
        held.close()
        s.until(lambda m: m["taca_requests_running"] == 0)


def test_a_step_that_fails_together_is_tried_apart():
    with Service(step_ms=10) as s:
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            replies = list(pool.map(lambda i: s.post(prompt=f"together {i}", steps=5), range(3)))
        assert [r[0] for r in replies] == [200] * 3, replies


def test_what_is_due_sooner_goes_first_unless_they_are_served_as_they_come():
    for policy, steps, before in (("edf", 100, True), ("fcfs", 20, False)):
        with Service("--policy", policy, "--max-batch-images", 1, step_ms=50 * PATIENCE) as s:
            long = s.open_raw(prompt="long", steps=steps)
            s.until(lambda m: m["taca_requests_running"] == 1)
            s.png(prompt="short", steps=2)
            waits = select.select([long], [], [], 0) == ([], [], [])
            assert waits == before, policy
            long.close()


def test_priority_goes_before_deadlines():
    with Service("--max-batch-images", 1, step_ms=20 * PATIENCE) as s:
        order = []

        def ask(name, steps, priority):
            s.png(prompt=name, steps=steps, priority=priority)
            order.append(name)
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            asked = [pool.submit(ask, "short", 30, 0)]
            s.until(lambda m: m["taca_requests_running"] == 1)
            asked.append(pool.submit(ask, "long but urgent", 40, 5))
            for a in asked:
                a.result()
        assert order == ["long but urgent", "short"], order


def test_a_backlog_of_work_is_refused_like_a_full_queue():
    with Service("--max-backlog-seconds", PATIENCE, "--max-batch-images", 1,
                 step_ms=20 * PATIENCE) as s:
        # longer than that, but nobody else is there; its second step hangs, so that it stays so long
        held = s.open_raw(prompt="hang", steps=60)
        s.until(lambda m: m["taca_steps_total"] == 1)
        status, headers, body = s.post(prompt="b", steps=30)
        assert status == 429 and error_of(body)["code"] == "queue_full", (status, body)
        # as much as the service thinks, whatever a busy machine made of its measurements
        backlog = s.metrics()["taca_queue_backlog_gpu_seconds"]
        assert 1 <= int(headers["retry-after"]) <= math.ceil(1.2 * backlog), (headers, backlog)
        held.close()


def test_a_user_who_floods_does_not_keep_another_waiting():
    with Service("--max-batch-images", 1, "--fair-quantum", 0.2 * PATIENCE,
                 step_ms=10 * PATIENCE) as s:
        with concurrent.futures.ThreadPoolExecutor(9) as pool:
            flood = [pool.submit(s.png, prompt="f", seed=i, steps=20, user="many")
                     for i in range(8)]
            s.until(lambda m: m["taca_requests_running"] + m["taca_requests_waiting"] == 8)
            pool.submit(s.png, prompt="one", steps=30, user="other").result()
            left = sum(not f.done() for f in flood)
            assert left >= 3, left  # half the device: six of them would be done in turn
            for f in flood:
                f.result()


def test_without_calibration_costs_are_learnt_from_requests():
    with Service("--no-calibrate", step_ms=10) as s:
        assert not [r for r in s.records if r["msg"].startswith("calibrated")]
        _, _, body = s.post(prompt="a", steps=10, stream=True)
        assert events_of(body)[-1]["type"] == "completed"
    with Service(step_ms=10) as s:
        s.wait_for(lambda r: r["msg"].startswith("calibrated"))
        _, _, body = s.post(prompt="a", steps=50, stream=True)
        eta = next(e for e in events_of(body) if e["type"] == "queued")["eta_ms"]
        assert 400 <= eta <= 1500 * PATIENCE, eta  # 50 steps of 10 ms, and the machine's mood
        m = s.metrics()
        assert m["taca_eta_error_seconds_count"] == 1 and m["taca_steps_total"] == 50, m


# ---- workers ------------------------------------------------------------------------------------


if __name__ == "__main__":
    sys.exit(run(globals()))
