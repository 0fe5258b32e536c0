"""Compute digests on another core while the caller reads and writes. Touches nothing but memory.

The two threads communicate through simple queues only. A condition variable, and ``queue.Queue``, which is built on
one, can lose a wake-up for good when a signal's exception is raised within it, and an interrupted command would never
end.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

#: How many batches may wait: enough that neither thread waits for the other; with batches of about a megabyte, this
#: also bounds the memory.
_WAITING = 64

#: After a batch larger than this (bytes), the caller waits until it is hashed.
_LARGE = 4 << 20


class Digests(NamedTuple):
    """The digests of one file, in hexadecimal digits."""

    md5: str
    sha256: str


class BackgroundDigest:
    """Computes a digest of batches of bytes in a separate thread (hashing releases the interpreter lock).

    The batches belong to one stream, or to several one after the other: :meth:`next_item` starts the next.
    """

    def __init__(self, algorithm: str = "md5") -> None:
        self._algorithm = algorithm
        self._digest = hashlib.new(algorithm, usedforsecurity=False)
        self._items: list[str] = []
        self._batches: queue.SimpleQueue[Sequence[Any] | None] = queue.SimpleQueue()
        self._places: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(_WAITING):
            self._places.put(None)
        self._thread = threading.Thread(target=self._run, name=algorithm, daemon=True)
        self._thread.start()

    def update(self, batch: Sequence[Any]) -> None:
        """Add several buffers, in order; they must not change afterwards."""
        self._put(batch)
        if sum(map(len, batch)) > _LARGE:
            self._wait_for_all()

    def next_item(self) -> None:
        """Complete the current digest; what follows belongs to the next one."""
        self._put(())

    def finish(self) -> str:
        """End the thread and return the digest since the last item, in hexadecimal digits."""
        self.close()
        return self._digest.hexdigest()

    def finish_items(self) -> list[str]:
        """End the thread and return the digests of all items in their order."""
        self.close()
        return self._items

    def close(self) -> None:
        """End the thread; safe to call again."""
        if self._thread.is_alive():
            self._batches.put(None)
            self._thread.join()

    def _put(self, batch: Sequence[Any]) -> None:
        self._places.get()
        self._batches.put(batch)

    def _wait_for_all(self) -> None:
        """Wait until all batches are hashed."""
        for _ in range(_WAITING):
            self._places.get()
        for _ in range(_WAITING):
            self._places.put(None)

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            for buffer in batch:
                self._digest.update(buffer)
            if not batch:
                self._items.append(self._digest.hexdigest())
                self._digest = hashlib.new(self._algorithm, usedforsecurity=False)
            self._places.put(None)


class BackgroundDigests:
    """Computes MD5 and SHA-256 of one stream of bytes, each in its own thread.

    The SHA-256 may be left out; it is empty then.
    """

    def __init__(self, sha256: bool = True) -> None:
        self._md5 = BackgroundDigest("md5")
        self._sha256 = BackgroundDigest("sha256") if sha256 else None

    def update(self, batch: Sequence[Any]) -> None:
        """Add several buffers, in order; they must not change afterwards."""
        self._md5.update(batch)
        if self._sha256:
            self._sha256.update(batch)

    def finish(self) -> Digests:
        """End the threads and return the digests."""
        return Digests(self._md5.finish(), self._sha256.finish() if self._sha256 else "")

    def close(self) -> None:
        """End the threads; safe to call again."""
        self._md5.close()
        if self._sha256:
            self._sha256.close()
