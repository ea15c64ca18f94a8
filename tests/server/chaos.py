"""chaos.py - clients of every kind at once, in an order that a seed decides, and the accounts after them."""

import os
import random
import signal
import socket
import struct
import threading
import time

from fake_service import error_of, events_of


class Chaos:
    """Clients of all kinds, some of which leave, and somebody who shoots workers."""

    def __init__(self, service, seconds):
        self.service, self.end = service, time.monotonic() + seconds
        self.lock, self.pictures, self.sent, self.problems = threading.Lock(), {}, 0, []
        self.reset = 0  # connections: a client may be gone before its request was read

    def ask(self, r):
        fields = dict(prompt=f"p{r.randrange(5)}", seed=r.randrange(3), steps=r.randrange(1, 12),
                      width=64 + 16 * r.randrange(5), height=64, n=r.choice([1, 1, 1, 2, 4]))
        if r.random() < 0.06:
            fields["prompt"] = r.choice(["nan", "together"])
        if r.random() < 0.1:
            fields[r.choice(["deadline_ms", "start_timeout_ms"])] = r.randrange(1, 60)
        if r.random() < 0.3:
            fields["previews"] = 3
        return fields

    def whole(self, r, fields):
        kind = r.randrange(3)
        if kind == 0:
            fields["n"] = 1
            status, _, body = self.service.post("image/png", **fields)
            key = tuple(fields[k] for k in ("prompt", "seed", "steps", "width"))
            with self.lock:
                if status == 200 and self.pictures.setdefault(key, body) != body:
                    self.problems.append(("another picture", key))
        else:
            status, _, body = self.service.post(stream=kind == 2, **fields)
            if kind == 2 and status == 200:
                last = events_of(body)[-1]["type"]
                if last not in ("completed", "cancelled", "error"):
                    self.problems.append(("last event", last))
        hopeless = status == 429 and error_of(body)["code"] == "deadline_infeasible" and "deadline_ms" in fields
        if status not in (200, 500, 504) and not hopeless:
            self.problems.append((status, body[:200]))

    def client(self, number):
        r = random.Random(number)
        while time.monotonic() < self.end:
            with self.lock:
                self.sent += 1
            if r.random() < 0.6:
                self.whole(r, self.ask(r))
                continue
            s = self.service.open_raw(stream=r.random() < 0.5, **self.ask(r))
            time.sleep(r.random() * 0.1)
            if r.random() < 0.5:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                with self.lock:
                    self.reset += 1
            s.close()

    def shoot(self, _):
        r = random.Random(4711)
        while time.monotonic() < self.end - 1:
            time.sleep(r.random())
            try:
                os.kill(self.service.worker(), signal.SIGKILL)
            except ProcessLookupError:
                pass
