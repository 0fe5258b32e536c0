"""Digests computed on another core while the caller reads and writes. Touches nothing but memory.

The two threads meet in simple queues only. A condition variable, and ``queue.Queue`` which is made of them, can lose a
wake-up for good when a signal's exception is raised within it, and a command that was interrupted would never end.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Sequence
from typing import Any

#: How many batches may wait: enough that neither side waits for the other, and with batches of about a megabyte this
#: bounds the memory.
_WAITING = 64

#: Bytes of a batch that nothing else may wait behind.
_LARGE = 4 << 20


class BackgroundMd5:
    """MD5 of byte batches, computed in a thread of its own (hashing releases the interpreter lock).

    Of one stream, or of several one after the other: :meth:`next_item` begins another.
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
        """Add several buffers, in order; they must not change any more."""
        self._put(batch)
        if sum(map(len, batch)) > _LARGE:
            self._wait_for_all()

    def next_item(self) -> None:
        """The present digest is complete; what follows belongs to another."""
        self._put(())

    def finish(self) -> str:
        """The digest of everything since the last item, as 32 hexadecimal digits; the thread ends."""
        self.close()
        return self._digest.hexdigest()

    def finish_items(self) -> list[str]:
        """The digests of all items in their order; the thread ends."""
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
        """Until all places are free."""
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
