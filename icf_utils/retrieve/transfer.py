"""The images of one TAR: few requests, each image written and checked as its bytes arrive.

Uses the network and the target directory. A request that fails does not affect the others; an image with a wrong
checksum is requested once more by itself. From a server that sends whole files only, the TAR is read once as a whole.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import ExitStack, closing
from types import TracebackType
from typing import Any, Protocol

from icf_utils.fetch.errors import FetchFailure, RangesRefused
from icf_utils.fetch.ranges import Batch, Span, coalesce, split
from icf_utils.retrieve.files import PathBlocked
from icf_utils.retrieve.model import Failure, PlannedFile, Tar

#: The longest request, in bytes: a large TAR comes by several connections.
LONGEST = 64 * 1024 * 1024

#: Images of a request that are being saved while the next ones arrive.
_MOST_AT_A_TIME = 32


class Incoming(Protocol):
    """An image that is being received; leaving the context removes it unless it was saved."""

    def __enter__(self) -> Incoming: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def write(self, chunk: bytes) -> None: ...

    def save(self) -> bool:
        """Save the image if its size and checksum are right, and return whether they are.

        May raise :class:`PathBlocked`.
        """


class Destination(Protocol):
    """Where images are written: a folder, zips, or the annex of a clone."""

    def begin(self, planned: PlannedFile) -> Incoming: ...


class _Saving:
    """The images of a stream that are being saved, by the threads ``savers`` if given; its end waits for them."""

    def __init__(self, savers: Executor | None) -> None:
        self._savers, self._wrong = savers, list[int]()
        self._running: deque[Future[list[int]]] = deque()

    def __enter__(self) -> _Saving:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        wait(self._running)

    def add(self, save: Callable[[int, Incoming, ExitStack], list[int]], index: int, *image: Any) -> None:
        """Save one more; raises what saving an earlier one has raised."""
        if self._savers is None:
            self._wrong += save(index, *image)
            return
        self._running.append(self._savers.submit(save, index, *image))
        while self._running and (self._running[0].done() or len(self._running) > _MOST_AT_A_TIME):
            self._wrong += self._running.popleft().result()

    def wrong(self) -> list[int]:
        """The images that are not correct, when all have been saved."""
        while self._running:
            self._wrong += self._running.popleft().result()
        return self._wrong


class TarTransfer:
    """The transfer of ``items``, all of which are images of ``tar``.

    With ``savers``, images that have arrived are saved by its threads while the next ones arrive: a disk that must
    confirm each of them confirms many at a time.
    """

    def __init__(
        self, tar: Tar, items: Sequence[PlannedFile], destination: Destination, savers: Executor | None = None
    ) -> None:
        self.tar, self.items = tar, tuple(items)
        self.failures: list[Failure] = []
        self._destination, self._savers = destination, savers
        self._saved: set[int] = set()
        self._spans = [item.image.span for item in self.items]
        self._settled: set[int] = set()
        self._received = [0] * len(self.items)
        self._lock, self._whole_lock = threading.Lock(), threading.Lock()
        self._permanent_failure: FetchFailure | None = None

    @property
    def saved(self) -> list[PlannedFile]:
        """The images that are complete, in the order of ``items``."""
        with self._lock:
            return [self.items[index] for index in sorted(self._saved)]

    def batches(self) -> tuple[Batch, ...]:
        """The requests, which may be made at the same time."""
        return coalesce(self._spans, longest=LONGEST)

    def run(self, batch: Batch, on_bytes: Callable[[int], None]) -> None:
        """Make one request. What fails is added to :attr:`failures`.

        ``on_bytes`` is called for each piece with the number of bytes of images in it, perhaps 0: bytes between images,
        or received a second time, are not counted, so that the sum is the size of all images in the end.

        Raises only for failures of the disk, and when stopped.
        """
        if self._permanent_failure is not None:
            self._fail(batch.members, str(self._permanent_failure))
            return
        try:
            self._stream(batch, on_bytes, again=True)
        except RangesRefused:
            self._run_whole(on_bytes)
        except FetchFailure as error:
            if error.kind == "stopped":
                raise
            if error.kind not in ("gave-up", "size"):
                self._permanent_failure = error
            self._fail(batch.members, str(error))

    def _stream(self, batch: Batch, on_bytes: Callable[[int], None], again: bool) -> None:
        current, done = -1, 0
        with (
            closing(self._read(batch, on_bytes)) as stream,
            _Saving(self._savers) as saving,
            ExitStack() as stack,
        ):
            incoming: Incoming | None = None
            for index, chunk in split(batch, self._spans, stream):
                if index != current:
                    if incoming is not None:
                        saving.add(self._save, current, incoming, stack.pop_all())
                    incoming = None
                    current, incoming = index, stack.enter_context(self._destination.begin(self.items[index]))
                    done = 0
                if incoming is not None:
                    incoming.write(chunk)
                done += len(chunk)
                on_bytes(self._count(index, done))
            if incoming is not None:
                saving.add(self._save, current, incoming, stack.pop_all())
        for index in saving.wrong():
            if again:
                self._stream(Batch(self._spans[index], (index,)), on_bytes, again=False)
            else:
                self._fail([index], self._mismatch(index))

    def _save(self, index: int, incoming: Incoming, resources: ExitStack) -> list[int]:
        """Save a finished image, and close it; returns its index if it is not correct."""
        with resources:
            if index in self._settled:
                return []
            try:
                if not incoming.save():
                    return [index]
            except PathBlocked as error:
                self._fail([index], str(error))
                return []
            with self._lock:
                self._settled.add(index)
                self._saved.add(index)
        return []

    def _count(self, index: int, done: int) -> int:
        """How many bytes of an image are new, of which ``done`` were received this time."""
        with self._lock:
            new = max(done - self._received[index], 0)
            self._received[index] += new
        return new

    def _read(self, batch: Batch, on_bytes: Callable[[int], None]) -> Generator[bytes, None, None]:
        for chunk in self.tar.source.read(batch.span.start, batch.span.size):
            on_bytes(0)
            yield chunk

    def _run_whole(self, on_bytes: Callable[[int], None]) -> None:
        """Once for all requests: from the TAR's first byte to the last one that is needed."""
        with self._whole_lock:
            left = tuple(index for index in range(len(self.items)) if index not in self._settled)
            members = tuple(sorted(left, key=lambda index: self._spans[index].start))
            if not members:
                return
            end = max(self._spans[index].end for index in members)
            try:
                self._stream(Batch(Span(0, end), members), on_bytes, again=False)
            except FetchFailure as error:
                if error.kind == "stopped":
                    raise
                self._fail(members, str(error))

    def _fail(self, members: Sequence[int], problem: str) -> None:
        with self._lock:
            for index in members:
                if index not in self._settled:
                    self._settled.add(index)
                    image = self.items[index].image
                    self.failures.append(Failure(self.tar.url, problem, image=image.path, size=image.span.size))

    def _mismatch(self, index: int) -> str:
        digest = self.items[index].image.digest
        return (
            f"expected {digest.kind} {digest.value}, found another one: "
            "the TAR is damaged, or its metadata describe another TAR"
        )
