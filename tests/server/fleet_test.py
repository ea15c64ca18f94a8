#!/usr/bin/env python3
"""Several models on several devices in one service, workers that fail in every way, and models that
come and go while it runs. The engine only pretends; its faults are files: see fake_engine.c.

usage: fleet_test.py TACA_FAKE [SUBSTRING]   (only tests whose name has the substring)"""

import base64
import concurrent.futures
import contextlib
import hashlib
import http.client
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib

import fake_service as base
from chaos import Chaos
from fake_service import BINARY, MODEL, PATIENCE, Service, error_of, events_of

JSON = {"Content-Type": "application/json"}


class Faults:
    def __init__(self, path):
        self.path = path

    def set(self, kind, of, number=0):
        part = os.path.join(self.path, "part")
        with open(part, "w", encoding="ascii") as f:
            f.write(str(number))
        os.rename(part, os.path.join(self.path, f"{kind}-{of}"))

    def clear(self, kind, of):
        os.unlink(os.path.join(self.path, f"{kind}-{of}"))


class Fleet(Service):
    """models: names, all of one directory; devices: names that the pretending engine takes."""

    def __init__(self, *args, models=("demo",), devices=("d0",), ready=None, **kwargs):
        self.n = len(models) * len(devices) if ready is None else ready
        self.workers = []
        more = [x for m in models[1:] for x in ("--model", f"{m}={MODEL}")]
        more += [x for d in devices for x in ("--device", d)]
        super().__init__("--admin-listen", "127.0.0.1:0", *more, *args, model=f"{models[0]}={MODEL}", **kwargs)
        self.admin_port = self.wait_for(lambda r: r.get("admin_port"))["admin_port"]
        self.until_ready(self.n)

    def until_ready(self, n, timeout=20, state="ready"):
        end = time.monotonic() + timeout * PATIENCE
        while self.count(state) != n:
            assert time.monotonic() < end, self.ready()
            time.sleep(0.01)

    def ready(self):
        status, _, body = self.request("GET", "/readyz")
        return status, json.loads(body)

    def states(self):
        return {(d["device"], m): state for d in self.ready()[1]["devices"] for m, state in d["workers"].items()}

    def count(self, state):
        return sum(s == state for s in self.states().values())

    def admin(self, method, path, body=None, headers=JSON):
        c = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=30)
        try:
            c.request(method, path, None if body is None else json.dumps(body), headers)
            r = c.getresponse()
            return r.status, json.loads(r.read())
        finally:
            c.close()

    def models(self):
        return {m["id"]: m for m in self.admin("GET", "/v1/models")[1]["data"]}

    def until_state(self, model, state, timeout=10):
        end = time.monotonic() + timeout * PATIENCE
        while self.models().get(model, {}).get("state") != state:
            assert time.monotonic() < end, self.models()
            time.sleep(0.01)

    def pids(self):
        """Of the workers that live, the oldest first."""
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children", encoding="ascii") as f:
            return [int(p) for p in f.read().split()]


@contextlib.contextmanager
def faulty():
    path = tempfile.mkdtemp(prefix="taca-faults-")
    os.environ["TACA_FAKE_FAULTS"] = path
    try:
        yield Faults(path)
    finally:
        del os.environ["TACA_FAKE_FAULTS"]
        shutil.rmtree(path)


def together(s, asked):
    with concurrent.futures.ThreadPoolExecutor(len(asked)) as pool:
        return list(pool.map(lambda a: s.png(**a), asked))


# ---- several of both ----------------------------------------------------------------------------


