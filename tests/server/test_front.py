#!/usr/bin/env python3
"""test_front.py FRONT_MAIN [TACA] - the front door from outside: raw sockets against front_main.

One make-believe service per group of tests; every test says in its name what a client can count on.
"""
import json
import os
import queue
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest

from payloads import HOST, ROWS, chunks, get, post, sized

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


class Requests(WithService):
    def test_every_payload_gets_one_right_answer_and_a_close(self):
        self.assertGreaterEqual(len(ROWS), 300)
        self.assertEqual(len({name for name, _, _ in ROWS}), len(ROWS))
        self.assertEqual(len({request for _, _, request in ROWS}), len(ROWS))
        for name, want, request in ROWS:
            with self.subTest(name):
                answer = self.service.ask(request)
                self.assertEqual(answer.status, want)
                self.assertEqual(answer.rest, b"")
                if want >= 400:
                    self.check_refusal(answer, want)
                else:
                    self.check_common(answer)

    def test_heads_of_every_size_and_shape_are_parsed(self):
        shapes = [HOST + b"A: b\r\n" * n for n in range(0, 99, 3)]
        shapes += [HOST + b"A: " + b"b" * n + b"\r\n" for n in range(1, 16000, 401)]
        shapes += [HOST + b"Cookie: " + b"a=b;" * n + b"\r\n" for n in range(1, 63, 4)]
        shapes += [HOST + b"Cookie: a=" + b"b" * n + b"\r\n" for n in range(1, 8000, 401)]
        shapes += [HOST + (b"A: " + b"b" * 40 + b"\r\n") * n for n in range(1, 99, 3)]
        for fields in shapes:
            answer = self.service.ask(generate("now").replace(HOST, fields, 1))
            self.assertEqual((answer.status, answer.headers.get("x-seed")), (200, "7"), fields[:60])
        for n in range(1, 63, 4):
            answer = self.service.ask(get(b"/health?" + b"a=b&" * n, HOST + b"A: b\r\n" * n))
            self.assertEqual(answer.status, 200, n)
        for n in range(1, 8100, 301):
            answer = self.service.ask(get(b"/health?" + b"a" * n))
            self.assertEqual(answer.status, 200, n)

    def test_a_request_cut_anywhere_is_the_same_request(self):
        whole = generate("now")
        for cut in range(1, len(whole)):
            s = self.service.connect()
            s.sendall(whole[:cut])
            s.sendall(whole[cut:])
            self.assertEqual(Answer(drain(s)).status, 200, cut)

    def test_a_request_byte_by_byte_is_the_same_request(self):
        s = self.service.connect()
        for byte in generate("now"):
            s.sendall(bytes([byte]))
            time.sleep(0.001)
        self.assertEqual(Answer(drain(s)).status, 200)

    def test_a_partial_head_that_is_half_closed_is_refused_at_once(self):
        begin = time.time()
        s = self.service.connect()
        s.sendall(b"GET / HTTP/1.1\r\nHo")
        s.shutdown(socket.SHUT_WR)
        self.check_refusal(Answer(drain(s)), 400)
        self.assertLess(time.time() - begin, 1 * PATIENCE)

    def test_half_closed_heads_cost_no_time(self):
        pid = self.service.process.pid
        parked = [self.service.connect() for _ in range(50)]
        for s in parked[:25]:
            s.sendall(b"GET / HTTP/1.1\r\nHo")
        for s in parked[25:]:
            s.sendall(b"GET / HTTP/1.1\r\nHo")
            s.shutdown(socket.SHUT_WR)
        time.sleep(0.3)

        def ticks():
            with open("/proc/%d/stat" % pid) as f:
                fields = f.read().rsplit(")", 1)[1].split()
            return int(fields[11]) + int(fields[12])
        before = ticks()
        time.sleep(1)
        self.assertLess(ticks() - before, min(20 * PATIENCE, 60))  # of 100
        for s in parked:
            s.close()

    def test_a_complete_get_may_be_half_closed(self):
        s = self.service.connect()
        s.sendall(get(b"/health"))
        s.shutdown(socket.SHUT_WR)
        self.assertEqual(Answer(drain(s)).status, 200)

    def end_with(self, request):
        """The request and the end of the client's side, which the service sees together."""
        self.service.freeze()
        s = self.service.connect()
        s.sendall(request)
        s.shutdown(socket.SHUT_WR)
        self.service.thaw()
        return s

    def test_a_body_that_ends_early_frees_its_connection_at_once(self):
        whole = generate("now")
        head = whole.index(b"\r\n\r\n") + 4
        cut = [whole[:head], whole[:head + 1], whole[:-1], sized(b"70000", b"{" + b" " * 40000),
               chunks(b""), chunks(b"5\r\n{\"pro"), chunks(b"2\r\n{}\r\n"),
               chunks(b"2\r\n{}\r\n0\r\n")]
        for request in cut:
            begin = time.time()
            self.assertEqual(drain(self.end_with(request)), b"", request[-40:])
            self.assertLess(time.time() - begin, 2 * PATIENCE, request[-40:])  # of 5

    def test_a_whole_request_may_be_half_closed(self):
        for request in (sized(b"2", b"{}"), sized(b"40000", b"{" + b" " * 39998 + b"}"),
                        chunks(b"2\r\n{}\r\n0\r\n\r\n")):
            self.check_refusal(Answer(drain(self.end_with(request))), 400)

    def test_a_request_id_is_returned_when_it_is_plain(self):
        mine = b"Host: a\r\nX-Request-Id: my.id_7-Z\r\n"
        self.assertEqual(self.service.ask(get(b"/health", mine)).headers["x-request-id"],
                         "my.id_7-Z")
        self.assertEqual(self.service.ask(get(b"/nope", mine)).headers["x-request-id"],
                         "my.id_7-Z")
        refused = self.service.ask(get(b"/", b"X-Request-Id: my.id_7-Z\r\nHost : a\r\n"))
        self.assertEqual(refused.headers["x-request-id"], "my.id_7-Z")
        other = self.service.ask(get(b"/health", b"Host: a\r\nX-Request-Id: a b\r\n"))
        self.assertRegex(other.headers["x-request-id"], r"^[0-9a-f]{32}$")

    def test_head_is_get_without_the_body(self):
        full = self.service.ask(get(b"/v1/capabilities"))
        head = self.service.ask(get(b"/v1/capabilities").replace(b"GET", b"HEAD", 1))
        self.assertEqual(head.status, 200)
        self.assertEqual(head.body, b"")
        self.assertEqual(head.headers["content-length"], full.headers["content-length"])
        refused = self.service.ask(get(b"/%00").replace(b"GET", b"HEAD", 1))  # by the guard
        self.assertEqual((refused.status, refused.body), (400, b""))
        self.assertEqual(refused.headers["content-length"], str(len(self.service.ask(get(b"/%00")).body)))

    def test_a_refused_method_names_the_allowed_ones(self):
        answer = self.service.ask(get(b"/v1/generate"))
        self.check_refusal(answer, 405, "method_not_allowed")
        self.assertEqual(answer.headers["allow"], "POST, OPTIONS")

    def test_both_addresses_of_localhost_answer(self):
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            try:
                s = socket.socket(family, socket.SOCK_STREAM)
                s.bind((address, 0))
            except OSError:
                continue  # no IPv6 on this machine
            s.close()
            s = socket.create_connection((address, self.service.port), timeout=5)
            s.sendall(get(b"/health"))
            self.assertEqual(Answer(drain(s)).status, 200)

    def test_the_admin_listener_has_probes_metrics_and_models_only(self):
        for path in (b"/health", b"/livez", b"/readyz", b"/startupz", b"/metrics",
                     b"/v1/models"):
            self.assertEqual(self.service.ask(get(path), admin=True).status, 200, path)
        for path in (b"/", b"/v1/loras", b"/v1/queue"):
            self.check_refusal(self.service.ask(get(path), admin=True), 404, "not_found")
        self.check_refusal(self.service.ask(generate("now"), admin=True), 404, "not_found")

    def test_refusals_are_counted_by_reason(self):
        def count(text, name):
            found = re.search(r"^%s (\d+)$" % re.escape(name), text, re.M)
            return int(found.group(1)) if found else 0

        def scrape():
            return self.service.ask(get(b"/metrics")).body.decode()
        names = {'taca_rejected_total{reason="bad_head"}': get(fields=b""),
                 'taca_rejected_total{reason="not_found"}': get(b"/nope"),
                 'taca_rejected_total{reason="not_allowed"}': get(b"/v1/generate"),
                 'taca_rejected_total{reason="invalid_request"}': sized(b"2", b"{}"),
                 'taca_rejected_total{reason="body_too_large"}': sized(b"999999", b""),
                 'taca_rejected_total{reason="unsupported_media_type"}':
                     b"POST /v1/generate HTTP/1.1\r\nHost: a\r\n\r\n",
                 'taca_http_requests_total{route="/v1/queue",method="GET",code="200"}':
                     get(b"/v1/queue")}
        before = scrape()
        for request in names.values():
            self.service.ask(request)
        after = scrape()
        for name in names:
            self.assertEqual(count(after, name), count(before, name) + 1, name)


