"""e2e.py - what the end-to-end tests share: a running service, requests, checks that print both sides.

Standard library only. TACA is the binary under test, ROOT the source tree; SLOW where a sanitizer
makes each step tens of times as long, so that smaller pictures must do."""

import http.client
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TACA = os.environ.get("TACA_BINARY", os.path.join(ROOT, "build", "taca"))
SLOW = "TACA_PATIENCE" in os.environ

failures = 0


def check(ok, what, detail=""):
    global failures
    if not ok:
        failures += 1
        print(f"    FAILED {what} {detail}")
    return ok


def equal(got, want, what):
    return check(got == want, what, f"got {str(got)[:200]!r}, want {str(want)[:200]!r}")


class Service:
    """`taca serve` on a free port, with its log kept for the moment something fails."""

    def __init__(self, *flags, env=None, expect_ready=True):
        self.dir = tempfile.TemporaryDirectory(prefix="taca-e2e-")
        port_file = os.path.join(self.dir.name, "port")
        self.log_path = os.path.join(self.dir.name, "log")
        self.log = open(self.log_path, "wb")
        argv = [TACA, "serve", "--port", "0", "--port-file", port_file, "--admin-listen", "",
                "--drain-grace", "0", *flags]  # no load balancer is waited for
        self.process = subprocess.Popen(argv, stderr=self.log, env={**os.environ, **(env or {})})
        self.port = None
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.port = int(open(port_file).read())
                if not expect_ready or self.get("/readyz")[0] == 200:
                    return
            except (OSError, ValueError):
                pass
            time.sleep(0.05)
        raise RuntimeError("the service did not become ready:\n" + self.log_text())

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        code = self.stop()
        if code != 0 or exc[0]:
            print(self.log_text()[-4000:])
        check(code == 0, "clean exit", f"code {code}")
        self.log.close()
        self.dir.cleanup()

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(90)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def log_text(self):
        return open(self.log_path, errors="replace").read()

    def connect(self, timeout=120):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def request(self, method, path, body=None, headers=None, timeout=120):
        """(status, headers, bytes)"""
        c = self.connect(timeout)
        try:
            c.request(method, path, body, headers or {})
            r = c.getresponse()
            return r.status, r.headers, r.read()
        finally:
            c.close()

    def get(self, path):
        return self.request("GET", path)

    def post(self, body, accept=None, timeout=120, **headers):
        if not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        headers = {"Content-Type": "application/json", **({"Accept": accept} if accept else {}), **headers}
        return self.request("POST", "/v1/generate", body, headers, timeout)

    def metric(self, name, default=0.0):
        """The sum over all label sets of a metric."""
        values = [
            float(line.rsplit(" ", 1)[1])
            for line in self.get("/metrics")[2].decode().splitlines()
            if line.split("{")[0].split(" ")[0] == name
        ]
        return sum(values) if values else default

    def workers(self):
        """Process ids of the engine's child processes."""
        out = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(self.process.pid)], text=True,
                             capture_output=True, check=False).stdout
        return [int(line.split()[0]) for line in out.splitlines() if " worker" in line]


def events(stream):
    """(event, data) pairs of an SSE response; comments are skipped."""
    name, ident = None, None
    for raw in stream:
        line = raw.decode().rstrip("\n")
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("id: "):
            ident = int(line[4:])
        elif line.startswith("data: "):
            yield name, {**json.loads(line[6:]), "_id": ident}


def png_pixels(data):
    """(width, height, rows of raw RGB bytes) of an 8-bit RGB PNG, checking every CRC; text chunks too."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n", data[:16]
    at, idat, text, size = 8, b"", {}, None
    while at < len(data):
        (n,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + n]
        assert struct.unpack(">I", data[at + 8 + n : at + 12 + n])[0] == zlib.crc32(kind + body)
        if kind == b"IHDR":
            w, h, depth, colour = struct.unpack(">IIBB", body[:10])
            assert (depth, colour) == (8, 2)
            size = (w, h)
        elif kind == b"IDAT":
            idat += body
        elif kind == b"tEXt":
            key, value = body.split(b"\0", 1)
            text[key.decode("latin-1")] = value.decode("latin-1")
        elif kind == b"iTXt":
            key, rest = body.split(b"\0", 1)
            text[key.decode("latin-1")] = rest[2:].split(b"\0", 2)[2].decode()
        at += 12 + n
    raw, (w, h) = zlib.decompress(idat), size
    rows, above, stride = [], bytes(w * 3), w * 3
    for y in range(h):
        kind, line = raw[y * (stride + 1)], bytearray(raw[y * (stride + 1) + 1 : (y + 1) * (stride + 1)])
        for x in range(stride):
            a = line[x - 3] if x >= 3 else 0
            b, c = above[x], above[x - 3] if x >= 3 else 0
            if kind == 1:
                line[x] = (line[x] + a) & 255
            elif kind == 2:
                line[x] = (line[x] + b) & 255
            elif kind == 3:
                line[x] = (line[x] + (a + b) // 2) & 255
            elif kind == 4:
                p = a + b - c
                pa, pb, pc = abs(p - a), abs(p - b), abs(p - c)
                line[x] = (line[x] + (a if pa <= pb and pa <= pc else b if pb <= pc else c)) & 255
        above = bytes(line)
        rows.append(above)
    return w, h, rows, text


def main():
    """Runs the test functions of the program, named as sentences, in their order; its exit code tells."""
    if not os.access(TACA, os.X_OK):
        print(f"skipped: no binary at {TACA}")
        sys.exit(77)
    only = os.environ.get("TEST_ONLY", "")
    tests = [f for name, f in vars(sys.modules["__main__"]).items() if name.startswith("test_") and only in name]
    for test in tests:
        print(f"  {test.__name__}", flush=True)
        test()
    print(f"{len(tests)} tests, {failures} failed")
    sys.exit(1 if failures else 0)
