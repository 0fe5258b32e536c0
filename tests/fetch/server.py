"""A web server on loopback that serves bytes with ranges, with faults on request."""

from __future__ import annotations

import hashlib
import re
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Fault:
    """What goes wrong with requests whose path and query fit the pattern ``where``, ``times`` times.

    ``cut``: so many bytes of the body, then the connection ends. ``whole``: ranges are ignored. ``endless``: no
    Content-Length, the connection's end is the body's. ``flip``: one byte is wrong. ``etag``: another one. ``trickle``:
    each byte after the first so many of the body comes after a pause of 20 ms.
    """

    where: str
    times: int = 10**6
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None
    whole: bool = False
    endless: bool = False
    flip: bool = False
    etag: str = ""
    trickle: int | None = None


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


class FaultyServer:
    """Objects by path; ``requests`` is what was asked, ``sent`` how many bytes of bodies were sent."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.authorization, self.challenge = "", 'Basic realm="a store"'
        self.sent = 0
        self.connections = 0
        self.busy = self.busiest = 0
        self.lock = threading.Lock()
        self.url = ""

    def find(self, request: Request) -> tuple[bytes, Mapping[str, str]] | None:
        """The object that a request means, and headers of its own."""
        if request.path not in self.objects:
            return None
        return self.objects[request.path], self.headers.get(request.path, {})

    def change(self, request: Request, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        """The answer to what would change something: status, headers, body."""
        return 405, {}, b""

    def fault(self, target: str) -> Fault:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.where, target):
                    fault.times -= 1
                    return fault
        return Fault("")

    def of(self, pattern: str) -> list[Request]:
        """The requests for paths that fit."""
        return [request for request in self.requests if re.search(pattern, request.path)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: FaultyServer

    def log_message(self, *_: object) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        with self.state.lock:
            self.state.connections += 1

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        with self.state.lock:
            self.state.busy += 1
            self.state.busiest = max(self.state.busiest, self.state.busy)
        try:
            self._serve()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with self.state.lock:
                self.state.busy -= 1

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self._answer(*self.state.change(self._request(), body), Fault(""))

    do_DELETE = do_POST  # noqa: N815 - named by http.server

    def _request(self) -> Request:
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        return Request(self.command, unquote(parts.path), query, dict(self.headers))

    def _serve(self) -> None:
        request = self._request()
        self.state.requests.append(request)
        fault = self.state.fault(unquote(self.path))
        if fault.status:
            self._answer(fault.status, fault.headers, fault.body, fault)
        elif self.state.authorization and self.headers.get("Authorization") != self.state.authorization:
            self._answer(401, {"WWW-Authenticate": self.state.challenge}, b"who are you", fault)
        elif (found := self.state.find(request)) is None:
            self._answer(404, {"Content-Type": "text/html"}, b"<html>not found</html>", fault)
        else:
            self._object(*found, fault)

    def _object(self, data: bytes, headers: Mapping[str, str], fault: Fault) -> None:
        tag = fault.etag or f'"{hashlib.md5(data).hexdigest()}"'
        if fault.flip:
            data = data[:-1] + bytes([data[-1] ^ 1])
        headers = {"ETag": tag, **headers}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if self.headers.get("If-Match", tag) != tag:
            self._answer(412, {}, b"", fault)
            return
        if not asked or fault.whole or self.headers.get("If-Range", tag) != tag:
            self._answer(200, headers, data, fault)
            return
        start, end = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        if start >= len(data):
            self._answer(416, {"Content-Range": f"bytes */{len(data)}"}, b"", fault)
            return
        part = data[start : end + 1]
        self._answer(206, {**headers, "Content-Range": f"bytes {start}-{end}/{len(data)}"}, part, fault)

    def _trickle(self, piece: bytes) -> None:
        for value in piece:
            self.wfile.write(bytes([value]))
            time.sleep(0.02)

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes, fault: Fault) -> None:
        self.send_response(status)
        for name, value in {**headers, **fault.headers}.items():
            self.send_header(name, value)
        if fault.endless:
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        piece = body if fault.cut is None else body[: fault.cut]
        with self.state.lock:  # before it is sent: the client may look at once
            self.state.sent += len(piece)
        self.wfile.write(piece[: fault.trickle])
        if fault.trickle is not None:
            self._trickle(piece[fault.trickle :])
        if fault.endless or len(piece) < len(body):
            self.close_connection = True


@contextmanager
def serving(state: FaultyServer, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> Iterator[None]:
    """Answer requests until the block ends; ``state.url`` is where. With ``tls``, it is an ``https`` address."""
    handler = type("Handler", (_Handler,), {"state": state})
    server = ThreadingHTTPServer((host, 0), handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients may be killed
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.url = f"{'https' if tls else 'http'}://{'localhost' if tls else host}:{server.server_address[1]}"
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