class States(WithService):
    def test_the_probes_tell_the_states_apart(self):
        table = {"loading": (503, 200, 503, 503, "loading"),
                 "ready": (200, 200, 200, 200, "ok"),
                 "draining": (503, 200, 503, 200, "draining"),
                 "failed": (503, 200, 503, 503, "failed")}
        for state, (health, livez, readyz, startupz, word) in table.items():
            self.service.tell(state)
            answer = self.service.ask(get(b"/health"))
            self.assertEqual((answer.status, json.loads(answer.body)["status"]), (health, word))
            self.assertEqual(self.service.ask(get(b"/livez")).status, livez)
            self.assertEqual(self.service.ask(get(b"/v2/health/live")).status, livez)
            self.assertEqual(self.service.ask(get(b"/readyz")).status, readyz)
            self.assertEqual(self.service.ask(get(b"/v2/health/ready")).status, readyz)
            self.assertEqual(self.service.ask(get(b"/startupz")).status, startupz)
        self.service.tell("ready")

    def test_new_work_is_refused_unless_ready(self):
        for state, code in (("loading", "loading"), ("draining", "draining"),
                            ("failed", "gpu_unavailable")):
            self.service.tell(state)
            answer = self.service.ask(generate("now"))
            self.check_refusal(answer, 503, code)
            self.assertGreater(int(answer.headers["retry-after"]), 0)
        self.service.tell("ready")
        self.assertEqual(self.service.ask(generate("now")).status, 200)


