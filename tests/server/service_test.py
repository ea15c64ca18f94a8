#!/usr/bin/env python3
"""What is asked and what comes back: replies, pictures to start from, log, metrics; see fake_service.py."""

import base64
import concurrent.futures
import json
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib

from chaos import Chaos
from fake_service import (
    PATIENCE, Service, chunks, error_of, events_of, jpeg_size, picture, png_of, rss, run, segments,
    size_of,
)


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
    with Service("--taesd", "/dev/null", step_ms=30) as s:  # whose previews are as large as the picture
        _, _, body = s.post(prompt="a", seed=3, steps=3, width=2048, height=2048, stream=True,
                            previews={"every": 1, "max_side": 256, "method": "taesd"})
        previews = [x for x in events_of(body) if x["type"] == "preview"]
        assert previews and all(x["frame_len"] < 48 << 10 for x in previews), body[-300:]
        assert not any(v for k, v in s.metrics().items() if k.startswith("taca_worker_restarts_total"))


def test_the_longest_prompts_reach_the_worker():
    size = 1 << 20
    with Service("--max-prompt-bytes", size) as s:
        asked = {k: k[0] * size for k in ("prompt", "negative_prompt")}
        status, _, body = s.post(**asked, cfg_scale=2, steps=1, start_timeout_ms=10000 * PATIENCE)
        assert status == 200, body


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


if __name__ == "__main__":
    sys.exit(run(globals()))
