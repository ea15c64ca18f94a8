"""test_model_service.py - the service with the real engine and models/demo: pictures under load, hang-ups,
a killed worker, and the same picture from the command line."""

import base64
import json
import os
import random
import signal
import socket
import subprocess
import tempfile
import threading
import time

from e2e import ROOT, SLOW, TACA, Service, check, equal, events, main, png_pixels

PROMPTS = ["a red cube to the left of a blue ball", "two small cyan cubes on a wooden table",
           "a purple pyramid behind a white cube", "a yellow ring on grass", "four small red balls"]


def mixed(k):
    rng = random.Random(k)
    body = {"prompt": rng.choice(PROMPTS), "seed": 1000 + k, "width": rng.choice([64, 80, 96, 128]),
            "height": rng.choice([64, 96, 112]), "steps": rng.randint(2, 7),
            "cfg_scale": rng.choice([1, 3, 4.5])}
    if rng.random() < 0.5:
        body["taca"] = {"scale": rng.choice([1.2, 1.5]), "fraction": rng.choice([0.1, 0.5])}
    return body


def test_many_mixed_requests_at_once_give_what_each_gives_alone():
    many = 16 if SLOW else 50
    # the other policies join requests only while that pays, which depends on the machine
    with Service("--deterministic", "--max-queue", "100", "--policy", "fill") as s:
        together, lock = {}, threading.Lock()

        def one(k):
            status, _, body = s.post(mixed(k), "image/png")
            with lock:
                together[k] = (status, body)

        threads = [threading.Thread(target=one, args=(k,)) for k in range(many)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        steps = s.metric("taca_steps_total")
        joint = s.metric("taca_step_batch_images_sum") / max(1, s.metric("taca_step_batch_images_count"))
        print(f"    {steps:.0f} steps, {joint:.2f} sequences a forward on average")
        check(joint > 2, "requests shared forwards", f"{joint}")
        for k in range(many):
            status, _, alone = s.post(mixed(k), "image/png")
            equal(status, 200, f"request {k} alone")
            equal(together[k][0], 200, f"request {k} in the crowd")
            check(together[k][1] == alone, f"request {k} is byte for byte the same", str(mixed(k)))
        equal(s.metric("taca_step_padding_tokens_total"), 0, "no padding")


def test_the_command_line_makes_the_same_picture():
    with Service() as s, tempfile.TemporaryDirectory() as d:
        out = os.path.join(d, "out.png")
        status, headers, body = s.post({"prompt": PROMPTS[0], "seed": 7}, "image/png")
        equal(status, 200, "PNG over HTTP")
        equal(headers["X-Seed"], "7", "X-Seed")
        subprocess.run([TACA, "generate", PROMPTS[0], "--seed", "7", "-o", out, "-q"], check=True)
        w, h, served, text = png_pixels(body)
        equal((w, h), (128, 128), "the demo's size")
        _, _, local, local_text = png_pixels(open(out, "rb").read())
        check(served == local, "the same pixels")
        equal(text, local_text, "the same parameters inside")
        check("Seed: 7" in text["parameters"], "A1111 parameters", text["parameters"])
        equal(json.loads(text["taca"])["seed"], 7, "our parameters")
        piped = subprocess.run([TACA, "generate", PROMPTS[0], "--seed", "7"], stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, check=True).stdout
        check(piped == open(out, "rb").read(), "a pipe gets the PNG")


def test_a_picture_to_start_from_gives_what_the_command_line_gives():
    """From a picture, from a picture with a mask, and at the ends of strength: bit for bit."""
    with Service("--deterministic") as s, tempfile.TemporaryDirectory() as d:
        def path(name):
            return os.path.join(d, name + ".png")

        def cli(name, prompt, *flags):
            subprocess.run([TACA, "generate", prompt, "--deterministic", "-q", "-o", path(name), *flags],
                           check=True)
            return open(path(name), "rb").read()

        def text(png):
            return base64.b64encode(png).decode()

        start = cli("start", PROMPTS[0], "--size", "96x80", "--seed", "5", "--steps", "6")
        mask = cli("mask", PROMPTS[2], "--size", "96x80", "--seed", "6", "--steps", "6")
        for name, fields, flags in (
                ("usual", {}, ()),
                ("far", {"strength": 0.9}, ("--strength", "0.9")),
                ("all of it", {"strength": 1}, ("--strength", "1")),
                ("none", {"strength": 0}, ("--strength", "0")),
                ("masked", {"mask": text(mask)}, ("--mask", path("mask"))),
                ("heun", {"mask": text(mask), "sampler": "heun", "strength": 0.7},
                 ("--mask", path("mask"), "--sampler", "heun", "--strength", "0.7"))):
            status, _, body = s.post({"prompt": PROMPTS[3], "seed": 9, "steps": 6, "image": text(start),
                                      **fields}, "image/png")
            equal(status, 200, f"{name} over HTTP")
            local = cli("out", PROMPTS[3], "--seed", "9", "--steps", "6", "--image", path("start"), *flags)
            check(status == 200 and png_pixels(body) == png_pixels(local), f"{name}: the same picture", "")
        status, _, body = s.post({"prompt": "x", "steps": 4, "n": 3, "seed": 2,
                                  "image": "data:image/png;base64," + text(start)})
        many = json.loads(body)
        equal([i["width"] for i in many["images"]], [96] * 3, "three of its size")
        one = s.post({"prompt": "x", "steps": 4, "seed": 3, "image": text(start)}, "image/png")[2]
        equal(png_pixels(base64.b64decode(many["images"][1]["b64_json"]))[2], png_pixels(one)[2],
              "the second of three is its own request")
        _, _, body = s.post({"prompt": "x", "steps": 4, "size": "64x64", "image": text(start)})
        equal([w["code"] for w in json.loads(body)["warnings"]], ["image_scaled"], "scaling is said")


def test_a_red_cube_is_left_of_a_blue_ball():
    """Not a golden: somebody who looks at the picture would say so too."""
    if SLOW:
        print("    skipped: no sanitizer looks at pictures")
        return
    with Service() as s:
        right = 0
        for seed in range(7, 15):
            _, _, rows, _ = png_pixels(s.post({"prompt": PROMPTS[0], "seed": seed}, "image/png")[2])
            red, blue = [], []
            for row in rows:
                for x in range(128):
                    r, g, b = row[3 * x : 3 * x + 3]
                    if r > 110 and r > 1.8 * g and r > 1.8 * b:
                        red.append(x)
                    if b > 90 and b > 1.5 * r and b > 1.25 * g:
                        blue.append(x)
            if len(red) > 150 and len(blue) > 150 and sum(red) / len(red) < sum(blue) / len(blue):
                right += 1
        print(f"    {right} of 8 seeds")
        check(right >= 7, "red left of blue", f"{right} of 8")


def test_events_tell_the_whole_story():
    with Service() as s:
        c = s.connect()
        c.request("POST", "/v1/generate",
                  json.dumps({"prompt": PROMPTS[1], "seed": 3, "steps": 6, "previews": 3, "n": 2}),
                  {"Content-Type": "application/json", "Accept": "text/event-stream"})
        r = c.getresponse()
        equal(r.headers["Content-Type"].split(";")[0], "text/event-stream", "content type")
        seen = list(events(r))
        names = [n for n, _ in seen]
        equal(names[:2], ["queued", "started"], "how it begins")
        equal(names[-1], "completed", "how it ends")
        equal(sorted(d["index"] for n, d in seen if n == "image"), [0, 1], "both images")
        check(names.count("preview") >= 3, "previews", str(names))
        ids = [d["_id"] for _, d in seen]
        check(ids == sorted(set(ids)), "ids rise", str(ids))
        last = max(d["step"] for n, d in seen if n == "progress")
        equal(last, 6, "progress to the end")
        for n, d in seen:
            if n == "image":
                png = base64.b64decode(d["b64_json"])
                alone = s.post({"prompt": PROMPTS[1], "seed": 3 + d["index"], "steps": 6}, "image/png")[2]
                equal(png_pixels(png)[2], png_pixels(alone)[2], f"image {d['index']} equals its own request")


def test_hanging_up_in_the_middle_frees_the_worker_within_a_step():
    with Service() as s:
        side = 192 if SLOW else 512
        body = json.dumps({"prompt": PROMPTS[0], "steps": 100, "width": side, "height": side, "cfg_scale": 4})
        head = (f"POST /v1/generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n{body}")
        c = socket.create_connection(("127.0.0.1", s.port))
        c.sendall(head.encode())
        deadline = time.monotonic() + 60
        while s.metric("taca_steps_total") < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        equal(s.metric("taca_requests_running"), 1, "it runs")
        per_step = s.metric("taca_step_duration_seconds_sum") / s.metric("taca_step_duration_seconds_count")
        left, before = time.monotonic(), s.metric("taca_steps_total")
        c.close()
        while s.metric("taca_requests_running") > 0 and time.monotonic() < left + 30:
            time.sleep(0.005)
        freed = time.monotonic() - left
        print(f"    a step takes {per_step:.3f} s, freed after {freed:.3f} s")
        check(freed < 2 * per_step + 0.3, "freed within a step", f"{freed:.3f} s")
        check(s.metric("taca_steps_total") <= before + 2, "no further steps")
        equal(s.metric("taca_cancelled_total"), 1, "counted as cancelled")
        equal(s.post({"prompt": PROMPTS[1], "steps": 2}, "image/png")[0], 200, "the next request is served")


def test_a_killed_worker_is_replaced_and_its_requests_give_the_same_bytes():
    steps, side = (12, 96) if SLOW else (40, 192)
    with Service("--deterministic") as s:
        bodies = [{"prompt": PROMPTS[k % 5], "seed": k, "steps": steps, "width": side, "height": side}
                  for k in range(4)]
        wanted = [s.post(b, "image/png")[2] for b in bodies]
        got = [None] * 4

        def one(k):
            got[k] = s.post(bodies[k], "image/png")

        threads = [threading.Thread(target=one, args=(k,)) for k in range(4)]
        before = s.metric("taca_steps_total")
        for t in threads:
            t.start()
        while s.metric("taca_steps_total") < before + 3:
            time.sleep(0.01)
        pids = s.workers()
        equal(len(pids), 1, "one worker")
        os.kill(pids[0], signal.SIGKILL)
        for t in threads:
            t.join()
        for k in range(4):
            equal(got[k][0], 200, f"request {k} survived")
            check(got[k][2] == wanted[k], f"request {k} has the same bytes")
        equal(s.metric("taca_worker_restarts_total"), 1, "one restart counted")
        check(s.workers() != pids, "a new worker")
        equal(s.get("/readyz")[0], 200, "ready again")


def test_ctrl_c_stops_the_command_line_cleanly():
    with tempfile.TemporaryDirectory() as d:
        out = os.path.join(d, "x.png")
        p = subprocess.Popen([TACA, "generate", "a red cube", "--size", "512x512", "--steps", "200", "-o", out],
                             stderr=subprocess.PIPE, text=True)
        time.sleep(1.5)
        p.send_signal(signal.SIGINT)
        err = p.communicate(timeout=30)[1]
        equal(p.returncode, 3, "exit code")
        check("cancelled" in err, "says so", err)
        equal(os.listdir(d), [], "no partial file")


def test_mistakes_on_the_command_line_name_the_thing():
    for argv, code, words in [
        (["generate", "x", "--size", "100x100"], 2, "multiple of 16"),
        (["generate", "x", "--stepz", "4"], 2, "did you mean --steps"),
        (["generate", "x", "--steps", "0"], 2, "1..200"),
        (["generate"], 2, "PROMPT"),
        (["generate", "x", "--model", "/nowhere"], 1, "/nowhere"),
        (["generate", "x", "--steps", "2", "-o", "/nowhere/x.png"], 1, "/nowhere/x.png"),
        (["generat"], 2, "did you mean generate"),
        (["inspect", os.path.join(ROOT, "README.md")], 1, "README.md"),
        (["serve", "--port", "99999"], 2, "65535"),
    ]:
        p = subprocess.run([TACA, *argv], text=True, capture_output=True, check=False)
        equal(p.returncode, code, " ".join(argv))
        check(words in p.stderr, f"{argv} says '{words}'", p.stderr)
        check(len(p.stderr.strip().splitlines()) == 1, f"{argv}: one line", p.stderr)


if __name__ == "__main__":
    main()