def test_a_request_gets_the_model_that_it_names_and_else_the_first():
    with Fleet(models=("one", "two")) as s:
        pictures = {m: s.png(prompt="a", seed=1, steps=3, **({"model": m} if m else {})) for m in ("", "one", "two")}
        assert pictures[""] == pictures["one"] != pictures["two"]
        for model in ("one", "two"):
            _, headers, _ = s.post("image/png", prompt="a", steps=2, model=model)
            assert headers["x-model"] == model, headers
            body = {"model": model, "prompt": "a", "size": "64x64"}
            status, _, body = s.request("POST", "/v1/images/generations", json.dumps(body), JSON)
            assert status == 200, body
        status, _, body = s.post(prompt="a", model="three")
        e = error_of(body)
        assert status == 404 and e["code"] == "model_not_found" and e["param"] == "model", e
        assert '"one", "two"' in e["message"], e
        status, _, body = s.request("GET", "/v1/models")
        data = json.loads(body)["data"]
        assert [(m["id"], m["state"], m["workers"]) for m in data] == [("one", "ready", 1), ("two", "ready", 1)]
        m = s.metrics()
        assert m['taca_images_total{model="one"}'] == 4 and m['taca_images_total{model="two"}'] == 3
        assert m['taca_requests_total{model="two",outcome="ok"}'] == 3
        assert m['taca_model_loaded{model="two"}'] == 1


def test_pictures_do_not_depend_on_what_else_is_served():
    asked = [dict(prompt=f"p{i}", seed=i, steps=3 + i % 5, model=("one", "two")[i % 2]) for i in range(24)]
    with Fleet(models=("one", "two"), devices=("d0", "d1")) as s:
        alone = [s.png(**a) for a in asked]
        assert together(s, asked) == alone
        m = s.metrics()
        steps = sum(a["steps"] for a in asked)
        assert m['taca_steps_total{model="one"}'] + m['taca_steps_total{model="two"}'] == 2 * steps


def test_two_devices_do_twice_as_much():
    asked = [dict(prompt=f"p{i}", steps=10) for i in range(6)]
    took = []  # most of it steps, whatever else the machine does
    for devices in (("d0",), ("d0", "d1")):
        with Fleet("--max-batch-images", 1, devices=devices, step_ms=40 * PATIENCE) as s:
            start = time.monotonic()
            together(s, asked)
            took.append(time.monotonic() - start)
    assert took[0] >= 2.4 * PATIENCE, took  # sixty steps
    assert took[1] < 0.7 * took[0], took


def test_clients_of_a1111_choose_a_model_with_each_request():
    with Fleet("--enable-a1111", models=("one", "two")) as s:
        def call(method, path, body=None):
            status, _, body = s.request(method, "/sdapi/v1/" + path, body and json.dumps(body), JSON)
            return status, json.loads(body)

        assert [m["title"] for m in call("GET", "sd-models")[1]] == ["one", "two"]
        assert call("GET", "options")[1]["sd_model_checkpoint"] == "one"
        for model in ("one", "two"):
            status, body = call("POST", "txt2img", {"prompt": "a", "seed": 1, "steps": 3, "override_settings":
                                                    {"sd_model_checkpoint": model}})
            assert status == 200 and json.loads(body["info"])["sd_model_name"] == model, body
            assert base64.b64decode(body["images"][0]) == s.png(prompt="a", seed=1, steps=3, model=model)
        assert call("POST", "options", {"sd_model_checkpoint": "one"}) == (200, None)
        status, body = call("POST", "options", {"sd_model_checkpoint": "two"})
        assert status == 400 and "override_settings" in body["error"]["message"], body
        status, body = call("POST", "options", {"sd_model_checkpoint": "three"})
        assert status == 404 and '"one", "two"' in body["error"]["message"], body


def test_a_second_model_does_not_wait_for_all_of_the_first():
    with Fleet("--max-batch-images", 1, models=("one", "two"), step_ms=10 * PATIENCE) as s:
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            long = [pool.submit(s.png, prompt="l", steps=60, model="one") for _ in range(2)]
            s.until(lambda m: m['taca_requests_running{model="one"}'] >= 1)
            s.png(prompt="s", steps=3, model="two")
            assert not any(f.done() for f in long)
            for f in long:
                f.result()


# ---- workers that fail --------------------------------------------------------------------------


