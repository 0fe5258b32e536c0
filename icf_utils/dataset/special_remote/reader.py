"""Reads many images of one archive by few requests. Uses the network through its source.

A job that gets neighbouring images probably continues: each request reads ahead by as many bytes as were read in a row
before it. So a series takes few requests, and a single image exactly its own bytes. Bytes that are not read stay at the
server, except for those in the connection's buffers.

Several jobs ask in an order that differs a little from the archive's. Bytes that are skipped on the way to one image
are kept for a while, since the next jobs probably need them; an image further back does not end the current request.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from icf_utils.fetch.ranges import DEFAULT_GAP, Span
from icf_utils.fetch.source import ByteSource

#: Bytes that one request reads ahead, at most.
MOST_AHEAD = 64 * 2**20

#: With several jobs: bytes that may be skipped at a time, and how many skipped ones are kept.
_JOBS_GAP, _KEPT = 8 * 2**20, 32 * 2**20

#: Bytes that may be read and dropped, in addition to a quarter of those that were requested.
_FREE_SKIP = 2**20

#: Requests at a time; each has a connection.
MOST_RUNS = 4


class ImageReader:
    """Reads images from one archive of ``total`` bytes; safe to use from several threads, which take turns."""

    def __init__(self, source: ByteSource, total: int) -> None:
        self._source, self._total = source, total
        self._turns = _Turns()
        self._runs: list[_Run] = []
        self._kept_bytes = _SkippedBytes()
        self._requested = self._skipped = 0

    def pieces(self, span: Span) -> Iterator[bytes]:
        """The bytes of ``span`` in order. Raises :class:`~icf_utils.fetch.errors.FetchFailure`."""
        with self._turns.turn(span.start, self._position):
            self._requested += span.size
            kept = self._kept_bytes.take(span)
            if kept is not None:
                self._skipped -= span.size
                yield kept
                return
            run = self._run_for(span)
            try:
                yield from run.read_all(span.size, self._limit(run))
            except BaseException:
                run.close()
                self._runs.remove(run)
                raise

    def _position(self) -> int:
        return self._runs[0].position if self._runs else 0

    def _run_for(self, span: Span) -> _Run:
        """The run that reaches ``span`` next, or a new one; the latest is the first."""
        near = [run for run in self._runs if self._is_worth(span.start - run.position)]
        if near:
            run = max(near, key=lambda item: item.position)
            self._skip(run, span.start - run.position)
            self._runs.remove(run)
        else:
            run = _Run(self._source, span.start)
            for old in self._runs[MOST_RUNS - 1 :]:
                old.close()
            del self._runs[MOST_RUNS - 1 :]
        self._runs.insert(0, run)
        return run

    def _is_worth(self, gap: int) -> bool:
        """Whether to skip ``gap`` bytes rather than to begin a request."""
        longest = _JOBS_GAP if self._turns.are_many else DEFAULT_GAP
        return gap == 0 or (0 < gap <= longest and self._skipped + gap <= self._requested // 4 + _FREE_SKIP)

    def _skip(self, run: _Run, gap: int) -> None:
        if gap:
            start = run.position
            self._kept_bytes.keep(start, b"".join(run.read_all(gap, self._limit(run))))
            self._skipped += gap

    def _limit(self, run: _Run) -> int:
        """The position at which ``run`` reaches what another one has read."""
        return min((other.start for other in self._runs if other.start > run.position), default=self._total)


class _Run:
    """Bytes read in a row from ``start`` to ``position``, by requests that grow with what was read."""

    def __init__(self, source: ByteSource, start: int) -> None:
        self.start = self.position = start
        self._source = source
        self._end = start
        self._pieces: Iterator[bytes] = iter(())
        self._left = b""

    def read_all(self, size: int, limit: int) -> Iterator[bytes]:
        """The next ``size`` bytes. Nothing from ``limit`` on is read ahead."""
        while size:
            if self.position == self._end:
                self._ask(size, limit)
            piece = self._left or next(self._pieces)
            self._left, piece = piece[size:], piece[:size]
            self.position += len(piece)
            size -= len(piece)
            if self.position == self._end:
                for _ in self._pieces:  # so that the source reaches its end, and returns its connection
                    pass
            yield piece

    def _ask(self, size: int, limit: int) -> None:
        ahead = min(self.position - self.start, MOST_AHEAD)
        size = max(size, min(size + ahead, limit - self.position))
        self._pieces = self._source.read(self.position, size)
        self._end = self.position + size

    def close(self) -> None:
        """End the current request."""
        close = getattr(self._pieces, "close", None)
        if close:
            close()


class _SkippedBytes:
    """The latest bytes that were skipped."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._size = 0

    def keep(self, start: int, data: bytes) -> None:
        self._kept[start] = data
        self._size += len(data)
        while self._size > _KEPT:
            self._size -= len(self._kept.popitem(last=False)[1])

    def take(self, span: Span) -> bytes | None:
        """The bytes of ``span``, ``None`` unless all of them were kept."""
        for start, data in self._kept.items():
            if start <= span.start and span.end <= start + len(data):
                return data[span.start - start : span.end - start]
        return None


class _Turns:
    """Which job reads next: the one whose bytes come next, else the one nearest to the beginning."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._waiting: list[int] = []
        self._is_taken = False
        self.are_many = False

    @contextmanager
    def turn(self, start: int, position: Callable[[], int]) -> Iterator[None]:
        """Wait for this job's turn, which lasts as long as the block. ``position`` gives the current position."""
        with self._condition:
            self._waiting.append(start)
            self.are_many = self.are_many or self._is_taken
            self._condition.wait_for(lambda: not self._is_taken and start == self._next(position()))
            self._waiting.remove(start)
            self._is_taken = True
        try:
            yield
        finally:
            with self._condition:
                self._is_taken = False
                self._condition.notify_all()

    def _next(self, at: int) -> int:
        return min(self._waiting, key=lambda start: (start < at, start))
