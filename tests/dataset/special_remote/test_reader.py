"""Reading images in any order: the right bytes, few requests, few bytes in vain."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from icf_utils.dataset.special_remote.reader import ImageReader
from icf_utils.fetch.ranges import Span

DATA = random.Random(3).randbytes(4_000_000)


class Memory:
    """A source that records what is requested."""

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
    """Neighbouring images of a TAR, with headers between them."""
    found, at = [], 1536
    for size in sizes:
        found.append(Span(at, size))
        at += size + 1536
    return found


@settings(deadline=None)
@given(st.data())
def test_images_in_any_order(chosen: st.DataObject) -> None:
    spans = images(chosen.draw(st.lists(st.integers(0, 60_000), min_size=1, max_size=40)))
    order = chosen.draw(st.lists(st.sampled_from(spans), min_size=1, max_size=60))
    source = Memory()
    reader = ImageReader(source, len(DATA))
    for span in order:
        assert b"".join(reader.pieces(span)) == DATA[span.start : span.end]


def test_one_image_is_one_request() -> None:
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