def test_a_worker_that_dies_leaves_its_requests_to_the_other_device():
    asked = [dict(prompt=f"p{i}", seed=i, steps=20) for i in range(6)]
    with faulty() as faults, Fleet("--max-batch-images", 2, devices=("d0", "d1"), step_ms=5 * PATIENCE) as s:
        alone = [s.png(**a) for a in asked]
        faults.set("open", "d0")  # it will not come back
        faults.set("kill", "d0")  # from its next step
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            pending = [pool.submit(s.png, **a) for a in asked]
            s.until_ready(1)
            status, ready = s.ready()
            assert status == 200 and ready["status"] == "degraded", ready
            assert s.states()["d1", "demo"] == "ready", ready
            assert [p.result() for p in pending] == alone
        faults.clear("kill", "d0")
        faults.clear("open", "d0")
        s.until_ready(2, 30)
        assert s.ready()[1]["status"] == "ok"
        assert s.png(**asked[0]) == alone[0]


def test_every_way_to_fail_is_noticed_and_the_request_is_made_all_the_same():
    with faulty() as faults, Fleet("--step-timeout", 0.3 * PATIENCE, step_ms=10) as s:
        want = s.png(prompt="a", seed=3, steps=30)
        for kind, reason in (("kill", "signal"), ("lost", "device"), ("hang", "hang"), ("stop", "hang"),
                             ("exit", "signal")):
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                before = s.metrics()
                pending = pool.submit(s.post, prompt="a", seed=3, steps=30, stream=True)
                s.until(lambda m, b=before: m['taca_steps_total{model="demo"}'] > b['taca_steps_total{model="demo"}'])
                if kind in ("stop", "exit"):
                    os.kill(s.pids()[0], signal.SIGSTOP if kind == "stop" else signal.SIGABRT)
                else:
                    faults.set(kind, "d0")
                name = f'taca_worker_restarts_total{{reason="{reason}"}}'
                s.until(lambda m, b=before, n=name: m[n] > b[n])
                if kind not in ("stop", "exit"):
                    faults.clear(kind, "d0")
                e = events_of(pending.result()[2])
            kinds = [x["type"] for x in e]
            assert "retrying" in kinds and kinds[-1] == "completed", (kind, kinds)
            s.until_ready(1)
            assert s.png(prompt="a", seed=3, steps=30) == want, kind


def test_a_worker_that_dies_again_and_again_is_doubted_until_it_has_passed_a_trial():
    with faulty() as faults, Fleet("--no-calibrate", step_ms=5) as s:
        faults.set("kill", "d0")
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            first = pool.submit(s.post, prompt="a", steps=5)
            s.until(lambda m: m['taca_worker_restarts_total{reason="signal"}'] >= 3)
            status, ready = s.ready()
            assert status == 503 and ready["status"] == "no_worker", ready
            assert s.states() == {("d0", "demo"): "broken"}
            status, headers, body = s.post(prompt="b", steps=5)
            assert status == 503 and error_of(body)["code"] == "gpu_unavailable", (status, body)
            assert 1 <= int(headers["retry-after"]) <= 60
            deaths = s.metrics()['taca_worker_restarts_total{reason="signal"}']
            time.sleep(0.5)
            assert s.metrics()['taca_worker_restarts_total{reason="signal"}'] <= deaths + 1
            faults.clear("kill", "d0")
            s.until_ready(1)
            assert first.result()[0] == 200  # the deaths were not all its own
        assert s.png(prompt="b", steps=5)
        assert s.ready()[1]["status"] == "ok"


def test_pauses_grow_while_a_device_cannot_be_had():
    with faulty() as faults:
        faults.set("open", "d1")
        with Fleet(devices=("d0", "d1"), ready=1) as s:
            s.wait_for(lambda r: "d1 is not there" in r["msg"])
            time.sleep(2.5)
            tries = len([r for r in s.records if "d1 is not there" in r["msg"]])
            assert 2 <= tries <= 4, tries  # 0, 0.1, 1 and 2 s apart
            s.until_ready(1, state="broken")
            assert s.states()["d1", "demo"] == "broken" and s.ready()[1]["status"] == "degraded"
            assert s.png(prompt="a", steps=2)


