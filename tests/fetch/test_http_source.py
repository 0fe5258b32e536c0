"""Objects on web servers: ranges, cut streams, repetition, replaced objects, credentials."""

from __future__ import annotations

import logging
import random
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from icf_utils.credentials import Login, Secret, bind_credential
from icf_utils.errors import InvalidSetting
from icf_utils.fetch.errors import ConnectionFailure, FetchFailure, RangesRefused
from icf_utils.fetch.http import HttpClient, RetryPolicy
from icf_utils.fetch.open import open_source, read_whole
from icf_utils.fetch.source import CHUNK
from icf_utils.fetch.speed import LowestSpeed
from tests.fetch.conftest import QUICK
from tests.fetch.server import Fault, FaultyServer, serving

DATA = random.Random(1).randbytes(700_000)


@pytest.fixture(autouse=True)
def _data(server: FaultyServer) -> None:
    server.objects["/a.tar"] = DATA


def read(
    server: FaultyServer,
    client: HttpClient,
    start: int = 0,
    size: int | None = None,
    secret: Login | Secret | None = None,
    **options: Any,
) -> bytes:
    credential = bind_credential(server.url, secret)
    return b"".join(open_source(f"{server.url}/a.tar", client, credential, **options).read(start, size))


def failure(
    server: FaultyServer, client: HttpClient, start: int = 0, size: int | None = None, **options: Any
) -> FetchFailure:
    with pytest.raises(FetchFailure) as caught:
        read(server, client, start, size, **options)
    return caught.value


@pytest.mark.parametrize(("start", "size"), [(0, None), (5, None), (0, 10), (100, 300_001), (699_999, 1), (0, 700_000)])
def test_ranges(server: FaultyServer, client: HttpClient, start: int, size: int | None) -> None:
    assert read(server, client, start, size) == DATA[start : None if size is None else start + size]
    assert server.sent == (len(DATA) - start if size is None else size)


def test_no_request_for_no_bytes(server: FaultyServer, client: HttpClient) -> None:
    assert read(server, client, 3, 0) == b""
    assert server.requests == []


def test_size_and_existence_transfer_nothing(server: FaultyServer, client: HttpClient) -> None:
    source = open_source(f"{server.url}/a.tar", client)
    assert (source.size(), source.exists()) == (len(DATA), True)
    assert not open_source(f"{server.url}/b.tar", client).exists()
    assert server.sent == 0


def test_size_without_head(server: FaultyServer, client: HttpClient) -> None:
    server.faults.append(Fault("a.tar", times=1, status=405))
    assert open_source(f"{server.url}/a.tar", client).size() == len(DATA)


@pytest.mark.parametrize("cut", [0, 1, 100_000])
def test_a_cut_stream_is_resumed_where_it_was_cut(server: FaultyServer, client: HttpClient, cut: int) -> None:
    server.faults.append(Fault("a.tar", times=2, cut=cut))
    assert read(server, client, 10, 600_000) == DATA[10:600_010]
    assert server.sent == 600_000
    resumed = server.requests[-1].headers
    assert resumed["Range"] == f"bytes={10 + 2 * cut}-600009"
    assert resumed.get("If-Range")


def test_a_cut_stream_without_ranges_is_read_again(server: FaultyServer, client: HttpClient) -> None:
    server.faults += [Fault("a.tar", times=1, cut=1000), Fault("a.tar", whole=True)]
    assert read(server, client) == DATA


def test_a_stream_that_is_always_cut(server: FaultyServer, client: HttpClient) -> None:
    server.faults.append(Fault("a.tar", cut=0))
    found = failure(server, client)
    assert (found.kind, len(server.requests)) == ("gave-up", QUICK.attempts)
    assert "gave up after 3 attempts" in str(found)


def test_without_content_length(server: FaultyServer, client: HttpClient) -> None:
    server.faults.append(Fault("a.tar", endless=True))
    assert read(server, client) == DATA
    assert read(server, client, 5, 100) == DATA[5:105]


def test_cut_without_content_length(server: FaultyServer, client: HttpClient) -> None:
    """It is resumed if the size is known."""
    server.faults.append(Fault("a.tar", times=1, endless=True, cut=1000))
    assert read(server, client, expected=len(DATA)) == DATA


def test_a_server_without_ranges(server: FaultyServer, client: HttpClient) -> None:
    server.faults.append(Fault("a.tar", whole=True))
    found = failure(server, client, 100, 50)
    assert isinstance(found, RangesRefused)
    assert (found.kind, found.total) == ("no-ranges", len(DATA))
    assert read(server, client, 0, 100) == DATA[:100]


