"""test_readme.py - the commands of README.md, executed as written in a copy of nothing but this tree.

Every ```sh block is run line by line: `./run` (the service) in the background, everything else after it is
ready. `./test` is not run from inside the tests. Port 8080 must be free, else skipped."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time

from e2e import ROOT, check, equal, main, png_pixels


def commands():
    text = open(os.path.join(ROOT, "README.md")).read()
    for block in re.findall(r"```sh\n(.*?)```", text, re.S):
        for line in block.splitlines():
            line = line.split("  #")[0].rstrip()
            if line:
                yield line


def port_is_free():
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        s.bind(("127.0.0.1", 8080))
        return True
    except OSError:
        return False
    finally:
        s.close()


def wait_ready(process):
    for _ in range(1200):
        if process.poll() is not None:
            return False
        if subprocess.run(["curl", "-sf", "127.0.0.1:8080/readyz"], capture_output=True, check=False).returncode == 0:
            return True
        time.sleep(0.1)
    return False


def test_every_command_of_the_readme_works_as_written():
    made = []
    service = None
    try:
        for line in commands():
            words = shlex.split(line)
            print(f"    $ {line}", flush=True)
            if words == ["./test"]:
                continue
            if words == ["./run"]:
                # bash replaces itself by the command, so that the signal below reaches taca alone
                service = subprocess.Popen(["bash", "-c", line], cwd=ROOT, stderr=subprocess.DEVNULL)
                check(wait_ready(service), "the service is ready")
                continue
            p = subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, timeout=300, check=False)
            equal(p.returncode, 0, line)
            check(b'"error"' not in p.stdout, "no error", p.stdout[:300])
            if "-o" in words:
                out = os.path.join(ROOT, words[words.index("-o") + 1])
                made.append(out)
                w, h, _, _ = png_pixels(open(out, "rb").read())
                equal((w, h), (128, 128), out)
            if "text/event-stream" in line or '"stream":true' in line:
                check(b"event: completed" in p.stdout, "the stream completed", p.stdout[-300:])
    finally:
        if service:
            service.send_signal(signal.SIGTERM)
            equal(service.wait(60), 0, "the service ends cleanly")
        for path in made:
            if os.path.exists(path):
                os.unlink(path)


if __name__ == "__main__":
    if not port_is_free():
        print("skipped: port 8080 is taken")
        sys.exit(77)
    main([test_every_command_of_the_readme_works_as_written])
