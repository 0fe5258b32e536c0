"""What a client that does not know the token, or is slow, can do to the pages: raw connections to a real server."""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("flask", reason="flask is not installed")
pytest.importorskip("waitress", reason="waitress is not installed")

from icf_utils.credentials import Secret
from icf_utils.receiver.journal import Journal
from icf_utils.receiver.web import connections
from icf_utils.receiver.web.app import WebServer
from icf_utils.receiver.web.settings import WebSettings
from tests.receiver.pages import TOKEN, Said, fill, served


@pytest.fixture
def pages(tmp_path: Path) -> Iterator[tuple[str, int, Said]]:
    journal = fill(tmp_path)
    with served(tmp_path, journal) as (url, said):
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.port
        yield parts.hostname, parts.port, said
    journal.close()


def ask(host: str, port: int, request: bytes, timeout: float = 20.0) -> bytes:
    """What comes back, until the server closes the connection or says nothing for a second."""
    with socket.create_connection((host, port), timeout=timeout) as connection:
        connection.sendall(request)
        found = b""
        while True:
            try:
                piece = connection.recv(65536)
            except (TimeoutError, ConnectionError):
                return found
            if not piece:
                return found
            found += piece
            connection.settimeout(1.0)


def head(*lines: str, path: str = "/sessions?rule=ARCHIVE&visit=v", token: str = TOKEN, method: str = "POST") -> bytes:
    known = (f"Authorization: Bearer {token}",) if token else ()
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: h", *known, *lines, "", "")).encode("latin-1")


def trickle(connection: socket.socket) -> float:
    """Send a byte now and then until the server closes the connection; returns the seconds that it took, up to 30."""
    started = time.monotonic()
    with suppress(ConnectionError):
        while time.monotonic() - started < 30:
            connection.sendall(b"a")
            time.sleep(0.1)
    return time.monotonic() - started


@pytest.mark.parametrize("token", ["", "wrong-token-of-some-length"])
def test_the_token_is_checked_before_the_body_is_read(pages: tuple[str, int, Said], token: str) -> None:
    """The answer comes at once, though not a byte of the 10 GB was sent."""
    host, port, said = pages
    lines = ("Content-Length: 10000000000", "Content-Type: application/zip", "Expect: 100-continue")
    started = time.monotonic()
    answer = ask(host, port, head(*lines, token=token))
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"www-authenticate" in answer.lower()
    assert b"connection: close" in answer.lower()  # else a browser sends the next request after the rest of the body
    assert b"100 Continue" not in answer
    assert time.monotonic() - started < 10
    chunked = ask(host, port, head("Transfer-Encoding: chunked", "Content-Type: application/zip", token=token))
    assert chunked.startswith(b"HTTP/1.1 401 ")
    assert any("token is missing or wrong" in line for line in said.lines)


def test_a_body_where_none_is_expected_is_not_read(pages: tuple[str, int, Said]) -> None:
    host, port, _ = pages
    for path in ("/sessions/s000001/retry", "/", "/view/s000001/delete"):
        answer = ask(host, port, head("Content-Length: 100000000", path=path))
        assert answer.startswith(b"HTTP/1.1 413 "), path


def test_an_upload_that_does_not_fit_is_refused_before_it_is_sent(pages: tuple[str, int, Said]) -> None:
    host, port, _ = pages
    answer = ask(host, port, head("Content-Length: 9000000000000", "Content-Type: application/zip"))
    assert answer.startswith((b"HTTP/1.1 507 ", b"HTTP/1.1 413 "))


def test_a_malformed_origin_or_host_is_a_bad_request(pages: tuple[str, int, Said]) -> None:
    host, port, said = pages
    for line in ("http://[::1", "http://h:99999999", "\x01", "javascript", "http://a b"):
        last = ("Connection: close", "Content-Length: 0")
        answer = ask(host, port, head(f"Origin: {line}", *last, path="/sessions/s000001/retry"))
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 ")), answer[:200]
    for name in ("[::1", "a b", "h:999999999", "h/x", "<script>", "é"):
        for path in ("/", "/health", "/sessions"):
            request = (
                f"GET {path} HTTP/1.1\r\nHost: {name}\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
            )
            assert ask(host, port, request.encode("utf-8")).startswith(b"HTTP/1.1 400 ")
    assert "internal error" not in " ".join(said.lines)


def test_headers_and_bodies_that_trickle_are_cut(pages: tuple[str, int, Said], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sends a byte now and then, so that no silence would end it."""
    host, port, said = pages
    for name in ("_HEADER_TIME", "_BODY_TIME"):
        monkeypatch.setattr(connections, name, 1.0)
    body = head("Content-Length: 100000", "Content-Type: application/zip")
    for first in (b"GET / HTTP/1.1\r\nHost: h\r\nX-A: ", body):
        with socket.create_connection((host, port), timeout=20) as connection:
            connection.sendall(first)
            assert trickle(connection) < 30
    assert sum("takes too long" in line for line in said.lines) == 2


def test_one_address_has_a_limited_number_of_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS_PER_ADDRESS", 3)
    monkeypatch.setattr(connections, "is_loopback", lambda host: False)
    journal = fill(tmp_path)
    with served(tmp_path, journal) as (url, said):
        place = ("127.0.0.1", urlsplit(url).port or 0)
        held = [socket.create_connection(place, timeout=20) for _ in range(3)]
        for connection in held:
            connection.sendall(b"GET / HTTP/1.1\r\n")
        with socket.create_connection(place, timeout=20) as more:
            assert more.recv(1) == b""
        for connection in held:
            connection.close()
        assert "it has 3 open" in " ".join(said.lines)
    journal.close()


def test_uploads_are_kept_on_the_disk_of_the_spool(
    pages: tuple[str, int, Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of temporary files cannot be written to; the upload is refused for what it is, not for that."""
    host, port, _ = pages
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    data = b"x" * 3_000_000
    for kind, body in (
        ("application/zip", data),
        (
            "multipart/form-data; boundary=zq",
            b'--zq\r\nContent-Disposition: form-data; name="file"; filename="a.zip"\r\n\r\n' + data + b"\r\n--zq--\r\n",
        ),
    ):
        answer = ask(host, port, head(f"Content-Type: {kind}", f"Content-Length: {len(body)}") + body)
        assert b"is not a zip" in answer, answer[-300:]


def test_an_upload_ends_when_the_reserve_is_reached(tmp_path: Path) -> None:
    """Its length is not announced, so that it is found while it comes."""
    journal = Journal(tmp_path / "spool")
    settings = WebSettings(tmp_path / "store", Secret(TOKEN), {"ARCHIVE": "a"}, reserve=1 << 60)
    server = WebServer(journal, settings, "127.0.0.1", 0)
    server.start()
    try:
        port = urlsplit(server.url).port
        assert port
        answer = ask("127.0.0.1", port, head("Transfer-Encoding: chunked", "Content-Type: application/zip"))
        assert answer.startswith(b"HTTP/1.1 507 ")
    finally:
        server.stop()
        journal.close()
