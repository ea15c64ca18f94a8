#!/usr/bin/env python3
"""The service over real sockets and a real worker process, with an engine that only pretends.

usage: service_test.py TACA_FAKE [SUBSTRING]   (only tests whose name has the substring)

Standard library only. Every test starts its own service on a free port and stops it; a service that
does not end cleanly, or that writes a sanitizer's report, fails its test.

TACA_PATIENCE=3 in the environment (sanitizer builds set it) is for slow or busy machines: steps whose
length a test relies on, and the times around them, are three times as long. What is asserted stays."""

import base64
import concurrent.futures
import http.client
import json
import math
import os
import random
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import zlib

PATIENCE = float(os.environ.get("TACA_PATIENCE", "1"))
BINARY = os.path.abspath(sys.argv[1])
MODEL = tempfile.mkdtemp(prefix="taca-model-")


class Service:
    def __init__(self, *args, step_ms=5, wait=True, model=MODEL, env=None, **popen):
        env = dict(os.environ, TACA_FAKE_STEP_MS=str(step_ms), **(env or {}))
        self.args = [BINARY, "serve", "--model", model, "--port", "0", "--admin-listen", "none",
                     "--log-format", "json", "--drain-grace", "0.1", *map(str, args)]
        self.lines, self.records = [], []
        self.seen = threading.Condition()
        self.process = subprocess.Popen(self.args, stderr=subprocess.PIPE, text=True, env=env,
                                        **popen)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        if wait:
            self.port = self.wait_for(lambda r: r.get("port"))["port"]
            self.wait_for(lambda r: r["msg"].startswith("ready"))

    def _read(self):
        for line in self.process.stderr:
            with self.seen:
                self.lines.append(line)
                try:
                    self.records.append(json.loads(line))
                except ValueError:
                    pass
                self.seen.notify_all()

    def wait_for(self, test, timeout=20):
        end = time.monotonic() + timeout * PATIENCE
        with self.seen:
            while True:
                for record in self.records:
                    if test(record):
                        return record
                left = end - time.monotonic()
                assert left > 0, "not in the log: " + "".join(self.lines[-20:])
                self.seen.wait(min(left, 0.1))

    def worker(self):
        with self.seen:
            started = [r["msg"].split()[1] for r in self.records
                       if r["msg"].startswith("worker") and r["msg"].endswith("started")]
        return int(started[-1])

    def connect(self, timeout=60):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def request(self, method, path, body=None, headers=()):
        c = self.connect()
        try:
            c.request(method, path, body, dict(headers))
            r = c.getresponse()
            return r.status, {k.lower(): v for k, v in r.getheaders()}, r.read()
        finally:
            c.close()

    def post(self, accept=None, **fields):
        headers = {"Content-Type": "application/json"}
        if accept:
            headers["Accept"] = accept
        return self.request("POST", "/v1/generate", json.dumps(fields), headers)

    def png(self, **fields):
        status, headers, body = self.post("image/png", **fields)
        assert status == 200, (status, body[:300])
        return body

    def open_raw(self, **fields):
        """A socket on which a request has been sent and nothing was read."""
        body = json.dumps(fields).encode()
        s = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        s.sendall(b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
                  b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        return s

    def metrics(self):
        status, _, body = self.request("GET", "/metrics")
        assert status == 200, status
        out = {}
        for line in body.decode().splitlines():
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                out[name.replace('model="fake",', "").replace('{model="fake"}', "")] = float(value)
        return out

    def until(self, test, timeout=10, what="metric"):
        end = time.monotonic() + timeout * PATIENCE
        while True:
            m = self.metrics()
            if test(m):
                return m
            assert time.monotonic() < end, f"{what}: {m}"
            time.sleep(0.01)

    def stop(self, expect=0, sig=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            rc = self.process.wait(30 * PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError("does not end: " + "".join(self.lines[-20:])) from None
        self.reader.join(5)
        text = "".join(self.lines)
        for word in ("Sanitizer", "runtime error", "handles left"):
            assert word not in text, text[-8000:]
        assert rc == expect, f"exit {rc}, wanted {expect}: {text[-2000:]}"
        return text

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.stop()
        else:
            self.process.kill()
            self.process.wait()
            print("".join(self.lines[-30:]))


def events_of(body):
    out = []
    for block in body.decode().split("\n\n"):
        lines = [x for x in block.split("\n") if x and not x.startswith(":")]
        if not lines:
            continue
        frame = dict(x.split(": ", 1) for x in lines)
        data = json.loads(frame["data"])
        assert data["type"] == frame["event"], frame
        data["event_id"] = int(frame.get("id", 0))
        data["frame_len"] = len(block) + 2
        out.append(data)
    return out


def chunks(png):
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, out = 8, []
    while at < len(png):
        n, kind = struct.unpack(">I4s", png[at:at + 8])
        data = png[at + 8:at + 8 + n]
        crc, = struct.unpack(">I", png[at + 8 + n:at + 12 + n])
        assert crc == zlib.crc32(kind + data)
        out.append((kind, data))
        at += 12 + n
    return out


def size_of(png):
    return struct.unpack(">II", chunks(png)[0][1][:8])


def segments(jpeg):
    """What stands before the pixels: markers and their bytes."""
    assert jpeg[:2] == b"\xff\xd8" and jpeg[-2:] == b"\xff\xd9"
    at, out = 2, []
    while jpeg[at + 1] != 0xDA:
        mark, kind, n = struct.unpack(">BBH", jpeg[at:at + 4])
        assert mark == 0xFF
        out.append((kind, jpeg[at + 4:at + 2 + n]))
        at += 2 + n
    return out


def jpeg_size(jpeg):
    return struct.unpack(">HH", dict(segments(jpeg))[0xC0][1:5])[::-1]


def error_of(body):
    e = json.loads(body)["error"]
    assert set(e) == {"message", "type", "param", "code"}, e
    return e


# ---- replies ------------------------------------------------------------------------------------


def test_json_carries_the_picture_and_what_made_it():
    with Service() as s:
        status, headers, body = s.post(prompt="a cat", seed=7, steps=4, width=96, height=64)
        assert status == 200 and headers["content-type"] == "application/json", headers
        r = json.loads(body)
        assert r["model"] == "fake" and re.fullmatch("[0-9a-f]{32}", r["id"])
        image, = r["images"]
        assert (image["index"], image["seed"], image["width"], image["height"]) == (0, 7, 96, 64)
        png = base64.b64decode(image["b64_json"])
        assert size_of(png) == (96, 64)
        t = r["timings"]
        assert t["denoise_ms"] >= 4 * 5 and t["total_ms"] >= t["denoise_ms"] + t["vae_ms"], t
        assert png == s.png(prompt="a cat", seed=7, steps=4, width=96, height=64)


def test_png_has_headers_and_its_parameters_inside():
    with Service() as s:
        status, headers, png = s.post("image/png", prompt="a cat", seed=7, steps=4)
        assert status == 200 and headers["content-type"] == "image/png"
        assert headers["x-seed"] == "7" and headers["x-steps"] == "4", headers
        assert headers["x-model"] == "fake" and re.fullmatch("[0-9a-f]{32}", headers["x-job-id"])
        assert float(headers["x-gpu-ms"]) >= 20 and float(headers["x-queue-ms"]) >= 0
        for stage in ("queue", "text", "denoise", "vae", "encode", "total"):
            assert f"{stage};dur=" in headers["server-timing"], headers
        text = b"".join(d for k, d in chunks(png) if k in (b"tEXt", b"iTXt"))
        assert b"parameters" in text and b"a cat" in text and b"Seed: 7" in text, text
        assert b"taca" in text and b'"seed":7' in text, text
        bare = s.png(prompt="a cat", seed=7, steps=4, metadata=False)
        assert not [k for k, _ in chunks(bare) if k in (b"tEXt", b"iTXt")]


def test_a_jpeg_comes_in_every_kind_of_reply():
    with Service() as s:
        asked = {"prompt": "a c\u00e4t", "seed": 7, "steps": 4, "width": 96, "height": 64}
        status, headers, jpeg = s.post("image/jpeg", **asked)
        assert status == 200 and headers["content-type"] == "image/jpeg", headers
        assert headers["x-seed"] == "7" and jpeg_size(jpeg) == (96, 64)
        there = dict(segments(jpeg))
        assert there[0xFE].startswith(b"taca: {"), there[0xFE]
        made = json.loads(there[0xFE][6:])
        assert (made["prompt"], made["seed"], made["steps"]) == ("a c\u00e4t", 7, 4), made
        assert "a c\u00e4t\nSteps: 4".encode("utf-16-be") in there[0xE1]
        # the same bytes however they are asked for
        asked["output_format"] = "jpeg"
        for accept in ("image/*", "image/jpeg", "image/png;q=0.9, image/jpeg;q=0.1"):
            assert s.post(accept, **asked)[2] == jpeg, accept
        status, headers, body = s.post(**asked)
        image, = json.loads(body)["images"]
        assert headers["content-type"] == "application/json" and image["format"] == "jpeg"
        assert base64.b64decode(image["b64_json"]) == jpeg
        e = events_of(s.post(**asked, stream=True, previews=2)[2])
        pictures = [x for x in e if x["type"] in ("preview", "image")]
        assert len(pictures) > 1 and {x["format"] for x in pictures} == {"jpeg"}, pictures
        assert all(jpeg_size(base64.b64decode(x["b64_json"])) == (x["width"], x["height"])
                   for x in pictures)
        assert base64.b64decode(pictures[-1]["b64_json"]) == jpeg
        # less of everything
        small = s.post("image/jpeg", **asked, output_compression=30, metadata=False)[2]
        assert len(small) < len(jpeg) / 2 and jpeg_size(small) == (96, 64)
        assert not {0xE1, 0xFE} & dict(segments(small)).keys()
        m = s.metrics()
        assert m['taca_requests_total{outcome="ok"}'] == 7 == m["taca_images_total"], m


def test_files_that_are_not_made_are_refused_in_words():
    with Service() as s:
        for accept, fields, status, param, says in (
                ("image/webp", {}, 406, None, "image/png, image/jpeg and text/event-stream"),
                ("image/jpeg", {"output_format": "png"}, 406, "output_format", "Accept wants image/jpeg"),
                ("image/jpeg", {"n": 2}, 406, "n", "holds one image"),
                (None, {"output_format": "webp"}, 400, "output_format", 'use "png", "jpeg"'),
                (None, {"output_compression": 50}, 400, "output_compression", "is for JPEG"),
                ("image/jpeg", {"png_level": 9}, 400, "png_level", "is for PNG"),
                (None, {"output_format": "jpeg", "output_compression": 101}, 400,
                 "output_compression", "0..100")):
            got, _, body = s.post(accept, prompt="a", **fields)
            e = error_of(body)
            assert (got, e["param"]) == (status, param) and says in e["message"], (fields, got, e)


def test_events_come_in_order_with_rising_ids():
    with Service() as s:
        status, headers, body = s.post(prompt="a", seed=3, steps=6, n=2, previews=2, stream=True)
        assert status == 200 and headers["content-type"].startswith("text/event-stream"), headers
        e = events_of(body)
        kinds = [x["type"] for x in e]
        assert kinds[:2] == ["queued", "started"] and kinds[-1] == "completed", kinds
        ids = [x["event_id"] for x in e]
        assert ids == sorted(set(ids)), ids
        images = {x["index"]: base64.b64decode(x["b64_json"]) for x in e if x["type"] == "image"}
        assert sorted(images) == [0, 1]
        for k in (0, 1):
            assert images[k] == s.png(prompt="a", seed=3 + k, steps=6)
            steps = [x["step"] for x in e if x["type"] == "progress" and x["index"] == k]
            assert steps == sorted(set(steps)) and steps[-1] == 6, steps
            previews = [x for x in e if x["type"] == "preview" and x["index"] == k]
            assert len(previews) <= 2, kinds
            for x in previews:
                assert size_of(base64.b64decode(x["b64_json"])) == (16, 16)
        assert [x for x in e if x["type"] == "preview"], kinds
        assert e[-1]["timings"]["denoise_ms"] > 0


def test_the_head_of_a_stream_and_a_comment_come_at_once():
    """also where nothing is to be told for long: OpenAI's stream begins with the first picture"""
    with Service(step_ms=200 * PATIENCE) as s:
        for path, body in (("/v1/generate", {"prompt": "a", "stream": True}),
                           ("/v1/images/generations", {"prompt": "a", "stream": True})):
            begin = time.monotonic()
            raw = json.dumps(body).encode()
            with socket.create_connection(("127.0.0.1", s.port), timeout=60) as c:
                c.sendall(b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                          b"Content-Length: %d\r\n\r\n" % (path.encode(), len(raw)) + raw)
                got = b""
                while b": hb\n\n" not in got:
                    part = c.recv(4096)
                    assert part, got
                    got += part
                took = time.monotonic() - begin
                assert got.startswith(b"HTTP/1.1 200 "), got
                assert took < 0.2 * PATIENCE, (path, took)


def test_previews_of_large_pictures_stay_short():
    with Service(step_ms=30) as s:
        _, _, body = s.post(prompt="a", seed=3, steps=3, width=2048, height=2048, previews=1,
                            stream=True)
        previews = [x for x in events_of(body) if x["type"] == "preview"]
        assert previews and all(x["frame_len"] < 48 << 10 for x in previews), len(previews)


def test_three_pictures_are_three_requests():
    with Service() as s:
        _, _, body = s.post(prompt="a", seed=7, n=3, steps=5)
        images = json.loads(body)["images"]
        assert [x["seed"] for x in images] == [7, 8, 9]
        for k, x in enumerate(images):
            assert base64.b64decode(x["b64_json"]) == s.png(prompt="a", seed=7 + k, steps=5)


def test_twenty_at_once_give_what_each_gives_alone():
    asked = [dict(prompt=f"p{i}", seed=i, steps=3 + i % 5, width=64 + 16 * (i % 4), height=64)
             for i in range(20)]
    with Service() as s:
        alone = [s.png(**a) for a in asked]
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            together = list(pool.map(lambda a: s.png(**a), asked))
        assert alone == together
        m = s.metrics()
        assert m['taca_requests_total{outcome="ok"}'] == 40
        shared = m['taca_step_batch_images_count{gpu="0"}'] - m['taca_step_batch_images_bucket{gpu="0",le="1"}']
        assert shared > 0, "no step was shared"


def picture(w, h, seed=0):
    """A PNG of noise, of our own making."""
    rng = random.Random(seed)
    rows = b"".join(b"\0" + rng.randbytes(3 * w) for _ in range(h))
    return png_of(struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0), zlib.compress(rows, 1))


def png_of(head, data):
    parts = ((b"IHDR", head), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)


def rss(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return int(re.search(r"VmHWM:\s+(\d+)", f.read()).group(1)) * 1024


def test_pictures_travel_to_the_worker_and_change_what_it_makes():
    with Service("--max-batch-images", 4) as s:
        a, b = (base64.b64encode(picture(128, 96, k)).decode() for k in (1, 2))
        plain = dict(prompt="x", seed=1, steps=8, width=128, height=96)
        made = {name: s.png(**plain, **fields) for name, fields in {
            "none": {}, "a": {"image": a}, "b": {"image": b}, "a in b": {"image": a, "mask": b},
            "b in a": {"image": b, "mask": a}, "far": {"image": a, "strength": 1}}.items()}
        assert len(set(made.values())) == len(made)
        assert s.png(**plain, image=a) == made["a"]
        assert s.png(prompt="x", seed=1, steps=8, image=a) == made["a"], "its size is the default"
        with concurrent.futures.ThreadPoolExecutor(8) as pool:  # one room for pixels, many who use it
            kinds = [("a", {"image": a}), ("b", {"image": b}), ("a in b", {"image": a, "mask": b}),
                     ("none", {})] * 6
            for (name, _), png in zip(kinds, pool.map(lambda k: s.png(**plain, **k[1]), kinds)):
                assert png == made[name], name
        status, _, body = s.post(**plain, image=a, strength=0)
        assert status == 200, body[:200]
        events = s.request("POST", "/v1/generate", json.dumps(dict(plain, image=a, stream=True)),
                           {"Content-Type": "application/json"})[2].decode()
        steps = [json.loads(line[6:]) for line in events.splitlines() if '"progress"' in line and line[0] == "d"]
        assert steps and all(e["steps"] == 5 for e in steps), "0.6 of 8 steps"


def test_a_worker_that_dies_starts_again_from_the_same_picture():
    with Service(step_ms=30) as s:
        a = base64.b64encode(picture(64, 64)).decode()
        want = s.png(prompt="x", seed=1, steps=20, image=a)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            got = pool.submit(s.png, prompt="x", seed=1, steps=20, image=a)
            s.until(lambda m: m["taca_requests_running"] == 1)
            os.kill(s.worker(), signal.SIGKILL)
            assert got.result() == want


def test_a_bomb_costs_nothing():
    with Service() as s:
        s.png(prompt="x", seed=1, steps=1, image=base64.b64encode(picture(64, 64)).decode())
        before = rss(s.process.pid)
        # 30000 x 30000 grey: 3.6 GB as RGBA; the data is cut, which nobody gets to see
        bomb = png_of(struct.pack(">IIBBBBB", 30000, 30000, 8, 0, 0, 0, 0),
                      zlib.compress(bytes(30001 * 1000), 9))
        for field in ("image", "mask"):
            fields = {"image": base64.b64encode(picture(64, 64)).decode(),
                      field: base64.b64encode(bomb).decode()}
            status, _, body = s.post(prompt="x", **fields)
            error = json.loads(body)["error"]
            assert (status, error["code"], error["param"]) == (413, "image_too_large", field), body
            assert "30000 x 30000" in error["message"] and "16777216" in error["message"]
        assert rss(s.process.pid) - before < 5e6 * PATIENCE


def test_a_picture_that_turns_out_bad_was_never_promised():
    good = picture(96, 64)
    bad = good[:-9] + b"?" + good[-8:]  # in the last chunk: whoever looks at the head sees nothing
    json_type = {"Content-Type": "application/json"}
    with Service(step_ms=20) as s:
        def fields(**of):
            return {"prompt": "x", "steps": 2, **{k: base64.b64encode(v).decode() for k, v in of.items()}}

        for field, asked in (("image", fields(image=bad)), ("mask", fields(image=good, mask=bad))):
            for headers in ({}, {"Prefer": "respond-async"}, {"Accept": "text/event-stream"}):
                status, got, body = s.request("POST", "/v1/generate", json.dumps(asked), {**json_type, **headers})
                error = error_of(body)
                assert (status, error["code"], error["param"]) == (400, f"invalid_{field}", field), body
                assert "a broken PNG file" in error["message"] and "location" not in got, error
            assert s.request("PUT", "/v1/jobs/mine", json.dumps(asked), json_type)[0] == 400
            assert s.request("GET", "/v1/jobs/mine")[0] == 404
        status = s.request("PUT", "/v1/jobs/mine", json.dumps(fields(image=good)), json_type)[0]
        assert status == 200, "the name is free"
        for _ in range(20):  # who leaves at once, while it is unpacked or after: it is not made for long
            s.open_raw(**dict(fields(image=good), steps=100)).close()
        s.until(lambda m: m["taca_requests_running"] + m["taca_requests_waiting"] == 0)
        log = [r for r in s.records if r.get("error") == "invalid_image"]
        assert len(log) == 4 and all(r["code"] == 400 for r in log), log


def test_large_bodies_have_a_bound_in_common():
    with Service("--max-body-bytes", 1 << 20) as s:  # eight of the largest
        head = (b"POST /v1/generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n" % (1 << 20))
        coming = []
        for _ in range(12):
            c = socket.create_connection(("127.0.0.1", s.port), timeout=10 * PATIENCE)
            coming.append(c)
            try:
                c.sendall(head + b" " * (1000 << 10))
            except OSError:
                pass  # refused on the way
        s.until(lambda m: m['taca_rejected_total{reason="too_many_connections"}'] >= 1)
        refused = int(s.metrics()['taca_rejected_total{reason="too_many_connections"}'])
        assert refused <= 9, refused  # some were let in
        assert s.post(prompt="x", steps=1)[0] == 200, "small ones always are"
        told, _, _ = select.select(coming, [], [], 10 * PATIENCE)
        answer = told[0].recv(4096).decode()
        assert answer.startswith("HTTP/1.1 503 ") and "Retry-After: 1" in answer, answer
        for c in coming:
            c.close()
        end = time.monotonic() + 10 * PATIENCE
        while True:  # once they are gone there is room again
            body = json.dumps({"prompt": "x", "steps": 1}).encode().ljust(1 << 20)
            status = s.request("POST", "/v1/generate", body, {"Content-Type": "application/json"})[0]
            if status == 200:
                break
            assert status == 503 and time.monotonic() < end, status


def test_pictures_that_wait_have_a_bound():
    big = base64.b64encode(png_of(struct.pack(">IIBBBBB", 2048, 2048, 8, 0, 0, 0, 0),
                                  zlib.compress(bytes(2049 * 2048), 9))).decode()
    with Service("--max-batch-images", 1, "--max-backlog-seconds", 0, "--max-input-bytes", 40 << 20,
                 step_ms=200) as s:
        waiting = [s.open_raw(prompt="x", image=big, steps=100) for _ in range(3)]
        s.until(lambda m: m["taca_requests_waiting"] + m["taca_requests_running"] == 3)
        status, headers, body = s.post(prompt="x", image=big, steps=1)  # 4 x 12 MiB are 48 MiB
        assert status == 429 and 1 <= int(headers["retry-after"]) <= 60, body[:200]
        waiting.append(s.open_raw(prompt="x", steps=1, width=64, height=64))  # has none
        s.until(lambda m: m["taca_requests_waiting"] + m["taca_requests_running"] == 4)
        for w in waiting:
            w.close()
        s.until(lambda m: m["taca_requests_waiting"] + m["taca_requests_running"] == 0)
        assert s.post(prompt="x", image=big, steps=1)[0] == 200


def test_bad_requests_name_what_is_wrong():
    with Service() as s:
        for fields, code, param in [
                (dict(), "invalid_prompt", "prompt"),
                (dict(prompt="a", steps=0), "invalid_steps", "steps"),
                (dict(prompt="a", width=100), None, "width"),
                (dict(prompt="a", stepz=3), "unknown_parameter", "stepz"),
                (dict(prompt="please refuse", steps=2), "invalid_prompt", "prompt")]:
            status, _, body = s.post(**fields)
            e = error_of(body)
            assert status == 400 and e["param"] == param, (fields, status, e)
            assert code is None or e["code"] == code, (fields, e)
        status, _, body = s.post(prompt="this is nan", steps=2)
        assert status == 500 and error_of(body)["code"] == "numerical_error", body
        assert s.png(prompt="fine", steps=2)


# ---- load ---------------------------------------------------------------------------------------


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


def test_one_log_line_per_request_and_no_prompt_in_it():
    with Service() as s:
        s.png(prompt="a secret wish", steps=3, seed=5)
        _, headers, _ = s.request("POST", "/v1/generate", '{"prompt":"a secret wish","steps":3}',
                                  {"X-Request-Id": "mine-1", "Content-Type": "application/json"})
        assert headers["x-request-id"] == "mine-1"
        line = s.wait_for(lambda r: r.get("request_id") == "mine-1" and r["msg"] == "request")
        for key in ("ts level msg request_id job model w h steps n seed code queue_ms denoise_ms "
                    "total_ms batch_mean bytes").split():
            assert key in line, key
        assert "secret" not in s.stop()
        assert len([r for r in s.records if r["msg"] == "request" and "job" in r]) == 2
    with Service("--log-prompts") as s:
        s.png(prompt="no secret", steps=2)
        s.wait_for(lambda r: r.get("prompt") == "no secret")
        # however long a prompt is, there is a record of its request
        for i, prompt in enumerate(("x" * 8000, "\u0085" * 4000, "\u20ac" * 2600)):
            s.request("POST", "/v1/generate", json.dumps({"prompt": prompt, "steps": 1}),
                      {"X-Request-Id": f"long-{i}", "Content-Type": "application/json"})
            line = s.wait_for(lambda r, i=i: r.get("request_id") == f"long-{i}")
            assert line["msg"] == "request" and line["code"] == 200 and line["job"], line
            assert 100 < len(line["prompt"]) and prompt.startswith(line["prompt"]), line
            assert line["prompt_bytes"] == len(prompt.encode()), line


def test_metrics_please_promtool_and_never_fall():
    with Service() as s:
        before = s.metrics()
        s.png(prompt="a", steps=3)
        s.post(prompt="a", steps=0)
        s.post(prompt="a", steps=3, stream=True)
        after = s.metrics()
        for name, value in before.items():
            if "_total" in name or "_bucket" in name or "_count" in name:
                assert after.get(name, 0) >= value, name
        assert after['taca_requests_total{outcome="ok"}'] == 2
        assert after["taca_steps_total"] == 6 and after["taca_images_total"] == 2
        assert after["taca_pixels_total"] == 2 * 128 * 128
        assert after["taca_step_padding_tokens_total"] == 0
        # six steps of 5 ms at least, one after the other
        assert after['taca_gpu_busy_seconds_total{gpu="0"}'] >= 0.03
        assert after["taca_queue_backlog_gpu_seconds"] == 0
        if not shutil.which("promtool"):
            print("    promtool is not installed (Debian package prometheus): not asked")
            return
        text = s.request("GET", "/metrics")[2]
        run = subprocess.run(["promtool", "check", "metrics"], input=text, check=False,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert run.returncode == 0, run.stdout


def test_nothing_is_left_behind_by_many_requests():
    with Service(step_ms=0) as s:
        def burst():
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda i: s.post(prompt="a", seed=i, steps=2, width=64, height=64,
                                               stream=i % 3 == 0), range(80)))
            s.until(lambda m: m["taca_http_connections"] <= 1)
            return s.metrics()
        first, second = burst(), burst()
        assert second["process_open_fds"] <= first["process_open_fds"] + 2, (first, second)
        assert second["taca_requests_running"] == second["taca_requests_waiting"] == 0
        assert second["taca_sse_streams"] == 0


def test_every_family_is_in_the_handbook():
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "../../docs/metrics.md"), encoding="utf-8") as f:
        told = set(re.findall(r"`((?:taca|process)_[a-z0-9_]+)`", f.read()))
    with Service() as s:
        text = s.request("GET", "/metrics")[2].decode()
    shown = set(re.findall(r"^# TYPE (\S+)", text, re.M))
    assert shown == told, (sorted(shown - told), sorted(told - shown))