def test_a_device_that_falls_away_is_less_capacity_and_estimates_say_so():
    with faulty() as faults, Fleet("--max-batch-images", 1, devices=("d0", "d1"), step_ms=50 * PATIENCE) as s:
        for _ in range(2):  # so that costs are known well
            together(s, [dict(prompt=f"w{i}", steps=5) for i in range(4)])
        held = [s.open_raw(prompt=f"l{i}", steps=100) for i in range(8)]  # 20 s, which nobody waits for
        s.until(lambda m: m['taca_requests_waiting{model="demo"}'] + m['taca_requests_running{model="demo"}'] == 8)
        etas = sorted(j["eta_ms"] for j in json.loads(s.request("GET", "/v1/queue")[2])["jobs"])
        faults.set("open", "d1")
        faults.set("kill", "d1")
        s.until_ready(1)
        later = sorted(j["eta_ms"] for j in json.loads(s.request("GET", "/v1/queue")[2])["jobs"])
        for h in held:
            h.close()
        assert len(later) == 8 and later[-1] > 1.4 * etas[-1], (etas, later)


def test_memory_that_runs_out_makes_smaller_steps_and_no_failure():
    asked = [dict(prompt=f"p{i}", seed=i, steps=6) for i in range(8)]
    with faulty() as faults, Fleet(step_ms=10 * PATIENCE) as s:
        alone = [s.png(**a) for a in asked]
        faults.set("rows", "d0", 2)
        assert together(s, asked) == alone
        m = s.metrics()
        assert m['taca_requests_total{model="demo",outcome="failed"}'] == 0
        of = 'model="demo",gpu="0"'
        assert m[f'taca_step_batch_images_bucket{{{of},le="2"}}'] == m[f"taca_step_batch_images_count{{{of}}}"]
        faults.set("rows", "d0", 0)  # not even for one
        status, headers, body = s.post(prompt="a", steps=3)
        assert status == 503 and error_of(body)["code"] == "gpu_oom", (status, body)
        faults.clear("rows", "d0")
        assert s.png(**asked[0]) == alone[0]


def test_without_room_for_another_one_it_waits():
    asked = [dict(prompt=f"p{i}", seed=i, steps=6) for i in range(6)]
    with faulty() as faults, Fleet(step_ms=5) as s:
        alone = [s.png(**a) for a in asked]
        faults.set("room", "d0", 2)
        assert together(s, asked) == alone
        faults.set("room", "d0", 0)
        status, _, body = s.post(prompt="a", steps=3)
        assert status == 503 and error_of(body)["code"] == "gpu_oom", (status, body)
        assert s.metrics()['taca_worker_restarts_total{reason="signal"}'] == 0


def test_one_of_two_models_that_fails_does_not_touch_the_other():
    with faulty() as faults, Fleet("--no-calibrate", "--max-retries", 2, models=("good", "bad"), step_ms=5) as s:
        faults.set("kill", "bad")
        status, _, body = s.post(prompt="a", steps=3, model="bad")  # three deaths: the model is doubted
        assert status == 500 and error_of(body)["code"] == "worker_lost", (status, body)
        for i in range(5):
            assert s.png(prompt="a", steps=3, seed=i, model="good")
        assert s.ready()[0] == 200
        s.until(lambda m: m['taca_model_loaded{model="bad"}'] == 0)
        assert s.metrics()['taca_model_loaded{model="good"}'] == 1


class Shooters(Chaos):
    """Shoots any worker; clients name one model or the other."""

    def ask(self, r):
        fields = super().ask(r)
        fields["model"] = r.choice(["one", "two"])
        return fields

    def whole(self, r, fields):
        fields["prompt"] += fields["model"]  # the picture's key has no model
        super().whole(r, fields)

    def shoot(self, _):
        r = random.Random(4711)
        while time.monotonic() < self.end - 1:
            time.sleep(r.random() * 0.6)
            with contextlib.suppress(ProcessLookupError, IndexError):
                os.kill(r.choice(self.service.pids()), signal.SIGKILL)


