"""Answers that are not XNAT's, or that no XNAT gives: named, bounded, and never a bug of the program."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from icf_utils.credentials import Login, Secret
from icf_utils.errors import RemoteFailure
from icf_utils.fetch.http import RetryPolicy
from icf_utils.xnat import rest
from icf_utils.xnat.rest import LOGIN_SESSION, XnatAnswer, XnatClient
from tests.xnat.standin import StandIn
from tests.xnat.uploads import send_one

PAGE = b"<!DOCTYPE html><html><title>Log in</title></html>"


@contextmanager
def answering(answers: dict[str, tuple[int, bytes]]) -> Iterator[str]:
    """A server that gives one answer for each path, and 200 with a session id to a login."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answers.get(self.path.partition("?")[0], (200, b"A1B2C3"))
            self.send_response(found[0])
            if found[0] == 302:
                self.send_header("Location", "/app/login")
            self.send_header("Content-Length", str(len(found[1])))
            self.end_headers()
            self.wfile.write(found[1])

        do_DELETE = do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def client(url: str) -> XnatClient:
    return XnatClient(url, Login("me", Secret("secret")), retry=RetryPolicy(attempts=2, first_pause=0.01))


def listing(answer: bytes) -> str:
    """The error of a listing that is answered in this way."""
    with (
        answering({"/data/prearchive/projects/P": (200, answer)}) as url,
        client(url) as xnat,
        pytest.raises(RemoteFailure) as caught,
    ):
        xnat.list_prearchive("P")
    return str(caught.value)


@pytest.mark.parametrize("status", [200, 302])
def test_a_login_page_in_place_of_a_login_session(status: int) -> None:
    with (
        answering({LOGIN_SESSION: (status, PAGE), "/app/login": (200, PAGE)}) as url,
        pytest.raises(RemoteFailure, match="probably a login page"),
        client(url),
    ):
        pass


def test_a_login_page_in_place_of_a_listing() -> None:
    assert "probably a login page" in listing(PAGE)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"null",
        b"[]",
        json.dumps({"ResultSet": {"Result": ["text"]}}).encode(),
        json.dumps({"ResultSet": {"Result": {"a": 1}}}).encode(),
        b"[" * 100_000,
        b"\x1b[2J",
    ],
)
def test_listings_of_a_wrong_shape(answer: bytes) -> None:
    message = listing(answer)
    assert "expected a listing" in message
    assert "\x1b" not in message


def test_numbers_of_a_wrong_shape() -> None:
    """A count that is not a number is not a count."""
    rows = [{"label": "DICOM", "file_count": "many", "file_size": "-1"}, {"label": "DICOM", "file_count": "1" * 5000}]
    assert rest.prearchived_images(rows).count == 0
    assert rest.archived_images([{"collection": "DICOM", "Size": [], "digest": {}}]).digests[0].md5 == ""
    assert rest.archived_study_uid("[" * 100_000) == ""


def test_an_answer_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "_LONGEST_BODY", 1000)
    assert "1000" in listing(b"x" * 5000).replace(",", "").replace(" ", "") or "bytes" in listing(b"x" * 5000)
    with answering({LOGIN_SESSION: (200, b"A" * (1 << 20))}) as url, pytest.raises(RemoteFailure), client(url):
        pass


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (XnatAnswer(413, "<html>413 Request Entity Too Large</html>"), "client_max_body_size"),
        (XnatAnswer(302, ""), "it redirects there"),
        (XnatAnswer(200, PAGE.decode()), "probably a login page"),
        (XnatAnswer(400, "\x1b[2Jbad"), "bad"),
    ],
)
def test_answers_say_what_they_mean(answer: XnatAnswer, words: str) -> None:
    assert words in str(answer)
    assert "\x1b" not in str(answer)


def test_an_upload_that_is_too_large_for_the_web_server(server: StandIn, tree: Path) -> None:
    server.fault = lambda seen: "413" if seen.method == "POST" else None
    outcome = send_one(server, tree)
    assert outcome.state == "failed"
    assert "have the limit raised (nginx: client_max_body_size)" in outcome.problem


def test_an_answer_that_trickles() -> None:
    """Each byte comes in time, and the answer never ends."""

    class Trickle(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            if self.path.startswith(LOGIN_SESSION):
                self.wfile.write(b"A1B2C3")
                return
            with suppress(OSError):
                while True:
                    self.wfile.write(b" " * (1 << 16))
                    time.sleep(0.01)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Trickle) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            once = RetryPolicy(attempts=1, first_pause=0.01)
            xnat = XnatClient(url, Login("me", Secret("secret")), timeout=0.5, retry=once)
            with xnat, pytest.raises(RemoteFailure, match=r"has not ended within 0\.5 s"):
                xnat.list_prearchive("P")
        finally:
            server.shutdown()
