#!/usr/bin/env python3
"""test_front_limits.py FRONT_MAIN - what the front door bounds: bodies, times, connections, addresses.

One make-believe service per group of tests, as in test_front.py.
"""
import json
import os
import re
import select
import socket
import subprocess
import sys
import time
import unittest

from front import PATIENCE, Answer, Service, WithService, drain, generate, main
from payloads import get, post, sized


class Bodies(WithService):
    options = {"body_ms": 400}

    def test_a_declared_length_above_the_cap_is_refused_at_once(self):
        for more in (b"", b"Expect: 100-continue\r\n"):
            begin = time.time()
            answer = self.service.ask(sized(b"262145", b"", more))
            self.check_refusal(answer, 413, "body_too_large")
            self.assertNotIn(b"100 Continue", answer.raw)
            self.assertLess(time.time() - begin, 1 * PATIENCE)

    def test_a_client_that_sends_it_all_the_same_can_read_the_refusal(self):
        answer = self.service.ask(sized(b"3000000", b"x" * 60000))
        self.check_refusal(answer, 413, "body_too_large")

    def test_a_body_of_exactly_the_cap_is_read(self):
        body = b'{"prompt":"' + b" " * (262144 - 13) + b'"}'
        answer = self.service.ask(sized(str(len(body)).encode(), body))
        self.check_refusal(answer, 400, "invalid_prompt")

    def test_a_client_that_asks_first_hears_of_a_refusal_first(self):
        head = (b"POST /v1/generate HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\n"
                b"Content-Length: 100000\r\nExpect: 100-continue\r\n\r\n")
        answer = self.service.ask(head)
        self.check_refusal(answer, 415)
        self.assertNotIn(b"100 Continue", answer.raw)

    def test_a_client_that_asks_first_is_told_to_go_on(self):
        s = self.service.connect()
        s.sendall(sized(b"16", b"", b"Expect: 100-continue\r\n"))
        self.assertEqual(s.recv(100), b"HTTP/1.1 100 Continue\r\n\r\n")
        s.sendall(b'{"prompt":"now"}')
        self.assertEqual(Answer(drain(s)).status, 200)

    def test_a_chunked_body_above_the_cap_is_refused(self):
        s = self.service.connect()
        s.sendall(post(b"Transfer-Encoding: chunked\r\n"))
        try:
            for _ in range(40):
                s.sendall(b"2000\r\n" + b" " * 8192 + b"\r\n")
                time.sleep(0.002)
        except OSError:
            pass
        self.check_refusal(Answer(drain(s)), 413, "body_too_large")

    def test_chunks_broken_late_end_the_connection_with_400(self):
        s = self.service.connect()
        s.sendall(post(b"Transfer-Encoding: chunked\r\n") + b"5\r\n{\"pro\r\n")
        time.sleep(0.1)
        s.sendall(b"0x5\r\nmpt\":\r\n0\r\n\r\n")
        self.assertEqual(Answer(drain(s)).status, 400)

    def test_a_slow_body_is_late(self):
        for request in (sized(b"100", b"{"), post(b"Transfer-Encoding: chunked\r\n", b"5\r\n{")):
            s = self.service.connect()
            s.sendall(request)
            begin = time.time()
            self.check_refusal(Answer(drain(s)), 408, "body_timeout")
            self.assertGreater(time.time() - begin, 0.3)
            self.assertLess(time.time() - begin, 2 * PATIENCE)

    def test_a_large_length_buys_no_time(self):
        s = self.service.connect()
        s.sendall(sized(b"262144", b"{"))  # 4 s at the least speed
        begin = time.time()
        self.check_refusal(Answer(drain(s)), 408, "body_timeout")
        self.assertLess(time.time() - begin, 2 * PATIENCE)

    def test_what_keeps_up_may_take_longer_than_the_timeout(self):
        body = b'{"prompt":"now"' + b" " * 240000 + b"}"
        begin = time.time()
        s = self.service.connect()
        s.sendall(sized(str(len(body)).encode(), b""))
        for at in range(0, len(body), 20000):  # 200 KB/s, three times the least
            s.sendall(body[at:at + 20000])
            time.sleep(0.1)
        self.assertEqual(Answer(drain(s)).status, 200)
        self.assertGreater(time.time() - begin, 1)

    def test_dribbling_does_not_extend_the_deadline(self):
        s = self.service.connect()
        s.sendall(sized(b"1000", b"{"))
        begin = time.time()
        try:
            while time.time() - begin < 4:
                s.sendall(b" ")
                time.sleep(0.05)
        except OSError:
            pass
        self.assertLess(time.time() - begin, 2.5 * PATIENCE)
        self.check_refusal(Answer(drain(s)), 408, "body_timeout")


