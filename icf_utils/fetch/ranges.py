"""Ranges of bytes: which to request together, and how to divide the response. Pure, no input or output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

#: Bytes between two ranges that cost less to receive than another request.
DEFAULT_GAP = 256 * 1024


@dataclass(frozen=True)
class Span:
    """``size`` bytes from position ``start``."""

    start: int
    size: int

    @property
    def end(self) -> int:
        """The position after the last byte."""
        return self.start + self.size


@dataclass(frozen=True)
class Batch:
    """One request: ``span`` contains the spans with the indexes ``members``."""

    span: Span
    members: tuple[int, ...]


def coalesce(spans: Sequence[Span], gap: int = DEFAULT_GAP, longest: int | None = None) -> tuple[Batch, ...]:
    """The fewest requests for all spans, by position: neighbours at most ``gap`` bytes apart are requested together.

    A batch is at most ``longest`` bytes long, unless a single span is longer. Spans that overlap are never in one
    batch, so that :func:`split` yields each byte once.

    >>> [batch.members for batch in coalesce([Span(0, 10), Span(500, 10), Span(12, 8)], gap=2)]
    [(0, 2), (1,)]
    """
    batches: list[Batch] = []
    for index in sorted(range(len(spans)), key=lambda at: (spans[at].start, spans[at].size, at)):
        span = spans[index]
        if batches and _fits(batches[-1].span, span, gap, longest):
            last = batches[-1]
            grown = Span(last.span.start, span.end - last.span.start)
            batches[-1] = Batch(grown, (*last.members, index))
        else:
            batches.append(Batch(span, (index,)))
    return tuple(batches)


def _fits(have: Span, more: Span, gap: int, longest: int | None) -> bool:
    return 0 <= more.start - have.end <= gap and (longest is None or more.end - have.start <= longest)


def split(batch: Batch, spans: Sequence[Span], stream: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield the bytes of ``batch`` as they arrive: pairs of a member's index and a piece of it, in order.

    Every member is yielded at least once, an empty one with ``b""``. Bytes between members are dropped. If the
    stream ends early, so do the pairs; the caller counts the bytes.

    >>> wanted = [Span(0, 2), Span(3, 0), Span(4, 3)]
    >>> list(split(coalesce(wanted)[0], wanted, [b"ab-", b"-cde"]))
    [(0, b'ab'), (1, b''), (2, b'cde')]
    """
    position, members = batch.span.start, list(reversed(batch.members))
    yield from _empty_ones(members, spans, position)
    for chunk in stream:
        view, begin = memoryview(chunk), position
        position += len(chunk)
        while members and spans[members[-1]].start < position:
            span = spans[members[-1]]
            piece = view[max(span.start - begin, 0) : span.end - begin]
            yield members[-1], bytes(piece)
            if span.end > position:
                break
            members.pop()
        yield from _empty_ones(members, spans, position)


def _empty_ones(members: list[int], spans: Sequence[Span], position: int) -> Iterator[tuple[int, bytes]]:
    while members and spans[members[-1]].size == 0 and spans[members[-1]].start <= position:
        yield members.pop(), b""
