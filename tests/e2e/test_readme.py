"""test_readme.py - the commands of README.md, executed as written.

Every ```sh block is run line by line, the Python program as a whole: `./run` (the service) in the background,
everything after it once that is ready. `./test` is not run from inside the tests. Where port 8080 is taken,
another one is read in its place."""

import os
import re
import shlex
import signal
import socket
import struct
import subprocess
import sys
import time

from e2e import ROOT, check, equal, main, png_pixels


def blocks():
    """(language, lines) of each block, in order."""
    text = open(os.path.join(ROOT, "README.md")).read().replace(":8080", f":{PORT}")
    for language, block in re.findall(r"```(sh|python)\n(.*?)```", text, re.S):
        if language == "python":
            yield language, [block]
        else:
            lines = (line.split("  #")[0].rstrip() for line in block.splitlines())
            yield language, [line for line in lines if line]


def python_with(module):
    """An interpreter that has it, or None."""
    for python in (sys.executable, os.path.join(ROOT, "build", "tools", module, "bin", "python")):
        if os.path.exists(python) and subprocess.run([python, "-c", f"import {module}"], capture_output=True,
                                                     check=False).returncode == 0:
            return python
    return None


def choose_port():
    """8080 unless somebody has it."""
    for port in (8080, 0):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
            return s.getsockname()[1]
        except OSError:
            print("    port 8080 is taken: another is read in its place")
        finally:
            s.close()
    return None


PORT = choose_port()
ELSEWHERE = {} if PORT == 8080 else {"TACA_PORT": str(PORT), "TACA_ADMIN_LISTEN": "none"}


def wait_ready(process):
    for _ in range(1200):
        if process.poll() is not None:
            return False
        if subprocess.run(["curl", "-sf", f"127.0.0.1:{PORT}/readyz"], capture_output=True, check=False).returncode == 0:
            return True
        time.sleep(0.1)
    return False


def check_picture(name, made):
    out = os.path.join(ROOT, name)
    made.append(out)
    with open(out, "rb") as f:
        picture = f.read()
    if name.endswith(".jpg"):  # baseline, and its sides behind its marker
        at = picture.index(b"\xff\xc0")
        equal((picture[:3], struct.unpack(">HH", picture[at + 5:at + 9])), (b"\xff\xd8\xff", (128, 128)), out)
        return {}
    w, h, _, text = png_pixels(picture)
    equal((w, h), (128, 128), out)
    return text


def run_line(line, made):
    words = shlex.split(line)
    p = subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, timeout=300, check=False)
    if not equal(p.returncode, 0, f"{line}: {p.stderr[-300:]}"):
        return
    check(b'"error":{' not in p.stdout, "no error", p.stdout[:300])
    if "-o" in words:
        check_picture(words[words.index("-o") + 1], made)
    if "text/event-stream" in line or '"stream":true' in line or "/events" in line:
        check(b"event: completed" in p.stdout, "the stream completed", p.stdout[-300:])
    if words[1:2] == ["inspect"]:
        check(len(p.stdout) > 40, "it tells something", p.stdout)


def run_python(program, made):
    python = python_with("openai")
    if not python:
        print("    skipped: the Python package openai is not here; tests/server/tools.sh installs it")
        return
    p = subprocess.run([python, "-c", program], cwd=ROOT, capture_output=True, timeout=300, check=False)
    equal(p.returncode, 0, f"the Python program: {p.stderr[-300:]}")
    text = check_picture(re.search(r'open\("([^"]*)", "wb"\)', program).group(1), made)
    check("TACA: 1.2" in text["parameters"], "its own fields were heard", text["parameters"])


def test_every_command_of_the_readme_works_as_written():
    made, seen = [], set()
    service = None
    try:
        for language, lines in blocks():
            for line in lines:
                print("    " + (f"$ {line}" if language == "sh" else line.split("\n", 1)[0] + " ..."), flush=True)
                seen.add(language)
                if language == "python":
                    run_python(line, made)
                elif line == "./run":
                    # bash replaces itself by the command, so that the signal below reaches taca alone
                    service = subprocess.Popen(["bash", "-c", line], cwd=ROOT, stderr=subprocess.DEVNULL,
                                               env={**os.environ, **ELSEWHERE})
                    check(wait_ready(service), "the service is ready")
                elif line == "./run --cuda":
                    print("    skipped: it fetches a compiler of 1 GB and wants a GPU")
                elif line != "./test":
                    run_line(line, made)
        equal(seen, {"sh", "python"}, "languages")
        check(service is not None and len(made) >= 6, "a service and pictures", str(made))
    finally:
        if service:
            service.send_signal(signal.SIGTERM)
            equal(service.wait(60), 0, "the service ends cleanly")
        for path in made:
            if os.path.exists(path):
                os.unlink(path)


if __name__ == "__main__":
    main()
