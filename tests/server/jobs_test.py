#!/usr/bin/env python3
"""Jobs that are asked for by name: async requests, replays, events, pictures, cancelling.

usage: jobs_test.py TACA_FAKE [SUBSTRING]   (only tests whose name has the substring)"""

import base64
import concurrent.futures
import http.client
import json
import re
import socket
import sys
import time

import fake_service as base
from fake_service import Service, chunks, error_of, events_of

JSON = {"Content-Type": "application/json"}


def send(s, method, path, fields=None, **headers):
    named = {k.replace("_", "-"): str(v) for k, v in headers.items()}
    body = None
    if fields is not None:
        named = dict(JSON, **named)
        body = json.dumps(fields)
    return s.request(method, path, body, named)


def start(s, **fields):
    """A job object of an async request."""
    status, headers, body = send(s, "POST", "/v1/generate", fields, Prefer="respond-async")
    assert status == 202, (status, body)
    job = json.loads(body)
    assert headers["location"].endswith("/v1/jobs/" + job["id"]), headers
    assert headers["x-job-id"] == job["id"] and headers["preference-applied"] == "respond-async"
    return job


def look(s, job, expect=200):
    status, headers, body = s.request("GET", "/v1/jobs/" + job)
    assert status == expect, (status, body)
    assert headers["content-type"] == "application/json", headers
    return json.loads(body)


def finish(s, job, timeout=20):
    end = time.monotonic() + timeout * base.PATIENCE
    while True:
        j = look(s, job)
        if j["status"] not in ("queued", "running"):
            return j
        assert time.monotonic() < end, j
        time.sleep(0.02)


def local(s, url):
    prefix = f"http://127.0.0.1:{s.port}"
    assert url.startswith(prefix), url
    return url[len(prefix):]


# ---- async -------------------------------------------------------------------------------------


def test_an_async_request_is_a_job_that_one_can_watch_and_fetch():
    with Service(step_ms=20) as s:
        job = start(s, prompt="a", steps=8, n=2, seed=5, width=64, height=96)
        assert set(job) == {"id", "status", "created", "position", "eta_ms", "started", "completed",
                            "result", "error", "urls"}, job
        assert re.fullmatch("[0-9a-f]{32}", job["id"]) and job["status"] == "queued"
        assert job["position"] == 1 and job["eta_ms"] > 0 and not job["completed"]
        s.until(lambda m: m["taca_requests_running"] == 1)
        running = look(s, job["id"])
        assert running["status"] == "running" and running["started"], running
        assert running["position"] is None and running["eta_ms"] >= 0
        done = finish(s, job["id"])
        assert done["status"] == "completed" and done["eta_ms"] is None and done["error"] is None
        assert done["completed"] >= done["started"] >= done["created"] > 1e9
        assert [i["seed"] for i in done["result"]["images"]] == [5, 6]
        assert done["result"]["timings"]["total_ms"] > 100 and done["result"]["warnings"] == []
        for k, image in enumerate(done["result"]["images"]):
            assert local(s, image["url"]) == f"/v1/jobs/{job['id']}/images/{k}"
            status, headers, png = s.request("GET", local(s, image["url"]))
            assert status == 200 and headers["content-type"] == "image/png", headers
            assert base.size_of(png) == (64, 96) and headers["x-seed"] == str(5 + k)
            assert re.fullmatch(r"private, max-age=\d+", headers["cache-control"]), headers
            again, known, nothing = s.request("GET", local(s, image["url"]), None,
                                              {"If-None-Match": headers["etag"]})
            assert again == 304 and nothing == b"" and known["etag"] == headers["etag"]
            status, head, nothing = s.request("HEAD", local(s, image["url"]))
            assert status == 200 and nothing == b"" and head["content-length"] == str(len(png))
        m = s.metrics()
        assert m["taca_jobs_stored"] == 1 and m["taca_jobs_stored_bytes"] > 2 * len(png) - 100, m
        assert m['taca_requests_total{outcome="ok"}'] == 1
        assert m['taca_http_requests_total{route="/v1/jobs/{id}/images/{k}",method="GET",code="304"}'] == 2


