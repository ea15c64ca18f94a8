#!/usr/bin/env python3
"""What operators do to a running service: options from a file, reload, notifications, sockets.

usage: ops_test.py TACA_FAKE [SUBSTRING]   (only tests whose name has the substring)"""

import concurrent.futures
import json
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time

import fake_service as base
from access_test import as_, key_file, line
from fake_service import PATIENCE, Service, error_of

WORK = tempfile.mkdtemp(prefix="taca-ops-")


def write(name, content):
    path = os.path.join(WORK, name)
    with open(path + ".part", "w", encoding="utf-8") as f:
        f.write(content if isinstance(content, str) else json.dumps(content))
    os.rename(path + ".part", path)
    return path


def serve(*args, env=None):
    return subprocess.run([base.BINARY, "serve", *map(str, args)], capture_output=True, text=True,
                          timeout=30, check=False, env=dict(os.environ, **(env or {})))


# ---- options ---------------------------------------------------------------------------------


def test_every_option_tells_its_value_and_where_it_is_from():
    path = write("print.json", '{\n  "max-queue": 7,\n  "max-n": 3,\n  "cors-origin": "http://a"\n}\n')
    done = serve("--config", path, "--model", base.MODEL, "--max-n", 2, "--print-config",
                 env={"TACA_MAX_STEPS": "9"})
    assert done.returncode == 0, done
    told = {}
    for text in done.stdout.splitlines():
        name, rest = text.split(None, 1)
        value, end = json.JSONDecoder().raw_decode(rest)
        told[name] = (value, rest[end:].strip())
    assert told["max-queue"] == (7, f"{path} line 2"), told
    assert told["max-n"] == (2, "command line")
    assert told["max-steps"] == (9, "environment TACA_MAX_STEPS")
    assert told["port"] == (8080, "default") and told["api-key-file"] == (None, "default")
    assert told["policy"] == ("edf", "default") and told["lora"] == ([], "default")
    # every option of the help but those that say what to do now
    helped = {w[2:] for text in serve("--help").stdout.splitlines() for w in text.split()[:2]
              if w.startswith("--")}
    assert helped - set(told) == {"config", "print-config", "check-config", "help"}, helped ^ set(told)


def test_a_configuration_is_checked_without_being_started():
    good = write("good.json", {"max-queue": 7})
    done = serve("--config", good, "--model", base.MODEL, "--check-config")
    assert (done.returncode, done.stdout) == (0, "the configuration is fine\n"), done
    for content, word in (({"max-qeue": 7}, 'line 1: unknown option "max-qeue", did you mean'),
                          ("{", "line 1"), ({"max-queue": -1}, "0..1000000, got '-1'"),
                          ({"api-key-file": "/nowhere"}, "--api-key-file /nowhere: No such file"),
                          ({"host": "0.0.0.0"}, "--insecure"),
                          ({"model": "/nowhere"}, "--model /nowhere"),
                          ({"memory-probe": "/nowhere"}, "--memory-probe must be auto, none"),
                          ({"vae": "/nowhere"}, "--vae /nowhere: No such file"),
                          ({"host": "unix:relative"}, "nor unix:/PATH"),
                          ({"host": "127.0.0.1,127.1.2"}, "127.1.2"),
                          ({"cors-origin": "*"}, "--cors-origin")):
        path = write("bad.json", content)
        for command in ("--check-config", "--log-level=error"):
            done = serve("--config", path, "--port", 0, "--admin-listen", "none", command,
                         env={"TACA_MODEL": "" if "model" in content else base.MODEL})
            assert done.returncode == 78 and word in done.stderr, (content, command, done)
    # one address: a second could be anybody's, where only this machine's are trusted to load models
    for where in ("nowhere", "127.0.0.1", "127.0.0.1:99999", "127.0.0.1,0.0.0.0:0", "unix:/tmp/a,0.0.0.0",
                  "unix:relative", ":0"):
        for command in ("--check-config", "--log-level=error"):
            done = serve("--model", base.MODEL, "--port", 0, "--admin-listen", where, command)
            assert done.returncode == 78 and ("--admin-listen" in done.stderr or "unix:/PATH" in done.stderr), done
    done = serve("--config", "/nowhere.json", "--check-config")
    assert done.returncode == 78 and "/nowhere.json: No such file" in done.stderr, done
    done = serve("--check-config", env={"TACA_CONFIG": good, "TACA_MODEL": base.MODEL})
    assert done.returncode == 0, done


