#!/usr/bin/env python3
"""Smuggling through a proxy: nginx and HAProxy in front of the service, and every hostile request of
payloads.py sent to them. Each proxy signs the requests that it sends (X-Request-Id); a request that
the service answers without a signature is one that the proxy took for a part of another.

usage: proxy_test.py TACA_FAKE [SUBSTRING]   (only tests whose name has the substring)

The proxies are those on the PATH or what tests/server/tools.sh has fetched."""

import concurrent.futures
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import fake_service as base
from payloads import ROWS, get, sized
from fake_service import PATIENCE, Service

HERE = os.path.dirname(os.path.abspath(__file__))
FETCHED = os.path.join(HERE, "../../build/tools/proxies/usr")
LIBRARIES = os.path.join(FETCHED, "lib/x86_64-linux-gnu")

NGINX = """daemon off; worker_processes 1; pid nginx.pid; error_log nginx.err;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_header_timeout 1s; client_body_timeout 1s; keepalive_timeout 200ms; ignore_invalid_headers off;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fcgi; uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  upstream service {{ server 127.0.0.1:{to}; keepalive 4; }}
  server {{ listen 127.0.0.1:{port};
    location / {{ proxy_pass http://service; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header X-Request-Id proxy-$request_id; proxy_request_buffering off; }} }}
}}
"""
HAPROXY = """global
  maxconn 1000
defaults
  mode http
  option http-buffer-request
  timeout connect 2s
  timeout client 1s
  timeout server 5s
  timeout http-request 1s
  timeout http-keep-alive 200
frontend f
  bind 127.0.0.1:{port}
  http-request set-header X-Request-Id proxy-%[uuid()]
  default_backend b
backend b
  http-reuse always
  server s 127.0.0.1:{to}
"""


def program(name):
    fetched = os.path.join(FETCHED, "sbin", name)
    return fetched if os.path.exists(fetched) else shutil.which(name, path=os.defpath + ":/usr/sbin")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Proxy:
    def __init__(self, name, config, command, to):
        self.folder, self.port = tempfile.mkdtemp(prefix="taca-proxy-"), free_port()
        with open(os.path.join(self.folder, "conf"), "w", encoding="ascii") as f:
            f.write(config.format(port=self.port, to=to))
        self.process = subprocess.Popen([program(name), *command], cwd=self.folder, stderr=subprocess.PIPE,
                                        stdout=subprocess.DEVNULL, env=dict(os.environ, LD_LIBRARY_PATH=LIBRARIES))

    def __enter__(self):
        end = time.monotonic() + 10 * PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return self
            except OSError:
                assert self.process.poll() is None and time.monotonic() < end, self.process.stderr.read()
                time.sleep(0.02)

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.process.stderr.close()
        shutil.rmtree(self.folder)

    def send(self, request):
        """What comes back, until the proxy closes or has nothing more to say."""
        answer = b""
        with socket.create_connection(("127.0.0.1", self.port), timeout=3 * PATIENCE) as s:
            try:
                s.sendall(request)
                while got := s.recv(1 << 16):
                    answer += got
            except OSError:
                pass
        return answer


def through(name, config, command):
    with Service("--log-level", "debug", "--max-queue", 10000, step_ms=0) as s:
        with Proxy(name, config, command, s.port) as p:
            assert b"200" in p.send(get(b"/livez"))[:20]
            with concurrent.futures.ThreadPoolExecutor(64) as pool:
                answers = list(pool.map(lambda row: p.send(row[2]), ROWS))
            assert b"200" in p.send(sized(b"16"))[:20], "the service is well"
        s.request("GET", "/livez", headers={"X-Request-Id": "mine"})
        s.wait_for(lambda r: r.get("request_id") == "mine")  # it would be seen
        served = [r for r in s.records if r["msg"] in ("http", "request") and "request_id" in r]
        alien = [r for r in served if not r["request_id"].startswith("proxy-")]
        assert [r["request_id"] for r in alien] == ["mine"], (len(alien), alien[:3])
    passed = sum(b"200" in a[:20] for a in answers)
    assert passed >= 10 and len(served) > passed, (passed, len(served))
    print(f"    {len(ROWS)} requests to {name}: {passed} let through and served")


def test_no_request_is_served_that_nginx_did_not_send():
    through("nginx", NGINX, ["-p", ".", "-c", "conf"])


def test_no_request_is_served_that_haproxy_did_not_send():
    through("haproxy", HAPROXY, ["-f", "conf"])


if __name__ == "__main__":
    missing = [n for n in ("nginx", "haproxy") if not program(n)]
    if missing:
        print(f"skipped: no {' and no '.join(missing)} (tests/server/tools.sh fetches them)")
        sys.exit(77)
    sys.exit(base.run(globals()))
