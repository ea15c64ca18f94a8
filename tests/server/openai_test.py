#!/usr/bin/env python3
"""The official `openai` client against the service with a make-believe engine.

usage: openai_test.py TACA_FAKE [SUBSTRING]   (exits 77 when the client is not installed)"""

import base64
import json
import struct
import sys
import time
import zlib

try:
    import openai
except ImportError:
    print("skipped: the Python package openai is not here; tests/server/tools.sh installs it")
    sys.exit(77)

import fake_service
from fake_service import Service, chunks, jpeg_size, picture, png_of, size_of


def client(s, **options):
    return openai.OpenAI(base_url=f"http://127.0.0.1:{s.port}/v1", api_key="none",
                         **dict({"timeout": 60, "max_retries": 0}, **options))


def test_generate():
    with Service() as s:
        r = client(s).images.generate(prompt="a cat", model="fake", n=2, size="1024x1024",
                                      quality="low", style="vivid",
                                      extra_body={"seed": 7, "steps": 2, "negative_prompt": "dog",
                                                  "taca": True, "size": "96x64"})
        assert len(r.data) == 2 and r.created > 1e9 and r.size == "96x64", r
        assert r.quality == "low" and r.output_format == "png" and r.background == "opaque"
        assert r.usage.output_tokens == 2 * 6 * 4 and r.usage.total_tokens > r.usage.output_tokens
        for i, picture in enumerate(r.data):
            png = base64.b64decode(picture.b64_json)
            assert size_of(png) == (96, 64)
            text = dict(d.split(b"\0", 1) for k, d in chunks(png) if k == b"tEXt")
            made = json.loads(text[b"taca"])
            assert (made["seed"], made["steps"], made["negative_prompt"]) == (7 + i, 2, "dog")
            assert made["taca"], made
        assert r._request_id


def test_jpeg():
    with Service() as s:
        r = client(s).images.generate(prompt="a", output_format="jpeg", output_compression=80,
                                      extra_body={"seed": 7, "steps": 2, "size": "96x64"})
        assert r.output_format == "jpeg", r
        jpeg = base64.b64decode(r.data[0].b64_json)
        assert jpeg_size(jpeg) == (96, 64)
        assert jpeg == s.post("image/jpeg", prompt="a", seed=7, steps=2, width=96, height=64,
                              output_compression=80)[2]
        events = list(client(s).images.edit(image=picture(64, 64), prompt="a", stream=True,
                                            output_format="jpeg", partial_images=1,
                                            extra_body={"steps": 20}))
        assert {e.output_format for e in events} == {"jpeg"}, events
        assert all(jpeg_size(base64.b64decode(e.b64_json)) for e in events)
        for fields, param in (({"output_format": "webp"}, "output_format"),
                              ({"output_format": "jpeg", "output_compression": 101}, "output_compression")):
            try:
                client(s).images.generate(prompt="a", **fields)
                raise AssertionError(fields)
            except openai.BadRequestError as e:
                assert e.param == param, e.body


def test_urls():
    with Service() as s:
        r = client(s).images.generate(prompt="a", response_format="url", extra_body={"steps": 1})
        assert r.data[0].b64_json is None and r.data[0].url.startswith(f"http://127.0.0.1:{s.port}/")
        status, headers, png = s.request("GET", r.data[0].url.split(str(s.port), 1)[1])
        assert status == 200 and headers["content-type"] == "image/png" and chunks(png)


def test_stream_with_partial_images():
    with Service("--sse-ping-interval", 0.1, step_ms=60) as s:
        stream = client(s).images.generate(prompt="a", stream=True, partial_images=2,
                                           extra_body={"steps": 12})
        events = list(stream)
        kinds = [e.type for e in events]
        assert kinds == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
        assert [e.partial_image_index for e in events[:2]] == [0, 1]
        for e in events:
            assert chunks(base64.b64decode(e.b64_json)) and e.created_at > 1e9
        assert events[-1].usage.total_tokens > 0 and events[-1].quality == "auto"


def test_error_classes():
    with Service("--max-queue", 0, "--max-batch-images", 1, step_ms=30) as s:
        c = client(s)
        for kind, fields, param in (
                (openai.BadRequestError, {"prompt": ""}, "prompt"),
                (openai.BadRequestError, {"prompt": "a", "size": "100x100"}, "size"),
                (openai.BadRequestError, {"prompt": "a", "background": "transparent"},
                 "background"),
                (openai.NotFoundError, {"prompt": "a", "model": "dall-e-3"}, "model")):
            for stream in (False, True):
                try:
                    c.images.generate(**fields, stream=stream)
                    raise AssertionError(fields)
                except kind as e:
                    assert e.param == param and e.type == "invalid_request_error" and e.code, e.body
                    assert e.request_id
        busy = s.open_raw(prompt="a", steps=100)
        s.until(lambda m: m["taca_requests_running"] == 1)
        try:
            c.images.generate(prompt="a")
            raise AssertionError("not refused")
        except openai.RateLimitError as e:
            assert e.code == "queue_full" and int(e.response.headers["retry-after"]) >= 1
        busy.close()


def test_a_failure_in_the_middle_of_a_stream_is_raised():
    with Service(step_ms=3) as s:
        stream = client(s).images.generate(
            prompt="slow", stream=True, partial_images=3,
            extra_body={"steps": 100, "deadline_ms": 1500, "progress_events": True})
        try:
            seen = [e.type for e in stream]
            raise AssertionError(seen)
        except openai.APIError as e:
            assert "1500 ms" in e.message, e


