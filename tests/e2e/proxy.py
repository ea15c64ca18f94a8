"""proxy.py - a bad network in front of a service: refuses, cuts and remembers, for the tests of clients."""

import socket
import threading


class Proxy:
    """Passes connections on to `port`. `plan` is called with the head of each request and its number and
    returns bytes to answer instead, or after how many bytes of the answer the connection is cut, or None."""

    def __init__(self, port, plan):
        self.upstream, self.plan, self.heads = port, plan, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()

    def accept(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        with client:
            request = b""
            while b"\r\n\r\n" not in request:
                more = client.recv(65536)
                if not more:
                    return
                request += more
            head = request.split(b"\r\n\r\n")[0].decode()
            self.heads.append(head)
            what = self.plan(head, len(self.heads) - 1)
            if isinstance(what, bytes):
                self.swallow(client, head, request)
                client.sendall(what)
                return
            with socket.create_connection(("127.0.0.1", self.upstream)) as server:
                server.sendall(request)
                threading.Thread(target=self.pump, args=(client, server), daemon=True).start()
                self.answer(client, server, what)

    @staticmethod
    def swallow(client, head, request):
        """The body, which would otherwise make the close a reset."""
        length = [int(line.split(":")[1]) for line in head.lower().split("\r\n") if line.startswith("content-length")]
        left = (length[0] if length else 0) - len(request.split(b"\r\n\r\n", 1)[1])
        while left > 0:
            left -= len(client.recv(65536))

    @staticmethod
    def pump(client, server):
        try:
            while data := client.recv(65536):
                server.sendall(data)
        except OSError:
            pass

    @staticmethod
    def answer(client, server, most):
        try:
            while data := server.recv(1000):
                client.sendall(data if most is None else data[:most])
                if most is not None:
                    most -= len(data)
                    if most <= 0:
                        break
            client.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
