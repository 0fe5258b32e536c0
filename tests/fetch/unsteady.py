"""A server in front of another one that has bad moments: what a client has to live with, the same for every client.

The first request for an address is answered 503 with ``Retry-After``, the second 429, the third as it should be but for
the end of the body, which is cut off; from the fourth on all is well. Requests that change something are never cut:
nobody could know what was done.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

#: Seconds that the first answer asks to wait.
RETRY_AFTER = 1


@dataclass(frozen=True)
class Exchange:
    """A request and how it was answered; ``status`` is 0 for a connection that was closed instead."""

    method: str
    target: str
    range: str
    status: int
    is_cut: bool


class UnsteadyServer:
    """``exchanges`` are all requests in their order; ``backend`` is the address of the server behind."""

    def __init__(self, backend: str) -> None:
        self.backend = urlsplit(backend)
        self.exchanges: list[Exchange] = []
        self.url = ""
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], int] = {}

    def turn(self, method: str, target: str) -> int:
        """How often this was asked before."""
        with self._lock:
            count = self._counts.get((method, target), 0)
            self._counts[method, target] = count + 1
        return count

    def of(self, target: str, method: str = "GET") -> list[Exchange]:
        """What was asked of the addresses that end so."""
        return [item for item in self.exchanges if item.method == method and item.target.endswith(target)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: UnsteadyServer

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        turn = self.state.turn(self.command, self.path)
        if turn == 0:
            self._answer(503, {"Retry-After": str(RETRY_AFTER)}, b"overloaded")
        elif turn == 1:
            self._answer(429, {}, b"slow down")
        elif turn == 2 and self.command == "HEAD":
            self._note(0, is_cut=True)
            self.close_connection = True
        else:
            self._pass_on(body, is_cut=turn == 2 and self.command == "GET")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 - named by http.server

    def _pass_on(self, body: bytes, is_cut: bool) -> None:
        backend = http.client.HTTPConnection(self.state.backend.hostname or "", self.state.backend.port)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
        backend.request(self.command, self.path, body or None, headers)
        with backend.getresponse() as answer:
            found = {
                name: value
                for name, value in answer.getheaders()
                if name.lower() not in ("connection", "transfer-encoding", "content-length")
            }
            length = answer.headers.get("Content-Length")
            self._answer(answer.status, found, answer.read(), int(length) if length else None, is_cut)
        backend.close()

    def _answer(
        self, status: int, headers: dict[str, str], body: bytes, length: int | None = None, is_cut: bool = False
    ) -> None:
        self._note(status, is_cut)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[: len(body) // 2] if is_cut else body)
        self.close_connection = self.close_connection or is_cut

    def _note(self, status: int, is_cut: bool) -> None:
        asked = self.headers.get("Range", "")
        self.state.exchanges.append(Exchange(self.command, self.path, asked, status, is_cut))


@contextmanager
def unsteady(backend: str) -> Iterator[UnsteadyServer]:
    """A server with bad moments in front of the one at ``backend``, until the block ends."""
    state = UnsteadyServer(backend)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"state": state}))
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients may be gone
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
