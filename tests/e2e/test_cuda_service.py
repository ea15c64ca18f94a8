"""test_cuda_service.py - the service on the CUDA backend, whose device is a make-believe one (TACA_CUDA_MODULE):
the command line's pictures over HTTP, two kinds of device beside each other, a device that is lost and one that was
never there."""

import base64
import os
import subprocess
import tempfile
import threading
import time

from e2e import TACA, Service, check, main, png_pixels

SIZE = dict(width=64, height=64, steps=2, metadata=False)
PROMPT = "a red cube to the left of a blue ball"


def picture(s, seed=7, **more):
    status, _, body = s.post({"prompt": PROMPT, "seed": seed, **SIZE, **more}, accept="image/png")
    check(status == 200, f"picture {seed}", f"{status} {body[:200]}")
    return png_pixels(body)[:3] if status == 200 else None


def local(device, seed=7, *more):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "x.png")
        subprocess.run([TACA, "generate", PROMPT, "--seed", str(seed), "--size", "64x64", "--steps", "2", "--device",
                        device, "-q", "-o", path, *more], check=True)
        with open(path, "rb") as f:
            return png_pixels(f.read())[:3]


def test_pictures_are_those_of_the_command_line():
    with Service("--device", "cuda") as s:
        check(picture(s) == local("cuda"), "the same pixels")
        used, total = s.metric("taca_gpu_memory_used_bytes"), s.metric("taca_gpu_memory_total_bytes")
        arena = s.metric("taca_arena_peak_bytes")
        check(0 < arena < used <= total, "the device's memory is told", f"{arena} {used} {total}")
        # begun half way, and known to be so while it is being encoded
        with tempfile.NamedTemporaryFile(suffix=".png") as f:
            f.write(s.post({"prompt": "a cone", "seed": 1, **SIZE}, accept="image/png")[2])
            f.flush()
            with open(f.name, "rb") as start:
                image = base64.b64encode(start.read()).decode()
            check(picture(s, image=image, strength=0.5) == local("cuda", 7, "--image", f.name, "--strength", "0.5"),
                  "the same pixels from a picture")
        check(b"host executor" in s.get("/v1/models")[2] or b"cuda" in s.get("/readyz")[2], "the device is named")


def test_a_picture_is_opened_and_decoded_beside_the_steps_of_another():
    with Service("--device", "cuda", "--max-backlog-seconds", "0") as s:
        want = picture(s)
        steps = s.metric("taca_steps_total")
        check(s.metric("taca_forwards_beside_total") == 0, "nothing is beside a picture alone")
        long = {"prompt": PROMPT, "seed": 1, **SIZE, "steps": 8}
        answer = []
        other = threading.Thread(
            target=lambda: answer.append(s.post(long, accept="image/png", timeout=900)[0]))
        other.start()
        while s.metric("taca_steps_total") == steps and other.is_alive():
            time.sleep(0.05)
        check(picture(s) == want, "the same pixels beside another picture's steps")
        beside = s.metric("taca_forwards_beside_total")
        check(beside >= 2, "one step beside its opening, one beside its decoding", beside)
        other.join()
        check(answer == [200], "the other picture", answer)


def test_a_gpu_and_a_cpu_serve_one_model():
    with Service("--device", "cuda", "--device", "cpu") as s:
        own = {"cuda": local("cuda"), "cpu": local("cpu")}
        for _ in range(3):
            check(picture(s) in own.values(), "one of the two devices made it")


def test_a_lost_device_is_replaced_and_no_picture_is_lost():
    with Service("--device", "cuda", env={"TACA_CUDA_HOST_FAULT": "lost_at=7000"}) as s:
        want, n = local("cuda"), 0
        while n < 30 and s.metric("taca_worker_restarts_total") == 0:
            check(picture(s) == want, f"picture {n}")
            n += 1
        check(s.metric("taca_worker_restarts_total") > 0, "the device was lost within 30 pictures")
        check(picture(s) == want, "the picture after it")


def test_without_a_device_the_cpu_does_it_and_the_log_says_so():
    with Service(env={"TACA_CUDA_HOST_FAULT": "devices=0"}) as s:
        check(picture(s) == local("cpu"), "the CPU's picture")
        check("no CUDA device" in s.log_text(), "the log says what is missing")


if __name__ == "__main__":
    main()
