"""The service with the embedded model, for the tests of its pages and of its document."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


class Service:
    def __init__(self, *args):
        self.binary = os.environ["TACA_BINARY"]
        self.folder = tempfile.TemporaryDirectory(prefix="taca-web-")
        port_file = os.path.join(self.folder.name, "port")
        self.log = open(os.path.join(self.folder.name, "log"), "w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [self.binary, "serve", "--port", "0", "--admin-listen", "none", "--port-file", port_file,
             "--no-calibrate", "--drain-grace", "0", "--drain-timeout", "1", *args],
            stderr=self.log)
        end = time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            if os.path.exists(port_file) and os.path.getsize(port_file):
                with open(port_file, encoding="ascii") as f:
                    self.url = f"http://127.0.0.1:{int(f.read())}"
                if self.get("/readyz")[0] == 200:
                    return
            time.sleep(0.05)
        raise AssertionError("the service did not start: " + self.tail())

    def tail(self):
        self.log.seek(0)
        return self.log.read()[-2000:]

    def request(self, path, body=None, headers=None):
        """Status, headers, bytes."""
        data = None if body is None else json.dumps(body).encode()
        call = urllib.request.Request(self.url + path, data=data, headers=headers or {})
        if body is not None:
            call.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(call, timeout=60) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    def get(self, path, **headers):
        return self.request(path, None, {k.replace("_", "-"): v for k, v in headers.items()})

    def json(self, path):
        status, _, body = self.get(path)
        assert status == 200, (path, status, body[:200])
        return json.loads(body)

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        text = self.tail()
        self.log.close()
        self.folder.cleanup()
        assert code == 0, f"the service ended with {code}: {text}"


def need(module):
    """Goes on under the interpreter that has the module, or skips."""
    try:
        __import__(module)
        return
    except ImportError:
        pass
    here = os.path.dirname(os.path.abspath(__file__))
    python = os.path.join(here, "..", "..", "build", "tools", "web", "bin", "python")
    if os.path.exists(python) and not os.environ.get("TACA_WEB_TOOLS"):
        os.environ["TACA_WEB_TOOLS"] = "1"
        os.execv(python, [python, "-B", *sys.argv])
    skip(f"no Python module {module}: tests/web/tools.sh fetches it")


def run(tests, *args):
    """Each test by its name's sentence; the exit code."""
    failed = 0
    for test in tests:
        name = test.__name__.replace("_", " ")
        try:
            test(*args)
            print(f"ok    {name}")
        except Exception as error:  # noqa: BLE001 - every failure is reported, the rest still runs
            failed += 1
            print(f"FAIL  {name}: {type(error).__name__}: {error}")
    print(f"{len(tests) - failed} of {len(tests)} passed")
    return 1 if failed else 0
