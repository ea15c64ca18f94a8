#!/usr/bin/env python3
"""Jobs that outlive the process: restarts, kills, disks that are full, read-only, damaged or taken.

usage: durable_test.py TACA_FAKE [SUBSTRING]   (only tests whose name has the substring)

TACA_KILLS=200 in the environment kills the service so often instead of 50 times."""

import base64
import concurrent.futures
import http.client
import json
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time

import fake_service as base
from jobs_test import finish, look, send, start
from fake_service import Service, error_of, events_of, picture

KILLS = int(os.environ.get("TACA_KILLS", "50"))
JSON = {"Content-Type": "application/json"}


class Folder:
    """A place for one job store, and services on it one after another."""

    def __init__(self):
        self.path = tempfile.mkdtemp(prefix="taca-store-")
        self.db = os.path.join(self.path, "jobs.db")
        self.images = self.db + "-images"
        self.services = []

    def service(self, *args, **options):
        self.services.append(Service("--job-store", "sqlite:" + self.db, *args, **options))
        return self.services[-1]

    def rows(self, query):
        with sqlite3.connect(self.db) as c:
            return c.execute(query).fetchall()

    def pictures(self):
        return sorted(os.listdir(self.images))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for s in self.services:
            s.process.kill()
        shutil.rmtree(self.path, ignore_errors=True)


def crash(s):
    """kill -9, and the wait for the worker, which ends by itself."""
    s.process.kill()
    s.process.wait()
    s.reader.join(5)


def whole(s, job):
    """A finished job as clients see it: its object without the port, its picture, its events."""
    j = look(s, job)
    text = json.dumps(j).replace(f":{s.port}", "")
    _, headers, png = s.request("GET", f"/v1/jobs/{job}/images/0")
    status, _, events = s.request("GET", f"/v1/jobs/{job}/events")
    assert status == 200
    return text, headers["etag"], headers["x-seed"], png, events.decode().replace(f":{s.port}", "")


# ---- restarts ------------------------------------------------------------------------------------


def test_a_finished_job_is_the_same_after_a_restart():
    fields = {"prompt": "a cat", "steps": 3, "n": 2}
    with Folder() as f:
        with f.service() as s:
            status, headers, first = send(s, "PUT", "/v1/jobs/mine", fields)
            assert status == 200, first
            keyed = send(s, "POST", "/v1/generate", fields, Idempotency_Key="k")
            assert keyed[0] == 200
            before = whole(s, "mine")
        assert len(f.pictures()) == 4 and all(p.endswith(".png") for p in f.pictures())
        for how in (Service.stop, crash):
            s = f.service()
            assert whole(s, "mine") == before
            status, headers, again = send(s, "PUT", "/v1/jobs/mine", fields)
            assert status == 200 and again == first and headers["idempotent-replayed"] == "true"
            status, headers, again = send(s, "POST", "/v1/generate", fields, Idempotency_Key="k")
            assert status == 200 and again == keyed[2], (status, again, keyed[2])
            assert headers["idempotent-replayed"] == "true"
            status, _, body = send(s, "POST", "/v1/generate", {"prompt": "b"}, Idempotency_Key="k")
            assert status == 409 and error_of(body)["code"] == "idempotency_conflict"
            status, _, body = send(s, "PUT", "/v1/jobs/mine", {"prompt": "b"})
            assert status == 409 and error_of(body)["code"] == "job_exists"
            m = s.metrics()
            assert m["taca_jobs_stored"] == 2 and m["taca_images_total"] == 0, m
            how(s)


def test_jpegs_are_the_same_after_a_restart():
    fields = {"prompt": "a cat", "steps": 3, "n": 2, "output_format": "jpeg", "output_compression": 70}
    with Folder() as f:
        with f.service() as s:
            status, _, first = send(s, "PUT", "/v1/jobs/mine", fields)
            assert status == 200, first
            before = whole(s, "mine")
        assert len(f.pictures()) == 2 and all(p.endswith(".jpg") for p in f.pictures())
        s = f.service(step_ms=50)
        assert whole(s, "mine") == before
        _, headers, jpeg = s.request("GET", "/v1/jobs/mine/images/1")
        assert headers["content-type"] == "image/jpeg" and headers["content-disposition"].endswith('-1.jpg"')
        assert dict(base.segments(jpeg))[0xFE].endswith(b"}"), "whole, with what made it"
        assert send(s, "PUT", "/v1/jobs/mine", fields)[2] == first
        # one that waits through a restart stays what it was asked to be
        waits = start(s, prompt="b", steps=30, output_format="jpeg", output_compression=70)
        crash(s)
        with f.service() as s:
            assert finish(s, waits["id"])["result"]["images"][0]["format"] == "jpeg"
            assert s.request("GET", f"/v1/jobs/{waits['id']}/images/0")[1]["content-type"] == "image/jpeg"


