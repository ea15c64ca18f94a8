"""test_generate.py - `taca generate` through a service, and from pictures: the same bytes as by the engine in
its own process, over a network that breaks, and what it says when something is wrong."""

import fcntl
import hashlib
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import tempfile
import termios
import time
import zlib

from e2e import ROOT, TACA, Service, check, equal, main, png_pixels
from proxy import Proxy

PROMPT = "a red cube to the left of a blue ball"
os.environ["TACA_DEVICE"] = "cpu"  # a module without its device would say so before every picture
SHORT = ("--steps", "3", "--size", "64x64")


def run(*argv, env=None, folder=None):
    p = subprocess.run([TACA, "generate", *argv], capture_output=True, check=False, cwd=folder, timeout=120,
                       env={**os.environ, **(env or {})})
    return p.returncode, p.stdout, p.stderr.decode()


def picture(*argv, **how):
    code, png, err = run(*argv, "-o", "-", **how)
    equal((code, err), (0, ""), " ".join(argv))
    return png


def parameters(png):
    return json.loads(png_pixels(png)[3]["taca"])


def url(service):
    return f"http://127.0.0.1:{service.port}"


def on_a_terminal(*argv, then=None):
    """What stderr shows when it is a terminal, and the exit code."""
    main_end, end = pty.openpty()
    p = subprocess.Popen([TACA, "generate", *argv], stderr=end, stdout=subprocess.DEVNULL)
    os.close(end)
    shown = b""
    try:
        while data := os.read(main_end, 65536):
            shown += data
            if then and then(shown):
                p.send_signal(signal.SIGINT)
                then = None
    except OSError:  # its last end is closed
        pass
    os.close(main_end)
    return p.wait(60), shown.decode()


def test_a_service_makes_the_bytes_that_the_command_makes_itself():
    with Service("--deterministic") as s:
        for options in [
            ("--seed", "7", *SHORT),
            ("--seed", "7", "--taca", "--negative", "fog", "--cfg", "3.5", *SHORT),
            ("--seed", str(2**53 - 1), "--taca-scale", "1.7", "--taca-steps", "2", "--sampler", "heun", *SHORT),
            ("--seed", "5", "--taca-threshold", "900", "--schedule", "karras", "--shift", "2.5", *SHORT),
            ("--seed", "5", "--slg-layers", "2,3", "--slg-stop", "0.9", "--rng", "philox", *SHORT),
            ("--seed", "1", "--clip-skip", "1", "--png-level", "9", "--width", "80", "--steps", "2"),
            ("--seed", "2", "--no-metadata", "--size", "100x70", "--round-size", "--steps", "2"),
            ("--seed", "4", "--format", "jpeg", "--jpeg-quality", "85", *SHORT),
        ]:
            here = picture(PROMPT, "--deterministic", *options)
            there = picture(PROMPT, "--server", url(s), *options)
            check(here == there, "the same bytes", " ".join(options))
        with tempfile.TemporaryDirectory() as d:
            image, mask = os.path.join(d, "image.png"), os.path.join(d, "mask.png")
            for path, prompt in [(image, "a red cube"), (mask, "a white ball")]:
                equal(run(prompt, "--seed", "1", "--size", "80x64", "--steps", "4", "-o", path)[0], 0, path)
            start = ("a blue ball", "--seed", "3", "--steps", "5", "--image", image, "--mask", mask, "--strength", "0.7")
            here, there = picture(*start, "--deterministic"), picture(*start, "--server", url(s))
            check(here == there, "the same bytes from a picture")
            kept = os.path.join(d, "kept.png")
            with open(kept, "wb") as f:
                f.write(here)
            again = ("--from", kept, "--image", image, "--mask", mask)
            check(picture(*again, "--deterministic") == here == picture(*again, "--server", url(s)), "and once more")
            for name, how in [("here", ("--deterministic",)), ("there", ("-s", url(s)))]:
                code, _, err = run("two cones", "-n", "3", "--seed", "4", *SHORT, *how, "-o", name + ".png", folder=d)
                equal(code, 0, err)
            for k in range(3):
                here, there = (open(os.path.join(d, f"{name}-{k}.png"), "rb").read() for name in ("here", "there"))
                check(here == there, f"picture {k} of 3")
                equal(parameters(here)["seed"], 4 + k, "its seed")
        equal(s.metric("taca_requests_total"), 11, "one job each")