class Limits(WithService):
    options = {"cap": 20, "head_ms": 500}

    def test_a_slow_head_is_late(self):
        s = self.service.connect()
        begin = time.time()
        answered = None
        for byte in b"GET / HTTP/1.1\r\nX-Request-Id: slow\r\n" + b"X: y\r\n" * 20:
            try:
                s.sendall(bytes([byte]))
            except OSError:
                break
            if select.select([s], [], [], 0.02)[0]:
                answered = time.time() - begin
                break
        self.check_refusal(Answer(drain(s)), 408, "head_timeout")
        self.assertLess(answered or 9, 1.5 * PATIENCE)
        self.assertGreater(answered or 9, 0.4)

    def test_a_client_that_says_nothing_gets_nothing(self):
        s = self.service.connect()
        begin = time.time()
        self.assertEqual(drain(s), b"")
        self.assertGreater(time.time() - begin, 0.4)

    def test_500_above_the_cap_are_refused_and_the_others_served(self):
        holders = [self.service.connect() for _ in range(20)]
        for s in holders:
            s.sendall(generate("hang"))
        time.sleep(0.3 * PATIENCE)
        crowd = [self.service.connect() for _ in range(500)]
        for s in crowd:
            answer = Answer(drain(s))
            self.check_refusal(answer, 503, "too_many_connections")
            self.assertEqual(answer.headers["retry-after"], "1")
        self.assertEqual(self.service.ask(get(b"/livez"), admin=True).status, 200)
        for s in holders:
            s.close()
        for _ in holders:
            self.assertRegex(self.service.line() or "", "^gone ")
        time.sleep(0.2 * PATIENCE)
        self.assertEqual(self.service.ask(get(b"/health")).status, 200)

    def test_a_burst_above_the_cap_leaves_nobody_without_an_answer(self):
        crowd = []
        self.service.freeze()  # so that all arrive at once
        for _ in range(300):
            s = self.service.connect()
            crowd.append(s)
            try:
                s.sendall(generate("hang"))
            except OSError:
                pass  # refused already
        self.service.thaw()
        time.sleep(0.2 * PATIENCE)
        refused, held = 0, []
        for s in crowd:
            s.settimeout(0.05)
            try:
                first = s.recv(1, socket.MSG_PEEK)
            except socket.timeout:
                held.append(s)
                continue
            self.assertEqual(first, b"H")
            self.check_refusal(Answer(drain(s)), 503, "too_many_connections")
            refused += 1
        self.assertLessEqual(len(held), 20)
        self.assertEqual(refused + len(held), 300)
        for s in held:
            s.close()
        for _ in held:
            self.assertRegex(self.service.line() or "", "^gone ")
        time.sleep(0.2 * PATIENCE)

    def test_no_descriptor_is_lost(self):
        def descriptors():
            return len(os.listdir("/proc/%d/fd" % self.service.process.pid))
        self.service.ask(get(b"/health"))
        time.sleep(1.2)
        before = descriptors()
        for _ in range(50):
            self.service.ask(get(b"/health"))
            self.service.ask(get(fields=b""))
            self.service.connect().close()
        end = time.time() + 1.5 * PATIENCE
        while descriptors() > before + 2 and time.time() < end:
            time.sleep(0.05)
        self.assertLessEqual(descriptors(), before + 2)