def test_openai_replies_are_repeated_too():
    fields = {"prompt": "a", "n": 1, "quality": "low", "style": "vivid"}
    with Folder() as f:
        with f.service() as s:
            first = send(s, "POST", "/v1/images/generations", fields, Idempotency_Key="k")
        with f.service() as s:
            again = send(s, "POST", "/v1/images/generations", fields, Idempotency_Key="k")
            assert first[0] == again[0] == 200 and first[2] == again[2], (first, again)


def test_replies_of_edits_and_of_a1111_are_repeated_too():
    start = base64.b64encode(picture(64, 64)).decode()
    asked = (("/v1/images/edits", {"prompt": "a", "image": start}),
             ("/sdapi/v1/txt2img", {"prompt": "a", "steps": 2, "sampler_name": "UniPC", "n_iter": 2}),
             ("/sdapi/v1/img2img", {"prompt": "a", "steps": 2, "init_images": [start], "foo": 1}))
    with Folder() as f:
        with f.service("--enable-a1111") as s:
            first = [send(s, "POST", path, fields, Idempotency_Key="k") for path, fields in asked]
        with f.service("--enable-a1111") as s:
            again = [send(s, "POST", path, fields, Idempotency_Key="k") for path, fields in asked]
            for a, b in zip(first, again):
                assert a[0] == b[0] == 200 and a[2] == b[2], (a[2][:200], b[2][:200])
            assert s.metrics()["taca_images_total"] == 0


def test_a_job_that_starts_from_a_picture_still_does_after_a_crash():
    image, mask = (base64.b64encode(picture(96, 64, k)).decode() for k in (1, 2))
    fields = dict(prompt="p", steps=20, seed=5, image=image, mask=mask, strength=0.9)
    with Service() as s:
        plain = s.png(**fields)
    with Folder() as f:
        s = f.service("--max-batch-images", 1, step_ms=40)
        jobs = [start(s, **fields)["id"] for _ in range(3)]
        s.until(lambda m: m["taca_steps_total"] >= 3)
        crash(s)
        held = f.rows("SELECT max(length(request)) FROM job WHERE state<2")[0][0]
        assert held > 96 * 64 * 4, held
        with f.service() as s:
            assert all(finish(s, j)["status"] == "completed" for j in jobs)
            for job in jobs:
                assert s.request("GET", f"/v1/jobs/{job}/images/0")[2] == plain
        assert f.rows("SELECT max(length(request)) FROM job")[0][0] < 5000, "the pixels are not kept"


def test_waiting_and_running_jobs_go_on_in_order_with_their_seeds():
    with Service() as s:
        plain = [s.png(prompt=f"p{i}", steps=4, seed=i) for i in range(5)]
    with Folder() as f:
        s = f.service("--max-batch-images", 1, step_ms=60)
        jobs = [start(s, prompt=f"p{i}", steps=4, seed=i)["id"] for i in range(5)]
        free = start(s, prompt="any", steps=4)["id"]  # its seed was drawn as it was accepted
        s.until(lambda m: m["taca_requests_running"] == 1)
        crash(s)
        assert f.rows("SELECT count(*) FROM job WHERE state<2") == [(6,)]
        with f.service("--max-batch-images", 1, "--policy", "fcfs", step_ms=20) as s:
            assert s.metrics()["taca_jobs_resumed_total"] == 6
            done = [finish(s, j) for j in jobs + [free]]
            assert all(j["status"] == "completed" for j in done), done
            ended = [r["job"] for r in s.records if r["msg"] == "request"]
            assert ended == jobs + [free], (ended, jobs)
            for i, job in enumerate(jobs):
                assert s.request("GET", f"/v1/jobs/{job}/images/0")[2] == plain[i]


