#!/usr/bin/env python3
"""The `webuiapi` client of AUTOMATIC1111's API against the service with a make-believe engine.

usage: a1111_test.py TACA_FAKE [SUBSTRING]   (exits 77 when the client is not installed)"""

import base64
import concurrent.futures
import hashlib
import io
import json
import struct
import sys
import tempfile
import time
import zlib

try:
    import webuiapi
    from PIL import Image
except ImportError:
    print("skipped: the Python package webuiapi is not here; tests/server/tools.sh installs it")
    sys.exit(77)

import fake_service
from fake_service import picture

PATIENCE = fake_service.PATIENCE


class Service(fake_service.Service):
    def __init__(self, *args, **options):
        super().__init__("--enable-a1111", *args, **options)


def client(s, **options):
    return webuiapi.WebUIApi(host="127.0.0.1", port=s.port, **options)


def post(s, path, body, **headers):
    status, headers, body = s.request("POST", "/sdapi/v1/" + path, json.dumps(body),
                                      {"Content-Type": "application/json", **headers})
    return status, headers, json.loads(body)


def pixels(image):
    return image.size, image.convert("RGB").tobytes()


def native(s, **fields):
    return pixels(Image.open(io.BytesIO(s.png(**fields))))


def test_txt2img_gives_what_our_own_route_gives():
    with Service() as s:
        r = client(s).txt2img(prompt="a cat", negative_prompt="dog", seed=7, steps=3, width=96,
                              height=64, cfg_scale=5, batch_size=2, n_iter=2, sampler_name="DPM++ 2M",
                              scheduler="Karras")
        assert len(r.images) == 4 and r.info["all_seeds"] == [7, 8, 9, 10], r.info
        for i, image in enumerate(r.images):
            assert pixels(image) == native(s, prompt="a cat", negative_prompt="dog", seed=7 + i,
                                           steps=3, width=96, height=64, cfg_scale=5,
                                           sampler="dpmpp_2m", schedule="karras")
            assert image.info["parameters"] == r.info["infotexts"][i]
        text = r.info["infotexts"][1]
        assert text.startswith("a cat\nNegative prompt: dog\nSteps: 3, Sampler: DPM++ 2M") and "Seed: 8" in text
        assert r.parameters["batch_size"] == 2 and r.parameters["prompt"] == "a cat"
        assert r.info["sampler_name"] == "DPM++ 2M" and r.info["sd_model_name"] == "fake"
        assert isinstance(r.json["info"], str), "JSON inside a string"


def test_img2img_and_masks():
    with Service() as s:
        c = client(s)
        start = picture(96, 64)
        mask = picture(96, 64, 3)
        as_image = [Image.open(io.BytesIO(b)) for b in (start, mask)]
        # their client encodes pictures again; pixels are the same
        plain = dict(prompt="x", seed=3, steps=8, image=base64.b64encode(start).decode())
        r = c.img2img(images=[as_image[0]], prompt="x", seed=3, steps=8, width=96, height=64,
                      cfg_scale=4.5, sampler_name="Euler", denoising_strength=0.5)
        assert pixels(r.image) == native(s, **plain, strength=0.5)
        assert r.info["denoising_strength"] == 0.5 and r.parameters["init_images"] is None
        kept = r.image
        r = c.img2img(images=[as_image[0]], mask_image=as_image[1], prompt="x", seed=3, steps=8,
                      width=96, height=64, cfg_scale=4.5, sampler_name="Euler")
        want = native(s, **plain, strength=0.75, mask=base64.b64encode(mask).decode())
        assert pixels(r.image) == want != pixels(kept)
        r = c.img2img(images=[as_image[0]], mask_image=as_image[1], prompt="x", seed=3, steps=8,
                      width=96, height=64, cfg_scale=4.5, sampler_name="Euler", inpainting_mask_invert=1)
        assert pixels(r.image) != want
        status, _, body = post(s, "img2img", {"prompt": "x"})
        assert status == 400 and body["error"]["param"] == "init_images", body


def test_lists_and_options():
    with Service("--lora", "style=/dev/null") as s:
        c = client(s)
        assert c.get_scripts() == {"txt2img": [], "img2img": []}
        assert c.util_get_model_names() == ["fake"] and c.util_get_current_model() == "fake"
        assert c.util_get_sampler_names() == ["DPM++ 2M", "Euler", "Euler a", "Heun", "LCM"]
        assert "karras" in c.util_get_scheduler_names() and "automatic" in c.util_get_scheduler_names()
        assert [lora["name"] for lora in c.get_loras()] == ["style"]
        assert "/" not in json.dumps(c.get_loras()), "no path"
        assert c.get_upscalers()[0]["name"] == "None"
        for empty in (c.get_sd_vae(), c.get_latent_upscale_modes(), c.get_hypernetworks(),
                      c.get_face_restorers(), c.get_prompt_styles()):
            assert empty == []
        assert c.get_embeddings() == {"loaded": {}, "skipped": {}}
        assert c.get_cmd_flags() and c.refresh_checkpoints() == {}
        c.util_set_model("fake")
        status, headers, _ = post(s, "options", {"sd_model_checkpoint": "fake", "eta": 1})
        assert status == 200 and headers["x-ignored-params"] == "eta"
        status, _, body = post(s, "options", {"sd_model_checkpoint": "other"})
        assert status == 404 and body["error"]["code"] == "model_not_found", body
        for name in c.util_get_sampler_names():
            assert c.txt2img(prompt="x", steps=1, width=64, height=64, sampler_name=name).info["notes"] == []