def test_a_picture_is_repeated_from_what_it_says_about_itself():
    with Service() as s, tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "x.png")
        first = picture("two grün cones „東“", "--seed", "11", "--taca-scale", "1.4", "--taca-fraction",
                        "0.5", "--sampler", "dpmpp_2m", "--negative", "fog", *SHORT)
        with open(path, "wb") as f:
            f.write(first)
        check(picture("--from", path) == first, "here")
        check(picture("--from", path, "--server", url(s)) == first, "there")
        was = parameters(first)
        for options, changed in [
            (("a blue ball",), {"prompt": "a blue ball"}),
            (("--seed", "12"), {"seed": 12}),
            (("--width", "80"), {"width": 80}),
            (("--taca-scale", "2"), {"taca": {"scale": 2, "fraction": 0.5}}),
            (("--taca-steps", "1"), {"taca": {"scale": 1.4, "steps": [0, 1]}}),
            (("--no-taca",), {"taca": False}),
            (("--negative", "", "--steps", "2"), {"negative_prompt": None, "steps": 2}),
        ]:
            # both read the same request: here, where an engine has to be opened, twice is enough
            for how in [(), ("--server", url(s))] if "taca" in changed else [("--server", url(s))]:
                now = parameters(picture("--from", path, *options, *how))
                equal(now, {k: v for k, v in {**was, **changed}.items() if v is not None}, f"{options} {how}")
        equal(picture("--from", path, "--seed", "-1")[:4], b"\x89PNG", "another seed")
        for flags, words in [((), "Seed: 11"), (("--json",), '"seed":11')]:
            told = subprocess.run([TACA, "inspect", path, *flags], capture_output=True, check=True).stdout.decode()
            check("two grün cones" in told and words in told, "inspect tells", told)


def test_the_name_of_a_file_says_what_it_is():
    with Service("--deterministic") as s, tempfile.TemporaryDirectory() as d:
        for name, how, begins in [
            ("a.jpg", (), b"\xff\xd8\xff"),
            ("b.JPEG", ("--server", url(s), "--jpeg-quality", "90"), b"\xff\xd8\xff"),
            ("c", ("--server", url(s), "--format", "jpeg"), b"\xff\xd8\xff"),
            ("d.picture", ("--server", url(s)), b"\x89PNG"),
        ]:
            path = os.path.join(d, name)
            code, _, err = run(PROMPT, "--seed", "9", "--deterministic" if not how else "-q", *SHORT, *how, "-o", path)
            equal(code, 0, err)
            with open(path, "rb") as f:
                check(f.read(4).startswith(begins), name)
        jpeg = os.path.join(d, "a.jpg")
        code, _, err = run("x", "--from", jpeg, "--json", "-s", url(s), "-o", os.path.join(d, "e-9.jpg"))
        equal((code, json.loads(err)["width"]), (0, 64), err)
        # what it says about itself makes it again, and as another kind of file
        again = run("--from", jpeg, "-s", url(s), "--format", "jpeg", "-o", "-")[1]
        with open(jpeg, "rb") as f:
            check(f.read() == again, "the same JPEG")
        equal(parameters(run("--from", jpeg, "-s", url(s), "-o", "-")[1])["seed"], 9, "a PNG of it")
        for flags, words in [((), "Seed: 9"), (("--json",), '"seed":9')]:
            told = subprocess.run([TACA, "inspect", jpeg, *flags], capture_output=True, check=True).stdout.decode()
            check(PROMPT in told and words in told, "inspect tells", told)
        bare = os.path.join(d, "bare.jpg")
        equal(run(PROMPT, "--no-metadata", "-s", url(s), *SHORT, "-o", bare)[0], 0, bare)
        code, _, err = run("--from", bare, "-s", url(s), "-o", "-")
        check(code == 1 and "was not made by taca, or without its parameters" in err, "nothing to repeat", err)
        for options, words in [
            (("-o", "x.webp"), "x.webp: pictures are written as .png or .jpg"),
            (("-o", "x.png", "--format", "jpeg"), "x.png would be no jpeg file"),
            (("-o", "x.jpg", "--format", "png"), "x.jpg would be no png file"),
            (("-o", "x.jpg", "--png-level", "3"), "(--png-level)"),
            (("-o", "x.png", "--jpeg-quality", "90"), "(--jpeg-quality)"),
        ]:
            for how in [(), ("-s", url(s))] if "would" in words else [("-s", url(s))]:
                code, _, err = run(PROMPT, *SHORT, *options, *how, folder=d)
                check(code == 2 and words in err, f"{options} {how}", f"{code} {err}")