def test_a_client_that_reconnects_misses_nothing_of_a_job_begun_again():
    with Folder() as f:
        s = f.service(step_ms=30)
        job = start(s, prompt="a", steps=30)["id"]
        s.until(lambda m: m["taca_steps_total"] >= 15)
        c = s.connect()
        c.request("GET", f"/v1/jobs/{job}/events")
        seen = next(x for x in c.getresponse() if x.startswith(b"id:"))
        last = int(seen.split()[1]) + 1000  # surely more than there were
        crash(s)
        c.close()
        with f.service(step_ms=1) as s:
            status, _, body = s.request("GET", f"/v1/jobs/{job}/events", None,
                                        {"Last-Event-ID": str(last)})
            kinds = [e["type"] for e in events_of(body)]
            assert status == 200 and kinds[-2:] == ["image", "completed"], kinds
            assert all(e["event_id"] > last for e in events_of(body))


def test_a_drain_gives_back_what_it_cannot_finish():
    with Folder() as f:
        with f.service("--max-batch-images", 1, "--drain-timeout", 1, step_ms=50) as s:
            short = start(s, prompt="a", steps=4)["id"]
            jobs = [start(s, prompt="b", steps=60, seed=i)["id"] for i in range(3)]
            c = s.connect()
            c.request("GET", f"/v1/jobs/{jobs[2]}/events")
            r = c.getresponse()
            finish(s, short)
        last = events_of(r.read())[-1]
        assert last["type"] == "error" and last["error"]["code"] == "draining", last
        # a clean end is nobody's fault: none of them counts as tried
        assert f.rows("SELECT state,attempts FROM job WHERE state<2") == [(0, 0)] * 3
        with f.service("--max-retries", 0, step_ms=1) as s:
            assert all(finish(s, j)["status"] == "completed" for j in jobs + [short])


def test_a_cancelled_job_stays_cancelled_and_a_failed_one_failed():
    with Folder() as f:
        s = f.service("--max-batch-images", 1, step_ms=30)
        running, queued = (start(s, prompt=p, steps=100)["id"] for p in "ab")
        late = start(s, prompt="c", steps=100, start_timeout_ms=200)["id"]
        assert finish(s, late)["error"]["code"] == "start_timeout"
        for job in (running, queued):
            status, _, body = s.request("DELETE", "/v1/jobs/" + job)
            assert status == 202 and json.loads(body)["status"] == "cancelled", body
        crash(s)
        with f.service() as s:
            assert look(s, running)["status"] == look(s, queued)["status"] == "cancelled"
            j = look(s, late)
            assert j["status"] == "failed" and j["error"]["code"] == "start_timeout", j
            status, _, body = s.request("DELETE", "/v1/jobs/" + running)
            assert status == 409 and error_of(body)["code"] == "already_finished"
            _, _, body = s.request("GET", f"/v1/jobs/{queued}/events")
            assert events_of(body)[-1]["type"] == "cancelled"


def test_time_and_bytes_take_results_off_the_disk():
    with Folder() as f:
        with f.service("--job-ttl", 2) as s:
            old = start(s, prompt="a", steps=1)["id"]
            finish(s, old)
            assert len(f.pictures()) == 1
            s.until(lambda m: m["taca_jobs_stored"] == 0)
            assert s.request("GET", "/v1/jobs/" + old)[0] == 410
        assert f.pictures() == [] and f.rows("SELECT count(*) FROM job") == [(0,)]
        with f.service() as s:
            assert s.request("GET", "/v1/jobs/" + old)[0] == 410  # it still knows
            assert s.request("GET", "/v1/jobs/" + "0" * 32)[0] == 404
            ids = []
            for i in range(4):  # one after the other: the oldest end goes first
                ids.append(start(s, prompt="a", steps=1, seed=i)["id"])
                finish(s, ids[-1])
            one = s.metrics()["taca_jobs_stored_bytes"] / 4
        with f.service("--max-stored-bytes", int(2.5 * one)) as s:  # the next process has less room
            status = [s.request("GET", f"/v1/jobs/{i}/images/0")[0] for i in ids]
            assert status == [410, 410, 200, 200], status
        assert len(f.pictures()) == 2
        time.sleep(1.2)
        with f.service("--job-ttl", 1) as s:  # and less time, which ran while it was away
            assert s.request("GET", "/v1/jobs/" + ids[3])[0] == 410