# ---- everything at once -------------------------------------------------------------------------


class Chaos:
    """Clients of all kinds, some of which leave, and somebody who shoots workers."""

    def __init__(self, service, seconds):
        self.service, self.end = service, time.monotonic() + seconds
        self.lock, self.pictures, self.sent, self.problems = threading.Lock(), {}, 0, []
        self.reset = 0  # connections: a client may be gone before its request was read

    def ask(self, r):
        fields = dict(prompt=f"p{r.randrange(5)}", seed=r.randrange(3), steps=r.randrange(1, 12),
                      width=64 + 16 * r.randrange(5), height=64, n=r.choice([1, 1, 1, 2, 4]))
        if r.random() < 0.06:
            fields["prompt"] = r.choice(["nan", "together"])
        if r.random() < 0.1:
            fields[r.choice(["deadline_ms", "start_timeout_ms"])] = r.randrange(1, 60)
        if r.random() < 0.3:
            fields["previews"] = 3
        return fields

    def whole(self, r, fields):
        kind = r.randrange(3)
        if kind == 0:
            fields["n"] = 1
            status, _, body = self.service.post("image/png", **fields)
            key = tuple(fields[k] for k in ("prompt", "seed", "steps", "width"))
            with self.lock:
                if status == 200 and self.pictures.setdefault(key, body) != body:
                    self.problems.append(("another picture", key))
        else:
            status, _, body = self.service.post(stream=kind == 2, **fields)
            if kind == 2 and status == 200:
                last = events_of(body)[-1]["type"]
                if last not in ("completed", "cancelled", "error"):
                    self.problems.append(("last event", last))
        hopeless = status == 429 and error_of(body)["code"] == "deadline_infeasible" and "deadline_ms" in fields
        if status not in (200, 500, 504) and not hopeless:
            self.problems.append((status, body[:200]))

    def client(self, number):
        r = random.Random(number)
        while time.monotonic() < self.end:
            with self.lock:
                self.sent += 1
            if r.random() < 0.6:
                self.whole(r, self.ask(r))
                continue
            s = self.service.open_raw(stream=r.random() < 0.5, **self.ask(r))
            time.sleep(r.random() * 0.1)
            if r.random() < 0.5:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                with self.lock:
                    self.reset += 1
            s.close()

    def shoot(self, _):
        r = random.Random(4711)
        while time.monotonic() < self.end - 1:
            time.sleep(r.random())
            try:
                os.kill(self.service.worker(), signal.SIGKILL)
            except ProcessLookupError:
                pass


