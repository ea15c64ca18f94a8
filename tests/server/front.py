"""front.py - what tests of the front door share: front_main as a service, raw requests and answers.

A test program is called as TEST FRONT_MAIN [TACA] [unittest's own arguments].
"""
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest

from payloads import sized

PROGRAM = sys.argv[1]
TACA = sys.argv[2] if len(sys.argv) > 2 and os.path.sep in sys.argv[2] else None
# sanitizers slow everything down: times are for a machine at ease
PATIENCE = float(os.environ.get("TACA_PATIENCE", "1"))
JSON = b"Content-Type: application/json\r\n"


class Service:
    def __init__(self, cap=2000, head_ms=5000, body_ms=5000, ping_ms=15000, per_ip=0, cors="",
                 stall_s=0):
        args = [PROGRAM] + [str(x) for x in (cap, head_ms, body_ms, ping_ms, per_ip, cors, stall_s)]
        self.process = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)
        self.lines = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()
        _, port, admin = self.line().split()
        self.port, self.admin = int(port), int(admin)

    def read(self):
        for line in self.process.stdout:
            self.lines.put(line.strip())
        self.lines.put(None)

    def line(self, timeout=10):
        """The next line of output, or None."""
        try:
            return self.lines.get(timeout=timeout * PATIENCE)
        except queue.Empty:
            return None

    def tell(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        assert self.line() == "did " + command

    def connect(self, admin=False, source=None, host="127.0.0.1"):
        s = socket.create_connection((host, self.admin if admin else self.port),
                                     timeout=10 * PATIENCE, source_address=source and (source, 0))
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return s

    def ask(self, request, admin=False, source=None):
        s = self.connect(admin, source)
        try:
            s.sendall(request)
        except OSError:
            pass  # refused before all was sent: the answer is what counts
        return Answer(drain(s))

    def freeze(self):
        """Stops the process; returns when it is, which is not when the signal is sent."""
        os.kill(self.process.pid, signal.SIGSTOP)
        tasks = "/proc/%d/task/" % self.process.pid
        end = time.time() + 10 * PATIENCE
        while any(state(tasks + t) != "T" for t in os.listdir(tasks)):
            assert time.time() < end, "it does not stop"
            time.sleep(0.001)

    def thaw(self):
        os.kill(self.process.pid, signal.SIGCONT)

    def close(self, kill_after=15):
        """Exit status and the lines that were still to be read."""
        self.process.stdin.close()
        try:
            status = self.process.wait(kill_after * PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        rest = []
        while (line := self.line(1)) is not None:
            rest.append(line)
        self.process.stdout.close()
        return status, rest


def state(task):
    """Of a thread, as in /proc: R, S, T .."""
    try:
        with open(task + "/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "T"  # it has ended meanwhile


def drain(s):
    """All bytes until the end; None instead of an end means that the connection stayed open."""
    got = b""
    try:
        while True:
            part = s.recv(65536)
            if not part:
                break
            got += part
    except socket.timeout:
        got = None
    except ConnectionResetError:
        pass
    s.close()
    return got


class Answer:
    """One response, taken apart without mercy: whatever is left over is `rest`."""

    def __init__(self, raw):
        self.raw = raw
        self.status, self.headers, self.body, self.rest = 0, {}, b"", b""
        if raw is None:
            self.status = -1  # still open
            return
        while raw.startswith(b"HTTP/1.1 100 "):
            raw = raw.split(b"\r\n\r\n", 1)[1]
        head, _, tail = raw.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        if not lines[0].startswith(b"HTTP/1."):
            return
        self.status = int(lines[0].split()[1])
        for line in lines[1:]:
            name, _, value = line.partition(b": ")
            name = name.decode().lower()
            assert name not in self.headers, "%s twice" % name
            self.headers[name] = value.decode()
        if self.headers.get("transfer-encoding") == "chunked":
            self.body, self.rest = unchunk(tail)
        else:
            length = int(self.headers.get("content-length", len(tail)))
            self.body, self.rest = tail[:length], tail[length:]

    def error(self):
        return json.loads(self.body)["error"]


def unchunk(raw):
    body = b""
    while True:
        size, _, raw = raw.partition(b"\r\n")
        n = int(size, 16) if size else -1
        if n <= 0:
            return body, raw[2:] if n == 0 else b"cut"
        body, raw = body + raw[:n], raw[n + 2:]


def generate(prompt, stream=False, more=b"", **fields):
    body = json.dumps(dict(fields, prompt=prompt, stream=stream)).encode()
    return sized(str(len(body)).encode(), body, more)


def events(body):
    """[(event, data)] of a stream, comments left out."""
    found = []
    for frame in body.decode().split("\n\n"):
        fields = dict(x.split(": ", 1) for x in frame.split("\n") if x and x[0] != ":")
        if fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


class WithService(unittest.TestCase):
    options = {}

    @classmethod
    def setUpClass(cls):
        cls.service = Service(**cls.options)

    @classmethod
    def tearDownClass(cls):
        status, rest = cls.service.close()
        assert status == 0, (status, rest)

    def check_refusal(self, answer, status, code=None):
        self.assertEqual(answer.status, status, answer.raw)
        self.assertEqual(answer.rest, b"")
        self.assertEqual(answer.headers["content-type"], "application/json")
        self.assertEqual(set(answer.error()), {"message", "type", "param", "code"})
        self.check_common(answer)
        if code:
            self.assertEqual(answer.error()["code"], code)

    def check_common(self, answer):
        self.assertEqual(answer.headers["connection"], "close")
        self.assertEqual(answer.headers["cache-control"], "no-store")
        self.assertEqual(answer.headers["x-content-type-options"], "nosniff")
        self.assertRegex(answer.headers["x-request-id"], r"^[A-Za-z0-9._-]{1,128}$")


def main():
    del sys.argv[1:3 if TACA else 2]
    unittest.main()