def test_samplers_of_others_are_mapped_and_said():
    with Service() as s:
        c = client(s)  # its default is "Euler a"
        r = c.txt2img(prompt="x", steps=1, width=64, height=64)
        assert r.info["sampler_name"] == "Euler a" and r.info["notes"] == []
        r = c.txt2img(prompt="x", steps=1, width=64, height=64, sampler_name="DPM++ SDE Karras",
                      scheduler="KL Optimal")
        assert r.info["sampler_name"] == "DPM++ 2M"
        assert r.info["notes"] == ["sampler DPM++ SDE Karras is not here: dpmpp_2m was used",
                                   "scheduler KL Optimal is not here: default was used"], r.info["notes"]
        status, _, body = post(s, "txt2img", {"prompt": "x", "sampler_name": "Magic"})
        assert status == 400 and "one of /sdapi/v1/samplers" in body["error"]["message"], body


def test_adapters_of_the_prompt():
    with Service("--lora", "style=/dev/null") as s:
        r = client(s).txt2img(prompt="a cat <lora:style:0.5>, red", steps=1, width=64, height=64)
        assert r.info["prompt"] == "a cat , red"
        assert "<lora:style:0.5>" in r.info["infotexts"][0]
        status, _, body = post(s, "txt2img", {"prompt": "a <lora:none:1>"})
        assert status == 404 and body["error"]["code"] == "lora_not_found", body
        for text in ("<lora:> <lora:style", "<lora:style:-inf>", "<lora:style:1e999>"):
            status, _, body = post(s, "txt2img", {"prompt": "a " + text, "steps": 1, "width": 64, "height": 64})
            assert status == 200 and body["images"], body


def test_what_cannot_be_done_is_refused_and_what_does_not_matter_is_told():
    with Service() as s:
        for field, value in (("enable_hr", True), ("restore_faces", True), ("tiling", True),
                             ("styles", ["a"]), ("script_name", "X/Y/Z plot"), ("subseed_strength", 0.1),
                             ("alwayson_scripts", {"ControlNet": {"args": []}}), ("steps", 1000),
                             ("batch_size", 99), ("width", 100000), ("denoising_strength", "a"),
                             ("scheduler", "none"), ("send_images", 1)):
            path = "img2img" if field == "denoising_strength" else "txt2img"
            status, _, body = post(s, path, {"prompt": "x", field: value})
            assert status == 400 and body["error"]["param"] == field, (field, status, body)
        status, _, body = post(s, "txt2img", {"prompt": "x", "batch_size": 4, "n_iter": 4})
        assert status == 400 and "at most 8, got 16" in body["error"]["message"], body
        status, headers, body = post(s, "txt2img", {
            "prompt": "x", "steps": 2, "width": 500, "height": 64, "send_images": False, "eta": 0.5,
            "foo": 1, "s_noise": 1.0, "taca": True, "stream": True, "enable_hr": False, "styles": [],
            "override_settings": {"sd_model_checkpoint": "fake", "eta_noise_seed_delta": 31337}})
        assert status == 200 and body["images"] == [], body
        assert headers["x-ignored-params"] == "eta, foo, stream, eta_noise_seed_delta", headers
        info = json.loads(body["info"])
        assert info["width"] == 496 and "TACA: 1.2" in info["infotexts"][0], info


