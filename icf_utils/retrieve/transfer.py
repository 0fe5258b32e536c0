"""The images of one TAR: few requests, each image written and checked as its bytes come.

Uses the network and the target directory. A request that fails ends no other one; an image with a wrong checksum is
asked for once more on its own. Where a server sends whole files only, the TAR is read once from its start.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from typing import Protocol

from icf_utils.fetch.errors import FetchFailure, RangesRefused
from icf_utils.fetch.ranges import Batch, Span, coalesce, split
from icf_utils.retrieve.files import IncomingFile, PathBlocked
from icf_utils.retrieve.model import Failure, PlannedFile, Tar

#: The longest request, in bytes: a large TAR comes by several connections.
LONGEST = 64 * 1024 * 1024


class Destination(Protocol):
    """Where images go. Implementations: a directory, and zips."""

    def has(self, wanted: PlannedFile) -> bool: ...

    def is_taken(self, wanted: PlannedFile) -> bool: ...

    def obstacle(self, wanted: PlannedFile) -> str: ...

    def new(self, wanted: PlannedFile) -> IncomingFile: ...


class TarTransfer:
    """The transfer of ``items``, which are all images of ``tar``."""

    def __init__(self, tar: Tar, items: Sequence[PlannedFile], shelf: Destination) -> None:
        self.tar, self.items = tar, tuple(items)
        self.saved: list[PlannedFile] = []
        self.troubles: list[Failure] = []
        self._shelf = shelf
        self._spans = [item.image.span for item in self.items]
        self._settled: set[int] = set()
        self._come = [0] * len(self.items)
        self._lock, self._whole_lock = threading.Lock(), threading.Lock()
        self._hopeless: FetchFailure | None = None

    def batches(self) -> tuple[Batch, ...]:
        """The requests, which may run at the same time."""
        return coalesce(self._spans, longest=LONGEST)

    def run(self, batch: Batch, came: Callable[[int], None]) -> None:
        """Do one request. What fails is in :attr:`troubles`.

        ``came`` hears of each piece how many bytes of images it brought, perhaps none: what comes between images, or a
        second time, is not counted. So the sum is the size of all images when they have come.

        Raises only for failures of the disk, and when stopped.
        """
        if self._hopeless is not None:
            self._fail(batch.members, str(self._hopeless))
            return
        try:
            self._stream(batch, came, again=True)
        except RangesRefused:
            self._run_whole(came)
        except FetchFailure as error:
            if error.kind == "stopped":
                raise
            if error.kind not in ("gave-up", "size"):
                self._hopeless = error
            self._fail(batch.members, str(error))

    def _stream(self, batch: Batch, came: Callable[[int], None], again: bool) -> None:
        wrong, done = [], 0
        with closing(self._read(batch, came)) as stream, ExitStack() as stack:
            current, incoming = -1, None
            for index, chunk in split(batch, self._spans, stream):
                if index != current:
                    wrong += self._close(current, incoming)
                    stack.close()
                    current, incoming = index, stack.enter_context(self._shelf.new(self.items[index]))
                    done = 0
                if incoming is not None:
                    incoming.write(chunk)
                done += len(chunk)
                came(self._count(index, done))
            wrong += self._close(current, incoming)
        for index in wrong:
            if again:
                self._stream(Batch(self._spans[index], (index,)), came, again=False)
            else:
                self._fail([index], self._mismatch(index))

    def _close(self, index: int, incoming: IncomingFile | None) -> list[int]:
        """Keep a finished image; returns its index if it is wrong."""
        if incoming is None or index in self._settled:
            return []
        try:
            if not incoming.keep():
                return [index]
        except PathBlocked as error:
            self._fail([index], str(error))
            return []
        with self._lock:
            self._settled.add(index)
            self.saved.append(self.items[index])
        return []

    def _count(self, index: int, done: int) -> int:
        """How many bytes of an image are new, of which ``done`` have come this time."""
        with self._lock:
            new = max(done - self._come[index], 0)
            self._come[index] += new
        return new

    def _read(self, batch: Batch, came: Callable[[int], None]) -> Generator[bytes, None, None]:
        for chunk in self.tar.source.read(batch.span.start, batch.span.size):
            came(0)
            yield chunk

    def _run_whole(self, came: Callable[[int], None]) -> None:
        """Once for all requests: from the TAR's first byte to the last wanted one."""
        with self._whole_lock:
            left = tuple(index for index in range(len(self.items)) if index not in self._settled)
            members = tuple(sorted(left, key=lambda index: self._spans[index].start))
            if not members:
                return
            end = max(self._spans[index].end for index in members)
            try:
                self._stream(Batch(Span(0, end), members), came, again=False)
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
                    self.troubles.append(Failure(self.tar.url, problem, image=image.path, size=image.span.size))

    def _mismatch(self, index: int) -> str:
        digest = self.items[index].image.digest
        return (
            f"expected {digest.kind} {digest.value}, found another: "
            "the TAR is not the one that its metadata speaks of, or is damaged"
        )