def test_what_a_client_waits_for_itself_is_not_stored():
    with Folder() as f:
        with f.service() as s:
            status, headers, _ = s.post(prompt="a", steps=1)
            assert status == 200
            assert s.request("GET", "/v1/jobs/" + headers["x-job-id"])[0] == 200
            assert send(s, "POST", "/v1/generate", {"prompt": "b", "steps": 1,
                                                    "on_disconnect": "continue"})[0] == 200
        assert f.rows("SELECT count(*) FROM job") == [(1,)]


# ---- kills ---------------------------------------------------------------------------------------


class Client(threading.Thread):
    """Sends jobs until the service dies, and writes down what was acknowledged."""

    def __init__(self, s, book, number):
        super().__init__(daemon=True)
        self.port, self.book, self.number = s.port, book, number
        self.start()

    def run(self):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            for _ in range(8):
                self.book.send(c, f"{self.number}-{len(self.book.tried)}")
        except (OSError, http.client.HTTPException):
            pass  # it is dead
        c.close()


class Book:
    """Two halves: jobs by a name of the client's, and jobs by an Idempotency-Key."""

    def __init__(self):
        self.lock = threading.Lock()
        self.tried, self.accepted, self.completed = {}, {}, {}
        self.strange = []

    def send(self, c, name, again=False):
        seed = self.tried.setdefault(name, hash(name) % 8)
        body = json.dumps({"prompt": "a", "steps": 2, "width": 64, "height": 64, "seed": seed})
        headers = {**JSON, "Prefer": "respond-async"}
        if seed % 2:
            c.request("PUT", "/v1/jobs/" + name, body, headers)
        else:
            c.request("POST", "/v1/generate", body, {**headers, "Idempotency-Key": name})
        r = c.getresponse()
        answer = json.loads(r.read())
        with self.lock:
            if r.status not in (200, 202):
                self.strange.append((r.status, answer))
            elif again and self.accepted.get(name, answer["id"]) != answer["id"]:
                self.strange.append((name, "is another job", answer))
            else:
                self.accepted[name] = answer["id"]
                self.note(answer)

    def note(self, j):
        """Once completed, for ever completed, and at that time."""
        known = self.completed.get(j["id"])
        if known and (j["status"], j["completed"]) != ("completed", known):
            self.strange.append(("done twice", known, j))
        if j["status"] == "completed":
            self.completed[j["id"]] = j["completed"]

    def look(self, s, names):
        for name in names:
            status, _, body = s.request("GET", "/v1/jobs/" + self.accepted[name])
            j = json.loads(body)
            if status != 200:
                self.strange.append((name, "is lost", status, j))
            else:
                self.note(j)