class OneAddress(WithService):
    options = {"cap": 100, "per_ip": 10, "head_ms": 20000, "cors": "https://a.example"}

    def hold(self, n, source=None, host="127.0.0.1"):
        held = [self.service.connect(source=source, host=host) for _ in range(n)]
        for i, s in enumerate(held):  # half of them behind the guard, half in front of it
            s.sendall(generate("hang") if i % 2 else b"GET / HT")
        time.sleep(0.2 * PATIENCE)
        return held

    def release(self, held, source=None):
        for s in held:
            s.close()
        end = time.time() + 5 * PATIENCE
        while self.service.ask(get(b"/health"), source=source).status != 200:
            self.assertLess(time.time(), end)
            time.sleep(0.02)

    def test_above_its_cap_an_address_gets_429_and_others_are_served(self):
        held = self.hold(10)
        for _ in range(20):
            answer = self.service.ask(get(b"/health"))
            self.check_refusal(answer, 429, "ip_conn")
            self.assertEqual(answer.headers["retry-after"], "1")
            self.assertEqual(self.service.ask(get(b"/health"), source="127.0.0.2").status, 200)
            self.assertEqual(self.service.ask(get(b"/health"), source="127.0.1.1").status, 200)
        self.assertEqual(self.service.ask(get(b"/livez"), admin=True).status, 200)
        self.release(held)
        held = self.hold(10)  # all of them are free again
        self.release(held)

    def test_two_addresses_fill_their_caps_separately(self):
        held = self.hold(10, "127.0.0.3") + self.hold(10, "127.0.0.4")
        for source in ("127.0.0.3", "127.0.0.4"):
            self.check_refusal(self.service.ask(get(b"/health"), source=source), 429, "ip_conn")
        self.release(held, "127.0.0.3")
        self.release([], "127.0.0.4")

    def test_ipv6_has_a_cap_too(self):
        try:
            held = self.hold(10, host="::1")
        except OSError:
            self.skipTest("no IPv6 on this machine")
        s = self.service.connect(host="::1")
        self.check_refusal(Answer(drain(s)), 429, "ip_conn")
        self.assertEqual(self.service.ask(get(b"/health")).status, 200)
        for s in held:
            s.close()

    def test_a_thousand_short_connections_leave_no_trace(self):
        for i in range(1000):
            self.assertEqual(self.service.ask(get(b"/livez") if i % 3 else get(b"/", b"")).status,
                             200 if i % 3 else 400)


class Stalled(WithService):
    options = {"stall_s": 1}

    def queued(self, port):
        """Bytes that the kernel holds for the client at this port."""
        with open("/proc/net/tcp") as f:
            for line in list(f)[1:]:
                _, local, remote, _, queues = line.split()[:5]
                if (int(local[-4:], 16), int(remote[-4:], 16)) == (self.service.port, port):
                    return int(queues.split(":")[0], 16)
        return 0

    def test_who_takes_nothing_of_a_large_answer_is_dropped_and_costs_little(self):
        def stalls():
            text = self.service.ask(get(b"/metrics")).body.decode()
            return int(re.search(r'reason="write_stall"} (\d+)', text).group(1))
        before, most = stalls(), 0
        crowd = []
        for prompt, stream in (("big", False), ("flood", True)) * 5:
            s = socket.socket()
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            s.connect(("127.0.0.1", self.service.port))
            s.sendall(generate(prompt, stream))
            crowd.append(s)
        end = time.time() + 6 * PATIENCE
        while stalls() < before + len(crowd) and time.time() < end:
            most = max([most] + [self.queued(s.getsockname()[1]) for s in crowd])
            time.sleep(0.05)
        self.assertEqual(stalls(), before + len(crowd))
        self.assertGreater(most, 0)
        self.assertLessEqual(most, 64 << 10)
        for s in crowd:
            s.close()