def test_progress_and_interrupt_are_the_callers_own():
    with tempfile.NamedTemporaryFile("w", suffix=".keys") as keys:
        for name in ("me", "you"):
            keys.write(f"{name}:{hashlib.sha256(name.encode()).hexdigest()}\n")
        keys.flush()
        with Service("--api-key-file", keys.name, step_ms=40) as s:
            me, you = (client(s, username="any", password=p) for p in ("me", "you"))
            idle = me.get_progress()
            assert idle["progress"] == 0 and idle["state"]["job_count"] == 0, idle
            me.util_wait_for_ready()
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                mine = pool.submit(me.txt2img, prompt="x", steps=100, width=64, height=64)
                end = time.monotonic() + 10 * PATIENCE
                while (p := me.get_progress())["progress"] < 0.03:
                    assert time.monotonic() < end, p
                    time.sleep(0.02)
                state = p["state"]
                assert 0 < p["progress"] < 1 and p["eta_relative"] > 0 and state["job_count"] == 1, p
                assert 0 < state["sampling_step"] < state["sampling_steps"] == 100, p
                assert you.get_progress()["state"]["job_count"] == 0
                assert you.interrupt() == {} and me.get_progress()["state"]["job_count"] == 1
                assert me.interrupt() == {}
                try:
                    mine.result()
                    raise AssertionError("not interrupted")
                except RuntimeError as e:
                    assert e.args[0] == 409 and "cancelled" in e.args[1], e
            assert me.get_progress()["state"]["job_count"] == 0
            for headers in ({}, {"Authorization": "Basic " + base64.b64encode(b"me:wrong").decode()},
                            {"Authorization": "Basic !"}):
                status, got, body = s.request("GET", "/sdapi/v1/samplers", None, headers)
                assert status == 401 and json.loads(body)["error"]["code"] == "invalid_api_key"
                assert "Basic" in got["www-authenticate"]
            assert s.request("GET", "/v1/models", None,
                             {"Authorization": "Basic " + base64.b64encode(b"me:me").decode()})[0] == 401


def test_a_picture_tells_how_it_was_made():
    with Service() as s:
        c = client(s)
        image = c.txt2img(prompt="a cat", steps=1, width=64, height=64, seed=4).image
        # b64_img of their client drops text chunks, so the file goes as it came
        status, _, body = post(s, "png-info", {"image": base64.b64encode(s.png(
            prompt="a cat", steps=1, width=64, height=64, seed=4)).decode()})
        assert status == 200 and body["info"].startswith("a cat\nSteps: 1"), body
        assert body["items"]["parameters"] == body["info"]
        assert c.png_info(image).info is not None
        # of a JPEG, too, which stands here before another program's eyes
        asked = {"prompt": "a c\u00e4t", "steps": 1, "width": 96, "height": 64, "seed": 4}
        jpeg = s.post("image/jpeg", **asked)[2]
        status, _, body = post(s, "png-info", {"image": base64.b64encode(jpeg).decode()})
        assert status == 200 and body["info"].startswith("a c\u00e4t\nSteps: 1"), body
        seen = Image.open(io.BytesIO(jpeg))
        assert (seen.format, seen.mode, seen.size) == ("JPEG", "RGB", (96, 64))
        assert json.loads(seen.info["comment"].removeprefix(b"taca: "))["seed"] == 4
        comment = seen.getexif().get_ifd(0x8769)[0x9286]
        assert comment == b"UNICODE\0" + body["info"].encode("utf-16-be"), comment
        # 50 dB is what rounding leaves (tests/api/test_jpeg_write.c)
        pairs = zip(seen.tobytes(), native(s, **asked)[1])
        assert sum((a - b) ** 2 for a, b in pairs) / (3 * 96 * 64) < 255 ** 2 / 10 ** 4.9
        status, _, body = post(s, "png-info", {"image": "aGVsbG8="})
        assert status == 400 and body["error"]["param"] == "image", body
        png = s.png(prompt="a cat", steps=1, width=64, height=64)
        for length, expect in ((400000, 200), (700000, 400)):  # it is told twice, in 1 MiB
            text = b"tEXtparameters\0" + b"x" * length
            chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
            status, _, body = post(s, "png-info", {"image": base64.b64encode(png[:33] + chunk + png[33:]).decode()})
            assert status == expect, (length, status)
            assert len(body["info"]) == length if status == 200 else body["error"]["param"] == "image"


def test_pictures_are_pngs_unless_our_own_field_says_otherwise():
    with Service() as s:
        asked = {"prompt": "a", "steps": 1, "width": 64, "height": 64, "seed": 4}
        for more, kind in (({"override_settings": {"samples_format": "jpg"}}, b"\x89PNG"),
                           ({"output_format": "jpeg", "output_compression": 50}, b"\xff\xd8\xff")):
            status, headers, body = post(s, "txt2img", {**asked, **more}, Accept="image/jpeg")
            assert status == 200 and base64.b64decode(body["images"][0]).startswith(kind), more
            assert headers.get("x-ignored-params") == ("samples_format" if kind[1:2] == b"P" else None)


def test_without_the_flag_there_is_nothing():
    with fake_service.Service() as s:
        for method, path in (("POST", "txt2img"), ("GET", "samplers"), ("GET", "progress")):
            assert s.request(method, "/sdapi/v1/" + path)[0] == 404
        paths = json.loads(s.request("GET", "/openapi.json")[2])["paths"]
        assert len(paths) > 10 and not [p for p in paths if p.startswith("/sdapi")]


if __name__ == "__main__":
    sys.exit(fake_service.run(globals()))
