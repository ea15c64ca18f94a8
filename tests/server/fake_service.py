"""fake_service.py - what tests of the service share: it runs with real sockets, a real worker process, and
an engine that only pretends.

A test program is called as TEST TACA_FAKE [SUBSTRING]   (only tests whose name has the substring)

Standard library only. Every test starts its own service on a free port and stops it; a service that
does not end cleanly, or that writes a sanitizer's report, fails its test.

TACA_PATIENCE=3 in the environment (sanitizer builds set it) is for slow or busy machines: steps whose
length a test relies on, and the times around them, are three times as long. What is asserted stays."""

import http.client
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import zlib

PATIENCE = float(os.environ.get("TACA_PATIENCE", "1"))
BINARY = os.path.abspath(sys.argv[1])
MODEL = tempfile.mkdtemp(prefix="taca-model-")


class Service:
    def __init__(self, *args, step_ms=5, wait=True, model=MODEL, env=None, **popen):
        env = dict(os.environ, TACA_FAKE_STEP_MS=str(step_ms), **(env or {}))
        self.args = [BINARY, "serve", "--model", model, "--port", "0", "--admin-listen", "none",
                     "--log-format", "json", "--drain-grace", "0.1", *map(str, args)]
        self.lines, self.records = [], []
        self.seen = threading.Condition()
        self.process = subprocess.Popen(self.args, stderr=subprocess.PIPE, text=True, env=env,
                                        **popen)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        if wait:
            self.port = self.wait_for(lambda r: r.get("port"))["port"]
            self.wait_for(lambda r: r["msg"].startswith("ready"))

    def _read(self):
        for line in self.process.stderr:
            with self.seen:
                self.lines.append(line)
                try:
                    self.records.append(json.loads(line))
                except ValueError:
                    pass
                self.seen.notify_all()

    def wait_for(self, test, timeout=20):
        end = time.monotonic() + timeout * PATIENCE
        with self.seen:
            while True:
                for record in self.records:
                    if test(record):
                        return record
                left = end - time.monotonic()
                assert left > 0, "not in the log: " + "".join(self.lines[-20:])
                self.seen.wait(min(left, 0.1))

    def worker(self):
        with self.seen:
            started = [r["msg"].split()[1] for r in self.records
                       if r["msg"].startswith("worker") and r["msg"].endswith("started")]
        return int(started[-1])

    def connect(self, timeout=60):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def request(self, method, path, body=None, headers=()):
        c = self.connect()
        try:
            c.request(method, path, body, dict(headers))
            r = c.getresponse()
            return r.status, {k.lower(): v for k, v in r.getheaders()}, r.read()
        finally:
            c.close()

    def post(self, accept=None, **fields):
        headers = {"Content-Type": "application/json"}
        if accept:
            headers["Accept"] = accept
        return self.request("POST", "/v1/generate", json.dumps(fields), headers)

    def png(self, **fields):
        status, headers, body = self.post("image/png", **fields)
        assert status == 200, (status, body[:300])
        return body

    def open_raw(self, **fields):
        """A socket on which a request has been sent and nothing was read."""
        body = json.dumps(fields).encode()
        s = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        s.sendall(b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
                  b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        return s

    def metrics(self):
        status, _, body = self.request("GET", "/metrics")
        assert status == 200, status
        out = {}
        for line in body.decode().splitlines():
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                out[name.replace('model="fake",', "").replace('{model="fake"}', "")] = float(value)
        return out

    def until(self, test, timeout=10, what="metric"):
        end = time.monotonic() + timeout * PATIENCE
        while True:
            m = self.metrics()
            if test(m):
                return m
            assert time.monotonic() < end, f"{what}: {m}"
            time.sleep(0.01)

    def stop(self, expect=0, sig=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            rc = self.process.wait(30 * PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError("does not end: " + "".join(self.lines[-20:])) from None
        self.reader.join(5)
        text = "".join(self.lines)
        for word in ("Sanitizer", "runtime error", "handles left"):
            assert word not in text, text[-8000:]
        assert rc == expect, f"exit {rc}, wanted {expect}: {text[-2000:]}"
        return text

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.stop()
        else:
            self.process.kill()
            self.process.wait()
            print("".join(self.lines[-30:]))


def events_of(body):
    out = []
    for block in body.decode().split("\n\n"):
        lines = [x for x in block.split("\n") if x and not x.startswith(":")]
        if not lines:
            continue
        frame = dict(x.split(": ", 1) for x in lines)
        data = json.loads(frame["data"])
        assert data["type"] == frame["event"], frame
        data["event_id"] = int(frame.get("id", 0))
        data["frame_len"] = len(block) + 2
        out.append(data)
    return out


def chunks(png):
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, out = 8, []
    while at < len(png):
        n, kind = struct.unpack(">I4s", png[at:at + 8])
        data = png[at + 8:at + 8 + n]
        crc, = struct.unpack(">I", png[at + 8 + n:at + 12 + n])
        assert crc == zlib.crc32(kind + data)
        out.append((kind, data))
        at += 12 + n
    return out


def size_of(png):
    return struct.unpack(">II", chunks(png)[0][1][:8])


def segments(jpeg):
    """What stands before the pixels: markers and their bytes."""
    assert jpeg[:2] == b"\xff\xd8" and jpeg[-2:] == b"\xff\xd9"
    at, out = 2, []
    while jpeg[at + 1] != 0xDA:
        mark, kind, n = struct.unpack(">BBH", jpeg[at:at + 4])
        assert mark == 0xFF
        out.append((kind, jpeg[at + 4:at + 2 + n]))
        at += 2 + n
    return out


def jpeg_size(jpeg):
    return struct.unpack(">HH", dict(segments(jpeg))[0xC0][1:5])[::-1]


def error_of(body):
    e = json.loads(body)["error"]
    assert set(e) == {"message", "type", "param", "code"}, e
    return e


# ---- replies ------------------------------------------------------------------------------------


def picture(w, h, seed=0):
    """A PNG of noise, of our own making."""
    rng = random.Random(seed)
    rows = b"".join(b"\0" + rng.randbytes(3 * w) for _ in range(h))
    return png_of(struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0), zlib.compress(rows, 1))


def png_of(head, data):
    parts = ((b"IHDR", head), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)


def rss(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return int(re.search(r"VmHWM:\s+(\d+)", f.read()).group(1)) * 1024


def run(names):
    only = sys.argv[2] if len(sys.argv) > 2 else ""
    tests = [(n, f) for n, f in names.items() if n.startswith("test_") and only in n]
    failed = 0
    for name, test in tests:
        start = time.monotonic()
        try:
            test()
            print(f"  {name} ({time.monotonic() - start:.1f} s)", flush=True)
        except Exception:  # a failed test must not hide the others
            failed += 1
            traceback.print_exc(file=sys.stdout)
            print(f"  ^ FAILED {name}", flush=True)
    os.rmdir(MODEL)
    print(f"{len(tests)} tests, {failed} failed")
    return 1 if failed or not tests else 0
