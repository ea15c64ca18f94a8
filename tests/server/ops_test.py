#!/usr/bin/env python3
"""What operators do to a running service: options from a file, reload, notifications, sockets.

usage: ops_test.py TACA_FAKE [SUBSTRING]   (only tests whose name has the substring)"""

import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

import service_test as base
from access_test import as_, key_file, line
from service_test import PATIENCE, Service, error_of

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
                          ({"cors-origin": "*"}, "--cors-origin")):
        path = write("bad.json", content)
        for command in ("--check-config", "--log-level=error"):
            done = serve("--config", path, "--port", 0, "--admin-listen", "none", command,
                         env={"TACA_MODEL": "" if "model" in content else base.MODEL})
            assert done.returncode == 78 and word in done.stderr, (content, command, done)
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
        s.wait_for(lambda r: r["level"] == "debug")
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


if __name__ == "__main__":
    sys.exit(base.run(globals()))