def test_kill_9_at_any_moment_loses_and_doubles_no_acknowledged_job():
    with Service() as s:
        plain = [s.png(prompt="a", steps=2, width=64, height=64, seed=i) for i in range(8)]
    options = ("--max-queue", 100000, "--max-backlog-seconds", 0, "--max-retries", 1000,
               "--job-ttl", 3600, "--start-timeout", 0, "--no-calibrate")
    chance, book, starts = random.Random(11), Book(), []
    with Folder() as f:
        for _ in range(KILLS):
            begin = time.monotonic()
            s = f.service(*options, step_ms=1)
            starts.append(time.monotonic() - begin)
            clients = [Client(s, book, i) for i in range(4)]
            with book.lock:
                names = list(book.accepted)
            try:
                book.look(s, chance.sample(names, min(4, len(names))))
            except (OSError, http.client.HTTPException, ValueError):
                raise AssertionError("the service does not answer") from None
            time.sleep(chance.uniform(0, 0.1) * base.PATIENCE)
            crash(s)
            for c in clients:
                c.join(30)
        with f.service(*options, step_ms=1) as s:
            c = s.connect()
            for name in list(book.tried):  # every client asks for its own again
                book.send(c, name, again=True)
            s.until(lambda m: m["taca_requests_running"] + m["taca_requests_waiting"] == 0, 60)
            book.look(s, book.accepted)
            assert not book.strange, book.strange[:5]
            open_ones = set(book.accepted.values()) - set(book.completed)
            assert not open_ones, [look(s, j) for j in open_ones][:3]
            for name, job in book.accepted.items():
                c.request("GET", f"/v1/jobs/{job}/images/0")
                assert c.getresponse().read() == plain[book.tried[name]], name
            assert s.metrics()["taca_jobs_stored"] == len(book.tried), "jobs that nobody asked for"
        assert len(f.pictures()) == len(book.tried)
        with sqlite3.connect(f.db) as d:
            assert d.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert len(book.tried) > 4 * KILLS, len(book.tried)
    # of the middle one: how long the slowest took may be the machine's doing
    usual, slowest = sorted(starts)[len(starts) // 2], max(starts)
    assert usual < 2 * base.PATIENCE, f"ready after {usual:.1f} s"
    print(f"    {KILLS} kills, {len(book.tried)} jobs; start {1000 * usual:.0f} ms, slowest {1000 * slowest:.0f}")


def test_a_job_that_takes_the_service_down_is_given_up():
    with Folder() as f:
        s = f.service("--max-retries", 2, step_ms=20)
        job = start(s, prompt="a", steps=100)["id"]
        other = None
        for _ in range(3):
            s.until(lambda m: m["taca_steps_total"] >= 3)
            time.sleep(0.1)
            crash(s)
            s = f.service("--max-retries", 2, step_ms=20)
        j = finish(s, job)
        assert j["status"] == "failed" and j["error"]["code"] == "poison", j
        assert "3 times" in j["error"]["message"], j
        other = start(s, prompt="b", steps=1)["id"]
        assert finish(s, other)["status"] == "completed"
        s.stop()


# ---- disks ---------------------------------------------------------------------------------------


def refused(f, says, code, *args, **options):
    """A service that does not start, and says why in one line."""
    s = f.service(*args, wait=False, **options)
    assert s.process.wait(20) == code, (s.process.returncode, s.lines)
    s.reader.join(5)
    errors = [r["msg"] for r in s.records if r["level"] == "error"]
    assert len(errors) == 1 and "--job-store" in errors[0] and says in errors[0], errors


def test_a_store_that_cannot_be_used_is_refused_with_its_reason():
    with Folder() as f, f.service() as first:
        refused(f, "in use by another process", 1)
        assert start(first, prompt="a", steps=1)
    with Folder() as f:
        f.service().stop()
        for sql, says in (("PRAGMA user_version=2", "newer version"),
                          ("PRAGMA application_id=7", "another program")):
            with sqlite3.connect(f.db) as c:
                c.execute(sql)
            c.close()
            refused(f, says, 78)
    with Folder() as f:
        with open(f.db, "w") as db:
            db.write("These are no pages of a database. " * 200)
        refused(f, "not a database", 78)
    with Folder() as f:
        refused(f, "No such file or directory", 78, "--job-store", "sqlite:/nowhere/at/all/jobs.db")
        refused(f, "must be memory or sqlite:FILE", 78, "--job-store", "sqlite:")
        refused(f, "must be memory or sqlite:FILE", 78, "--job-store", "postgres:x")


def test_a_damaged_store_is_refused_and_left_alone():
    with Folder() as f:
        with f.service() as s:
            for i in range(40):
                start(s, prompt="x" * 300, steps=1, seed=i)
            s.until(lambda m: m["taca_jobs_stored"] == 40)
        size = os.path.getsize(f.db)
        with open(f.db, "r+b") as db:
            for at in range(4096, size, 4096):  # every page but the first
                db.seek(at)
                db.write(b"\xAA" * 64)
        before = open(f.db, "rb").read()
        refused(f, "damaged", 78)
        assert open(f.db, "rb").read() == before


def test_a_directory_that_cannot_be_written_is_refused():
    if os.getuid() == 0 and not shutil.which("setpriv"):
        print("    skipped: root may write everywhere and there is no setpriv")
        return
    with Folder() as f:
        os.chmod(f.path, 0o555)
        try:
            command = f.service  # as nobody, for whom the rights are meant
            if os.getuid() != 0:
                refused(f, "Permission denied", 78)
                return
            model = tempfile.mkdtemp(prefix="taca-model-")
            os.chmod(model, 0o755)
            out = subprocess.run(
                ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", base.BINARY, "serve",
                 "--model", model, "--port", "0", "--admin-listen", "none", "--job-store",
                 "sqlite:" + f.db], stderr=subprocess.PIPE, text=True, timeout=60, check=False)
            os.rmdir(model)
            assert command and out.returncode == 78, out
            assert "--job-store" in out.stderr and "Permission denied" in out.stderr, out.stderr
        finally:
            os.chmod(f.path, 0o755)


