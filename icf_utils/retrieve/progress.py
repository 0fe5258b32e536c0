"""Who is told of a retrieval, and the transfer of one TAR with its events. Uses the network through the transfer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal

from icf_utils.fetch.errors import FetchFailure
from icf_utils.fetch.ranges import Batch
from icf_utils.progress import Task
from icf_utils.retrieve.model import Failure, PlannedFile, Tar
from icf_utils.retrieve.transfer import Destination, TarTransfer

Event = Literal["progress", "download", "extract", "save", "complete", "error"]
Payload = dict[str, Any]


class Listeners:
    """Callbacks by event, called one at a time."""

    def __init__(self) -> None:
        self._callbacks: dict[str, list[Callable[[Payload], None]]] = {}
        self._lock = threading.RLock()

    def add(self, event: Event, callback: Callable[[Payload], None]) -> None:
        self._callbacks.setdefault(event, []).append(callback)

    def tell(self, event: Event, payload: Payload) -> None:
        with self._lock:
            for callback in self._callbacks.get(event, ()):
                callback(payload)

    def trouble(self, trouble: Failure) -> None:
        """Tell of a failure."""
        error = f"{trouble.image}: {trouble.problem}" if trouble.image else trouble.problem
        self.tell("error", {"url": trouble.url, "size": trouble.size, "error": error})


class ObservedTransfer:
    """The transfer of one TAR, whose events are told: pieces as they come, the rest when all requests are through."""

    def __init__(
        self, tar: Tar, items: Sequence[PlannedFile], shelf: Destination, stop: threading.Event, listeners: Listeners
    ) -> None:
        self._transfer = TarTransfer(tar, items, shelf)
        self._stop, self._listeners = stop, listeners
        self.batches = self._transfer.batches()
        self.size = sum(item.image.span.size for item in items)
        self._left, self._lock = len(self.batches), threading.Lock()

    @property
    def saved(self) -> Sequence[PlannedFile]:
        return self._transfer.saved

    @property
    def troubles(self) -> Sequence[Failure]:
        return self._transfer.troubles

    def run(self, batch: Batch, task: Task, after: Callable[[], None]) -> None:
        """Do one request; the last one tells how it went and calls ``after``. Nothing happens once it was stopped."""

        def came(size: int) -> None:
            self._refuse_when_stopped()
            if size:
                task.advance(size)
                url = self._transfer.tar.url
                self._listeners.tell("progress", {"url": url, "bytesDownloaded": size, "bytesTotal": self.size})

        try:
            self._refuse_when_stopped()
            self._transfer.run(batch, came)
        except FetchFailure as error:
            if error.kind != "stopped":
                raise
        if self._is_last():
            self._finish()
            after()

    def _refuse_when_stopped(self) -> None:
        if self._stop.is_set():
            raise FetchFailure(self._transfer.tar.url, "stopped", "begin again to go on", kind="stopped")

    def _is_last(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left == 0

    def _finish(self) -> None:
        url, saved = self._transfer.tar.url, list(self.saved)
        size = sum(item.image.span.size for item in saved)
        if not self.troubles and not self._stop.is_set():
            self._listeners.tell("download", {"url": url, "size": size, "file": url.rpartition("/")[2]})
        if saved:
            self._listeners.tell("extract", {"url": url, "size": size, "files": [item.image.path for item in saved]})
        for item in saved:
            self._listeners.tell("save", {"url": url, "file": str(item.path)})
        for trouble in self.troubles:
            self._listeners.trouble(trouble)