def test_a_replaced_object_is_noticed(server: FaultyServer, client: HttpClient) -> None:
    server.faults += [Fault("a.tar", times=1, cut=1000), Fault("a.tar", etag='"new"')]
    assert failure(server, client).kind == "changed"


def test_a_replaced_object_is_noticed_by_the_next_read(server: FaultyServer, client: HttpClient) -> None:
    source = open_source(f"{server.url}/a.tar", client)
    assert b"".join(source.read(0, 10)) == DATA[:10]
    server.objects["/a.tar"] = DATA[::-1]
    with pytest.raises(FetchFailure, match="replaced"):
        list(source.read(10, 10))


def test_another_size_than_expected(server: FaultyServer, client: HttpClient) -> None:
    assert failure(server, client, 0, 10, expected=5).kind == "size"
    assert failure(server, client, len(DATA) - 5, 10).kind == "size"
    assert failure(server, client, len(DATA) + 5, 10).kind == "size"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, "unauthorised"), (403, "forbidden"), (404, "missing"), (410, "missing"), (400, "refused")],
)
def test_refusals_are_final(server: FaultyServer, client: HttpClient, status: int, kind: str) -> None:
    server.faults.append(Fault("a.tar", status=status, headers={"WWW-Authenticate": "Basic"}))
    found = failure(server, client)
    assert (found.kind, found.status, len(server.requests)) == (kind, status, 1)
    assert found.challenge == ("Basic" if status == 401 else "")


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408])
def test_transient_statuses_are_repeated(server: FaultyServer, client: HttpClient, status: int) -> None:
    server.faults.append(Fault("a.tar", times=2, status=status))
    assert read(server, client) == DATA
    server.faults.append(Fault("a.tar", status=status))
    found = failure(server, client)
    assert (found.kind, found.status) == ("gave-up", status)


def test_retry_after_is_honoured(server: FaultyServer, client: HttpClient) -> None:
    server.faults.append(Fault("a.tar", times=1, status=503, headers={"Retry-After": "1"}))
    begun = time.monotonic()
    assert read(server, client) == DATA
    assert time.monotonic() - begun >= 1


def test_a_retry_after_above_the_limit(server: FaultyServer, client: HttpClient) -> None:
    server.faults.append(Fault("a.tar", status=429, headers={"Retry-After": "3600"}))
    assert "3600 s" in str(failure(server, client))


def test_a_web_page_instead_of_a_file(server: FaultyServer, client: HttpClient) -> None:
    server.faults.append(
        Fault("a.tar", status=200, headers={"Content-Type": "text/html; charset=utf-8"}, body=b"<html>")
    )
    assert failure(server, client).kind == "page"


@pytest.mark.parametrize("begin", [b"<!DOCTYPE html>", b"\xef\xbb\xbf\n <html lang='en'>", b"<HTML>"])
def test_a_web_page_with_another_content_type(server: FaultyServer, client: HttpClient, begin: bytes) -> None:
    """Nothing that is read as a whole is a web page."""
    server.objects["/a.json"] = begin + b"log in"
    with pytest.raises(FetchFailure, match="the server sent a web page instead of the file") as caught:
        read_whole(open_source(f"{server.url}/a.json", client), 1000)
    assert caught.value.kind == "page"


def test_a_wrong_range(server: FaultyServer, client: HttpClient) -> None:
    server.faults.append(Fault("a.tar", status=206, headers={"Content-Range": "bytes 0-9/700000"}, body=b"0123456789"))
    assert "another one" in str(failure(server, client, 5, 5))


def test_a_compressed_range_is_refused(server: FaultyServer, client: HttpClient) -> None:
    server.headers["/a.tar"] = {"Content-Encoding": "gzip"}
    assert failure(server, client, 5, 5).kind == "encoded"
    assert read(server, client) == DATA  # what is stored compressed comes as it is stored


def test_a_refused_connection(client: HttpClient) -> None:
    state = FaultyServer()
    with serving(state):
        pass
    assert failure(state, client).kind == "gave-up"


def test_basic_and_bearer(server: FaultyServer, client: HttpClient) -> None:
    server.authorization = "Basic YW5uYTpow7xibg=="
    assert read(server, client, secret=Login("anna", Secret("hübn"))) == DATA
    assert failure(server, client).kind == "unauthorised"
    server.authorization = "Bearer t0ken"
    assert read(server, client, secret=Secret("t0ken")) == DATA


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        (None, r"requires authentication \(401\); give a badge"),
        (Secret("expired"), r"rejects the token \(401\); check the token"),
        (Login("anna", Secret("wr0ng")), r"rejects the user and password \(401\)"),
    ],
)
def test_missing_and_rejected_credentials(
    server: FaultyServer, client: HttpClient, secret: Login | Secret | None, words: str
) -> None:
    server.authorization = "Bearer t0ken"
    found = failure(server, client, secret=secret, advice="give a badge")
    assert re.search(words, str(found))
    assert found.challenge
    assert "expired" not in str(found)
    assert "wr0ng" not in str(found)
    with pytest.raises(FetchFailure, match=words):
        open_source(f"{server.url}/a.tar", client, bind_credential(server.url, secret), advice="give a badge").exists()