def fill(path):
    """Takes what is left of a small file system."""
    with open(path, "wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(b"\0" * 4096)
        except OSError:
            pass


def check_full(s, f):
    """Refused and unharmed: with a clear code, nothing half written, the way in memory open."""
    status, headers, body = send(s, "POST", "/v1/generate", {"prompt": "a", "steps": 1},
                                 Prefer="respond-async")
    e = error_of(body)
    assert status == 503 and e["code"] == "storage_unavailable", (status, e)
    assert e["type"] == "server_error" and int(headers["retry-after"]) >= 1
    status, _, body = send(s, "PUT", "/v1/jobs/named", {"prompt": "a", "steps": 1})
    assert status == 503 and error_of(body)["code"] == "storage_unavailable", body
    assert s.request("GET", "/v1/jobs/named")[0] == 404  # as if it had never been sent
    assert s.post("image/png", prompt="a", steps=1)[0] == 200
    m = s.metrics()
    assert m['taca_store_errors_total{op="write"}'] >= 2, m
    assert m['taca_rejected_total{reason="storage_unavailable"}'] == 2, m
    assert s.request("GET", "/readyz")[0] == 200


def test_a_full_disk_refuses_durable_jobs_and_nothing_else():
    with Folder() as f:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", f.path],
                          stderr=subprocess.DEVNULL, check=False).returncode:
            print("    skipped: no right to mount a small file system; see the next test")
            return
        try:
            with f.service() as s:
                kept = start(s, prompt="a", steps=1)["id"]
                finish(s, kept)
                running = start(s, prompt="b", steps=40)["id"]
                fill(f.path + "/ballast")
                check_full(s, f)
                # its result finds no room: it is kept in memory
                assert finish(s, running)["status"] == "completed"
                assert s.request("GET", f"/v1/jobs/{running}/images/0")[0] == 200
                assert s.request("GET", f"/v1/jobs/{kept}/images/0")[0] == 200
                os.remove(f.path + "/ballast")
                again = start(s, prompt="c", steps=1)["id"]
                assert finish(s, again)["status"] == "completed"
                assert s.metrics()["taca_store_broken"] == 0
            assert not [p for p in f.pictures() if p.endswith(".part")]
            with f.service() as s:  # made once more, because nobody wrote that it was done
                assert finish(s, running)["status"] == "completed"
                assert look(s, kept)["status"] == look(s, again)["status"] == "completed"
        finally:
            subprocess.run(["umount", "-l", f.path], check=True)