# ---- reload ----------------------------------------------------------------------------------


def reload(s, n=1):
    """Sends the n-th SIGHUP and waits for what came of it."""
    s.process.send_signal(signal.SIGHUP)
    said = lambda: [r for r in s.records if r["msg"].startswith(("reloaded; changed", "reload:"))]
    s.wait_for(lambda _: len(said()) >= n)
    return said()[n - 1]["msg"]


def test_a_reload_changes_what_may_change_and_names_the_rest():
    path = write("live.json", {"max-steps": 20, "max-queue": 5})
    with Service("--config", path) as s:
        assert s.metrics()["taca_config_last_reload_successful"] == 1
        assert s.post(prompt="a", steps=21)[0] == 400
        write("live.json", {"max-steps": 30, "max-queue": 9, "log-level": "debug",
                            "max-connections": 17, "drain-grace": 0.2, "head-timeout": 2})
        before = s.metrics()["taca_config_reload_success_timestamp_seconds"]
        told = reload(s)
        assert told == "reloaded; changed: max-steps, max-queue, log-level", told
        s.wait_for(lambda r: r["msg"] == "reloaded; these wait for a restart: max-connections, "
                                         "head-timeout")
        assert s.post(prompt="a", steps=21)[0] == 200
        status, _, body = s.post(prompt="a", steps=31)
        assert status == 400 and "30" in error_of(body)["message"]
        limits = json.loads(s.request("GET", "/v1/capabilities")[2])["limits"]
        assert limits["max_steps"] == 30, limits
        s.wait_for(lambda r: r["level"] == "debug" and r["msg"] == "http")
        s.wait_for(lambda r: r["msg"].endswith("logs from debug on"))  # the worker that is there
        assert not [r for r in s.records if r["msg"].endswith("opened its model")]
        os.kill(s.worker(), signal.SIGKILL)
        s.wait_for(lambda r: r["msg"].endswith("opened its model"))  # and the next
        m = s.metrics()
        assert m["taca_queue_capacity"] == 9
        assert m["taca_config_reload_success_timestamp_seconds"] >= before
        assert reload(s, 2) == "reloaded; changed: nothing"


def test_a_broken_file_changes_nothing_and_says_why():
    path = write("broken.json", {"max-steps": 20})
    with Service("--config", path) as s:
        cases = [('{"max-steps": 30, "max-qeue": 1}', "line 1: unknown option"),
                 ('{"max-steps": 30', "line 1"), ('{"max-steps": 0}', "max-steps must be"),
                 ('{"max-steps": 30, "max-pixels": 200000000}', "wants a restart"),
                 ('{"max-steps": 30, "api-key-file": "/nowhere"}', "/nowhere"),
                 ('{"max-steps": 30, "host": "0.0.0.0"}', "--insecure")]
        for n, (content, word) in enumerate(cases, 1):
            write("broken.json", content)
            told = reload(s, n)
            assert told.startswith("reload: everything stays as it is: ") and word in told, told
            assert s.post(prompt="a", steps=25)[0] == 400
            assert s.metrics()["taca_config_last_reload_successful"] == 0
        os.unlink(path)
        assert "No such file" in reload(s, len(cases) + 1)
        write("broken.json", {"max-steps": 30})
        assert reload(s, len(cases) + 2) == "reloaded; changed: max-steps"
        assert s.post(prompt="a", steps=25)[0] == 200
        assert s.metrics()["taca_config_last_reload_successful"] == 1