def test_a_401_after_a_redirect(server: FaultyServer, client: HttpClient) -> None:
    other = FaultyServer()
    with serving(other):
        other.authorization = "Bearer other"
        server.faults.append(Fault("a.tar", status=302, headers={"Location": f"{other.url}/a.tar"}))
        assert "redirects to" in str(failure(server, client, secret=Secret("t0ken")))


@pytest.mark.parametrize("token", ["t0\nken", "t0ken\r\n", "t0\x00ken", "t0 ken", "t0kén", ""])
def test_a_token_that_cannot_be_sent(server: FaultyServer, client: HttpClient, token: str) -> None:
    with pytest.raises(InvalidSetting, match="it is malformed") as caught:
        read(server, client, secret=Secret(token))
    assert "ken" not in str(caught.value).replace("token", "")
    assert server.requests == []


def test_credentials_stay_with_their_server(
    server: FaultyServer, client: HttpClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in no redirect, log or message."""
    caplog.set_level(logging.DEBUG)
    other = FaultyServer()
    with serving(other):
        other.objects["/a.tar"] = DATA
        server.faults.append(Fault("a.tar", status=302, headers={"Location": f"{other.url}/a.tar"}))
        assert read(server, client, secret=Secret("t0ken")) == DATA
    assert server.requests[0].headers["Authorization"] == "Bearer t0ken"
    assert "Authorization" not in other.requests[0].headers
    assert "t0ken" not in caplog.text


def test_an_address_with_credentials_is_refused_and_not_shown() -> None:
    with pytest.raises(InvalidSetting) as caught:
        open_source("https://anna:hunter2@example.org/a.tar")
    assert "hunter2" not in str(caught.value)


def test_queries_are_not_shown(server: FaultyServer, client: HttpClient) -> None:
    source = open_source(f"{server.url}/none?X-Signature=s3cret", client)
    with pytest.raises(FetchFailure) as caught:
        list(source.read())
    assert "s3cret" not in str(caught.value) + source.where


def test_connections_are_reused_and_bounded(server: FaultyServer, client: HttpClient) -> None:
    source = open_source(f"{server.url}/a.tar", client)
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda at: b"".join(source.read(at * 7000, 7000)), range(100)))
    assert b"".join(parts) == DATA
    assert server.connections <= 2
    assert server.busiest <= 2


def test_stopping_ends_a_pause(server: FaultyServer) -> None:
    stop = threading.Event()
    with HttpClient(retry=RetryPolicy(first_pause=60), stop=stop) as client:
        server.faults.append(Fault("a.tar", status=503))
        timer = threading.Timer(0.2, stop.set)
        timer.start()
        assert failure(server, client).kind == "stopped"
        timer.join()


def test_reading_a_whole_object_is_bounded(server: FaultyServer, client: HttpClient) -> None:
    with pytest.raises(FetchFailure, match="larger than"):
        read_whole(open_source(f"{server.url}/a.tar", client), 1000)


#: Three times slower than this is what a server with ``trickle`` sends.
FAST = replace(QUICK, read=0.2, lowest=LowestSpeed(rate=150, seconds=0.3))


def test_a_server_that_trickles(server: FaultyServer) -> None:
    server.faults.append(Fault("a.tar", trickle=3))
    with HttpClient(retry=FAST) as client:
        caught = failure(server, client)
    assert caught.kind == "gave-up"
    assert caught.problem.startswith("the answer is too slow (below 150 bytes a second for 0 s) after 0 bytes; gave up")
    assert len(server.requests) == QUICK.attempts


def test_a_transfer_that_trickles_once_is_resumed(server: FaultyServer) -> None:
    server.faults.append(Fault("a.tar", times=1, trickle=2 * CHUNK))
    with HttpClient(retry=FAST) as client:
        assert read_whole(open_source(f"{server.url}/a.tar", client), 10**7) == server.objects["/a.tar"]
    assert [request.headers.get("Range") for request in server.requests][1] == f"bytes={2 * CHUNK}-"


def test_headers_that_trickle() -> None:
    """Each byte comes long before the timeout, and the headers never end."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        HttpClient(retry=FAST) as client,
    ):
        thread = threading.Thread(target=_trickle_headers, args=(listening,))
        thread.start()
        with pytest.raises(ConnectionFailure, match="the answer is too slow") as caught:
            client.request_once("GET", f"http://127.0.0.1:{listening.getsockname()[1]}/")
        thread.join(5)
    assert caught.value.kind == "timeout"