def test_whatever_happens_on_several_devices_the_accounts_add_up():
    with Fleet("--max-batch-images", 6, models=("one", "two"), devices=("d0", "d1"), step_ms=3) as s:
        chaos = Shooters(s, 3)
        with concurrent.futures.ThreadPoolExecutor(13) as pool:
            for done in [pool.submit(chaos.shoot, 0)] + [pool.submit(chaos.client, i) for i in range(12)]:
                done.result()
        gauges = [f'taca_requests_{g}{{model="{m}"}}' for g in ("running", "waiting") for m in ("one", "two")]
        s.until(lambda m: sum(m[g] for g in gauges) == 0, 60)
        m = s.until(lambda m: m["taca_http_connections"] <= 1)
        assert not chaos.problems, chaos.problems[:5]
        ended = sum(v for k, v in m.items() if k.startswith("taca_requests_total{"))
        assert chaos.sent - chaos.reset <= ended <= chaos.sent, (chaos.sent, chaos.reset, ended)
        s.until_ready(4, 60)


# ---- models that come and go --------------------------------------------------------------------


def test_a_model_is_loaded_and_unloaded_while_another_serves():
    with Fleet(models=("one",), step_ms=5) as s:
        assert s.admin("POST", "/v1/models/load", {"model": "two", "path": MODEL}) == (202, {"model": "two", "state": "loading"})
        s.until_state("two", "ready")
        before = s.png(prompt="a", steps=2, seed=0, model="two")
        assert s.admin("POST", "/v1/models/load", {"model": "two"})[1]["state"] == "ready"  # it is there already
        assert s.admin("POST", "/v1/models/unload", {"model": "two"})[0] == 202
        s.until_state("two", "unloaded")
        end = time.monotonic() + 5 * PATIENCE
        while len(s.pids()) > 1:  # its memory is given back
            assert time.monotonic() < end, s.pids()
            time.sleep(0.01)
        status, _, body = s.post(prompt="a", steps=2, model="two")
        assert status == 404 and "not loaded" in error_of(body)["message"], body
        assert s.png(prompt="a", steps=2, seed=1, model="one") == s.png(prompt="a", steps=2, seed=1)
        assert s.metrics()['taca_model_loaded{model="two"}'] == 0
        for _ in range(3):
            assert s.admin("POST", "/v1/models/load", {"model": "two"})[0] == 202
            s.until_state("two", "ready")
            assert s.png(prompt="a", steps=2, seed=0, model="two") == before
            s.admin("POST", "/v1/models/unload", {"model": "two"})
            s.until_state("two", "unloaded")
        assert s.ready()[1]["status"] == "ok"


def test_what_was_accepted_is_made_before_a_model_goes():
    with Fleet(models=("one", "two"), step_ms=20 * PATIENCE) as s:
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            pending = [pool.submit(s.post, prompt=f"p{i}", steps=15, model="two") for i in range(3)]
            s.until(lambda m: m['taca_requests_running{model="two"}'] + m['taca_requests_waiting{model="two"}'] == 3)
            status, answer = s.admin("POST", "/v1/models/unload", {"model": "two", "when_busy": "refuse"})
            assert status == 409 and answer["error"]["code"] == "model_busy", answer
            assert s.admin("POST", "/v1/models/unload", {"model": "two"}) == (202, {"model": "two", "state": "unloading"})
            status, _, body = s.post(prompt="late", steps=2, model="two")
            assert status == 404 and error_of(body)["code"] == "model_not_found", body
            status, answer = s.admin("POST", "/v1/models/load", {"model": "two"})
            assert status in (202, 409), answer
            assert [p.result()[0] for p in pending] == [200] * 3


