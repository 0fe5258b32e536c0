"""A server in front of another one that has a bad minute: it answers 503, then 429, cuts a stream, and then is well."""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

#: What happens to the requests that fit, one after the other; those that follow are served.
BAD_MINUTE = ("503", "429", "cut")

#: Seconds that the 503 asks to wait.
RETRY_AFTER = 1


class FlakyProxy:
    """Passes requests on to ``backend``. Those whose method and path fit ``pattern`` first meet the bad minute.

    A cut request with a body is cut while the body is sent, and never reaches the backend; of others the answer is cut.
    ``moments`` are the times of the requests that fit, by the monotonic clock; ``ranges`` are the parts they ask for.
    """

    def __init__(self, backend: str, pattern: str) -> None:
        self.url = ""
        self.backend, self.pattern = urlsplit(backend), re.compile(pattern)
        self.moments: list[float] = []
        self.ranges: list[str] = []
        self._lock = threading.Lock()

    def next_fault(self, request: str, asked: str = "") -> str:
        """What happens to a request, empty where it is served."""
        if not self.pattern.search(request):
            return ""
        with self._lock:
            self.moments.append(time.monotonic())
            self.ranges.append(asked)
            return dict(enumerate(BAD_MINUTE, 1)).get(len(self.moments), "")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FlakyProxy

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""

    def do_GET(self) -> None:
        self.close_connection = True
        length = int(self.headers.get("Content-Length") or 0)
        fault = self.proxy.next_fault(f"{self.command} {self.path}", self.headers.get("Range", ""))
        body = self.rfile.read(length // 2 if fault == "cut" else length)
        if fault == "cut" and length:
            return
        with suppress(OSError):
            if fault in ("503", "429"):
                self._answer(int(fault), {"Retry-After": str(RETRY_AFTER)} if fault == "503" else {}, b"")
            else:
                self._forward(body, is_cut=fault == "cut")

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - named by http.server

    def _forward(self, body: bytes, is_cut: bool) -> None:
        place = self.proxy.backend
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=30)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            connection.request(self.command, self.path, body or None, headers)
            response = connection.getresponse()
            content = response.read()
            kept = {name: value for name, value in response.getheaders() if name.lower() not in _OWN}
            length = response.getheader("Content-Length") or str(len(content))
            self._answer(response.status, kept, content[: len(content) // 2] if is_cut else content, length)
        finally:
            connection.close()

    def _answer(self, status: int, headers: dict[str, str], body: bytes, length: str = "0") -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": length, "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


#: Headers that the proxy sends itself.
_OWN = ("connection", "content-length", "transfer-encoding", "date", "server")


@contextmanager
def flaky_proxy(backend: str, pattern: str) -> Iterator[FlakyProxy]:
    """Run one on a free port of the loopback interface."""
    proxy = FlakyProxy(backend, pattern)

    class Serving(_Handler):
        pass

    Serving.proxy = proxy
    server = ThreadingHTTPServer(("127.0.0.1", 0), Serving)
    server.daemon_threads = True
    proxy.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
