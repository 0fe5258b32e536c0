"""Ranges are combined into few requests, and each span gets its own bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from icf_utils.fetch.ranges import Span, coalesce, split


@st.composite
def spans_of(draw: st.DrawFn) -> list[Span]:
    """Spans that do not overlap, in any order, some of them empty."""
    position, made = 0, []
    for gap, size in draw(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12)):
        made.append(Span(position + gap, size))
        position += gap + size
    return draw(st.permutations(made))


@given(spans=spans_of(), gap=st.integers(0, 12), longest=st.none() | st.integers(1, 40), piece=st.integers(1, 17))
def test_every_span_gets_its_bytes(spans: list[Span], gap: int, longest: int | None, piece: int) -> None:
    data = bytes(range(256)) * 2
    batches = coalesce(spans, gap, longest)
    assert sorted(index for batch in batches for index in batch.members) == list(range(len(spans)))
    found: dict[int, bytes] = {}
    for batch in batches:
        whole = data[batch.span.start : batch.span.end]
        assert longest is None or len(whole) <= max(longest, *(spans[at].size for at in batch.members))
        stream = [whole[at : at + piece] for at in range(0, len(whole), piece)]
        order = []
        for index, chunk in split(batch, spans, stream):
            order.append(index)
            found[index] = found.get(index, b"") + chunk
        assert order == sorted(order, key=batch.members.index)
    assert found == {index: data[span.start : span.end] for index, span in enumerate(spans)}


def test_overlapping_spans_are_requested_separately() -> None:
    assert len(coalesce([Span(0, 10), Span(5, 10)], gap=100)) == 2


def test_no_gap_wider_than_allowed_is_transferred() -> None:
    spans = [Span(0, 10), Span(15, 10), Span(31, 10)]
    assert [batch.span for batch in coalesce(spans, gap=5)] == [Span(0, 25), Span(31, 10)]


def test_a_stream_that_ends_early_ends_the_pairs() -> None:
    spans = [Span(0, 4), Span(4, 4)]
    assert list(split(coalesce(spans)[0], spans, [b"abcde"])) == [(0, b"abcd"), (1, b"e")]
