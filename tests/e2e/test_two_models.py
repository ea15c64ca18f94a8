"""test_two_models.py - two real models on two devices in one service: whichever worker makes a picture, it is
the command line's, also while others are made, a worker is killed, and a model is loaded and unloaded."""

import concurrent.futures
import http.client
import json
import os
import re
import signal
import subprocess
import tempfile
import time

from e2e import ROOT, TACA, Service, check, equal, main, png_pixels

DEMO = os.path.join(ROOT, "models", "demo")
TINY = os.path.join(ROOT, "tests", "golden", "pipelines", "sd35_tiny")
PATHS = {"demo": DEMO, "tiny": TINY}
PROMPTS = ["a red cube to the left of a blue ball", "two green cones", "a purple ring on grass"]


def request(k):
    return {"model": ("demo", "tiny")[k % 2], "prompt": PROMPTS[k % 3], "seed": 100 + k, "steps": 2 + k % 3,
            "width": 64, "height": 64}


def by_command_line(body):
    """Its pixels."""
    argv = [TACA, "generate", body["prompt"], "--model", PATHS[body["model"]], "--seed", str(body["seed"]),
            "--steps", str(body["steps"]), "--width", "64", "--height", "64", "--deterministic", "-q", "-o", "-"]
    return png_pixels(subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout)[2]


def serve(*flags):
    return Service("--model", "demo=" + DEMO, "--device", "cpu", "--device", "cpu", "--deterministic", *flags)


def pixels(s, body):
    status, headers, png = s.post(body, "image/png")
    if equal(status, 200, "a picture") and equal(headers["X-Model"], body["model"], "X-Model"):
        return png_pixels(png)[2]
    return None


def workers(s):
    with open(f"/proc/{s.process.pid}/task/{s.process.pid}/children", encoding="ascii") as f:
        return [int(pid) for pid in f.read().split()]


def test_each_picture_is_the_command_lines_whoever_makes_it():
    asked = [request(k) for k in range(10)]
    want = [by_command_line(a) for a in asked]
    with serve("--model", "tiny=" + TINY) as s, concurrent.futures.ThreadPoolExecutor(10) as pool:
        check(len(workers(s)) == 4, "a worker for each device and model", str(workers(s)))
        for pid in workers(s):  # they share the threads of the machine
            with open(f"/proc/{pid}/cmdline", encoding="ascii") as f:
                check("--share\0002" in f.read(), "two CPUs share the threads")
        for round_ in ("together", "with a worker killed"):
            pending = [pool.submit(pixels, s, a) for a in asked]
            if round_ != "together":
                os.kill(workers(s)[0], signal.SIGKILL)
            for k, p in enumerate(pending):
                check(p.result() == want[k], f"request {k} {round_} is the command line's", str(asked[k]))
        listed = json.loads(s.get("/v1/models")[2])["data"]
        equal([m["id"] for m in listed], ["demo", "tiny"], "both are listed")


def admin(port, path, body):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        c.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        r = c.getresponse()
        r.read()
        return r.status
    finally:
        c.close()


def until_state(s, model, state):
    for _ in range(600):
        listed = {m["id"]: m for m in json.loads(s.get("/v1/models")[2])["data"]}
        if listed.get(model, {}).get("state") == state:
            return
        time.sleep(0.05)
    check(False, f"{model} becomes {state}", str(listed))


def test_a_real_model_is_loaded_beside_another_and_goes_again():
    body = request(1)
    want = by_command_line(body)
    with serve("--admin-listen", "127.0.0.1:0", "--log-format", "json") as s:
        port = int(re.search(r'"admin_port":(\d+)', s.log_text()).group(1))
        for _ in range(2):
            equal(admin(port, "/v1/models/load", {"model": "tiny", "path": TINY}), 202, "loading")
            until_state(s, "tiny", "ready")
            check(pixels(s, body) == want, "the loaded model's picture is the command line's")
            equal(admin(port, "/v1/models/unload", {"model": "tiny"}), 202, "unloading")
            until_state(s, "tiny", "unloaded")
            equal(s.post(body)[0], 404, "it is gone")
        with tempfile.TemporaryDirectory() as nothing:
            admin(port, "/v1/models/load", {"model": "other", "path": nothing})
            until_state(s, "other", "failed")
        equal(s.post(request(0), "image/png")[0], 200, "the other model never noticed")


if __name__ == "__main__":
    main()