def png_with(*chunks):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    return (b"\x89PNG\r\n\x1a\n" + head + b"".join(chunk(k, d) for k, d in chunks) +
            chunk(b"IDAT", zlib.compress(bytes(4))) + chunk(b"IEND", b""))


def test_what_cannot_be_repeated_is_refused_in_words():
    with tempfile.TemporaryDirectory() as d:
        asked = {"prompt": "x", "steps": 1, "width": 64, "height": 64, "seed": 1}
        text = json.dumps(asked).encode()
        for name, data, code, words in [
            ("no.png", b"no", 1, "no known kind of file, wanted a PNG or JPEG"),
            ("plain.png", png_with(), 1, "was not made by taca"),
            ("other.png", png_with((b"tEXt", b"parameters\0a cat\nSteps: 3")), 1, "another program's"),
            ("torn.png", png_with((b"tEXt", b"taca\0{\"prompt\":")), 1, "are broken"),
            ("list.png", png_with((b"tEXt", b"taca\0[1]")), 1, "no object"),
            ("later.png", png_with((b"tEXt", b"taca\0" + text[:-1] + b",\"colour\":1}")), 2, '"colour"'),
            ("from_image.png", png_with((b"tEXt", b"taca\0" + text[:-1] + b",\"strength\":0.5}")), 2, "--image"),
            ("lora.png", png_with((b"tEXt", b"taca\0" + text[:-1] + b",\"loras\":[{\"id\":\"style\"}]}")), 2,
             'adapter "style": give its file by --lora'),
            ("text.png", png_with((b"tEXt", b"taca\0" + text)), 0, ""),
            ("packed.png", png_with((b"zTXt", b"taca\0\0" + zlib.compress(text))), 0, ""),
            ("utf8.png", png_with((b"iTXt", b"taca\0\1\0en\0taca\0" + zlib.compress(text))), 0, ""),
        ]:
            path = os.path.join(d, name)
            with open(path, "wb") as f:
                f.write(data)
            got, _, err = run("--from", path, "-o", "-")
            equal(got, code, name)
            check(words in err, f"{name} says {words}", err)
            check(not code or os.path.basename(path) in err or "colour" in words, f"{name} is named", err)


def test_mistakes_are_told_as_if_they_were_ours():
    with Service() as s:
        there = ("--server", url(s))
        for argv, code, words in [
            (("x", "--steps", "150", *there), 2, "steps must be in 1..100, got 150"),
            (("x", "--guidance", "3", *there), 2, "(--guidance)"),
            (("x", "--size", "100x100", *there), 2, "multiple of 16"),
            (("x", "--lora", "style", *there), 1, "this server has none (--lora)"),
            (("x", "--model", "flux", *there), 1, 'this server has "demo" (--model)'),
            (("x", "--server", "https://a"), 2, "http://"),
            (("x", "--server", "http://127.0.0.1:0"), 2, "no valid port"),
            (("x", "--server", "http://127.0.0.1:1"), 1, "refused"),
            (("x", "--server", "127.0.0.1:1"), 1, "127.0.0.1 port 1"),
            (("x", "--server", "ftp://127.0.0.1"), 2, "http://"),
            (("x", "--server", "http://[::1"), 2, "no host"),
            (("x", "-o", "/nowhere/x.png", *there), 1, "/nowhere/x.png"),
            (("x", "--api-key", "a b", *there), 2, "printable"),
            (("x", "--threads", "2", *there), 2, "--threads is for an engine here"),
            (("x", "--patience", "2"), 2, "give --server"),
            (("x", "--server", "unix:/nowhere/s"), 1, "/nowhere/s: No such file"),
            ((*there,), 2, "PROMPT"),
        ]:
            got, _, err = run(*argv)
            equal(got, code, " ".join(argv))
            check(words in err, f"{argv} says {words}", err)
            equal(len(err.strip().splitlines()), 1, f"{argv}: one line")
        equal(s.metric("taca_requests_running"), 0, "nothing runs")


