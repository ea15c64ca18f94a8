#!/usr/bin/env python3
"""probe.py PORT SECONDS [PATH] - one GET of /livez after the other, while something else happens.

Prints a line of JSON: probes, those that were not answered with 200, and p50, p99, longest in ms."""
import json
import socket
import sys
import time


def ask(port, path):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as s:
            s.sendall(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode())
            return s.recv(64).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False


def main():
    port, seconds = int(sys.argv[1]), float(sys.argv[2])
    path = sys.argv[3] if len(sys.argv) > 3 else "/livez"
    times, bad, end = [], 0, time.monotonic() + seconds
    while time.monotonic() < end:
        begin = time.perf_counter()
        bad += not ask(port, path)
        times.append((time.perf_counter() - begin) * 1e3)
        time.sleep(0.005)
    times.sort()
    print(json.dumps({"probes": len(times), "bad": bad, "p50_ms": round(times[len(times) // 2], 2),
                      "p99_ms": round(times[int(len(times) * .99)], 2),
                      "longest_ms": round(times[-1], 2)}))


if __name__ == "__main__":
    main()
