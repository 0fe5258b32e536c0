"""What a server answers is bounded, and its shape is checked: a hostile one causes an error."""

from __future__ import annotations

import base64
import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from icf_utils import deposit_visit_metadata, make_studyvisit_archive
from icf_utils.cli.main import main
from icf_utils.errors import escape_controls
from icf_utils.fetch.errors import FetchFailure
from icf_utils.fetch.http import HttpClient, RetryPolicy
from icf_utils.fetch.open import open_source
from icf_utils.receiver import client
from icf_utils.retrieve import buckets, cod, store_source
from tests.data.make_dicom import uid, write_visit

TOKEN = "zq-token-of-the-pages-5150"
ESCAPES = "\x1b]0;evil\x07\x1b[2J\u202e"

GOOD: dict[str, Any] = {
    **dict.fromkeys(("images", "size", "quarantined", "refused"), 1),
    "id": "s000001",
    "state": "failed",
    "study": "a",
    "visit": "v",
    "failure": "x",
    "AETitleCaller": "A",
    "notes": ["a note"],
}


@contextmanager
def served(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """The address of a server that answers every request so."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with suppress(OSError):  # the client has gone
                answer(self)

        do_POST = do_HEAD = do_GET  # noqa: N815 - named by the library

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def give(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


def give_without_end(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.close_connection = True
    for _ in range(1 << 20):
        handler.wfile.write(b"x" * 65536)


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICF_SESSIONS_TOKEN", TOKEN)


COMMANDS = (
    *(("sessions",), ("sessions", "events"), ("sessions", "--rejected"), ("sessions", "quarantine", "list")),
    *(("sessions", "quarantine", "show", "s000001"), ("sessions", "quarantine", "accept", "s000001")),
    ("sessions", "get", "--sender", "X"),
)

WRONG = {
    "a text": b'"x"',
    "null": b"null",
    "a page": b"<html>login</html>",
    "nested": b"[" * 100_000,
    "a list of texts": b'["x", 5, null]',
    "an empty object": b"[{}]",
    **{
        f"{name}={value!r:.20}": json.dumps([{**GOOD, name: value}]).encode()
        for name, value in (
            *(("id", "../../x"), ("id", [1]), ("id", None), ("state", ["x"]), ("size", "many"), ("size", 1e308)),
            *(("size", -1), ("images", True), ("notes", "x"), ("notes", [{}]), ("failure", None), ("size", 10**400)),
            *(("size", float("nan")), ("AETitleCaller", 5)),
        )
    },
}


@pytest.mark.usefixtures("token")
def test_wrong_shapes_are_errors_of_the_server(capsys: pytest.CaptureFixture[str]) -> None:
    current = [b""]
    with served(lambda handler: give(handler, current[0])) as url:
        for name, body in WRONG.items():
            current[0] = body
            for words in COMMANDS if "=" not in name else COMMANDS[:1]:
                code = main([*words, "--url", url])
                said = capsys.readouterr()
                assert code == 10, (name, words, said)
                assert "found something else" in said.err


@pytest.mark.usefixtures("token")
def test_terminal_escapes_are_shown_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    record = {
        **GOOD,
        "failure": ESCAPES,
        "notes": [ESCAPES],
        "study": ESCAPES,
        "state": "failed",
        "AETitleCaller": ESCAPES,
    }
    rejection = {"time": 1.0, "address": ESCAPES, "AETitleCaller": "A", "AETitleCalled": "B", "reason": ESCAPES}

    def answer(handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.partition("?")[0]
        space = {"problem": ESCAPES}
        found = {"/sessions": [record], "/associations/rejected": [rejection], "/space": space}.get(path)
        if path.endswith("/retry"):
            give(handler, json.dumps({"error": ESCAPES}).encode(), 409)
        else:
            give(handler, json.dumps(found).encode() if found else f"line {ESCAPES}\n".encode())

    with served(answer) as url:
        for words in (("sessions",), ("sessions", "--rejected"), ("sessions", "log", "s000001")):
            assert main([*words, "--url", url]) == 0
            said = capsys.readouterr()
            assert "\\x1b]0;evil" in said.out
            assert not set(ESCAPES) & {"\x1b", "\x07", "\u202e"} & set(said.out + said.err)
        assert main(["sessions", "retry", "s000001", "--url", url]) == 10
        assert "\x1b" not in capsys.readouterr().err
    assert escape_controls("a\\b\n\tc\x1b\udcff") == "a\\b\n\tc\\x1b\\xff"


@pytest.mark.usefixtures("token")
def test_endless_answers_end(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits are those of the program, lowered, so that the test does not take a minute."""
    monkeypatch.setattr(client, "_LARGEST_LOG", 1 << 20)
    monkeypatch.setattr(client, "_LARGEST_LIST", 1 << 20)
    with served(give_without_end) as url:
        for words in (("sessions",), ("sessions", "log", "s000001")):
            assert main([*words, "--url", url]) == 10
            assert "larger than the limit" in capsys.readouterr().err


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A store with a visit of an image."""
    write_visit(tmp_path / "in", {1: ("t1", 1)}, StudyInstanceUID=uid("bounded"))
    make_studyvisit_archive(tmp_path / "in", tmp_path / "store", "s", "v")
    deposit_visit_metadata(tmp_path / "store", "s", "v")
    return tmp_path / "store"


def test_metadata_of_a_store_is_bounded(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_source, "_LARGEST_RECORDS", 40 << 20)
    bodies = {"/s/v_metadata_tarball.json": (stored / "s/v_metadata_tarball.json").read_bytes()}

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if body := bodies.get(handler.path):
            give(handler, body)
        else:
            give_without_end(handler)

    with served(answer) as url:
        words = ("retrieve", "-o", url, "--id", "s", "v", "-d", str(tmp_path / "got"))
        assert main([*words]) == 1
        assert "larger than the limit of 41943040 bytes" in capsys.readouterr().out
        bodies["/s/v_metadata_dicoms.json"] = b"[" + b"[]," * 7_000_000 + b"[]]"
        assert main([*words]) == 1
        assert "expected at most 12000000 values, found more" in capsys.readouterr().out


def test_a_few_bytes_for_each_request_are_not_progress() -> None:
    content, asked = bytes(range(250)) * 12, []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        first, _, last = handler.headers["Range"].removeprefix("bytes=").partition("-")
        asked.append(int(first))
        give(handler, content[int(first) :][:5], 206, Content_Range=f"bytes {first}-{last}/{len(content)}")

    with served(answer) as url, pytest.raises(FetchFailure, match="gave up after 5 attempts"):
        list(open_source(f"{url}/x", HttpClient(retry=RetryPolicy(first_pause=0.01))).read(0, len(content)))
    assert len(asked) == 5


def test_a_server_may_not_ask_for_years() -> None:
    with served(lambda handler: give(handler, b"", 503, Retry_After="1000000000")) as url, HttpClient() as http:
        started = time.monotonic()
        with pytest.raises(FetchFailure, match="asks to come back after 1000000000 s"):
            http.request("GET", url)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("has_items", [True, False])
def test_a_list_without_end_ends(has_items: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every page has a token that was not given before."""
    monkeypatch.setattr(buckets, "_MOST_OBJECTS", 50)
    monkeypatch.setattr(buckets, "_MOST_EMPTY_PAGES", 50)
    pages = iter(range(1 << 20))

    def answer(handler: BaseHTTPRequestHandler) -> None:
        number = next(pages)
        items = [{"name": f"studies/{number}.tar", "size": "1"}] if has_items else []
        give(handler, json.dumps({"items": items, "nextPageToken": f"page-{number}"}).encode())

    with served(answer) as url, HttpClient() as http:
        bucket = buckets.GcsBucket(buckets.BucketPlace("b", "", endpoint=url), http)
        with pytest.raises(FetchFailure, match="has no end"):
            list(bucket.list("studies/"))
    assert next(pages) < 60


@pytest.mark.parametrize(
    "more", [{"nextPageToken": [1]}, {"nextPageToken": 5}, {"items": [{"name": "a", "size": 1e999}]}]
)
def test_lists_of_a_wrong_shape(more: dict[str, object]) -> None:
    with served(lambda handler: give(handler, json.dumps(more).encode())) as url, HttpClient(1, RetryPolicy(1)) as http:
        bucket = buckets.GcsBucket(buckets.BucketPlace("b", "", endpoint=url), http)
        with pytest.raises(FetchFailure, match="found something else"):
            list(bucket.list(""))


def _series(record: dict[str, object]) -> bytes:
    return json.dumps({"cod": {"instances": {"1.2.3": record}}}).encode()


def test_metadata_that_unpacks_to_gigabytes_is_refused() -> None:
    bomb = gzip.compress(b'{"cod": [' + b"0" * (cod.LARGEST + 1))
    many = gzip.compress(b"[" + b"{}," * 4_000_001 + b"0]")
    for raw, words in ((bomb, "larger than"), (many, "more than 4000000 values"), (b"[" * 100_000, "not JSON")):
        with pytest.raises(cod.InvalidMetadata, match=words):
            cod.read_series(raw, "1.2", "1.2.3", "url")


def test_a_record_that_unpacks_to_gigabytes_costs_its_own_image_only() -> None:
    zstandard = pytest.importorskip("zstandard")
    packed = zstandard.ZstdCompressor().compress(b'{"x": "' + b" " * (200 << 20) + b'"}')
    assert len(packed) < 100_000
    record = {
        "uri": "https://b/studies/1.2/series/1.2.3.tar://instances/1.2.3.dcm",
        "headers": {"start_byte": 0, "end_byte": 9},
        "size": 9,
        "metadata": base64.b64encode(packed).decode(),
    }
    found = cod.read_series(_series(record), "1.2", "1.2.3", "url", ("PatientID",))
    assert not found.images
    assert [failure.image for failure in found.failures] == ["1.2.3"]
