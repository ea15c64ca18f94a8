#!/usr/bin/env python3
"""Who may ask: API keys and pages of other origins.

usage: access_test.py TACA_FAKE [SUBSTRING]   (only tests whose name has the substring)"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile

import fake_service as base
from fake_service import Service, error_of

JSON = {"Content-Type": "application/json"}
PAGE = "https://app.example:8443"


def key_file(*lines):
    f = tempfile.NamedTemporaryFile("w", suffix=".keys", delete=False)
    f.write("\n".join(lines) + "\n")
    f.close()
    return f.name


def line(name, key, *more):
    return ":".join([name, hashlib.sha256(key.encode()).hexdigest(), *map(str, more)])


def as_(key, **more):
    return dict(JSON, Authorization="Bearer " + key,
                **{k.replace("_", "-"): v for k, v in more.items()})


def post(s, key, headers=None, **fields):
    return s.request("POST", "/v1/generate", json.dumps(dict({"prompt": "a"}, **fields)),
                     dict(as_(key), **(headers or {})))


# ---- keys ------------------------------------------------------------------------------------


def test_without_a_key_nothing_under_v1_answers():
    path = key_file("# people", "", line("ann", "secret-1"), line("bob", "secret-2"))
    with Service("--api-key-file", path) as s:
        for method, where in (("POST", "/v1/generate"), ("GET", "/v1/models"),
                              ("GET", "/v1/queue"), ("GET", "/v1/jobs/x"),
                              ("DELETE", "/v1/jobs/x"), ("PUT", "/v1/jobs/x"),
                              ("POST", "/v1/images/generations"), ("GET", "/v1/nothing"),
                              ("PUT", "/v1/models")):
            for given in ({}, as_("secret"), as_("secret-1 "), as_("secret-11"), as_(""),
                          {"Authorization": "Basic c2VjcmV0LTE="}, {"Authorization": "secret-1"},
                          as_("x" * 2000)):
                status, headers, body = s.request(method, where, "", given)
                assert status == 401, (method, where, given, status)
                e = error_of(body)
                assert (e["code"], e["type"]) == ("invalid_api_key", "authentication_error"), e
                assert headers["www-authenticate"] == "Bearer" and b"secret" not in body
        for where in ("/health", "/livez", "/readyz", "/startupz", "/metrics", "/"):
            assert s.request("GET", where)[0] == 200, where
        assert s.request("OPTIONS", "/v1/generate")[0] == 204
        for key in ("secret-1", "secret-2"):
            assert post(s, key, steps=1)[0] == 200
        assert s.request("GET", "/v1/models", None,
                         {"Authorization": "bearer secret-1"})[0] == 200
        record = s.wait_for(lambda r: r.get("msg") == "request")
        assert record["key"] == "ann", record
        assert s.metrics()['taca_rejected_total{reason="invalid_api_key"}'] == 72
        assert "secret" not in "".join(s.lines)
    os.unlink(path)


def test_one_key_without_a_file():
    path = key_file(line("ann", "1"))
    for args, env in ((("--api-key", "given"), None), ((), {"TACA_API_KEY": "given"}),
                      (("--api-key", "given", "--api-key-file", path), {"TACA_API_KEY": "other"})):
        with Service(*args, env=env) as s:
            assert post(s, "given", steps=1)[0] == 200
            assert post(s, "other", steps=1)[0] == post(s, "", steps=1)[0] == 401
            assert post(s, "1", steps=1)[0] == (200 if path in args else 401)
            assert s.wait_for(lambda r: r.get("msg") == "request")["key"] == "api-key"
            with open(f"/proc/{s.worker()}/environ", "rb") as f:
                assert b"given" not in f.read()
            s.process.send_signal(signal.SIGHUP)
            s.wait_for(lambda r: r["msg"] == "reloaded; changed: nothing")
            assert post(s, "given", steps=1)[0] == 200
            assert "given" not in s.stop()
        told = subprocess.run([base.BINARY, "serve", "--model", base.MODEL, "--print-config", *args],
                              capture_output=True, text=True, timeout=30, check=True,
                              env=dict(os.environ, **(env or {}))).stdout
        assert '"(secret)"' in told and "given" not in told, told
    for bad in ("a b", "\u00e4", "x" * 513):
        assert "--api-key must be" in refused("--api-key", bad)
    os.unlink(path)


def test_a_job_is_its_makers_alone():
    path = key_file(line("ann", "1"), line("bob", "2"))
    with Service("--api-key-file", path, step_ms=20) as s:
        status, _, body = post(s, "1", {"Prefer": "respond-async"}, steps=40)
        job = json.loads(body)["id"]
        for method, where in (("GET", ""), ("GET", "/events"), ("GET", "/images/0"),
                              ("DELETE", ""), ("POST", "/cancel")):
            assert s.request(method, f"/v1/jobs/{job}{where}", "", as_("2"))[0] == 404, where
        status, _, body = s.request("PUT", "/v1/jobs/" + job, json.dumps({"prompt": "a",
                                                                        "steps": 40}), as_("2"))
        assert status == 409 and error_of(body)["code"] == "job_exists"
        mine = json.loads(s.request("GET", "/v1/queue", None, as_("1"))[2])
        yours = json.loads(s.request("GET", "/v1/queue", None, as_("2"))[2])
        assert mine["jobs"][0]["id"] == job and "id" not in yours["jobs"][0]
        assert s.request("GET", "/v1/jobs/" + job, None, as_("1"))[0] == 200
        assert s.request("DELETE", "/v1/jobs/" + job, None, as_("1"))[0] == 202
        same = {"Idempotency-Key": "k"}
        a = post(s, "1", same, steps=1)
        b = post(s, "2", same, steps=1)
        assert a[1]["x-job-id"] != b[1]["x-job-id"] and "idempotent-replayed" not in b[1]
        assert post(s, "1", same, steps=1)[1]["x-job-id"] == a[1]["x-job-id"]
    os.unlink(path)


def test_a_key_has_no_more_requests_open_than_it_may():
    path = key_file(line("ann", "1", 2), line("bob", "2"))
    with Service("--api-key-file", path, step_ms=20) as s:
        later = {"Prefer": "respond-async"}
        jobs = [json.loads(post(s, "1", later, steps=100)[2])["id"] for _ in range(2)]
        status, headers, body = post(s, "1", later, steps=1)
        e = error_of(body)
        assert (status, e["code"], e["type"]) == (429, "key_concurrency", "rate_limit_error"), e
        assert int(headers["retry-after"]) >= 1
        assert post(s, "2", steps=1)[0] == 200
        s.request("DELETE", "/v1/jobs/" + jobs[0], None, as_("1"))
        assert post(s, "1", steps=1)[0] == 200
        s.request("DELETE", "/v1/jobs/" + jobs[1], None, as_("1"))
        assert s.metrics()['taca_rejected_total{reason="key_concurrency"}'] == 1
    os.unlink(path)


def refused(*args):
    done = subprocess.run([base.BINARY, "serve", "--model", base.MODEL, "--port", "0", *args],
                          capture_output=True, text=True, timeout=30)
    assert done.returncode == 78, done
    return done.stderr


def test_a_file_of_keys_that_is_not_one_is_refused():
    good = line("ann", "1")
    for text in ("", "# nothing", "ann", "ann:12", good + "0", good + ":", good + ":x",
                 good + ":1234567", "a b" + good[3:], good[3:], "x" * 33 + good[3:],
                 good[:-1] + "g"):
        path = key_file(text)
        message = refused("--api-key-file", path)
        assert "--api-key-file" in message and good[4:20] not in message, (text, message)
        os.unlink(path)
    for text, word in ((good + "\n" + line("bob", "1"), "line 2: the key of another line"),
                       (good + "\n" + "#" + "x" * 1100, "line 2: longer than"),
                       ("# a\n" + good + ":max-step=1", "line 2: a limit that is not known, did you "
                                                        "mean max-steps?")):
        path = key_file(text)
        assert word in refused("--api-key-file", path), text
        os.unlink(path)
    assert "No such file" in refused("--api-key-file", "/nonexistent/keys")


def test_a_key_narrows_what_a_request_may_ask_for():
    path = key_file(line("ann", "1", "max-pixels=16384,max-side=128,max-steps=5,max-n=2"),
                    line("bob", "2", "models=other|another"), line("eve", "3", "models=a|fake"),
                    line("low", "4", "max-priority=-1"))
    with Service("--api-key-file", path) as s:
        for fields, param in (({"steps": 6}, "steps"), ({"n": 3}, "n"), ({"width": 144}, "width"),
                              ({"width": 128, "height": 144}, "height")):
            status, _, body = post(s, "1", **dict({"width": 64, "height": 64}, **fields))
            e = error_of(body)
            assert status == 400 and e["param"] == param, e
            assert post(s, "3", **dict({"width": 64, "height": 64}, **fields))[0] == 200
        mine = json.loads(s.request("GET", "/v1/capabilities", None, as_("1"))[2])["limits"]
        all_ = json.loads(s.request("GET", "/v1/capabilities", None, as_("3"))[2])["limits"]
        assert (mine["max_steps"], mine["max_n"]) == (5, 2) and all_["max_steps"] == 100
        for key, models in (("1", ["fake"]), ("2", []), ("3", ["fake"])):
            told = json.loads(s.request("GET", "/v1/capabilities", None, as_(key))[2])
            assert [m["model"]["id"] for m in told["models"]] == models and told["model"]["id"] == "fake"
        status, _, body = post(s, "2", steps=1)
        e = error_of(body)
        assert (status, e["code"], e["param"], e["type"]) == (403, "forbidden", "model",
                                                             "invalid_request_error"), e
        for priority, want in ((0, ["priority_lowered"]), (10, ["priority_lowered"]), (-1, []),
                               (-5, [])):
            status, _, body = post(s, "4", steps=1, priority=priority)
            assert status == 200
            assert [w["code"] for w in json.loads(body)["warnings"]] == want, body[-300:]
        m = s.metrics()
        assert m['taca_rejected_total{reason="forbidden"}'] == 1
        assert m['taca_key_requests_total{key="ann",outcome="rejected"}'] == 4
        assert m['taca_key_requests_total{key="bob",outcome="rejected"}'] == 1
        assert m['taca_key_requests_total{key="eve",outcome="ok"}'] == 4
        assert m['taca_key_pixel_steps_total{key="low"}'] == 4 * 128 * 128
    os.unlink(path)


def test_a_key_of_an_operator_loads_and_unloads_models():
    path = key_file(line("ann", "1"), line("root", "2", "admin"))
    with Service("--api-key-file", path) as s:
        for name, order in (("load", {"model": "two", "path": base.MODEL}),
                            ("unload", {"model": "two"})):
            where, body = "/v1/models/" + name, json.dumps(order)
            assert s.request("POST", where, body, JSON)[0] == 401
            assert s.request("POST", where, body, as_("1"))[0] == 404  # not for everybody
            assert s.request("POST", where, body, as_("2", Origin=PAGE))[0] == 403
            status, _, answer = s.request("POST", where, body, as_("2"))
            assert status in (200, 202), (name, status, answer)
            if name == "load":
                s.wait_for(lambda r: r["msg"].startswith("ready: model two"))
                models = json.loads(s.request("GET", "/v1/models", None, as_("1"))[2])["data"]
                assert {m["id"] for m in models} >= {"two"}, models
        assert s.request("GET", "/v1/models/load", None, as_("2"))[0] == 405
    os.unlink(path)


def test_a_key_asks_no_faster_than_it_may():
    path = key_file(line("ann", "1", "requests-per-minute=3"),
                    line("bob", "2", "pixel-steps-per-minute=100000"), line("eve", "3"))
    with Service("--api-key-file", path) as s:
        again = {"Idempotency-Key": "k"}
        assert post(s, "1", again, steps=1)[0] == 200
        assert post(s, "1", steps=0)[0] == 400  # costs nothing, as does the same one again
        assert post(s, "1", again, steps=1)[1]["idempotent-replayed"] == "true"
        assert [post(s, "1", steps=1)[0] for _ in range(2)] == [200, 200]
        status, headers, body = post(s, "1", {"Accept": "text/event-stream"}, steps=1)
        e = error_of(body)
        assert (status, e["code"], e["type"]) == (429, "rate_limited", "rate_limit_error"), e
        assert "3 requests a minute" in e["message"] and headers["x-queue-depth"] == "0"
        assert 1 <= int(headers["retry-after"]) <= 20
        assert headers["retry-after-ms"] == headers["retry-after"] + "000"
        assert post(s, "1", again, steps=1)[0] == 200
        # 128 x 128 x 10 leaves a debt of 63840: 38.3 s
        assert post(s, "2", steps=10, width=128, height=128)[0] == 200
        status, headers, body = post(s, "2", steps=1)
        assert status == 429 and "pixel steps" in error_of(body)["message"], body
        assert 35 <= int(headers["retry-after"]) <= 39, headers
        assert all(post(s, "3", steps=1)[0] == 200 for _ in range(5))
        m = s.metrics()
        assert m['taca_rejected_total{reason="rate_limited"}'] == 2
        assert m['taca_key_requests_total{key="ann",outcome="ok"}'] == 3
        assert m['taca_key_requests_total{key="ann",outcome="rejected"}'] == 2
        record = s.wait_for(lambda r: r.get("error") == "rate_limited")
        assert record["key"] == "ann" and record["code"] == 429
    os.unlink(path)


# ---- other origins -----------------------------------------------------------------------------


def allowed(headers):
    return headers.get("access-control-allow-origin")


def test_pages_of_a_listed_origin_may_ask_and_no_others():
    path = key_file(line("ann", "1"))
    with Service("--cors-origin", PAGE + ",http://localhost:3000", "--api-key-file", path,
                 step_ms=5) as s:
        for origin in (PAGE, "http://localhost:3000"):
            status, headers, _ = s.request("OPTIONS", "/v1/jobs/x", None, {
                "Origin": origin, "Access-Control-Request-Method": "DELETE",
                "Access-Control-Request-Headers": "authorization",
                "Access-Control-Request-Private-Network": "true"})
            assert status == 204 and allowed(headers) == origin, headers
            assert "DELETE" in headers["access-control-allow-methods"]
            for name in ("Authorization", "Content-Type", "Idempotency-Key", "Prefer"):
                assert name in headers["access-control-allow-headers"]
            assert headers["access-control-allow-private-network"] == "true"
            assert headers["vary"] == "Origin" and "access-control-allow-credentials" not in headers
        for accept in ("application/json", "image/png", "text/event-stream"):
            status, headers, _ = post(s, "1", {"Origin": PAGE, "Accept": accept}, steps=1)
            assert status == 200 and allowed(headers) == PAGE, (accept, headers)
            assert "X-Seed" in headers["access-control-expose-headers"]
        for status, answer in ((400, post(s, "1", {"Origin": PAGE}, steps="x")),
                               (401, post(s, "2", {"Origin": PAGE})),
                               (404, s.request("GET", "/v1/jobs/x", None, as_("1", Origin=PAGE)))):
            assert answer[0] == status and allowed(answer[1]) == PAGE, answer
        for origin in ("https://app.example", PAGE + "0", PAGE.upper(), "null", "",
                       "https://evil.example", "*"):
            status, headers, _ = post(s, "1", {"Origin": origin}, steps=1)
            assert status == 200 and allowed(headers) is None and headers["vary"] == "Origin"
            _, headers, _ = s.request("OPTIONS", "/v1/generate", None, {
                "Origin": origin, "Access-Control-Request-Method": "POST"})
            assert allowed(headers) is None and "access-control-allow-methods" not in headers
    os.unlink(path)


def test_without_a_list_nothing_is_said():
    with Service() as s:
        status, headers, _ = s.request("OPTIONS", "/v1/generate", None, {
            "Origin": PAGE, "Access-Control-Request-Method": "POST"})
        assert status == 204
        assert not [h for h in headers if h.startswith("access-control") or h == "vary"], headers


def test_a_list_with_something_else_is_refused():
    for text in ("*", "app.example", "https://a/", "https://", "ftp://a", "https://a,", "http://a b"):
        assert "--cors-origin" in refused("--cors-origin", text), text


if __name__ == "__main__":
    sys.exit(base.run(globals()))