class Heart(WithService):
    def test_a_loop_that_no_longer_turns_is_not_alive(self):
        self.service.tell("stuck")
        answer = self.service.ask(get(b"/livez"))
        self.assertEqual(answer.status, 503)
        self.assertGreater(json.loads(answer.body)["heartbeat_age_ms"], 10000)


class Jobs(WithService):
    options = {"ping_ms": 200}

    def test_an_answer_comes_from_another_thread(self):
        for prompt in ("now", "slow"):
            answer = self.service.ask(generate(prompt))
            self.assertEqual(answer.status, 200)
            self.assertEqual(json.loads(answer.body), {"pad": "xxxx"})
            self.assertEqual(answer.headers["x-seed"], "7")

    def test_a_large_answer_arrives_whole(self):
        answer = self.service.ask(generate("big"))
        self.assertEqual(len(json.loads(answer.body)["pad"]), 8 << 20)

    def test_a_refusal_by_the_loop_has_its_status(self):
        for stream in (False, True):
            answer = self.service.ask(generate("fail", stream))
            self.check_refusal(answer, 429, "queue_full")
            self.assertEqual(answer.headers["retry-after"], "2")
            self.assertEqual(answer.headers["retry-after-ms"], "2000")

    def test_events_arrive_one_by_one_and_end(self):
        s = self.service.connect()
        s.sendall(generate("now", True))
        got, times = b"", []
        while True:
            part = s.recv(65536)
            if not part:
                break
            got += part
            times.append(time.time())
        answer = Answer(got)
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.rest, b"")
        self.assertEqual(answer.headers["content-type"], "text/event-stream")
        self.assertEqual(answer.headers["x-accel-buffering"], "no")
        names = [name for name, _ in events(answer.body)]
        self.assertEqual((names[0], names[-2], names[-1]), ("queued", "image", "completed"))
        ids = {data["id"] for _, data in events(answer.body)}
        self.assertEqual(ids, {answer.headers["x-job-id"]})
        self.assertGreater(len(times), 3)

    def test_events_work_in_http_1_0(self):
        request = generate("now", True).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
        answer = self.service.ask(request)
        self.assertEqual(events(answer.body)[-1][0], "completed")

    def test_a_silent_stream_sends_its_head_and_heartbeats(self):
        s = self.service.connect()
        s.sendall(generate("hang", True))
        got, begin = b"", time.time()
        while got.count(b": hb\n\n") < 3 and time.time() - begin < 5 * PATIENCE:
            got += s.recv(4096)
        self.assertIn(b"text/event-stream", got)
        self.assertGreaterEqual(got.count(b": hb\n\n"), 3)
        s.close()
        self.assertRegex(self.service.line() or "", "^gone ")

    def leave_once(self, stream, how):
        s = self.service.connect()
        s.sendall(generate("hang", stream))
        time.sleep(0.15 * PATIENCE)
        begin = time.time()
        if how == "reset":
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            s.close()
        elif how == "close":
            s.close()
        else:
            s.shutdown(socket.SHUT_WR)
        line = self.service.line(3)
        took = time.time() - begin
        self.assertRegex(line or "", "^gone [0-9a-f]{32}$", (stream, how))
        s.close()
        return took

    def leave(self, stream, how):
        took = []  # a busy machine may be to blame once, not three times
        while not took or took[-1] >= 0.1 * PATIENCE:
            self.assertLess(len(took), 3, (stream, how, took))
            took.append(self.leave_once(stream, how))

    def test_a_client_that_leaves_is_noticed_within_100_ms(self):
        for stream in (False, True):
            for how in ("close", "reset"):
                self.leave(stream, how)

    def test_a_half_closed_client_that_waits_for_one_answer_is_gone(self):
        self.leave(False, "half")

    def test_a_half_closed_event_stream_goes_on(self):
        s = self.service.connect()
        s.sendall(generate("slow", True))
        s.shutdown(socket.SHUT_WR)
        self.assertEqual(events(Answer(drain(s)).body)[-1][0], "completed")

    def test_a_reader_that_sleeps_loses_previews_but_no_final(self):
        s = self.service.connect()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        s.sendall(generate("flood", True))
        time.sleep(0.7 * PATIENCE)
        answer = Answer(drain(s))
        self.assertEqual([n for n, _ in events(answer.body)][-2:], ["image", "completed"])
        self.assertLess(len(answer.body), 16 << 20)  # of 131 MB
        self.assertGreater(len(answer.body), 64 << 10)

    def test_many_at_once_all_get_their_own(self):
        wrong = []

        def client(i):
            for k in range(10):
                stream = (i + k) % 2 == 0
                answer = self.service.ask(generate("now", stream))
                good = (events(answer.body)[-1][0] == "completed" if stream
                        else json.loads(answer.body) == {"pad": "xxxx"})
                if not good:
                    wrong.append(answer.raw)
        threads = [threading.Thread(target=client, args=(i,)) for i in range(16)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(wrong, [])

    def test_many_that_leave_are_all_noticed(self):
        waiting = [self.service.connect() for _ in range(200)]
        for i, s in enumerate(waiting):
            s.sendall(generate("hang", i % 2 == 0))
        time.sleep(0.5 * PATIENCE)
        for s in waiting:
            s.close()
        gone = {self.service.line(5) for _ in waiting}
        self.assertEqual(len(gone), len(waiting))
        self.assertNotIn(None, gone)
        time.sleep(0.3 * PATIENCE)
        left = subprocess.run(["ls", "/proc/%d/fd" % self.service.process.pid],
                              capture_output=True, text=True).stdout.split()
        self.assertLess(len(left), 60)  # their descriptors are free again


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


class Origins(WithService):
    """A script of a listed page can read why it was refused, whoever refuses."""
    options = {"cap": 5, "head_ms": 500, "body_ms": 400, "cors": "https://a.example"}
    origin = b"Origin: https://a.example\r\n"

    def check_readable(self, answer, status, origin="https://a.example"):
        self.check_refusal(answer, status)
        self.assertEqual(answer.headers["access-control-allow-origin"], origin)
        self.assertEqual(answer.headers["vary"], "Origin")
        self.assertIn("Retry-After", answer.headers["access-control-expose-headers"])

    def test_refused_heads_and_large_bodies(self):
        fields = HOST + self.origin
        for status, request in (
                (400, get(fields=self.origin)), (400, get(fields=b"Host : a\r\n" + self.origin)),
                (400, get(b"/%zz", fields)), (404, get(b"/nope", fields)),
                (405, b"TRACE / HTTP/1.1\r\n" + fields + b"\r\n"),
                (413, sized(b"999999", b"", self.origin)),
                (414, get(b"/" + b"a" * 9000, fields)),
                (417, sized(b"0", b"", self.origin + b"Expect: x\r\n")),
                (431, get(fields=fields + b"A: b\r\n" * 200)),
                (501, post(b"Transfer-Encoding: gzip\r\n" + self.origin)),
                (505, get(fields=fields, version=b"HTTP/2.0"))):
            with self.subTest(status):
                self.check_readable(self.service.ask(request), status)

    def test_late_heads_and_bodies(self):
        for request in (b"GET / HTTP/1.1\r\n" + self.origin, sized(b"9", b"{", self.origin)):
            s = self.service.connect()
            s.sendall(request)
            self.check_readable(Answer(drain(s)), 408)

    def test_one_connection_too_many(self):
        held, end = [], time.time() + 5 * PATIENCE
        while len(held) < 5:
            self.assertLess(time.time(), end)
            s = self.service.connect()
            s.sendall(generate("hang", True))  # a stream may last; a head has half a second
            if s.recv(12) == b"HTTP/1.1 200":
                held.append(s)
            else:
                s.close()  # a place of another test is not free yet
        self.service.freeze()  # so that it comes with its head
        s = self.service.connect()
        s.sendall(get(fields=HOST + self.origin))
        self.service.thaw()
        self.check_readable(Answer(drain(s)), 503)
        for s in held:
            s.close()
        for _ in held:
            self.assertRegex(self.service.line() or "", "^gone ")

    def test_other_pages_learn_nothing(self):
        for origin in (b"https://b.example", b"https://a.example.evil", b"null",
                       b"https://a.example\r\nOrigin: x"):
            answer = self.service.ask(get(fields=b"Origin: " + origin + b"\r\n"))
            self.check_refusal(answer, 400)
            self.assertEqual(answer.headers["vary"], "Origin")
            if b"\n" not in origin:
                self.assertNotIn("access-control-allow-origin", answer.headers)
        self.assertNotIn("access-control-allow-origin", self.service.ask(get(fields=b"")).headers)


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


@unittest.skipUnless(TACA, "no taca was named")
class Healthcheck(WithService):
    def check(self, *options):
        done = subprocess.run((TACA, "healthcheck") + options, capture_output=True, text=True)
        return done.returncode, done.stderr

    def test_it_tells_well_from_unwell_by_its_exit_status(self):
        port = str(self.service.port)
        self.assertEqual(self.check("--port", port), (0, ""))
        self.assertEqual(self.check("--port", port, "--ready"), (0, ""))
        self.assertEqual(self.check("--port", str(self.service.admin), "--ready"), (0, ""))
        self.assertEqual(self.check("--host", "0.0.0.0", "--port", port), (0, ""))
        self.assertEqual(self.check("--url", "http://localhost:%s/health" % port), (0, ""))
        self.assertEqual(self.check("--url", "http://127.0.0.1:%s/nope" % port)[0], 1)
        self.service.tell("draining")
        self.assertEqual(self.check("--port", port), (0, ""))
        status, said = self.check("--port", port, "--ready")
        self.assertEqual(status, 1)
        self.assertIn("503", said)
        self.assertEqual(self.check("--url", "ftp://x")[0], 2)

    def test_a_service_that_says_nothing_is_unwell_after_3_s(self):
        silent = socket.create_server(("127.0.0.1", 0))
        begin = time.time()
        self.assertEqual(self.check("--port", str(silent.getsockname()[1]))[0], 1)
        self.assertLess(time.time() - begin, 4 * PATIENCE)
        silent.close()


# many of each in a plain build; a sanitizer is there for what happens, not for how much
STREAMS = int(os.environ.get("TACA_STREAMS", "2000" if PATIENCE == 1 else "300"))
SLOW_HEADS = int(os.environ.get("TACA_SLOW_HEADS", "1000" if PATIENCE == 1 else "150"))


class Crowd(unittest.TestCase):
    """By hand: TACA_STREAMS=10000 TACA_SLOW_HEADS=5000 test_front.py FRONT_MAIN Crowd"""

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


class Closing(unittest.TestCase):
    def test_closing_with_waiting_clients_is_clean(self):
        service = Service()
        waiting = [service.connect() for _ in range(60)]
        for i, s in enumerate(waiting):
            s.sendall(generate("hang", i % 2 == 0))
        idle = [service.connect() for _ in range(5)]
        half = service.connect()
        half.sendall(sized(b"100", b"{"))
        time.sleep(0.5 * PATIENCE)
        begin = time.time()
        status, rest = service.close()
        self.assertEqual((status, rest[0]), (0, "closed"))
        self.assertLess(time.time() - begin, 1 * PATIENCE)
        for s in waiting + idle + [half]:
            self.assertIsNotNone(drain(s))  # all ended

    def test_closing_at_once_is_clean(self):
        status, rest = Service().close()
        self.assertEqual((status, rest[0]), (0, "closed"))

    def test_after_stop_nobody_comes_in_and_the_others_finish(self):
        service = Service()
        s = service.connect()
        s.sendall(generate("slow"))
        time.sleep(min(0.05 * PATIENCE, 0.15))
        service.tell("stop")
        with self.assertRaises(OSError):
            service.connect()
        self.assertEqual(Answer(drain(s)).status, 200)
        self.assertEqual(service.ask(get(b"/health"), admin=True).status, 200)
        self.assertEqual(service.close()[0], 0)


if __name__ == "__main__":
    del sys.argv[1:3 if TACA else 2]
    unittest.main()