def test_a_model_that_goes_while_a_picture_is_unpacked_is_not_waited_for():
    side = 4000  # a small file that takes a while
    png = base.png_of(struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0), zlib.compress(bytes(side * (3 * side + 1)), 1))
    image = base64.b64encode(png).decode()
    with Fleet("--max-image-pixels", str(side**2), models=("one", "two")) as s, \
            concurrent.futures.ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(s.post, prompt="a", steps=1, width=64, height=64, model="two", image=image) for _ in range(3)]
        time.sleep(0.1)
        s.admin("POST", "/v1/models/unload", {"model": "two"})
        for status, _, body in (a.result() for a in asked):  # in time, or refused at once
            assert status == 200 or (status, error_of(body)["code"]) == (404, "model_not_found"), (status, body)
        s.until_state("two", "unloaded")


def test_a_model_that_cannot_be_loaded_says_why_and_leaves_the_others_alone():
    broken = tempfile.mkdtemp(prefix="broken-")
    with Fleet(models=("one",)) as s:
        s.admin("POST", "/v1/models/load", {"model": "two", "path": broken})
        s.until_state("two", "failed")
        assert "no model here" in s.models()["two"]["error"], s.models()
        public = s.request("GET", "/v1/models")[2]  # which names no files of this machine
        assert b'"failed"' in public and os.path.basename(broken).encode() not in public, public
        assert s.png(prompt="a", steps=2) and s.ready()[1]["status"] == "ok"
        status, _, body = s.post(prompt="a", model="two")
        assert status == 404, body
        # the place is not lost: with its right path it comes
        s.admin("POST", "/v1/models/load", {"model": "two", "path": MODEL})
        s.until_state("two", "ready")
        assert "error" not in s.models()["two"] and s.png(prompt="a", steps=2, model="two")
    os.rmdir(broken)


def test_a_model_that_does_not_fit_into_memory_is_not_loaded():
    os.environ["TACA_FAKE_BYTES"] = str(1 << 50)
    try:
        with Fleet(models=("one",)) as s:
            s.admin("POST", "/v1/models/load", {"model": "big", "path": MODEL})
            s.until_state("big", "failed")
            assert "the model needs 1125899.91 GB and " in s.models()["big"]["error"], s.models()
            assert s.png(prompt="a", steps=2)
    finally:
        del os.environ["TACA_FAKE_BYTES"]


def test_orders_that_make_no_sense_are_refused_by_name():
    with Fleet(models=("one",)) as s:
        for path, body, status, code, param in [
                ("load", {"model": "x"}, 404, "model_not_found", "model"),
                ("load", {"model": "a b", "path": MODEL}, 400, "invalid_model", "model"),
                ("load", {"model": "x" * 64, "path": MODEL}, 400, "invalid_model", "model"),
                ("load", {"model": "x", "path": "/nowhere"}, 400, "invalid_path", "path"),
                ("load", {"model": "x", "path": 7}, 400, "invalid_path", "path"),
                ("load", {"model": "x", "pathh": MODEL}, 400, "unknown_parameter", "pathh"),
                ("load", {"path": MODEL}, 400, "invalid_model", "model"),
                ("load", [], 400, "invalid_json", None),
                ("unload", {"model": "x"}, 404, "model_not_found", "model"),
                ("unload", {"model": "one", "path": MODEL}, 400, "unknown_parameter", "path"),
                ("unload", {"model": "one", "when_busy": "kill"}, 400, "invalid_when_busy", "when_busy")]:
            got, answer = s.admin("POST", "/v1/models/" + path, body)
            e = answer["error"]
            assert (got, e["code"], e["param"]) == (status, code, param), (path, body, got, e)
        order = {"model": "two", "path": MODEL}
        status, _ = s.admin("POST", "/v1/models/load", order, {"Content-Type": "text/plain"})
        assert status == 415
        status, _ = s.admin("POST", "/v1/models/load", order, dict(JSON, Origin="https://evil.example"))
        assert status == 403
        status, _, _ = s.request("POST", "/v1/models/load", json.dumps(order), JSON)  # not for everybody
        assert status in (404, 405), status
        for i in range(7):
            assert s.admin("POST", "/v1/models/load", {"model": f"m{i}", "path": MODEL})[0] == 202
        status, answer = s.admin("POST", "/v1/models/load", {"model": "m8", "path": MODEL})
        assert status == 409 and answer["error"]["code"] == "too_many_models", answer


