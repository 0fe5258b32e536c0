"""Requests for images, whatever the order: the right bytes, few requests, little that nobody wanted."""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icf_utils.dataset.annex_keys import key_md5, key_size, parse_locator
from icf_utils.dataset.special_remote.protocol import Conversation, Job
from icf_utils.dataset.special_remote.reader import ImageReader
from icf_utils.fetch.ranges import Span

DATA = random.Random(3).randbytes(4_000_000)


class Memory:
    """A source of bytes that counts what was asked for."""

    where = "memory"

    def __init__(self) -> None:
        self.asked: list[Span] = []

    def size(self) -> int:
        return len(DATA)

    def exists(self) -> bool:
        return True

    def read(self, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        assert size is not None
        assert start + size <= len(DATA)
        self.asked.append(Span(start, size))
        for at in range(start, start + size, 70_000):
            yield DATA[at : min(at + 70_000, start + size)]


def images(sizes: list[int]) -> list[Span]:
    """Neighbours, as they lie in a TAR: a header's space between them."""
    found, at = [], 1536
    for size in sizes:
        found.append(Span(at, size))
        at += size + 1536
    return found


@settings(deadline=None)
@given(st.data())
def test_the_right_bytes_in_any_order(chosen: st.DataObject) -> None:
    spans = images(chosen.draw(st.lists(st.integers(0, 60_000), min_size=1, max_size=40)))
    order = chosen.draw(st.lists(st.sampled_from(spans), min_size=1, max_size=60))
    source = Memory()
    reader = ImageReader(source, len(DATA))
    for span in order:
        assert b"".join(reader.pieces(span)) == DATA[span.start : span.end]


def test_one_image_is_one_request_for_itself() -> None:
    source = Memory()
    b"".join(ImageReader(source, len(DATA)).pieces(Span(5000, 300)))
    assert source.asked == [Span(5000, 300)]


def test_a_series_takes_few_requests() -> None:
    source, spans = Memory(), images([9000] * 300)
    reader = ImageReader(source, len(DATA))
    for span in spans:
        assert b"".join(reader.pieces(span)) == DATA[span.start : span.end]
    assert len(source.asked) <= 12
    assert sum(span.size for span in source.asked) <= 2.1 * (spans[-1].end - spans[0].start)


def test_several_jobs() -> None:
    source, spans = Memory(), images([9000] * 300)
    reader, waiting, wrong = ImageReader(source, len(DATA)), iter(spans), []
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                span = next(waiting, None)
            if span is None:
                return
            if b"".join(reader.pieces(span)) != DATA[span.start : span.end]:
                wrong.append(span)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert len(source.asked) < 100


class Nothing:
    """A remote that has one key."""

    def retrieve(self, job: Job, key: str, path: str) -> None:
        raise OSError(5, "Input/output error", path)

    def is_present(self, job: Job, key: str) -> bool:
        return job.urls(key, "dl+archive:") != []

    def whereis(self, job: Job, key: str) -> str:
        return ""


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("EXTENSIONS INFO GETGITREMOTENAME\n", "EXTENSIONS INFO"),
        ("EXTENSIONS INFO ASYNC\n", "EXTENSIONS INFO ASYNC"),
        ("PREPARE\n", "PREPARE-SUCCESS"),
        ("CLAIMURL dl+archive:K#path=a&size=1\n", "CLAIMURL-SUCCESS"),
        ("CLAIMURL https://example.org\n", "CLAIMURL-FAILURE"),
        ("TRANSFER RETRIEVE K a b c\n", "TRANSFER-FAILURE RETRIEVE K a b c Input/output error"),
        ("TRANSFER STORE K a\n", "TRANSFER-FAILURE STORE K archives are read-only"),
        ("REMOVE K\n", "REMOVE-FAILURE K archives are read-only"),
        ("SOMETHING NEW\n", "UNSUPPORTED-REQUEST"),
    ],
)
def test_answers(said: str, answer: str) -> None:
    outgoing = io.StringIO()
    before = set(threading.enumerate())
    Conversation(Nothing(), io.StringIO(said), outgoing).run()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    assert outgoing.getvalue().splitlines() == ["VERSION 1", answer]


def test_locators() -> None:
    found = parse_locator("dl+archive:MD5E-s1--x.tar#path=a b%#c.dcm&size=5&atype=tar&offset=7")
    assert found is not None
    assert (found.archive_key, found.path, found.size, found.offset) == ("MD5E-s1--x.tar", "a b%#c.dcm", 5, 7)
    assert parse_locator("https://example.org/a.tar") is None
    assert (key_size("URL--x-s3"), key_md5("SHA256E-s1--aa")) == (None, "")
