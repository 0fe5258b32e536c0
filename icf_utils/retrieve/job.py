"""A retrieval under way, in threads of its own. Uses the network and the target directory.

Callbacks are those of ``cod-retrieve``, by name and payload; they are called one at a time, from the job's threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from icf_utils.errors import IcfError
from icf_utils.fetch.errors import FetchFailure
from icf_utils.progress import SILENT, Progress
from icf_utils.results import Notice
from icf_utils.retrieve.files import FolderDestination, check_saved, lock_directory, read_log, update_log
from icf_utils.retrieve.model import Failure, PlannedFile
from icf_utils.retrieve.plan import Plan
from icf_utils.retrieve.progress import Event, Listeners, ObservedTransfer, Payload
from icf_utils.retrieve.zips import ZipDestination

#: Seconds between two writings of ``log.json`` while a job runs.
_LOG_PAUSE = 5.0


@dataclass(frozen=True)
class RetrieveResult:
    """What a job did. ``files`` are names below ``directory``: of images, or of zips.

    ``saved`` images have come, ``unchanged`` ones were there already; ``size`` in bytes of those that have come.
    """

    directory: Path
    saved: int
    unchanged: int
    size: int
    files: tuple[str, ...]
    troubles: tuple[Failure, ...]
    notices: tuple[Notice, ...]
    cancelled: bool = False


class RetrieveJob:
    """Retrieves what a plan says; made by :class:`~icf_utils.retrieve.api.Retriever`."""

    def __init__(
        self,
        plan: Callable[[], Plan],
        root: Path,
        *,
        zipped: bool,
        connections: int,
        stop: threading.Event,
        progress: Progress = SILENT,
    ) -> None:
        self._make_plan, self._root, self._zipped, self._connections = plan, root, zipped, connections
        self._stop, self._progress = stop, progress
        self._listeners, self._log_lock = Listeners(), threading.Lock()
        self._runner = ThreadPoolExecutor(1, "retrieve")
        self._future: Future[RetrieveResult] | None = None
        self._logged_at = time.monotonic()

    def on(self, event: Event, callback: Callable[[Payload], None]) -> RetrieveJob:
        """Have ``callback`` called at each event; any number may be registered for one.

        ``progress``: ``{url, bytesDownloaded, bytesTotal}``, new bytes of an image and the bytes of all images of the
        TAR that are to come. ``download``: ``{url, size, file}``, all of a TAR's wanted bytes have come, ``file`` is
        the TAR's name. ``extract``: ``{url, size, files}``, the images of it that were right. ``save``: ``{url,
        file}``, this one is under its name. ``complete``: ``{files}``, the job is through. ``error``: ``{url, size,
        error}``.
        """
        self._listeners.add(event, callback)
        return self

    def start(self) -> RetrieveJob:
        """Begin, in another thread; a second call changes nothing."""
        if self._future is None:
            self._future = self._runner.submit(self._run)
            self._runner.shutdown(wait=False)
        return self

    def cancel(self) -> None:
        """End soon: what is complete stays, unfinished images are removed. A later job goes on from there."""
        self._stop.set()

    def result(self, timeout: float | None = None) -> RetrieveResult:
        """Wait for the end (at most ``timeout`` seconds, else ``TimeoutError``), and say what was done.

        Raises what ended the job as a whole: :class:`~icf_utils.errors.IcfError`, or what a callback raised.
        """
        return self.start()._future.result(timeout)  # type: ignore[union-attr]

    def wait(self) -> None:
        """Wait for the end, however it ends; returns at once if the job was never started."""
        if self._future is not None:
            wait([self._future])

    def _run(self) -> RetrieveResult:
        try:
            read_log(self._root)  # which refuses a file of somebody else's before anything comes
            plan = self._make_plan()
            if not plan.items:
                return self._nothing(plan)
            with lock_directory(self._root) as work:
                return self._retrieve(plan, work)
        except IcfError as error:
            if isinstance(error, FetchFailure) and error.kind == "stopped":
                return RetrieveResult(self._root, 0, 0, 0, (), (), (), cancelled=True)
            self._listeners.tell("error", {"url": getattr(error, "where", ""), "size": 0, "error": str(error)})
            raise

    def _nothing(self, plan: Plan) -> RetrieveResult:
        """Of a plan without images: no file and no folder is made."""
        for trouble in plan.troubles:
            self._listeners.trouble(trouble)
        self._listeners.tell("complete", {"files": []})
        return RetrieveResult(self._root, 0, 0, 0, (), plan.troubles, plan.notices)

    def _retrieve(self, plan: Plan, work: Path) -> RetrieveResult:
        shelf = ZipDestination(self._root, work, plan.items) if self._zipped else FolderDestination(self._root, work)
        with ThreadPoolExecutor(self._connections, "retrieve") as pool:
            there = check_saved(plan.items, shelf.has, pool, self._progress)
            blocked = _blocked(plan, shelf, there)
            known = (*plan.troubles, *blocked.values())
            for trouble in known:
                self._listeners.trouble(trouble)
            left = {item for item in plan.items if not there[item] and item not in blocked}
            replaced = {item for item in left if shelf.is_taken(item)}
            transfers = self._transfers(plan, shelf, left)
            self._transfer(transfers, pool, lambda: self._log(work, there, transfers, at_once=False))
        saved = [item for transfer in transfers for item in transfer.saved]
        names = [str(item.path) for item in saved]
        if isinstance(shelf, ZipDestination):
            have = {item for item, is_there in there.items() if is_there} | set(saved)
            names = _pack(shelf, plan, have - blocked.keys())
        self._log(work, there, transfers, at_once=True)
        cancelled = self._stop.is_set()
        if not cancelled:
            self._listeners.tell("complete", {"files": names})
        return RetrieveResult(
            directory=self._root,
            saved=len(saved),
            unchanged=sum(is_there and item not in blocked for item, is_there in there.items()),
            size=sum(item.image.span.size for item in saved),
            files=tuple(names),
            troubles=(*known, *(trouble for transfer in transfers for trouble in transfer.troubles)),
            notices=(*plan.notices, *(_replaced(item) for item in saved if item in replaced)),
            cancelled=cancelled,
        )

    def _transfers(
        self, plan: Plan, shelf: FolderDestination | ZipDestination, left: set[PlannedFile]
    ) -> list[ObservedTransfer]:
        parts = [(tar, [item for item in items if item in left]) for tar, items in plan.parts]
        return [ObservedTransfer(tar, items, shelf, self._stop, self._listeners) for tar, items in parts if items]

    def _transfer(
        self, transfers: list[ObservedTransfer], pool: ThreadPoolExecutor, after_each: Callable[[], None]
    ) -> None:
        total = sum(transfer.size for transfer in transfers)
        with self._progress.task("Retrieving", total, "B") as task:
            runs = [
                pool.submit(transfer.run, batch, task, after_each)
                for transfer in transfers
                for batch in transfer.batches
            ]
            try:
                for run in runs:
                    run.result()
            except BaseException:
                self._stop.set()
                raise

    def _log(
        self, work: Path, there: dict[PlannedFile, bool], transfers: list[ObservedTransfer], at_once: bool
    ) -> None:
        with self._log_lock:
            if not at_once and time.monotonic() - self._logged_at < _LOG_PAUSE:
                return
            self._logged_at = time.monotonic()
            have = {item for item, is_there in there.items() if is_there}
            have.update(item for transfer in transfers for item in list(transfer.saved))
            saved = [item.image.key for item in there if item in have]
            update_log(self._root, work, saved, [item.image.key for item in there if item not in have])


def _blocked(
    plan: Plan, shelf: FolderDestination | ZipDestination, there: Mapping[PlannedFile, bool]
) -> dict[PlannedFile, Failure]:
    """Images that cannot be put where they belong, which is seen before they are transferred."""
    return {
        item: Failure(tar.url, problem, item.image.path, item.image.span.size, item.image.study)
        for tar, items in plan.parts
        for item in items
        if (isinstance(shelf, ZipDestination) or not there[item]) and (problem := shelf.obstacle(item))
    }


def _pack(shelf: ZipDestination, plan: Plan, have: set[PlannedFile]) -> list[str]:
    """The zips of the studies of which everything is there."""
    boxes: dict[str, list[PlannedFile]] = {}
    for item in plan.items:
        boxes.setdefault(item.box, []).append(item)
    bad = {trouble.study for trouble in plan.troubles}
    try:
        return [
            shelf.pack(box, items).name
            for box, items in boxes.items()
            if items[0].image.study not in bad and have.issuperset(items)
        ]
    finally:
        shelf.close()


def _replaced(item: PlannedFile) -> Notice:
    return Notice("replaced", str(item.path), "what was there was not this image, and was replaced by it")
