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
from typing import Any

#: How many batches may wait: enough that neither thread waits for the other; with batches of about a megabyte, this
#: also bounds the memory.
_WAITING = 64

#: After a batch larger than this (bytes), the caller waits until it is hashed.
_LARGE = 4 << 20


class BackgroundMd5:
    """Computes the MD5 of batches of bytes in a separate thread (hashing releases the interpreter lock).

    The batches belong to one stream, or to several one after the other: :meth:`next_item` starts the next.
    """

    def __init__(self) -> None:
        self._digest = hashlib.md5(usedforsecurity=False)
        self._items: list[str] = []
        self._batches: queue.SimpleQueue[Sequence[Any] | None] = queue.SimpleQueue()
        self._places: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(_WAITING):
            self._places.put(None)
        self._thread = threading.Thread(target=self._run, name="md5", daemon=True)
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
        """End the thread and return the digest since the last item, as 32 hexadecimal digits."""
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
                self._digest = hashlib.md5(usedforsecurity=False)
            self._places.put(None)