def test_keys_come_and_go_with_a_reload():
    path = key_file(line("ann", "1"))
    ask = lambda s, key: s.request("GET", "/v1/queue", None, as_(key))[0]
    with Service("--api-key-file", path) as s:
        assert (ask(s, "1"), ask(s, "2")) == (200, 401)
        with open(path, "w", encoding="utf-8") as f:
            f.write(line("bob", "2") + "\n")
        assert (ask(s, "1"), ask(s, "2")) == (200, 401)
        assert reload(s) == "reloaded; changed: nothing"
        assert (ask(s, "1"), ask(s, "2")) == (401, 200)
        with open(path, "w", encoding="utf-8") as f:
            f.write("nonsense\n")
        assert "line 1" in reload(s, 2)
        assert (ask(s, "1"), ask(s, "2")) == (401, 200)
    os.unlink(path)


def test_no_request_is_lost_while_options_are_read_again_and_again():
    keys = key_file(line("ann", "1"))
    path = write("storm.json", {"max-steps": 20, "api-key-file": keys})
    with Service("--config", path, step_ms=1) as s:
        stop, answers = threading.Event(), []

        def client(k):
            while not stop.is_set():
                fields = {"prompt": "a", "steps": 3, "stream": k % 2 == 0}
                answers.append(s.request("POST", "/v1/generate", json.dumps(fields), as_("1"))[0])

        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            done = [pool.submit(client, k) for k in range(6)]
            end, n = time.monotonic() + 2 * PATIENCE, 0
            while time.monotonic() < end or n < 20:
                write("storm.json", {"max-steps": 20 + n % 7, "max-queue": 100 + n,
                                     "api-key-file": keys, **({"bad": 1} if n % 5 == 4 else {})})
                n += 1
                reload(s, n)
            stop.set()
            for d in done:
                d.result()
        assert len(answers) > 20 and set(answers) == {200}, (len(answers), set(answers))
    os.unlink(keys)


# ---- the supervisor --------------------------------------------------------------------------


class Supervisor:
    """What systemd is to a service: a datagram socket that hears how it goes."""

    def __init__(self, name):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(name.replace("@", "\0", 1) if name[0] == "@" else name)
        self.socket.settimeout(0.05)
        self.heard, self.env = [], {"NOTIFY_SOCKET": name}

    def listen(self):
        try:
            while True:
                text = self.socket.recv(4096).decode()
                self.heard.append((time.monotonic(), dict(l.split("=", 1) for l in text.split("\n"))))
        except TimeoutError:
            pass

    def wait_for(self, key, value=None, since=0):
        end = time.monotonic() + 10 * PATIENCE
        while True:
            for at, told in self.heard[since:]:
                if key in told and value in (None, told[key]):
                    return at, told
            assert time.monotonic() < end, (key, value, self.heard)
            self.listen()