def test_the_same_pixels_whichever_way_they_are_fetched():
    with Service() as s:
        plain = s.png(prompt="a", seed=3, steps=3)
        job = start(s, prompt="a", seed=3, steps=3)
        finish(s, job["id"])
        assert s.request("GET", f"/v1/jobs/{job['id']}/images/0")[2] == plain
        status, headers, body = s.post("image/png", prompt="a", seed=3, steps=3)
        assert s.request("GET", f"/v1/jobs/{headers['x-job-id']}/images/0")[2] == body == plain


def test_a_job_of_jpegs_says_so_everywhere():
    with Service(step_ms=5) as s:
        job = start(s, prompt="a", steps=3, n=2, seed=5, output_format="jpeg", output_compression=80)
        done = finish(s, job["id"])
        _, _, told = s.request("GET", f"/v1/jobs/{job['id']}/events")
        events = {e["index"]: e for e in events_of(told) if e["type"] == "image"}
        for k, image in enumerate(done["result"]["images"]):
            status, headers, jpeg = s.request("GET", local(s, image["url"]))
            assert status == 200 and headers["content-type"] == "image/jpeg", headers
            assert headers["content-disposition"] == f'inline; filename="{job["id"]}-{k}.jpg"'
            assert image["format"] == events[k]["format"] == "jpeg"
            assert events[k]["url"] == image["url"]
            assert base.jpeg_size(jpeg) == (image["width"], image["height"])
            known = s.request("GET", local(s, image["url"]), None, {"If-None-Match": headers["etag"]})
            assert known[0] == 304 and known[2] == b""
        # who comes again gets what was made, and is told what that is
        fields = {"prompt": "b", "steps": 1}
        status, headers, png = send(s, "PUT", "/v1/jobs/x", fields, Accept="image/png")
        assert status == 200 and chunks(png)
        status, headers, again = send(s, "PUT", "/v1/jobs/x", fields, Accept="image/jpeg")
        assert headers["content-type"] == "image/png" and again == png, headers
        # an async request is answered by a job, so Accept says nothing about its pictures
        status, _, body = send(s, "POST", "/v1/generate", dict(fields, output_compression=5),
                               Prefer="respond-async", Accept="image/jpeg")
        assert status == 400 and error_of(body)["param"] == "output_compression"


def test_wait_holds_on_for_the_result_and_then_gives_the_job():
    with Service(step_ms=40 * base.PATIENCE) as s:
        status, headers, body = send(s, "POST", "/v1/generate", {"prompt": "a", "steps": 3},
                                     Prefer="wait=20")
        assert status == 200 and json.loads(body)["images"] and "location" not in headers
        assert headers["preference-applied"] == "wait=20"
        began = time.monotonic()
        status, headers, body = send(s, "POST", "/v1/generate", {"prompt": "a", "steps": 60},
                                     Prefer="wait=1", Accept="image/png")
        assert 0.9 < time.monotonic() - began < 1 + base.PATIENCE
        job = json.loads(body)
        assert status == 202 and job["status"] == "running", (status, job)
        assert local(s, headers["location"]) == "/v1/jobs/" + job["id"]
        assert finish(s, job["id"])["status"] == "completed"