class Descriptors(unittest.TestCase):
    def test_without_descriptors_the_service_refuses_and_recovers(self):
        def few():
            import resource
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        real = subprocess.Popen

        def popen(*args, **kw):
            return real(*args, preexec_fn=few, **kw)
        subprocess.Popen = popen
        try:
            service = Service(cap=5000)
        finally:
            subprocess.Popen = real
        crowd = [service.connect() for _ in range(150)]
        answers = []
        for s in crowd[100:]:  # they came when nothing was left
            s.settimeout(2 * PATIENCE)
            answers.append(Answer(drain(s)).status)
        self.assertIn(503, answers)
        for s in crowd[:100]:
            s.close()
        deadline, status = time.time() + 2 * PATIENCE, 0
        while status != 200 and time.time() < deadline:
            status = service.ask(get(b"/health")).status
        self.assertEqual(status, 200)
        self.assertEqual(service.close()[0], 0)


# many of each in a plain build; a sanitizer is there for what happens, not for how much
STREAMS = int(os.environ.get("TACA_STREAMS", "2000" if PATIENCE == 1 else "300"))
SLOW_HEADS = int(os.environ.get("TACA_SLOW_HEADS", "1000" if PATIENCE == 1 else "150"))


class Crowd(unittest.TestCase):
    """By hand: TACA_STREAMS=10000 TACA_SLOW_HEADS=5000 test_front_limits.py FRONT_MAIN Crowd"""

    def resident(self, service):
        with open("/proc/%d/status" % service.process.pid) as f:
            return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))

    def open_streams(self, service):
        before = self.resident(service)
        streams = [service.connect() for _ in range(STREAMS)]
        for s in streams:
            s.sendall(generate("park", True))
        self.hear(streams, 1)
        each = (self.resident(service) - before) / STREAMS
        print("%d streams, %.1f KiB each" % (STREAMS, each))
        if PATIENCE == 1:  # sanitizers keep books of their own
            self.assertLess(each, 12)
        return streams

    def hear(self, streams, beats):
        for s in streams:
            got = b""
            while got.count(b": hb\n\n") < beats:
                part = s.recv(4096)
                self.assertTrue(part)
                got += part

    def dribble(self, heads, seconds):
        """A byte to each now and then, so that only a deadline ends them."""
        end = time.time() + seconds
        while time.time() < end:
            for s in heads:
                try:
                    s.send(b"y")
                except OSError:
                    pass
            time.sleep(0.3)

    def test_slow_heads_and_silent_streams_hold_nothing_up(self):
        head_s = 3 * PATIENCE
        service = Service(cap=STREAMS + SLOW_HEADS + 100, ping_ms=1000, head_ms=int(head_s * 1000))
        service.ask(get(b"/livez"))
        streams = self.open_streams(service)
        probe = subprocess.Popen([sys.executable, os.path.join(os.path.dirname(__file__), "probe.py"),
                                  str(service.port), str(head_s + 1)], stdout=subprocess.PIPE, text=True)
        before = self.resident(service)
        heads = [service.connect() for _ in range(SLOW_HEADS)]
        for s in heads:
            s.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
        opened = time.time()
        grown = self.resident(service) - before
        self.dribble(heads, head_s - 1)
        self.hear(streams, 3)
        answers = [Answer(drain(s)).status for s in heads]
        self.assertEqual(set(answers) - {0}, {408})
        # a thousand are let go gently at a time, so that those who still send can read it
        self.assertLessEqual(answers.count(0), max(0, SLOW_HEADS - 1000))
        self.assertLess(time.time() - opened, head_s + 1 + 2 * PATIENCE)
        seen = json.loads(probe.communicate()[0])
        print("%d slow heads, %.2f KiB each; /livez: %s" % (SLOW_HEADS, grown / SLOW_HEADS, seen))
        self.assertEqual(seen["bad"], 0)
        self.assertGreater(seen["probes"], 50)
        if PATIENCE == 1:
            self.assertLess(grown, 10 * 1024)  # KiB, of all
            self.assertLess(seen["p99_ms"], 100)  # on a quiet machine below 10
        for s in streams:
            s.close()
        self.assertEqual(service.close()[0], 0)


if __name__ == "__main__":
    main()