def test_whatever_happens_the_accounts_add_up():
    with Service("--max-batch-images", 6, "--max-batch-tokens", 3000, step_ms=3) as s:
        chaos = Chaos(s, 6)
        with concurrent.futures.ThreadPoolExecutor(13) as pool:
            for done in [pool.submit(chaos.shoot, 0)] + [pool.submit(chaos.client, i)
                                                         for i in range(12)]:
                done.result()
        s.until(lambda m: m["taca_requests_running"] + m["taca_requests_waiting"] == 0)
        m = s.until(lambda m: m["taca_http_connections"] <= 1)
        assert not chaos.problems, chaos.problems[:5]
        ended = sum(v for k, v in m.items() if k.startswith("taca_requests_total{"))
        assert chaos.sent - chaos.reset <= ended <= chaos.sent, (chaos.sent, chaos.reset, ended)
        assert m["taca_sse_streams"] == 0


def run(names):
    only = sys.argv[2] if len(sys.argv) > 2 else ""
    tests = [(n, f) for n, f in names.items() if n.startswith("test_") and only in n]
    failed = 0
    for name, test in tests:
        start = time.monotonic()
        try:
            test()
            print(f"  {name} ({time.monotonic() - start:.1f} s)", flush=True)
        except Exception:  # a failed test must not hide the others
            failed += 1
            traceback.print_exc(file=sys.stdout)
            print(f"  ^ FAILED {name}", flush=True)
    os.rmdir(MODEL)
    print(f"{len(tests)} tests, {failed} failed")
    return 1 if failed or not tests else 0


if __name__ == "__main__":
    sys.exit(run(globals()))
