#!/usr/bin/env python3
"""test_front.py FRONT_MAIN [TACA] - the front door from outside: raw sockets against front_main.

One make-believe service per group of tests; every test says in its name what a client can count on.
"""
import json
import re
import socket
import subprocess
import threading
import time
import unittest

from front import PATIENCE, TACA, Answer, Service, WithService, drain, events, generate, main
from payloads import HOST, ROWS, chunks, get, post, sized


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
    main()