def test_a_supervisor_hears_of_ready_reload_and_the_end():
    path = write("told.json", {"max-steps": 20})
    for name in (os.path.join(WORK, "notify"), f"@taca-notify-{os.getpid()}"):
        sv = Supervisor(name)
        with Service("--config", path, env=sv.env) as s:
            sv.wait_for("READY", "1")
            assert [t for _, t in sv.heard].index({"STATUS": "loading"}) == 0, sv.heard
            sv.wait_for("STATUS", "ready with fake: 0 waiting, 0 running")
            s.wait_for(lambda r: r["msg"].startswith("worker") and r["msg"].endswith("started"))
            assert not any("WATCHDOG" in t for _, t in sv.heard)
            n, before = len(sv.heard), time.monotonic_ns() // 1000
            reload(s)
            _, told = sv.wait_for("RELOADING", "1", n)
            assert before <= int(told["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
            sv.wait_for("READY", "1", n)
            s.stop()
            _, told = sv.wait_for("STOPPING", "1", n)
            assert told["STATUS"] == "draining 0 requests", told
            # --drain-timeout 60 s, 3 s for the last bytes, some air
            assert int(told["EXTEND_TIMEOUT_USEC"]) == 70_000_000, told
        sv.socket.close()


def test_the_watchdog_hears_of_us_while_the_loop_turns_and_no_longer():
    sv = Supervisor(os.path.join(WORK, "watchdog"))
    env = dict(sv.env, WATCHDOG_USEC=str(1_000_000))
    with Service(env=env) as s:
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            sv.listen()
        pings = [at for at, told in sv.heard if "WATCHDOG" in told]
        assert len(pings) >= 3, sv.heard
        gaps = [b - a for a, b in zip(pings, pings[1:])]
        assert max(gaps) < 1 * PATIENCE and min(gaps) > 0.3, gaps
        s.process.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        sv.listen()
        n = len(sv.heard)
        time.sleep(1)
        sv.listen()
        assert len(sv.heard) == n, sv.heard[n:]
        s.process.send_signal(signal.SIGCONT)
        sv.wait_for("WATCHDOG", "1", n)
    sv.socket.close()


def test_a_watchdog_for_another_process_is_not_ours():
    sv = Supervisor(os.path.join(WORK, "other"))
    with Service(env=dict(sv.env, WATCHDOG_USEC="200000", WATCHDOG_PID="1")):
        sv.wait_for("READY", "1")
        time.sleep(0.6)
        sv.listen()
        assert not any("WATCHDOG" in told for _, told in sv.heard), sv.heard
    sv.socket.close()


def test_a_supervisor_that_does_not_listen_is_no_matter():
    for name in ("/nowhere/notify", "@", "relative", "/" + "x" * 200):
        with Service(env={"NOTIFY_SOCKET": name}) as s:
            assert s.post(prompt="a", steps=1)[0] == 200


# ---- memory ----------------------------------------------------------------------------------


def test_when_memory_is_short_work_is_given_up_in_steps_and_taken_again():
    probe = write("share", "0.5\n")
    with Service("--memory-probe", probe, "--admin-listen", "127.0.0.1:0") as s:
        admin = s.wait_for(lambda r: r.get("admin_port"))["admin_port"]

        def level(share, want):
            write("share", f"{share}\n")
            end = time.monotonic() + 5  # the promise, and of a slow machine too
            while True:
                text = ask(admin, b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").decode()
                if f"taca_overload_level {want}\n" in text:
                    return
                assert time.monotonic() < end, (share, want)
                time.sleep(0.05)

        def post(**headers):
            got = s.request("POST", "/v1/generate", json.dumps({"prompt": "a", "steps": 1}),
                            dict({"Content-Type": "application/json"}, **headers))
            if got[0] == 503:
                assert error_of(got[2])["code"] == "overloaded" and got[1]["retry-after"] == "5", got
            return got[0]

        later = {"Prefer": "respond-async"}
        for share, want, answers in ((0.5, 0, (200, 202)), (0.93, 1, (200, 503)),
                                     (0.96, 2, (503, 503)), (0.5, 0, (200, 202))):
            level(share, want)
            assert (post(), post(**later)) == answers, share
            assert s.request("GET", "/v1/models")[0] == s.request("GET", "/readyz")[0] == 200
        level(0.99, 3)
        for where in ("/v1/models", "/livez"):
            status, headers, body = s.request("GET", where)
            assert status == 503 and error_of(body)["code"] == "overloaded", (where, body)
        assert ask(admin, GET).startswith(b"HTTP/1.1 200 ")
        level(0.5, 0)
        assert post() == 200
        s.wait_for(lambda r: r["msg"] == "99 % of memory in use: refusing new connections")
        assert s.metrics()['taca_rejected_total{reason="overloaded"}'] == 5


# ---- traces and the log ----------------------------------------------------------------------

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def test_a_trace_goes_through_to_the_log_and_back():
    with Service() as s:
        for n, stream in enumerate((False, True)):
            status, headers, _ = s.request(
                "POST", "/v1/generate", json.dumps({"prompt": "a", "steps": 1, "stream": stream}),
                {"Content-Type": "application/json", "traceparent": PARENT, "X-Request-Id": f"t{n}"})
            version, trace, span, flags = headers["traceparent"].split("-")
            assert (status, version, trace, flags) == (200, "00", TRACE, "01"), headers
            assert len(span) == 16 and span != "b7ad6b7169203331"
            record = s.wait_for(lambda r, n=n: r.get("request_id") == f"t{n}")
            assert record["msg"] == "request", record
            assert (record["trace_id"], record["span_id"]) == (TRACE, span), record
        status, headers, _ = s.request("GET", "/v1/models", None, {"traceparent": PARENT})
        record = s.wait_for(lambda r: r.get("route") == "/v1/models")
        assert record["span_id"] == headers["traceparent"].split("-")[2] and record["msg"] == "http"
        for bad in ("", "00-0-0-0", PARENT.upper(), PARENT + "-x", "x" * 3000):
            status, headers, _ = s.request("GET", "/v1/queue", None, {"traceparent": bad})
            assert status == 200 and "traceparent" not in headers, bad
        assert "trace_id" not in s.wait_for(lambda r: r.get("route") == "/v1/queue")


def test_every_request_has_one_line():
    path = key_file(line("ann", "1"))
    with Service("--api-key-file", path) as s:
        names = iter(f"r{n}" for n in range(100))

        def told(headers, method, where, body=None):
            mine = next(names)
            status = s.request(method, where, body, dict(headers, **{"X-Request-Id": mine}))[0]
            record = s.wait_for(lambda r: r.get("request_id") == mine)
            assert record["code"] == status if "code" in record else status == 200, record
            return mine, record

        good = json.dumps({"prompt": "a secret", "steps": 1})
        seen = []
        for what, want in (
                (("POST", "/v1/generate", good), {"msg": "request", "key": "ann", "code": 200}),
                (("POST", "/v1/generate", '{"prompt":"a secret","stepz":1}'),
                 {"msg": "http", "code": 400, "error": "unknown_parameter", "key": "ann"}),
                (("POST", "/v1/generate", "{"), {"code": 400, "error": "invalid_json"}),
                (("GET", "/v1/a%20secret%20path"), {"route": "other", "code": 404}),
                (("DELETE", "/v1/models"), {"route": "/v1/models", "code": 405}),
                (("GET", "/v1/jobs/none"), {"msg": "http", "route": "/v1/jobs/{id}", "code": 404}),
                (("HEAD", "/v1/models"), {"method": "HEAD", "code": 200})):
            mine, record = told(as_("1"), *what)
            assert {k: record[k] for k in want} == want, (what, record)
            assert record["total_ms"] >= 0 and "bytes" in record
            seen.append(mine)
        mine, record = told(as_("secret"), "GET", "/v1/models")
        assert record["error"] == "invalid_api_key" and "key" not in record, record
        seen.append(mine)
        for msg in ("request", "request again"):
            mine, record = told(dict(as_("1"), **{"Idempotency-Key": "k"}), "POST", "/v1/generate",
                                good)
            assert record["msg"] == msg, record
            seen.append(mine)
        for where in ("/livez", "/metrics", "/", "/nothing"):
            s.request("GET", where, None, {"X-Request-Id": "quiet"})
        text = s.stop()
        ids = [r["request_id"] for r in s.records if "request_id" in r]
        assert all(ids.count(i) == 1 for i in seen) and "quiet" not in ids, ids
        assert "secret" not in text
    os.unlink(path)


def test_the_log_as_text_is_one_line_a_request_too():
    with Service("--log-format", "text", wait=False) as s:
        end = time.monotonic() + 20 * PATIENCE
        while not any(" ready: " in l for l in s.lines):
            assert time.monotonic() < end, s.lines
            time.sleep(0.02)
        port = next(l for l in s.lines if "listening on" in l).split("localhost:")[1].split()[0]
        assert ask(int(port), b"GET /v1/models HTTP/1.1\r\nHost: a\r\nX-Request-Id: me\r\n\r\n")
        while not any('info  http {"request_id":"me"' in l for l in s.lines):
            assert time.monotonic() < end, s.lines
            time.sleep(0.02)


# ---- the end ---------------------------------------------------------------------------------


def test_a_drain_at_any_moment_leaves_nobody_without_an_answer():
    r = random.Random(13)
    for _ in range(6):
        with Service(step_ms=5) as s:
            ends, resets = [], []

            def client(k, service=s, done=ends, cut=resets):
                for n in range(10000):
                    fields = {"prompt": "a", "steps": 6, "stream": k % 2 == 0}
                    try:
                        status, _, body = service.request(
                            "POST", "/v1/generate", json.dumps(fields),
                            {"Content-Type": "application/json", "X-Request-Id": f"c{k}-{n}"})
                    except ConnectionRefusedError:
                        return
                    except ConnectionResetError:
                        cut.append(f"c{k}-{n}")
                        return
                    if status == 200 and k % 2 == 0:
                        last = base.events_of(body)[-1]
                        done.append(last["error"]["code"] if last["type"] == "error" else
                                    last["type"])
                    else:
                        done.append(200 if status == 200 and json.loads(body)["images"] else
                                    error_of(body)["code"])
                    if done[-1] == "draining":
                        return

            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                clients = [pool.submit(client, k) for k in range(8)]
                s.until(lambda m: m['taca_requests_total{outcome="ok"}'] > 4)
                time.sleep(r.random() * 0.1)
                s.process.send_signal(signal.SIGTERM)
                assert s.process.wait(20 * PATIENCE) == 0
                for c in clients:
                    c.result()
            assert set(ends) <= {200, "completed", "draining"}, set(ends)
            assert {200, "completed"} <= set(ends)
            # between the last look at the line and its end the kernel may take one more: the service
            # must never have heard of it
            s.stop()
            taken = {record.get("request_id") for record in s.records}
            assert not taken & set(resets), resets


# ---- sockets ---------------------------------------------------------------------------------


def ask(where, request, pieces=1):
    """What comes back at a Unix socket (a path) or TCP port."""
    s = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET)
    s.settimeout(20)
    s.connect(where if isinstance(where, str) else ("127.0.0.1", where))
    size = -(-len(request) // pieces)
    for k in range(0, len(request), size):
        s.sendall(request[k:k + size])
        if pieces > 1:
            time.sleep(0.03)
    with s, s.makefile("rb") as f:
        return f.read()


GET = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def post_bytes(**fields):
    body = json.dumps(fields).encode()
    return (b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body)) + body


def test_a_unix_socket_serves_like_a_port():
    path, admin = os.path.join(WORK, "taca.sock"), os.path.join(WORK, "admin.sock")
    s = Service("--host", f"unix:{path},127.0.0.1", "--admin-listen", "unix:" + admin,
                "--socket-mode", "0600", "--head-timeout", 1)
    with s:
        for where in (path, admin):
            mode = os.stat(where).st_mode
            assert stat.S_ISSOCK(mode) and mode & 0o777 == 0o600, oct(mode)
            assert ask(where, GET).startswith(b"HTTP/1.1 200 "), where
            assert ask(where, GET, pieces=5).startswith(b"HTTP/1.1 200 "), where
        assert ask(admin, b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        got = ask(path, post_bytes(prompt="a", steps=3, stream=True), pieces=4)
        assert got.startswith(b"HTTP/1.1 200 ") and b"event: completed" in got, got[:300]
        assert ask(path, b"BAD\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        assert ask(s.port, GET).startswith(b"HTTP/1.1 200 ")
        started = time.monotonic()
        assert ask(path, GET[:20]).startswith(b"HTTP/1.1 408 ")
        assert 0.9 < time.monotonic() - started < 3 * PATIENCE
        half = socket.socket(socket.AF_UNIX)
        half.connect(path)
        half.sendall(GET[:20])
        half.shutdown(socket.SHUT_WR)
        assert half.makefile("rb").read().startswith(b"HTTP/1.1 400 ")
        half.close()
    assert not os.path.exists(path) and not os.path.exists(admin)


def test_a_client_that_leaves_a_unix_socket_frees_the_worker():
    path = os.path.join(WORK, "leave.sock")
    with Service("--host", f"unix:{path},127.0.0.1", step_ms=20) as s:
        c = socket.socket(socket.AF_UNIX)
        c.connect(path)
        c.sendall(post_bytes(prompt="a", steps=100))
        s.until(lambda m: m["taca_requests_running"] == 1)
        c.close()
        s.until(lambda m: m["taca_requests_running"] == 0)
        assert s.metrics()['taca_cancelled_total{reason="disconnect"}'] == 1


def test_the_name_of_a_unix_socket_is_taken_over_only_when_nobody_is_behind_it():
    path = os.path.join(WORK, "name.sock")
    old = socket.socket(socket.AF_UNIX)
    old.bind(path)
    start = lambda: serve("--model", base.MODEL, "--host", "unix:" + path, "--admin-listen", "none")
    old.listen()
    done = start()
    assert done.returncode == 1 and "Address already in use" in done.stderr, done
    old.close()
    s = Service("--host", "unix:" + path, wait=False)
    s.wait_for(lambda r: r["msg"].startswith("ready"))
    assert ask(path, GET).startswith(b"HTTP/1.1 200 ")
    s.stop()
    with open(path, "w", encoding="utf-8"):
        pass
    done = start()
    assert done.returncode == 1 and "no socket" in done.stderr and os.path.isfile(path), done
    for where, word in (("unix:relative", "unix:/PATH"), ("unix:/" + "x" * 200, "is not an address")):
        done = serve("--model", base.MODEL, "--host", where, "--admin-listen", "none")
        assert done.returncode == 78 and word in done.stderr, done
    for mode in ("0888", "", "10000", "1777", "u+x"):
        done = serve("--model", base.MODEL, "--socket-mode", mode, "--check-config")
        assert done.returncode == 78 and "octal" in done.stderr, done


def test_sockets_that_were_handed_over_are_served():
    main, admin = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    launcher = write("launch.py", LAUNCHER)
    ports = [x.getsockname()[1] for x in (main, admin)]
    started = lambda *args, names="a:admin": subprocess.Popen(
        [sys.executable, launcher, names, str(main.fileno()), str(admin.fileno()), base.BINARY,
         "serve", "--model", base.MODEL, "--drain-grace", "0.1", *args],
        stderr=subprocess.PIPE, text=True, pass_fds=(main.fileno(), admin.fileno()))
    for _ in range(2):  # the second one takes over what the first has left
        p = started()
        # whoever comes before it is ready waits in the line of the socket
        assert b"HTTP/1.1 " in ask(ports[0], b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"taca_build_info" in ask(ports[1], b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        p.send_signal(signal.SIGTERM)
        assert p.wait(20 * PATIENCE) == 0, p.stderr.read()
        log = p.stderr.read()
        assert f"listening on the sockets that were handed over:{ports[0]}" in log, log
    main.close(), admin.close()
    plain = socket.socket()
    plain.bind(("127.0.0.1", 0))
    for other, word in ((plain, "no stream socket that listens"),
                        (socket.create_server(("0.0.0.0", 0)), "--insecure")):
        main = admin = other
        p = started(names="a:b")
        assert p.wait(20 * PATIENCE) == 78
        assert word in p.stderr.read()
        other.close()


LAUNCHER = """
import os, sys
names, first, second = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
high = [os.dup(first), os.dup(second)]
high = [__import__("fcntl").fcntl(fd, 0, 100) for fd in high]
for k, fd in enumerate(high):
    os.dup2(fd, 3 + k, inheritable=True)
env = dict(os.environ, LISTEN_FDS="2", LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES=names)
os.execve(sys.argv[4], sys.argv[4:], env)
"""


if __name__ == "__main__":
    failed = base.run(globals())
    shutil.rmtree(WORK, ignore_errors=True)
    sys.exit(failed)