def test_a_key_opens_a_service_that_wants_one():
    with tempfile.NamedTemporaryFile("w", suffix=".keys") as keys:
        keys.write("me:" + hashlib.sha256(b"my-key").hexdigest() + "\n")
        keys.flush()
        with Service("--api-key-file", keys.name) as s:
            code, _, err = run("x", *SHORT, "-s", url(s), "-o", "-")
            equal(code, 1, "without")
            check("key" in err, "says so", err)
            first = picture("x", "--seed", "1", *SHORT, "-s", url(s), "--api-key", "my-key")
            check(picture("x", "--seed", "1", *SHORT, "-s", url(s), env={"TACA_API_KEY": "my-key"}) == first,
                  "from the environment")


def test_a_unix_socket_does_as_well():
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "s")
        with Service("--host", "localhost,unix:" + path) as s:
            first = picture("x", "--seed", "1", *SHORT, "-s", url(s))
            check(picture("x", "--seed", "1", *SHORT, "-s", "unix:" + path) == first, "the same bytes")
            for argv in [("--url", "unix:" + path), ("--host", "unix:" + path)]:
                p = subprocess.run([TACA, "healthcheck", *argv], capture_output=True, check=False)
                equal(p.returncode, 0, f"healthcheck {argv} {p.stderr}")


def test_the_help_of_every_command_fits_the_terminal():
    commands = re.findall(r"^  (\w+) ", subprocess.run([TACA, "--help"], capture_output=True, text=True,
                                                       check=True).stdout, re.M)
    check({"generate", "serve", "bench", "inspect"} <= set(commands), "the commands", str(commands))
    for command in commands:
        main_end, end = pty.openpty()
        fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        p = subprocess.Popen([TACA, command, "--help"], stdout=end)
        os.close(end)
        shown = b""
        try:
            while data := os.read(main_end, 65536):
                shown += data
        except OSError:
            pass
        os.close(main_end)
        equal(p.wait(), 0, command)
        options = shown.decode().split("\r\n\r\n", 2)[-1].splitlines()
        long = [line for line in options if len(line) > 80 and " " in line[33:]]
        check(not long, f"{command} --help keeps to 80 columns", str(long))
        piped = subprocess.run([TACA, command, "--help"], capture_output=True, text=True, check=True).stdout
        lines = [line for line in piped.splitlines() if re.match(r"  (-.,|   ) --", line)]
        equal(len(lines), len(re.findall(r"^  (?:-.,|   ) --", shown.decode(), re.M)), f"{command}: an option a line")


def test_a_terminal_shows_line_bar_and_picture():
    with Service() as s, tempfile.TemporaryDirectory() as d:
        for how in [(), ("--server", url(s))]:
            out = os.path.join(d, "x.png")
            code, shown = on_a_terminal(PROMPT, "--steps", "30", "--preview", "-o", out, *how)
            equal(code, 0, shown[-200:])
            check(re.search(r"\[#*\.+\] step \d+/30, \d+\.\d s left", shown), "a bar", shown[-200:])
            check(shown.count("\u2580") >= 2 * 48 * 24, "two looks at the picture at least", str(shown.count("\u2580")))
            check("x.png  128x128  seed" in shown.splitlines()[-1], "the last line", shown[-200:])
            os.unlink(out)
        check("in the queue, number 1" in shown or "about to start" in shown, "its place in line", shown[:200])
        code, shown = on_a_terminal("x", *SHORT, "--quiet", "--preview", "-o", os.path.join(d, "q.png"))
        equal((code, shown), (0, ""), "quiet")


def test_ctrl_c_cancels_the_job_there():
    with Service() as s, tempfile.TemporaryDirectory() as d:
        out = os.path.join(d, "x.png")
        code, shown = on_a_terminal(PROMPT, "--steps", "100", "--size", "512x512", "-s", url(s), "-o", out,
                                    then=lambda text: b" step " in text)
        equal(code, 3, "exit code")
        check("cancelled" in shown, "says so", shown[-200:])
        equal(os.listdir(d), [], "no file")
        deadline = time.monotonic() + 20
        while s.metric("taca_requests_running") and time.monotonic() < deadline:
            time.sleep(0.02)
        equal((s.metric("taca_requests_running"), s.metric("taca_cancelled_total")), (0, 1), "it was cancelled")