def test_beyond_this_machine_orders_want_the_key_of_an_operator():
    folder = tempfile.mkdtemp(prefix="taca-keys-")
    path, keys = os.path.join(folder, "keys"), {"boss": "operator-key", "ann": "other-key"}
    with open(path, "w", encoding="ascii") as f:
        for name, key in keys.items():
            f.write(f"{name}:{hashlib.sha256(key.encode()).hexdigest()}{':admin' if name == 'boss' else ''}\n")
    os.chmod(path, 0o600)
    order = {"model": "two", "path": MODEL}
    with Fleet("--admin-listen", "0.0.0.0:0", "--api-key-file", path, models=("one",)) as s:
        for key, status in ((None, 403), ("other-key", 403), ("wrong", 403), ("operator-key", 202)):
            headers = dict(JSON, **({"Authorization": "Bearer " + key} if key else {}))
            got, answer = s.admin("POST", "/v1/models/load", order, headers)
            assert got == status, (key, got, answer)
        s.until_state("two", "ready")
    with Fleet("--admin-listen", "0.0.0.0:0", models=("one",)) as s:  # no keys at all
        assert s.admin("POST", "/v1/models/load", order)[0] == 403
    shutil.rmtree(folder)


def test_the_first_model_may_go_too_and_readiness_tells_the_truth():
    with Fleet(models=("one",)) as s:
        s.admin("POST", "/v1/models/unload", {"model": "one"})
        s.until_state("one", "unloaded")
        assert s.ready()[0] == 503 and s.ready()[1]["status"] == "no_worker"
        status, _, body = s.post(prompt="a", steps=2)
        assert status == 404 and error_of(body)["code"] == "model_not_found", body
        assert s.request("GET", "/v1/capabilities")[0] == 503
        s.admin("POST", "/v1/models/load", {"model": "one"})
        s.until_state("one", "ready")
        s.until_ready(1)
        assert s.ready()[0] == 200 and s.png(prompt="a", steps=2)


# ---- the options --------------------------------------------------------------------------------


def test_models_and_devices_that_cannot_be_are_refused_with_their_reason():
    many = [x for i in range(9) for x in ("--model", f"m{i}={MODEL}")]
    for args, word in [
            (["--model", f"a={MODEL}", "--model", f"a={MODEL}"], "given twice"),
            (["--model", "a=/nowhere"], "/nowhere"),
            (["--model", MODEL, "--model", "/"], "give NAME=PATH"),
            (many, "at most 8 models"),
            (["--model", MODEL, *["--device", "cpu"] * 9], "at most 8 devices"),
            (["--model", f"a={MODEL}", "--model", f"b={MODEL}", "--vae", MODEL], "one --model alone"),
            (["--model", f"a={MODEL}", "--lora", f"b:x={MODEL}"], "no model of this name")]:
        run = subprocess.run([BINARY, "serve", "--port", "0", "--admin-listen", "none", *args],
                             stderr=subprocess.PIPE, text=True, timeout=30, check=False)
        assert run.returncode == 78 and word in run.stderr, (args, run)


def test_adapters_belong_to_the_model_that_is_named_before_them():
    with Fleet("--lora", f"x={MODEL}", "--lora", f"two:y={MODEL}", models=("one", "two")) as s:
        data = json.loads(s.request("GET", "/v1/loras")[2])["data"]
        assert [(a["model"], a["id"]) for a in data] == [("one", "x"), ("two", "y")], data
        assert s.png(prompt="a", steps=2, model="two", loras=[{"id": "y"}])
        status, _, body = s.post(prompt="a", steps=2, loras=[{"id": "y"}])
        assert status in (400, 404), body


if __name__ == "__main__":
    sys.exit(base.run(globals()))