def test_retries_are_honoured_where_they_help_and_only_there():
    with Service("--max-queue", 0, "--max-batch-images", 1, step_ms=20) as s:
        busy = s.open_raw(prompt="a", steps=40)  # for most of a second
        s.until(lambda m: m["taca_requests_running"] == 1)
        began = time.monotonic()
        r = client(s, max_retries=5).images.generate(prompt="b", extra_body={"steps": 1})
        assert len(r.data) == 1 and time.monotonic() - began > 0.5
        busy.close()
        c, headers = client(s, max_retries=5), {"Idempotency-Key": "k"}
        c.images.generate(prompt="b", extra_headers=headers, extra_body={"steps": 1})
        before = s.metrics()['taca_rejected_total{reason="conflict"}']
        try:
            c.images.generate(prompt="c", extra_headers=headers)
            raise AssertionError("not refused")
        except openai.ConflictError as e:
            assert e.code == "idempotency_conflict"
        assert s.metrics()['taca_rejected_total{reason="conflict"}'] == before + 1
        done = s.metrics()["taca_images_total"]
        c.images.generate(prompt="b", extra_headers=headers, extra_body={"steps": 1})
        assert s.metrics()["taca_images_total"] == done


def test_leaving_a_stream_cancels():
    with Service(step_ms=30) as s:
        stream = client(s).images.generate(prompt="a", stream=True, partial_images=3,
                                           extra_body={"steps": 100})
        with stream:
            for event in stream:
                assert event.type == "image_generation.partial_image"
                break
        m = s.until(lambda m: m["taca_requests_running"] == 0, 3)
        assert m['taca_cancelled_total{reason="disconnect"}'] == 1


def holes(w, h):
    """A mask as they want it: clear where to paint, here in the left half."""
    row = b"\0" + b"\0\0" * (w // 2) + b"\0\xff" * (w - w // 2)
    return png_of(struct.pack(">IIBBBBB", w, h, 8, 4, 0, 0, 0), zlib.compress(row * h))


def white_left(w, h):
    row = b"\0" + b"\xff" * (w // 2) + b"\0" * (w - w // 2)
    return png_of(struct.pack(">IIBBBBB", w, h, 8, 0, 0, 0, 0), zlib.compress(row * h))


def test_edit():
    with Service() as s:
        c, start, mask = client(s), picture(96, 64), holes(96, 64)
        for fields in ({"image": start}, {"image": [("start.png", start, "image/png")]}):
            r = c.images.edit(**fields, prompt="a cat", mask=("m.png", mask), n=2, quality="low",
                              input_fidelity="high", extra_body={"seed": 7, "taca": {"scale": 1.5}})
            assert len(r.data) == 2 and r.size == "96x64" and r.quality == "low", r
            assert r.usage.input_tokens_details.image_tokens == 24, r.usage
            native = [s.png(prompt="a cat", seed=7 + i, steps=4, taca={"scale": 1.5},
                            image=base64.b64encode(start).decode(),
                            mask=base64.b64encode(white_left(96, 64)).decode()) for i in range(2)]
            assert [base64.b64decode(d.b64_json) for d in r.data] == native
        raw = c.images.with_raw_response.edit(image=start, prompt="a", input_fidelity="high",
                                              size="64x64", user="me")
        assert raw.headers["x-ignored-params"] == "input_fidelity", raw.headers
        assert raw.parse().size == "64x64"


def test_edit_streams():
    with Service(step_ms=60) as s:
        events = list(client(s).images.edit(image=picture(64, 64), prompt="a", stream=True,
                                            partial_images=2, extra_body={"steps": 20}))
        kinds = [e.type for e in events]
        assert kinds == ["image_edit.partial_image"] * 2 + ["image_edit.completed"], kinds
        assert chunks(base64.b64decode(events[-1].b64_json)) and events[-1].usage.total_tokens > 0


def test_edit_errors_name_the_part():
    with Service("--max-image-pixels", 10000) as s:
        c = client(s)
        for fields, param, code, says in (
                ({"image": b"no picture"}, "image", "invalid_image", "PNG or JPEG"),
                ({"image": picture(128, 128)}, "image", "image_too_large", "at most 10000"),
                ({"image": picture(64, 64), "mask": picture(64, 64)}, "mask", "invalid_mask",
                 "without transparency"),
                ({"image": picture(64, 64), "mask": holes(64, 96)}, "mask", "invalid_mask", "64 x 96"),
                ({"image": [picture(64, 64)] * 3}, "image", "invalid_image", "more than one image: 3 came"),
                ({"image": picture(64, 64), "background": "transparent"}, "background",
                 "invalid_background", "opaque"),
                ({"image": picture(64, 64), "size": "100x100"}, "size", "size_not_multiple", "multiple")):
            try:
                c.images.edit(prompt="a", **fields)
                raise AssertionError(fields)
            except openai.APIStatusError as e:
                assert e.status_code == (413 if code == "image_too_large" else 400), e
                assert (e.param, e.code) == (param, code) and says in e.message, e.body


def test_an_edit_that_is_retried_is_the_same_though_its_boundary_is_not():
    with Service() as s:
        c, key, start = client(s), {"Idempotency-Key": "e"}, picture(64, 64)
        first = c.images.edit(image=start, prompt="a", extra_headers=key)
        done = s.metrics()["taca_images_total"]
        raw = c.images.with_raw_response.edit(image=start, prompt="a", extra_headers=key)
        assert raw.headers["idempotent-replayed"] == "true"
        assert raw.parse().data[0].b64_json == first.data[0].b64_json
        assert s.metrics()["taca_images_total"] == done
        try:
            c.images.edit(image=picture(64, 64, 1), prompt="a", extra_headers=key)
            raise AssertionError("not refused")
        except openai.ConflictError as e:
            assert e.code == "idempotency_conflict"


def test_models_are_listed():
    with Service() as s:
        assert [m.id for m in client(s).models.list()] == ["fake"]


if __name__ == "__main__":
    sys.exit(fake_service.run(globals()))
