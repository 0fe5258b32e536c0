"""A running retrieval, in its own threads. Uses the network and the target directory.

Events have the names and payloads of ``cod-retrieve``. Callbacks are called one at a time, from the job's threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from icf_utils.errors import IcfError, storage_errors
from icf_utils.fetch.errors import FetchFailure
from icf_utils.progress import SILENT, Progress
from icf_utils.results import Notice
from icf_utils.retrieve.events import Event, Listeners, ObservedTransfer, Payload
from icf_utils.retrieve.files import FolderDestination, check_saved, lock_directory, read_log, update_log
from icf_utils.retrieve.model import Failure, PlannedFile
from icf_utils.retrieve.plan import Plan
from icf_utils.retrieve.zips import ZipDestination
from icf_utils.store.files import sync_names

#: Images that are brought to the disk at a time, which confirms them together.
_SAVERS = 16

#: Seconds between two writings of ``log.json`` while a job runs.
_LOG_PAUSE = 5.0


@dataclass(frozen=True)
class RetrieveResult:
    """What a job did. ``files`` are names of images, or of zips, below ``directory``.

    ``saved`` counts the images that were transferred, ``unchanged`` those that were saved before; ``size`` is that of
    the former in bytes.
    """

    directory: Path
    saved: int
    unchanged: int
    size: int
    files: tuple[str, ...]
    failures: tuple[Failure, ...]
    notices: tuple[Notice, ...]
    cancelled: bool = False


class RetrieveJob:
    """Retrieves the files of a plan; made by :class:`~icf_utils.retrieve.api.Retriever`."""

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
        """Call ``callback`` at each event of a kind; several callbacks can be registered for one.

        ``progress``: ``{url, bytesDownloaded, bytesTotal}``, new bytes of an image, and the bytes of all images of the
        TAR that are to be transferred. ``download``: ``{url, size, file}``, all selected bytes of a TAR have arrived,
        ``file`` is the TAR's name. ``extract``: ``{url, size, files}``, the correct images of it. ``save``: ``{url,
        file}``, an image has its name. ``complete``: ``{files}``, the job is done. ``error``: ``{url, size, error}``.
        """
        self._listeners.add(event, callback)
        return self

    def start(self) -> RetrieveJob:
        """Start in another thread; a second call does nothing."""
        if self._future is None:
            self._future = self._runner.submit(self._run)
            self._runner.shutdown(wait=False)
        return self

    def cancel(self) -> None:
        """End soon: complete images are kept, unfinished ones removed. A later job continues from saved_before."""
        self._stop.set()

    def result(self, timeout: float | None = None) -> RetrieveResult:
        """Wait for the end (at most ``timeout`` seconds, else ``TimeoutError``), and return what was done.

        Raises what ended the job as a whole: :class:`~icf_utils.errors.IcfError`, or what a callback raised.
        """
        return self.start()._future.result(timeout)  # type: ignore[union-attr]

    def wait(self) -> None:
        """Wait for the end, without raising; returns at once if the job was never started."""
        if self._future is not None:
            wait([self._future])

    def _run(self) -> RetrieveResult:
        try:
            read_log(self._root)  # refuses another kind of file of that name before anything is transferred
            plan = self._make_plan()
            if not plan.items:
                return self._nothing(plan)
            with lock_directory(self._root) as work:
                return self._retrieve(plan, work)
        except IcfError as error:
            if isinstance(error, FetchFailure) and error.kind == "stopped":
                return RetrieveResult(self._root, 0, 0, 0, (), (), (), cancelled=True)
            self._listeners.emit("error", {"url": getattr(error, "where", ""), "size": 0, "error": str(error)})
            raise

    def _nothing(self, plan: Plan) -> RetrieveResult:
        """For a plan without images: no file and no folder is made."""
        for failure in plan.failures:
            self._listeners.emit_failure(failure)
        self._listeners.emit("complete", {"files": []})
        return RetrieveResult(self._root, 0, 0, 0, (), plan.failures, plan.notices)

    def _retrieve(self, plan: Plan, work: Path) -> RetrieveResult:
        destination = (
            ZipDestination(self._root, work, plan.items) if self._zipped else FolderDestination(self._root, work)
        )
        with (
            ThreadPoolExecutor(_SAVERS, "save") as savers,
            ThreadPoolExecutor(self._connections, "retrieve") as pool,
        ):
            saved_before = check_saved(plan.items, destination.has_correct, pool, self._progress)
            blocked = _blocked(plan, destination, saved_before)
            known = (*plan.failures, *blocked.values())
            for failure in known:
                self._listeners.emit_failure(failure)
            left = {item for item in plan.items if not saved_before[item] and item not in blocked}
            replaced = {item for item in left if destination.exists(item)}
            transfers = self._transfers(plan, destination, left, savers)
            self._transfer(transfers, pool, lambda: self._log(work, saved_before, transfers, at_once=False))
        saved = [item for transfer in transfers for item in transfer.saved]
        names = [str(item.path) for item in saved]
        if isinstance(destination, ZipDestination):
            have = {item for item, is_saved in saved_before.items() if is_saved} | set(saved)
            names = _pack(destination, plan, have - blocked.keys())
        self._log(work, saved_before, transfers, at_once=True)
        _sync_folders(self._root, names)
        cancelled = self._stop.is_set()
        if not cancelled:
            self._listeners.emit("complete", {"files": names})
        return RetrieveResult(
            directory=self._root,
            saved=len(saved),
            unchanged=sum(is_saved and item not in blocked for item, is_saved in saved_before.items()),
            size=sum(item.image.span.size for item in saved),
            files=tuple(names),
            failures=(*known, *(failure for transfer in transfers for failure in transfer.failures)),
            notices=(*plan.notices, *(_replaced(item) for item in saved if item in replaced)),
            cancelled=cancelled,
        )

    def _transfers(
        self,
        plan: Plan,
        destination: FolderDestination | ZipDestination,
        left: set[PlannedFile],
        savers: ThreadPoolExecutor,
    ) -> list[ObservedTransfer]:
        parts = [(tar, [item for item in items if item in left]) for tar, items in plan.parts]
        observed = partial(ObservedTransfer, destination=destination, stop=self._stop, listeners=self._listeners)
        return [observed(tar, items, savers=savers) for tar, items in parts if items]

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
        self, work: Path, saved_before: dict[PlannedFile, bool], transfers: list[ObservedTransfer], at_once: bool
    ) -> None:
        with self._log_lock:
            if not at_once and time.monotonic() - self._logged_at < _LOG_PAUSE:
                return
            self._logged_at = time.monotonic()
            have = {item for item, is_saved in saved_before.items() if is_saved}
            have.update(item for transfer in transfers for item in list(transfer.saved))
            saved = [item.image.key for item in saved_before if item in have]
            update_log(self._root, work, saved, [item.image.key for item in saved_before if item not in have])


def _blocked(
    plan: Plan, destination: FolderDestination | ZipDestination, saved_before: Mapping[PlannedFile, bool]
) -> dict[PlannedFile, Failure]:
    """Images that cannot get their names, as far as is known before they are transferred."""
    return {
        item: Failure(tar.url, problem, item.image.path, item.image.span.size, item.image.study)
        for tar, items in plan.parts
        for item in items
        if (isinstance(destination, ZipDestination) or not saved_before[item])
        and (problem := destination.find_obstacle(item))
    }


def _pack(destination: ZipDestination, plan: Plan, have: set[PlannedFile]) -> list[str]:
    """Make the zips of the studies whose images are all saved."""
    boxes: dict[str, list[PlannedFile]] = {}
    for item in plan.items:
        boxes.setdefault(item.box, []).append(item)
    bad = {failure.study for failure in plan.failures}
    try:
        return [
            destination.pack(box, items).name
            for box, items in boxes.items()
            if items[0].image.study not in bad and have.issuperset(items)
        ]
    finally:
        destination.close()


def _sync_folders(root: Path, names: Sequence[str]) -> None:
    """Make the names of new files durable, and those of the folders above them: no sooner is success reported."""
    folders = {folder for name in names for folder in (root / name).parents if folder.is_relative_to(root)}
    for folder in sorted({*folders, root, root.parent}):
        with storage_errors(folder, "sync"), suppress(PermissionError, FileNotFoundError):
            sync_names(folder)


def _replaced(item: PlannedFile) -> Notice:
    return Notice("replaced", str(item.path), "another file had this name, and was replaced by the image")