def test_an_async_job_does_not_need_its_client_and_a_waiting_one_neither():
    with Service(step_ms=20) as s:
        body = json.dumps({"prompt": "a", "steps": 20}).encode()
        x = socket.create_connection(("127.0.0.1", s.port))
        x.sendall(b"POST /v1/generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                  b"Prefer: wait=60\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        s.until(lambda m: m["taca_requests_running"] == 1)
        x.close()
        s.until(lambda m: m['taca_requests_total{outcome="ok"}'] == 1, 5)


def test_malformed_preferences_do_not_count():
    with Service() as s:
        for prefer in ("wait=x", "wait=", "waits=3", "respond-asyncs", "wait=-1", ",,;,", "wait=0"):
            status, _, body = send(s, "POST", "/v1/generate", {"prompt": "a", "steps": 1},
                                   Prefer=prefer)
            assert status == 200 and json.loads(body)["images"], (prefer, body)


# ---- cancelling ----------------------------------------------------------------------------------


def test_a_job_is_cancelled_by_name_queued_or_running():
    with Service("--max-batch-images", 1, step_ms=30) as s:
        first = start(s, prompt="a", steps=100)
        second = start(s, prompt="b", steps=100)
        s.until(lambda m: m["taca_requests_running"] == 1)
        assert look(s, second["id"])["position"] == 1
        status, _, body = s.request("DELETE", "/v1/jobs/" + second["id"])
        assert status == 202 and json.loads(body)["status"] == "cancelled", body
        status, _, body = s.request("POST", local(s, first["urls"]["cancel"]), "")
        assert status == 202 and json.loads(body)["status"] == "cancelled", body
        for job in (first, second):
            j = look(s, job["id"])
            assert j["status"] == "cancelled" and j["result"] is None, j
            status, headers, body = s.request("DELETE", "/v1/jobs/" + job["id"])
            assert status == 409 and error_of(body)["code"] == "already_finished"
            assert headers["x-should-retry"] == "false"
        s.until(lambda m: m["taca_requests_running"] == 0)
        m = s.metrics()
        assert m['taca_cancelled_total{reason="client"}'] == 2
        assert m['taca_requests_total{outcome="cancelled"}'] == 2


def test_a_job_is_cancelled_before_it_is_there():
    """As one whose body is on its way, or whose picture is being unpacked."""
    with Service() as s:
        body = json.dumps({"prompt": "a", "steps": 1}).encode()
        x = socket.create_connection(("127.0.0.1", s.port))
        x.sendall(b"PUT /v1/jobs/x HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                  b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        assert b" 100 " in x.recv(4096)
        assert s.request("DELETE", "/v1/jobs/x")[0] == 404  # not yet
        x.sendall(body)
        got = b"".join(iter(lambda: x.recv(4096), b""))
        assert got.startswith(b"HTTP/1.1 409 ") and b'"cancelled"' in got, got
        m = s.metrics()
        assert m['taca_requests_total{outcome="cancelled"}'] == m['taca_cancelled_total{reason="client"}'] == 1
        # who means it anew comes later, and another is not meant
        for name in "xy":
            assert send(s, "PUT", "/v1/jobs/" + name, {"prompt": "a", "steps": 1})[0] == 200
        assert s.metrics()["taca_steps_total"] == 2


def test_those_who_wait_for_a_cancelled_job_are_told():
    with Service(step_ms=30) as s, concurrent.futures.ThreadPoolExecutor(2) as pool:
        plain = pool.submit(send, s, "PUT", "/v1/jobs/x", {"prompt": "a", "steps": 100})
        s.until(lambda m: m["taca_requests_running"] == 1)
        watch = pool.submit(s.request, "GET", "/v1/jobs/x/events")
        s.until(lambda m: m["taca_sse_streams"] == 1)
        assert s.request("DELETE", "/v1/jobs/x")[0] == 202
        status, headers, body = plain.result()
        assert status == 409 and error_of(body)["code"] == "cancelled", body
        last = events_of(watch.result()[2])[-1]
        assert last["type"] == "cancelled" and last["reason"] == "client", last


# ---- names -----------------------------------------------------------------------------------


def test_unknown_is_not_expired():
    with Service("--job-ttl", 0.5) as s:
        job = start(s, prompt="a", steps=1)
        finish(s, job["id"])
        time.sleep(0.7)
        for path in ("", "/events", "/images/0"):
            status, _, body = s.request("GET", f"/v1/jobs/{job['id']}{path}")
            assert status == 410 and error_of(body)["code"] == "job_expired", (status, body)
            status, _, body = s.request("GET", f"/v1/jobs/{'0' * 32}{path}")
            assert status == 404 and error_of(body)["code"] == "not_found", (status, body)
        assert s.request("DELETE", f"/v1/jobs/{job['id']}")[0] == 410
        assert s.metrics()["taca_jobs_stored"] == 0


def test_results_keep_to_their_bytes_the_oldest_go_first():
    with Service() as s:
        finish(s, start(s, prompt="p", steps=1)["id"])
        one = s.metrics()["taca_jobs_stored_bytes"]
    limit = int(3.5 * one)
    with Service("--max-stored-bytes", limit) as s:
        ids = []
        for i in range(8):
            ids.append(start(s, prompt=f"p{i}", steps=1)["id"])
            finish(s, ids[-1])
        assert s.metrics()["taca_jobs_stored_bytes"] <= limit
        status = [s.request("GET", "/v1/jobs/" + i)[0] for i in ids]
        assert status == [410] * 5 + [200] * 3, status


def test_nothing_is_kept_when_nothing_may_be():
    with Service("--max-stored-bytes", 0) as s:
        status, headers, body = s.post(prompt="a", n=3, steps=2)
        assert status == 200 and len(json.loads(body)["images"]) == 3
        assert s.request("GET", "/v1/jobs/" + headers["x-job-id"])[0] == 410
        status, _, body = s.post("text/event-stream", prompt="a", n=3, steps=2)
        assert events_of(body)[-1]["type"] == "completed"


def test_a_path_that_is_no_id_leads_nowhere():
    with Service() as s:
        start(s, prompt="a", steps=1)
        for path in ("..%2f..%2fetc%2fpasswd", "../x", "..", ".", "%2e%2e", "a%00", "a b", "a%20b",
                     "x" * 65, "", "a/", "a/b", "a/images", "a/images/", "a/images/-1",
                     "a/images/0x1", "a/images/00", "a/images/123", "a/images/0/", "a/eventss",
                     "..%2fevents", "a/../b", "a%2fimages%2f..%2f0"):
            c = http.client.HTTPConnection("127.0.0.1", s.port)
            c.putrequest("GET", "/v1/jobs/" + path.replace(" ", "%20"))
            c.endheaders()
            r = c.getresponse()
            assert r.status in (400, 404), (path, r.status)
            assert error_of(r.read())["code"]
            c.close()


def test_methods():
    with Service() as s:
        for path, allowed in (("/v1/jobs/a", "GET, HEAD, PUT, DELETE, OPTIONS"),
                              ("/v1/jobs/a/cancel", "POST, OPTIONS"),
                              ("/v1/jobs/a/events", "GET, HEAD, OPTIONS"),
                              ("/v1/jobs/a/images/0", "GET, HEAD, OPTIONS"),
                              ("/v1/images/generations", "POST, OPTIONS"),
                              ("/v1/queue", "GET, HEAD, OPTIONS")):
            for method in ("GET", "POST", "PUT", "DELETE"):
                if method in allowed:
                    continue
                status, headers, body = s.request(method, path, "")
                assert status == 405 and headers["allow"] == allowed, (method, path, headers)
                assert error_of(body)["code"] == "method_not_allowed"
            status, headers, _ = s.request("OPTIONS", path)
            assert status == 204 and headers["allow"] == allowed, headers
        assert s.request("HEAD", "/v1/jobs/a")[0] == 404
        assert s.request("HEAD", "/v1/jobs/a/events")[0] == 404
        status, headers, body = s.request("HEAD", "/v1/queue")
        assert status == 200 and body == b""


def test_images_before_they_are_made_and_beyond():
    with Service("--max-batch-images", 1, step_ms=30) as s:
        job = start(s, prompt="a", steps=30, n=2)["id"]
        status, _, body = s.request("GET", f"/v1/jobs/{job}/images/0")
        assert status == 404 and error_of(body)["code"] == "image_not_ready", body
        status, _, body = s.request("GET", f"/v1/jobs/{job}/images/2")
        assert status == 404 and error_of(body)["code"] == "not_found", body
        s.request("DELETE", "/v1/jobs/" + job)
        status, _, body = s.request("GET", f"/v1/jobs/{job}/images/0")
        assert status == 404 and error_of(body)["code"] == "not_found", body


def test_the_queue_tells_positions_and_no_ids():
    with Service("--max-batch-images", 1, step_ms=30) as s:
        jobs = [start(s, prompt="a", steps=20) for _ in range(3)]
        s.until(lambda m: m["taca_requests_running"] == 1)
        status, _, body = s.request("GET", "/v1/queue")
        q = json.loads(body)
        assert status == 200 and (q["waiting"], q["running"]) == (2, 1), q
        assert [j["status"] for j in q["jobs"]] == ["running", "queued", "queued"]
        assert [j["position"] for j in q["jobs"]] == [None, 1, 2]
        eta = [j["eta_ms"] for j in q["jobs"]]
        assert 0 < eta[0] < eta[1] < eta[2], eta
        assert not any(j["id"] in body.decode() for j in jobs)
        for j in jobs:
            s.request("DELETE", "/v1/jobs/" + j["id"])


# ---- the same request again ----------------------------------------------------------------------


def test_put_names_a_job_and_comes_back_to_it():
    with Service(step_ms=20) as s:
        fields = {"prompt": "a", "steps": 10}
        status, headers, body = send(s, "PUT", "/v1/jobs/my.job-1", fields, Prefer="respond-async")
        assert status == 202 and json.loads(body)["id"] == "my.job-1", body
        status, headers, first = send(s, "PUT", "/v1/jobs/my.job-1", fields)  # attaches
        assert status == 200 and headers["x-job-id"] == "my.job-1"
        assert headers["idempotent-replayed"] == "true"
        status, _, again = send(s, "PUT", "/v1/jobs/my.job-1", fields)  # replays
        assert status == 200 and again == first
        status, headers, png = send(s, "PUT", "/v1/jobs/my.job-1", fields, Accept="image/png")
        assert status == 200 and chunks(png)
        status, headers, body = send(s, "PUT", "/v1/jobs/my.job-1", fields, Prefer="respond-async")
        assert status == 200 and json.loads(body)["status"] == "completed"
        status, headers, body = send(s, "PUT", "/v1/jobs/my.job-1", {"prompt": "b"})
        assert status == 409 and error_of(body)["code"] == "job_exists", body
        assert headers["x-should-retry"] == "false"
        assert s.metrics()['taca_requests_total{outcome="ok"}'] == 1
        assert send(s, "PUT", "/v1/jobs/other", {"prompt": "b", "steps": "x"})[0] == 400
        assert s.request("GET", "/v1/jobs/other")[0] == 404
        status, _, body = s.request("PUT", "/v1/jobs/other", "{}", {"Content-Type": "text/plain"})
        assert status == 415, body


def test_put_survives_its_client():
    with Service(step_ms=20) as s:
        body = json.dumps({"prompt": "a", "steps": 20}).encode()
        x = socket.create_connection(("127.0.0.1", s.port))
        x.sendall(b"PUT /v1/jobs/x HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                  b"Content-Length: %d\r\n\r\n" % len(body) + body)
        s.until(lambda m: m["taca_requests_running"] == 1)
        x.close()
        status, headers, answer = s.request("PUT", "/v1/jobs/x", body, JSON)
        assert status == 200 and json.loads(answer)["images"], answer
        assert s.metrics()['taca_requests_total{outcome="ok"}'] == 1


def test_a_hundred_retries_at_once_are_one_execution():
    with Service(step_ms=20) as s, concurrent.futures.ThreadPoolExecutor(100) as pool:
        fields = {"prompt": "a", "steps": 10}
        answers = list(pool.map(lambda _: send(s, "POST", "/v1/generate", fields,
                                               Idempotency_Key="k 1"), range(100)))
        assert {a[0] for a in answers} == {200}
        assert len({a[2] for a in answers}) == 1 and len({a[1]["x-job-id"] for a in answers}) == 1
        assert sum("idempotent-replayed" not in a[1] for a in answers) == 1
        m = s.metrics()
        assert m['taca_requests_total{outcome="ok"}'] == 1 and m["taca_images_total"] == 1
        status, headers, body = send(s, "POST", "/v1/generate", fields, Idempotency_Key="k 1")
        assert status == 200 and headers["idempotent-replayed"] == "true"
        assert body == answers[0][2]
        status, headers, body = send(s, "POST", "/v1/generate", {"prompt": "b"},
                                     Idempotency_Key="k 1")
        assert status == 409 and error_of(body)["code"] == "idempotency_conflict", body
        assert headers["x-should-retry"] == "false"
        status, headers, body = send(s, "POST", "/v1/images/generations", fields,
                                     Idempotency_Key="k 1")
        assert status == 200 and "idempotent-replayed" not in headers, headers
        for key in ("", "x" * 129, "a\tb"):
            status, _, body = send(s, "POST", "/v1/generate", fields, Idempotency_Key=key)
            assert status == 400 and error_of(body)["code"] == "invalid_idempotency_key", body


def test_a_key_of_a_failed_request_may_try_again():
    with Service(step_ms=1) as s:
        fields = {"prompt": "slow", "steps": 50, "deadline_ms": 200}
        a = send(s, "POST", "/v1/generate", fields, Idempotency_Key="k")
        b = send(s, "POST", "/v1/generate", fields, Idempotency_Key="k")
        # the second is a try of its own: by now it is known that it cannot be made in time
        assert (a[0], b[0]) == (504, 429) and "idempotent-replayed" not in b[1], (a, b)
        assert error_of(b[2])["code"] == "deadline_infeasible", b


def test_a_replayed_stream_is_whole():
    with Service(step_ms=10) as s:
        fields = {"prompt": "a", "steps": 5, "n": 2, "stream": True}
        first = events_of(send(s, "POST", "/v1/generate", fields, Idempotency_Key="k")[2])
        status, headers, body = send(s, "POST", "/v1/generate", fields, Idempotency_Key="k")
        again = events_of(body)
        assert headers["idempotent-replayed"] == "true"
        assert [e["type"] for e in again] == ["image", "image", "completed"]
        finals = [e for e in first if e["type"] in ("image", "completed")]
        assert again == finals
        ids = [e["event_id"] for e in first]
        assert ids == sorted(set(ids)), ids


# ---- events ----------------------------------------------------------------------------------


def test_events_of_a_job_live_late_and_from_where_one_was():
    with Service(step_ms=20) as s:
        job = start(s, prompt="a", steps=10, n=2)["id"]
        status, headers, body = s.request("GET", f"/v1/jobs/{job}/events")
        assert status == 200 and headers["content-type"] == "text/event-stream"
        assert headers["x-job-id"] == job
        live = events_of(body)
        kinds = [e["type"] for e in live]
        assert kinds[0] in ("queued", "started") and kinds[-1] == "completed", kinds
        assert kinds.count("image") == 2 and "progress" in kinds
        ids = [e["event_id"] for e in live]
        assert ids == sorted(set(ids)), ids
        for e in live:
            if e["type"] == "image":
                assert e["frame_len"] < 1000 and "b64_json" not in e
                assert chunks(s.request("GET", local(s, e["url"]))[2])
        late = events_of(s.request("GET", f"/v1/jobs/{job}/events")[2])
        finals = [e for e in live if e["type"] in ("image", "completed")]
        assert late == finals
        for i, e in enumerate(finals):
            rest = s.request("GET", f"/v1/jobs/{job}/events", None,
                             {"Last-Event-ID": str(e["event_id"])})[2]
            assert events_of(rest) == finals[i + 1:]
        for no_id in ("-1", "+3", "x", "", "99999999999999999999"):
            rest = s.request("GET", f"/v1/jobs/{job}/events", None, {"Last-Event-ID": no_id})[2]
            assert events_of(rest) == finals, no_id
        head = s.request("HEAD", f"/v1/jobs/{job}/events")
        assert head[0] == 200 and head[1]["content-type"] == "text/event-stream" and head[2] == b""


def test_a_stream_that_broke_is_taken_up_again():
    with Service(step_ms=20) as s:
        body = json.dumps({"prompt": "a", "steps": 30, "stream": True,
                           "on_disconnect": "continue"}).encode()
        x = socket.create_connection(("127.0.0.1", s.port))
        x.sendall(b"POST /v1/generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                  b"Content-Length: %d\r\n\r\n" % len(body) + body)
        got = b""
        while got.count(b"event: progress") < 5:
            got += x.recv(4096)
        x.close()
        job = re.search(rb"X-Job-Id: (\w+)", got)[1].decode()
        last = int(re.findall(rb"\nid: (\d+)\nevent", got)[-1])
        rest = events_of(s.request("GET", f"/v1/jobs/{job}/events", None,
                                   {"Last-Event-ID": str(last)})[2])
        kinds = [e["type"] for e in rest]
        assert min(e["event_id"] for e in rest) > last
        assert "started" not in kinds and kinds[-2:] == ["image", "completed"], kinds


def test_a_late_watcher_sees_ids_rise_too():
    """One who breaks off between two frames would miss for good what came with a lower id."""
    with Service("--max-batch-images", 1, step_ms=20) as s, \
            concurrent.futures.ThreadPoolExecutor() as pool:
        job = start(s, prompt="a", steps=20, n=2)["id"]
        first = pool.submit(s.request, "GET", f"/v1/jobs/{job}/events")
        while s.request("GET", f"/v1/jobs/{job}/images/0")[0] != 200:
            time.sleep(0.02)
        time.sleep(0.1)  # some steps of the second
        late = events_of(s.request("GET", f"/v1/jobs/{job}/events")[2])
        for told in (events_of(first.result()[2]), late):
            ids = [e["event_id"] for e in told]
            assert ids == sorted(set(ids)), [(e["type"], e["event_id"]) for e in told]
            assert [e["index"] for e in told if e["type"] == "image"] == [0, 1], told
        assert "progress" in [e["type"] for e in late], late


def test_a_watcher_does_not_keep_a_job_alive():
    with Service(step_ms=20) as s, concurrent.futures.ThreadPoolExecutor(1) as pool:
        x = s.open_raw(prompt="a", steps=500 // 5, stream=True)
        got = b""
        while b"event: started" not in got:
            got += x.recv(4096)
        job = re.search(rb"X-Job-Id: (\w+)", got)[1].decode()
        watch = pool.submit(s.request, "GET", f"/v1/jobs/{job}/events")
        s.until(lambda m: m["taca_sse_streams"] == 2)
        x.close()
        last = events_of(watch.result()[2])[-1]
        assert last["type"] == "cancelled" and last["reason"] == "disconnect", last


def test_urls_instead_of_bytes_on_the_native_route():
    with Service() as s:
        status, headers, body = s.post(prompt="a", steps=2, response_format="url")
        image, = json.loads(body)["images"]
        assert "b64_json" not in image and chunks(s.request("GET", local(s, image["url"]))[2])
        _, _, body = s.post(prompt="a", steps=2, response_format="url", stream=True)
        image, = [e for e in events_of(body) if e["type"] == "image"]
        assert chunks(s.request("GET", local(s, image["url"]))[2]) and image["frame_len"] < 1000
        _, _, body = send(s, "POST", "/v1/generate", {"prompt": "a", "steps": 1,
                                                      "response_format": "url"},
                          Host="pictures.example", X_Forwarded_Proto="https")
        assert json.loads(body)["images"][0]["url"].startswith("https://pictures.example/v1/jobs/")


def test_jobs_are_finished_before_the_service_leaves():
    with Service(step_ms=20) as s:
        start(s, prompt="a", steps=20)
        s.until(lambda m: m["taca_requests_running"] == 1)
        text = s.stop()
        record, = [r for r in s.records if r["msg"] == "request"]
        assert record["code"] == 200, text


# ---- OpenAI ----------------------------------------------------------------------------------


def openai(s, **fields):
    return send(s, "POST", "/v1/images/generations", fields, Accept="application/json")


def test_openai_plain():
    with Service() as s:
        status, headers, body = openai(s, prompt="a cat", n=2, size="96x64", quality="low", seed=4,
                                       style="vivid", moderation="low", made_up=1, model=None,
                                       user="me", background="opaque", output_compression=90,
                                       output_format="png")
        r = json.loads(body)
        assert status == 200 and headers["content-type"] == "application/json"
        ignored = set(headers["x-ignored-params"].split(", "))
        assert ignored == {"style", "moderation", "made_up", "output_compression"}, ignored
        assert (r["size"], r["quality"], r["background"], r["output_format"]) == \
            ("96x64", "low", "opaque", "png")
        assert r["created"] > 1e9 and len(r["data"]) == 2
        for d in r["data"]:
            assert base.size_of(base64.b64decode(d["b64_json"])) == (96, 64)
            assert d["revised_prompt"] is None
        u = r["usage"]
        assert u["total_tokens"] == u["input_tokens"] + u["output_tokens"]
        assert u["output_tokens"] == 2 * (96 // 16) * (64 // 16)
        assert u["input_tokens_details"] == {"text_tokens": u["input_tokens"], "image_tokens": 0}


def test_openai_jpeg():
    with Service(step_ms=20) as s:
        asked = {"prompt": "a", "size": "96x64", "seed": 4, "output_format": "jpeg", "output_compression": 60}
        status, headers, body = openai(s, **asked)
        r = json.loads(body)
        assert status == 200 and "x-ignored-params" not in headers and r["output_format"] == "jpeg"
        jpeg = base64.b64decode(r["data"][0]["b64_json"])
        assert base.jpeg_size(jpeg) == (96, 64)
        told = events_of(openai(s, **asked, stream=True, partial_images=2)[2])
        assert len(told) > 1 and {e["output_format"] for e in told} == {"jpeg"}, told
        assert all(base64.b64decode(e["b64_json"])[:3] == b"\xff\xd8\xff" for e in told)
        assert base64.b64decode(told[-1]["b64_json"]) == jpeg
        # Accept is not asked there
        _, _, body = send(s, "POST", "/v1/images/generations", {"prompt": "a"}, Accept="image/jpeg")
        assert json.loads(body)["output_format"] == "png"


def test_openai_quality_chooses_steps_unless_they_are_given():
    with Service() as s:
        def steps(**fields):
            _, headers, _ = openai(s, prompt="a", **fields)
            return s.wait_for(lambda r: r.get("job") == headers["x-job-id"])["steps"]
        usual = steps()
        assert steps(quality="auto") == steps(quality="standard") == steps(quality="medium") == usual
        assert steps(quality="low") == (usual + 1) // 2
        assert steps(quality="hd") == steps(quality="high") == usual + (usual + 1) // 2
        assert steps(quality="low", steps=3) == 3


def test_openai_urls_and_auto():
    with Service() as s:
        _, _, body = openai(s, prompt="a", response_format="url", size="auto", steps=1)
        d, = json.loads(body)["data"]
        assert "b64_json" not in d and chunks(s.request("GET", local(s, d["url"]))[2])


def test_openai_refusals():
    with Service("--max-n", 4) as s:
        for fields, status, code, param in (
                ({}, 400, "invalid_prompt", "prompt"),
                ({"prompt": "a", "size": "100x64"}, 400, "size_not_multiple", "size"),
                ({"prompt": "a", "size": "big"}, 400, "invalid_size", "size"),
                ({"prompt": "a", "n": 5}, 400, "invalid_n", "n"),
                ({"prompt": "a", "quality": "best"}, 400, "invalid_quality", "quality"),
                ({"prompt": "a", "background": "transparent"}, 400, "invalid_background",
                 "background"),
                ({"prompt": "a", "model": "dall-e-3"}, 404, "model_not_found", "model"),
                ({"prompt": "a", "partial_images": 4}, 400, "invalid_partial_images",
                 "partial_images"),
                ({"prompt": "a", "output_format": "webp"}, 400, "invalid_output_format",
                 "output_format"),
                ({"prompt": "a", "output_compression": 101}, 400, "invalid_output_compression",
                 "output_compression"),
                ({"prompt": "a", "response_format": "binary"}, 400, "invalid_response_format",
                 "response_format"),
                ({"prompt": "a", "image": "x"}, 400, "invalid_image", "image")):
            got, headers, body = openai(s, **fields)
            e = error_of(body)
            assert (got, e["code"], e["param"]) == (status, code, param), (fields, got, e)
            assert e["type"] == "invalid_request_error" and headers["x-request-id"]


def test_openai_stream():
    with Service(step_ms=20) as s:
        status, headers, body = openai(s, prompt="a", n=2, steps=8, stream=True, partial_images=2)
        assert status == 200 and headers["content-type"] == "text/event-stream"
        all_events = events_of(body)
        kinds = {e["type"] for e in all_events}
        assert kinds == {"image_generation.partial_image", "image_generation.completed"}, kinds
        done = [e for e in all_events if e["type"].endswith("completed")]
        assert sorted(e["index"] for e in done) == [0, 1] and all_events[-1] in done
        for e in done:
            assert e["usage"]["output_tokens"] > 0 and e["b64_json"] and e["created_at"] > 1e9
        partial = [e for e in all_events if e["type"].endswith("partial_image")]
        assert {e["partial_image_index"] for e in partial} <= {0, 1} and partial
        assert b"\nid:" not in body
        _, _, body = openai(s, prompt="a", steps=4, stream=True, progress_events=True)
        kinds = [e["type"] for e in events_of(body)]
        assert "image_generation.progress" in kinds and kinds[-1] == "image_generation.completed"


def test_openai_stream_that_fails_says_so_as_clients_expect():
    with Service(step_ms=1) as s:
        _, _, body = openai(s, prompt="slow", steps=100, stream=True, partial_images=3,
                            progress_events=True, deadline_ms=400)
        last = events_of(body)[-1]
        assert last["error"]["code"] == "deadline_exceeded", last
        status, _, body = openai(s, prompt="", stream=True)
        assert status == 400 and error_of(body)["param"] == "prompt"


if __name__ == "__main__":
    sys.exit(base.run(globals()))