def _trickle_headers(listening: socket.socket) -> None:
    connection, _ = listening.accept()
    with connection, suppress(OSError):
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        for _ in range(500):
            connection.sendall(b"x")
            time.sleep(0.02)


def test_a_slow_caller_is_not_a_slow_server(server: FaultyServer) -> None:
    server.objects["/a.tar"] = bytes(4 * CHUNK)
    with HttpClient(retry=replace(QUICK, read=0.2, lowest=LowestSpeed(rate=10**5, seconds=0.2))) as client:
        for _ in open_source(f"{server.url}/a.tar", client).read():
            time.sleep(0.1)
    assert len(server.requests) == 1


NINES = "9" * 5000


@pytest.mark.parametrize(
    "text",
    [
        "bytes 100-99/700000",
        "bytes 100-90/700000",
        "bytes 100-800000/700000",
        f"bytes 100-{NINES}/{NINES}0",
        "bytes 1-2",
    ],
)
def test_a_range_that_cannot_be_is_refused(server: FaultyServer, client: HttpClient, text: str) -> None:
    server.faults = [Fault("a.tar", status=206, headers={"Content-Range": text}, body=b"x" * 20)]
    assert "has no range or another one" in str(failure(server, client, 100, 1000))
    assert len(server.requests) == 1


def test_a_whole_object_of_unknown_size_is_no_range(server: FaultyServer, client: HttpClient) -> None:
    server.faults = [Fault("a.tar", status=206, headers={"Content-Range": "bytes 0-9/*"}, body=b"x" * 10)]
    assert "has no range or another one" in str(failure(server, client))


def test_sizes_with_thousands_of_digits(server: FaultyServer, client: HttpClient) -> None:
    server.faults = [Fault("a.tar", status=416, headers={"Content-Range": f"bytes */{NINES}"})]
    assert failure(server, client, 100, 1000).kind == "size"
    server.faults = [Fault("a.tar", status=200, headers={"Content-Length": NINES}, body=b"x")]
    with pytest.raises(RangesRefused):
        read(server, client, 100, 1000)


def test_a_server_that_sends_a_byte_for_each_request(server: FaultyServer, client: HttpClient) -> None:
    start = {"Content-Range": "bytes 100-100/700000"}
    server.faults = [Fault("a.tar", times=1, status=206, headers=start, body=b"x")]
    assert len(read(server, client, 100, 1000)) == 1000  # a single one does not fail
    server.requests.clear()
    server.faults = [
        Fault("a.tar", times=1, status=206, headers={"Content-Range": f"bytes {n}-{n}/700000"}, body=b"x")
        for n in range(100, 1100)
    ]
    assert "the server sent 1 byte of the 100000 requested; gave up" in str(failure(server, client, 100, 100_000))
    assert len(server.requests) == QUICK.attempts


_ANSWER = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "piece"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (_ANSWER + b"0\r\n", b"a: b\r\n"),
        (_ANSWER + b"0\r\n", b"a"),
        (_ANSWER + b"1;", b"a"),
    ],
    ids=["interim answers", "trailers", "a trailer", "a chunk's size"],
)
def test_lines_that_do_not_end(client: HttpClient, first: bytes, piece: bytes) -> None:
    """As fast as the network: neither a timeout nor the lowest speed ends them."""
    connections: list[socket.socket] = []

    def pour(listening: socket.socket) -> None:
        while len(connections) < QUICK.attempts:
            connection, _ = listening.accept()
            connections.append(connection)
            with connection, suppress(OSError):
                connection.recv(CHUNK)
                connection.sendall(first)
                while True:
                    connection.sendall(piece * 1000)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=pour, args=(listening,))
        thread.start()
        with pytest.raises(FetchFailure, match="gave up"):
            list(open_source(f"http://127.0.0.1:{listening.getsockname()[1]}/a.tar", client, None).read())
        thread.join(10)
    assert len(connections) == QUICK.attempts


def test_a_body_in_many_chunks(client: HttpClient) -> None:
    def answer(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(CHUNK)
            connection.sendall(_ANSWER + b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer, args=(listening,))
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/a.tar"
        assert b"".join(open_source(url, client, None).read()) == b"x" * 1000
        thread.join(10)