def test_files_that_may_not_grow_refuse_durable_jobs_and_nothing_else():
    with Folder() as f:
        with f.service("--max-pixels", 65536, "--admin-listen", "127.0.0.1:0") as s:
            first = start(s, prompt="a", steps=1)["id"]
            finish(s, first)
            wal = os.path.getsize(f.db + "-wal")
            _, hard = resource.prlimit(s.process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(s.process.pid, resource.RLIMIT_FSIZE, (wal, hard))
            check_full(s, f)
            public, s.port = s.port, s.wait_for(lambda r: r.get("admin_port"))["admin_port"]
            status, _, body = s.request("POST", "/v1/models/load", json.dumps({"model": "x", "path": base.MODEL}), JSON)
            assert (status, error_of(body)["code"]) == (503, "storage_unavailable"), body
            s.port = public
            assert s.request("GET", f"/v1/jobs/{first}/images/0")[0] == 200
            resource.prlimit(s.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
            again = start(s, prompt="c", steps=1)["id"]
            assert finish(s, again)["status"] == "completed"
        with f.service() as s:
            assert look(s, first)["status"] == look(s, again)["status"] == "completed"


def test_a_picture_that_is_gone_or_cut_is_said_to_be():
    with Folder() as f:
        with f.service() as s:
            for name in ("gone", "cut"):
                assert send(s, "PUT", "/v1/jobs/" + name, {"prompt": name, "steps": 1})[0] == 200
        files = dict(f.rows("SELECT id, printf('%016x-0.png', tag) FROM job"))
        os.remove(os.path.join(f.images, files["gone"]))
        os.truncate(os.path.join(f.images, files["cut"]), 1000)
        with f.service() as s:
            for name, status, code in (("gone", 410, "job_expired"),
                                       ("cut", 503, "storage_unavailable")):
                assert look(s, name)["status"] == "completed"
                got, _, body = s.request("GET", f"/v1/jobs/{name}/images/0")
                assert got == status and error_of(body)["code"] == code, (got, body)
                got, _, body = send(s, "PUT", "/v1/jobs/" + name, {"prompt": name, "steps": 1})
                assert got == status and error_of(body)["code"] == code, (got, body)
            assert s.metrics()['taca_store_errors_total{op="read"}'] == 4


def test_files_that_nobody_keeps_are_removed_and_others_left_alone():
    with Folder() as f:
        with f.service() as s:
            finish(s, start(s, prompt="a", steps=1)["id"])
        kept = f.pictures()
        strays = ["0123456789abcdef-0.png", "0123456789abcdef-0.jpg", "0123456789abcdef-1.part", kept[0][:-4] + ".part",
                  kept[0].replace("-0.", "-1.")]
        others = ["notes.txt", "0123456789abcdef-0.png.bak", "x-0.png"]
        for name in strays + others:
            with open(os.path.join(f.images, name), "w") as file:
                file.write("x")
        with f.service() as s:
            assert f.pictures() == sorted(kept + others)


def test_who_waits_so_long_waits_no_longer_for_a_slow_disk():
    with Folder() as f, f.service("--max-batch-images", 1, step_ms=20) as s, \
            concurrent.futures.ThreadPoolExecutor() as pool:
        asked = pool.submit(send, s, "PUT", "/v1/jobs/x", {"prompt": "a", "steps": 10}, Prefer="wait=1")
        while s.request("GET", "/v1/jobs/x")[0] != 200:
            time.sleep(0.005)
        disk = sqlite3.connect(f.db, isolation_level=None)
        disk.execute("BEGIN IMMEDIATE")  # from now on nothing is written
        begun = time.monotonic()
        status, _, body = asked.result()
        assert status == 202 and json.loads(body)["status"] == "running", (status, body)
        assert time.monotonic() - begun < 3 * base.PATIENCE
        disk.execute("ROLLBACK")
        disk.close()
        assert finish(s, "x")["status"] == "completed"


def test_requests_of_another_version_fail_and_say_so():
    with Folder() as f:
        s = f.service("--max-batch-images", 1, step_ms=50)
        jobs = [start(s, prompt="a", steps=100)["id"] for _ in range(2)]
        crash(s)
        with sqlite3.connect(f.db) as c:
            c.execute("UPDATE job SET request=x'00112233' WHERE id=?", (jobs[1],))
        c.close()
        with f.service("--max-batch-images", 1, "--log-prompts", step_ms=1) as s:
            j = finish(s, jobs[1])
            assert j["status"] == "failed" and j["error"]["code"] == "job_unreadable", j
            assert finish(s, jobs[0])["status"] == "completed"
        with f.service("--model-id", "else") as s:
            assert look(s, jobs[0])["status"] == "completed"


def test_a_job_of_a_model_that_is_no_longer_served_fails():
    with Folder() as f:
        s = f.service(step_ms=50)
        job = start(s, prompt="a", steps=100)["id"]
        crash(s)
        with f.service("--model-id", "else") as s:
            j = finish(s, job)
            assert j["status"] == "failed" and j["error"]["code"] == "model_not_found", j
            assert "fake" in j["error"]["message"] and "else" in j["error"]["message"], j


def test_a_restored_job_waits_until_it_is_known_which_models_there_are():
    with Folder() as f, tempfile.TemporaryDirectory(prefix="taca-faults-") as faults:
        s = f.service("--model", f"b={base.MODEL}", model=f"a={base.MODEL}", step_ms=50)
        while s.request("GET", "/readyz")[0] != 200:  # both, and it does not take long
            time.sleep(0.01)
        gone, plain = (send(s, "PUT", "/v1/jobs/" + m, {"prompt": "p", "steps": 60, "model": m},
                            Prefer="respond-async") for m in "ba")
        assert gone[0] == plain[0] == 202, (gone, plain)
        crash(s)
        fault = os.path.join(faults, "load-c")
        with open(fault, "w") as file:
            file.write("0")
        with f.service("--model", f"c={base.MODEL}", model=f"a={base.MODEL}", step_ms=1,
                       env={"TACA_FAKE_FAULTS": faults}) as s:
            s.wait_for(lambda r: "model a" in r["msg"])
            time.sleep(0.3 * base.PATIENCE)  # c is still on its way: b might be, too
            assert look(s, "a")["status"] == look(s, "b")["status"] == "queued"
            os.remove(fault)
            assert finish(s, "a")["status"] == "completed"
            j = finish(s, "b")
            assert j["status"] == "failed" and j["error"]["code"] == "model_not_found", j


def test_models_that_an_operator_loaded_and_unloaded_are_so_after_a_restart():
    with Folder() as f, tempfile.TemporaryDirectory(prefix="taca-model-") as path:
        def service(**options):
            s = f.service("--admin-listen", "127.0.0.1:0", "--model", f"b={base.MODEL}", model=f"a={base.MODEL}",
                          wait=False, **options)
            s.port = s.wait_for(lambda r: r.get("port"))["port"]
            s.main_port, s.admin_port = s.port, s.wait_for(lambda r: r.get("admin_port"))["admin_port"]
            return s

        def order(s, what, **fields):
            s.port = s.admin_port
            status, _, body = s.request("POST", "/v1/models/" + what, json.dumps(fields), JSON)
            s.port = s.main_port
            assert status == 202, body

        def states(s):
            s.port = s.admin_port
            listed = json.loads(s.request("GET", "/v1/models")[2])["data"]
            s.port = s.main_port
            return {m["id"]: m["state"] for m in listed}

        def until(s, want):
            end = time.monotonic() + 20 * base.PATIENCE
            while states(s) != want:
                assert time.monotonic() < end, states(s)
                time.sleep(0.01)

        s = service(step_ms=50)
        until(s, {"a": "ready", "b": "ready"})
        order(s, "load", model="c", path=path)
        order(s, "load", model="d", path=path)
        order(s, "unload", model="b")
        until(s, {"a": "ready", "b": "unloaded", "c": "ready", "d": "ready"})
        order(s, "unload", model="d")
        assert send(s, "PUT", "/v1/jobs/j", {"prompt": "p", "steps": 60, "model": "c"},
                    Prefer="respond-async")[0] == 202
        crash(s)  # what was answered holds
        s = service(step_ms=1)
        until(s, {"a": "ready", "b": "unloaded", "c": "ready"})
        assert finish(s, "j")["status"] == "completed"
        order(s, "load", model="b")  # from where the options say
        order(s, "unload", model="c")
        order(s, "unload", model="a")
        until(s, {"a": "unloaded", "b": "ready", "c": "unloaded"})
        order(s, "unload", model="b")
        order(s, "load", model="c", path=path)
        until(s, {"a": "unloaded", "b": "unloaded", "c": "ready"})
        assert send(s, "PUT", "/v1/jobs/k", {"prompt": "p", "steps": 100, "n": 8, "model": "c"},
                    Prefer="respond-async")[0] == 202
        crash(s)
        os.rmdir(path)
        s = service()  # nothing is left, and it starts: the operator wanted that
        until(s, {"a": "unloaded", "b": "unloaded", "c": "failed"})
        assert error_of(s.post(prompt="x")[2])["code"] in ("loading", "model_not_found")
        assert finish(s, "k")["error"]["code"] == "model_not_found"
        order(s, "load", model="a")
        until(s, {"a": "ready", "b": "unloaded", "c": "failed"})
        assert s.post(prompt="x", steps=1)[0] == 200
        os.mkdir(path)
        s.stop()


if __name__ == "__main__":
    sys.exit(base.run(globals()))
