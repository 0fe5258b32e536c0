"""The events of a retrieval: callbacks, and a transfer that reports to them. Uses the network through the transfer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
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

    def emit(self, event: Event, payload: Payload) -> None:
        with self._lock:
            for callback in self._callbacks.get(event, ()):
                callback(payload)

    def emit_failure(self, failure: Failure) -> None:
        """Report a failure by the event ``error``."""
        error = f"{failure.image}: {failure.problem}" if failure.image else failure.problem
        self.emit("error", {"url": failure.url, "size": failure.size, "error": error})


class ObservedTransfer:
    """The transfer of one TAR with its events: ``progress`` for each piece, the others at the end."""

    def __init__(
        self,
        tar: Tar,
        items: Sequence[PlannedFile],
        destination: Destination,
        stop: threading.Event,
        listeners: Listeners,
        savers: Executor,
    ) -> None:
        self._transfer = TarTransfer(tar, items, destination, savers)
        self._stop, self._listeners = stop, listeners
        self.batches = self._transfer.batches()
        self.size = sum(item.image.span.size for item in items)
        self._left, self._lock = len(self.batches), threading.Lock()

    @property
    def saved(self) -> Sequence[PlannedFile]:
        return self._transfer.saved

    @property
    def failures(self) -> Sequence[Failure]:
        return self._transfer.failures

    def run(self, batch: Batch, task: Task, after: Callable[[], None]) -> None:
        """Make one request; the last one reports the outcome and calls ``after``. Does nothing once stopped."""

        def on_bytes(size: int) -> None:
            self._check_not_stopped()
            if size:
                task.advance(size)
                url = self._transfer.tar.url
                self._listeners.emit("progress", {"url": url, "bytesDownloaded": size, "bytesTotal": self.size})

        try:
            self._check_not_stopped()
            self._transfer.run(batch, on_bytes)
        except FetchFailure as error:
            if error.kind != "stopped":
                raise
        if self._is_last():
            self._finish()
            after()

    def _check_not_stopped(self) -> None:
        if self._stop.is_set():
            raise FetchFailure(
                self._transfer.tar.url, "stopped", "run the same command again to continue", kind="stopped"
            )

    def _is_last(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left == 0

    def _finish(self) -> None:
        url, saved = self._transfer.tar.url, list(self.saved)
        size = sum(item.image.span.size for item in saved)
        if not self.failures and not self._stop.is_set():
            self._listeners.emit("download", {"url": url, "size": size, "file": url.rpartition("/")[2]})
        if saved:
            self._listeners.emit("extract", {"url": url, "size": size, "files": [item.image.path for item in saved]})
        for item in saved:
            self._listeners.emit("save", {"url": url, "file": str(item.path)})
        for failure in self.failures:
            self._listeners.emit_failure(failure)
