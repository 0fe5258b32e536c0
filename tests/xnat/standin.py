"""A stand-in for XNAT over HTTP(S) that holds its clients to the contract; :func:`standin` runs one.

It has the routes that are used here and no others. What XNAT would punish late or silently is in ``violations``, which
every test finds empty (:meth:`StandIn.check`): a route or parameter that does not exist, a browser's name, a body
without a length, and ``PUT /data/prearchive``, which deletes every row of the prearchive.
"""

from __future__ import annotations

import base64
import re
import ssl
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

from tests.xnat.standin_routes import ROUTES, Asked, Reply
from tests.xnat.standin_state import ALIAS, PASSWORD, SECRET, USER, Fault, Refused, Seen, StandIn

__all__ = ["ALIAS", "PASSWORD", "SECRET", "USER", "Fault", "Seen", "StandIn", "standin"]


@contextmanager
def standin(inbox: Path | None = None, certificate: Path | None = None) -> Iterator[StandIn]:
    """Run one on a free loopback port; with ``certificate`` (PEM with its key) over TLS."""
    state = StandIn(inbox)

    class Serving(_Handler):
        xnat = state

    server = _Server(("127.0.0.1", 0), Serving)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    state.url = (
        f"{'https' if certificate else 'http'}://{'localhost' if certificate else '127.0.0.1'}:{server.server_port}"
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients may disconnect."""


_BROWSER = re.compile(r"Mozilla|Chrome|Safari|Firefox|Opera|MSIE|Edge", re.IGNORECASE)
_LENIENT = ("/", "/data/auth", "/data/version", "/xapi/siteConfig/buildInfo")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    xnat: StandIn
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base
        """Requests are kept in ``requests``."""

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        self._cookie = ""
        with tempfile.TemporaryFile() as body:
            size = self._read(body)
            self._seen = Seen(self.command, unquote(parts.path), query, dict(self.headers.items()), size)
            self.xnat.requests.append(self._seen)
            try:
                self._respond(self._seen, body)
            except Refused as refused:
                if refused.status == 0:
                    self._hang_up()
                else:
                    self._answer(refused.status, refused.words)

    def _read(self, body: BinaryIO) -> int:
        left = int(self.headers.get("Content-Length") or 0)
        while left:
            data = self.rfile.read(min(left, 1 << 16))
            if not data:
                break
            body.write(data)
            left -= len(data)
        size = body.tell()
        body.seek(0)
        return size

    def _respond(self, seen: Seen, body: BinaryIO) -> None:
        fault = self.xnat.fault(seen) or ""
        self._before(fault)
        if _BROWSER.search(self.headers.get("User-Agent", "")) and seen.method != "GET":
            self.xnat.violations.append("a client named like a browser")
            raise Refused(403, "INVALID CSRF (XNAT_CSRF)")
        status, kind, text = self._routed(seen, body, fault)
        if fault == "reset-after":
            raise Refused(0, "")
        if fault.endswith("-after"):
            raise Refused(int(fault[:3]), "an injected fault, though it was done")
        self._answer(status, text, kind)

    def _before(self, fault: Fault) -> None:
        if fault == "reset":
            raise Refused(0, "")
        if fault == "401":
            self.xnat.cookies.discard(self._sent_cookie())
        if fault.isdecimal():
            raise Refused(int(fault), "an injected fault")
        if fault == "slow":
            time.sleep(self.xnat.slow)

    def _answer(self, status: int, text: str, kind: str = "text/plain") -> None:
        data = text.encode()
        with suppress(OSError):
            self.send_response(status)
            if self._cookie:
                self.send_header("Set-Cookie", f"JSESSIONID={self._cookie}; Path=/; HttpOnly")
            if status == 301:
                self.send_header("Location", f"{self.xnat.url}/data{text.strip()}")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    def _hang_up(self) -> None:
        """End the connection without an answer."""
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(2)

    # -- who is asking ------------------------------------------------------------------------------------------------

    def _sent_cookie(self) -> str:
        found = re.search(r"JSESSIONID=([^;]+)", self.headers.get("Cookie", ""))
        return found[1] if found else ""

    def _is_known(self, user: str, password: str) -> bool:
        return (user, password) in ((USER, PASSWORD), (ALIAS, SECRET))

    def _log_in(self) -> None:
        self._cookie = uuid.uuid4().hex.upper()
        self.xnat.cookies.add(self._cookie)

    def _authenticate(self) -> str:
        """The identifier of the login session; a request with user and password opens one."""
        if self._sent_cookie() in self.xnat.cookies:
            return self._sent_cookie()
        scheme, _, code = self.headers.get("Authorization", "").partition(" ")
        if scheme != "Basic":
            raise Refused(401, "authentication required")
        user, _, password = base64.b64decode(code).decode().partition(":")
        if not self._is_known(user, password):
            raise Refused(401, "Login attempt failed. Please try again.")
        self._log_in()
        return self._cookie

    # -- what is asked ------------------------------------------------------------------------------------------------

    def _routed(self, seen: Seen, body: BinaryIO, fault: Fault) -> Reply:
        if (seen.method, seen.path) == ("PUT", "/data/services/auth"):
            given = dict(parse_qsl(body.read().decode()))
            if not self._is_known(given.get("username", ""), given.get("password", "")):
                raise Refused(401, "Login attempt failed. Please try again.")
            self._log_in()
            return 200, "text/plain", self._cookie
        if seen.path == "/" and seen.method == "GET":
            return 200, "text/html", "<html></html>"
        session = self._authenticate()
        if seen.path == "/data/JSESSION" and seen.method in ("GET", "DELETE"):
            if seen.method == "DELETE":
                self.xnat.cookies.discard(session)
            return 200, "text/plain", session
        for method, pattern, answer in ROUTES:
            found = re.fullmatch(pattern, seen.path)
            if method == seen.method and found:
                query = urlsplit(self.path).query
                return answer(Asked(self.xnat, seen, query, self.headers, found, body, fault))
        if seen.path not in _LENIENT:
            self.xnat.violations.append(f"no such route: {seen.method} {seen.path}")
        raise Refused(404, "no such resource")