def refusal(status, message, headers=""):
    body = json.dumps({"error": {"message": message, "type": "x", "param": None, "code": "y"}})
    return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def test_a_full_service_is_asked_again_when_it_says():
    full = refusal("429 Too Many Requests", "the queue is full", "Retry-After: 1\r\n")
    with Service() as s:
        want = picture(PROMPT, "--seed", "7", *SHORT)
        with Proxy(s.port, lambda head, i: full if i < 2 else None) as p:
            began = time.monotonic()
            check(picture(PROMPT, "--seed", "7", *SHORT, "--server", p.url) == want, "the picture comes")
            check(time.monotonic() - began > 1.9, "twice the second that was asked for")
            check(all(h.startswith("PUT ") for h in p.heads[:3]), "the same question", str(p.heads))
            equal(len({h.split()[1] for h in p.heads[:3]}), 1, "under the same name")
        with Proxy(s.port, lambda head, i: full) as p:
            code, _, err = run("x", "--server", p.url, "--patience", "0", "-o", "-")
            equal((code, err), (1, "taca generate: the queue is full\n"), "without patience")
            equal(len(p.heads), 1, "asked once")


def test_who_is_no_such_service_is_told_so():
    page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"
    for answer, words in [(page, "is no taca service: it answers with text/html"), (b"SSH-2.0-x\r\n\r\n", "not HTTP"),
                          (refusal("404 Not Found", "nothing here"), "nothing here"),
                          (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "answered 404")]:
        with Proxy(0, lambda head, i, answer=answer: answer) as p:
            code, _, err = run("x", "--server", p.url, "-o", "-")
            equal(code, 1, words)
            check(words in err, words, err)


def test_a_broken_stream_goes_on_where_it_was():
    long = ("--seed", "7", "--steps", "40", "--size", "256x256")
    with Service() as s:
        want = picture(PROMPT, *long)
        before = s.metric("taca_requests_total")
        # in the head, behind the first frames, later; then perhaps the picture's own connection
        cuts = {0: 30, 1: 900, 2: 1200, 3: 2000, 5: 2000}
        with Proxy(s.port, lambda head, i: cuts.get(i)) as p:
            check(picture(PROMPT, *long, "--server", p.url) == want, "the picture comes")
            lines = [h.split("\r\n")[0].rsplit(" ", 1)[0] for h in p.heads]
            check(lines[0].startswith("PUT ") and lines[1] == lines[0], "asked again while nothing is known", str(lines))
            check(any(line.endswith("/events") for line in lines), "its events are asked for", str(lines))
            ids = [int(m.group(1)) for h in p.heads if (m := re.search(r"Last-Event-ID: (\d+)", h))]
            check(len(ids) >= 1 and ids == sorted(ids), "from where they were", str(ids))
            check(sum(line.endswith("/images/0") for line in lines) >= 1, "the picture", str(lines))
        equal(s.metric("taca_requests_total") - before, 1, "one picture was made")


def test_a_service_that_comes_back_empty_is_asked_anew():
    with Service() as s:
        port, again = s.port, []

        def plan(head, i):
            if i == 1:  # the stream has broken, and the job is not known any more
                again.append(head)
                return refusal("404 Not Found", "there is no such job")
            return 700 if i == 0 else None

        with Proxy(port, plan) as p:
            want = picture(PROMPT, "--seed", "7", "--steps", "9")
            check(picture(PROMPT, "--seed", "7", "--steps", "9", "--server", p.url) == want, "the picture comes")
            check("/events" in again[0], "it was asked for its events", again[0])
            names = {h.split()[1].split("/")[3] for h in p.heads}
            equal(len(names), 2, "a job of another name")


def test_a_service_that_is_killed_and_comes_back_finishes_the_picture():
    long = (PROMPT, "--seed", "7", "--steps", "60", "--size", "256x256")
    want = picture(*long)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as d:
        how = ("--port", str(port), "--job-store", f"sqlite:{d}/jobs.db")
        first = Service(*how)
        client = subprocess.Popen([TACA, "generate", *long, "-s", url(first), "-o", "-"], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE)
        while first.metric("taca_steps_total") < 5:
            time.sleep(0.02)
        for pid in [first.process.pid, *first.workers()]:
            os.kill(pid, signal.SIGKILL)
        first.process.wait()
        with Service(*how):
            png, err = client.communicate(timeout=120)
            equal((client.returncode, err), (0, b""), "the client ends well")
            check(png == want, "the same bytes, after a restart in the middle")


if __name__ == "__main__":
    assert os.path.isdir(ROOT)
    main()
