"""Images on disk: whether they are there and correct, and writing them so that no name shows a partial file.

Touches the target directory. Files are written below its work folder, compared with their checksums as they come,
synced, and renamed. A lock that the operating system drops with the process keeps other writers out.


``log.json`` as ``cod-retrieve`` writes it: ``{"logs": ["STUDY/SERIES/SOP", ...]}``. Reads and writes that file.

It is a list for other programs. Whether an image is there is never decided by it.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO

from icf_utils.errors import Busy, InvalidSetting, StorageFailure, printable, storage_errors
from icf_utils.fetch.source import CHUNK
from icf_utils.interrupts import remove_file
from icf_utils.progress import Progress
from icf_utils.retrieve.model import Digest, PlannedFile, RunningDigest
from icf_utils.store.files import new_file, rename_file, sync_file
from icf_utils.store.flock import open_locked

#: Below the target directory, while something runs or waits to be finished.
WORK_NAME = ".icf-retrieve"


#: What the operating system says of one name; a full or broken disk, for instance, would stop all images.
_OF_ONE_NAME = {
    *(errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.EACCES, errno.EPERM),
    *(errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EXDEV, errno.EBUSY),
}


class PathBlocked(Exception):
    """An image cannot get its name, which stops no other one. The text says why, and what to do."""


def find_obstacle(target: Path) -> str:
    """What keeps a file from getting this name, and what to do; empty if nothing is seen."""
    if os.path.isdir(target) and not os.path.islink(target):
        return f"'{printable(target)}' is a folder, and a file belongs there: move it away"
    for folder in target.parents:
        if os.path.isdir(folder):
            break
        if os.path.lexists(folder):
            return f"'{printable(folder)}' is no folder, and one belongs there: move it away"
    return ""


def digest_of(chunks: Iterable[bytes], like: Digest) -> Digest:
    """The checksum of bytes, of the kind that ``like`` is."""
    running = RunningDigest(like.kind)
    for chunk in chunks:
        running.update(chunk)
    return running.digest()


class FolderDestination:
    """A directory that images go to; ``work`` is where they are written first, on the same file system."""

    def __init__(self, root: Path, work: Path) -> None:
        self._root, self._work = root, work

    def has(self, wanted: PlannedFile) -> bool:
        """Whether the image is there, with the right size and checksum; not if it cannot be read."""
        path = self.path(wanted)
        with storage_errors(path, "read"):
            try:
                if path.is_symlink() or not path.is_file() or path.stat().st_size != wanted.image.span.size:
                    return False
                return digest_of(_chunks(path), wanted.image.digest) == wanted.image.digest
            except OSError as error:
                if error.errno in {errno.ENOENT, *_OF_ONE_NAME}:
                    return False
                raise

    def obstacle(self, wanted: PlannedFile) -> str:
        """Why the image cannot get its name, as far as can be seen; empty if it can."""
        return find_obstacle(self.path(wanted))

    def is_taken(self, wanted: PlannedFile) -> bool:
        """Whether something stands under the image's name."""
        return os.path.lexists(self.path(wanted))

    def path(self, wanted: PlannedFile) -> Path:
        return self._root / wanted.path

    def new(self, wanted: PlannedFile) -> IncomingFile:
        """Begin to write an image."""
        return IncomingFile(wanted, self.path(wanted), self._work)


class IncomingFile:
    """An image that is coming; a context manager that leaves nothing behind unless :meth:`keep` has returned true."""

    def __init__(self, wanted: PlannedFile, target: Path, work: Path) -> None:
        self._wanted, self._target = wanted, target
        self._part = work / f"{os.getpid()}-{id(self)}.part"
        self._running, self._size = RunningDigest(wanted.image.digest.kind), 0
        self._stack = ExitStack()
        with storage_errors(self._part, "create"):
            work.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = self._stack.enter_context(new_file(self._part, like=target))

    def __enter__(self) -> IncomingFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(StorageFailure):  # what could not be written is not kept; why is said already
            self._stack.close()
        remove_file(self._part)

    def write(self, chunk: bytes) -> None:
        self._running.update(chunk)
        self._size += len(chunk)
        with storage_errors(self._target, "write"):
            self._file.write(chunk)

    def keep(self) -> bool:
        """Give the image its name if size and checksum are right; replaces what was there. Says whether they were.

        Raises :class:`InTheWay`.
        """
        image = self._wanted.image
        if self._size != image.span.size or self._running.digest() != image.digest:
            return False
        with storage_errors(self._target, "write"):
            sync_file(self._file, self._target)
            try:
                self._target.parent.mkdir(parents=True, exist_ok=True)
                rename_file(self._part, self._target)
            except OSError as error:
                if error.errno not in _OF_ONE_NAME:
                    raise
                raise PathBlocked(find_obstacle(self._target) or _refused(self._target, error)) from error
        return True


def _refused(target: Path, error: OSError) -> str:
    """Names the folder: all images that belong there have the same reason, and are named together."""
    return f"cannot write into '{printable(target.parent)}' ({os.strerror(error.errno or 0)}): have it changed"


def check_saved(
    items: Sequence[PlannedFile], has: Callable[[PlannedFile], bool], pool: Executor, progress: Progress
) -> dict[PlannedFile, bool]:
    """Which of the images are there and correct, in the order given."""
    with progress.task("Looking at what is there", len(items), "image") as task:
        found = {}
        for item, is_there in zip(items, pool.map(has, items), strict=True):
            found[item] = is_there
            task.advance(1)
    return found


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


@contextmanager
def lock_directory(root: Path) -> Iterator[Path]:
    """The work folder below ``root``, for this process alone; removed at the end if nothing waits in it.

    So is ``root``, if it is new and nothing has come. Raises :class:`~icf_utils.errors.Busy` if another process has it.
    """
    work = root / WORK_NAME
    new = [folder for folder in (root, *root.parents) if not os.path.lexists(folder)]
    with _lock(work):
        _sweep(work)
        try:
            yield work
        finally:
            _sweep(work)
            with suppress(OSError):
                if os.listdir(work) == ["lock"]:
                    shutil.rmtree(work)
                for folder in new:
                    folder.rmdir()


def _lock(work: Path) -> IO[bytes]:
    """The lock file, held."""
    path = work / "lock"
    while True:
        with storage_errors(path, "create"):
            work.mkdir(parents=True, exist_ok=True)
            try:
                lock = open_locked(path)
            except FileNotFoundError:  # another process has just tidied the empty folder away
                continue
        if lock is None:
            raise _busy(path, work.parent)
        return lock


def _busy(path: Path, root: Path) -> Busy:
    """Nobody has waited, and the lock goes with its process: the usual advice would be wrong."""
    error = Busy(path, "another icf-utils retrieve", 0.0)
    error.args = (
        f"another icf-utils retrieve is at work in '{printable(root)}'; wait for it, or choose another folder",
    )
    return error


def _sweep(work: Path) -> None:
    """Remove what processes that were killed have left unfinished."""
    for part in work.glob("*.part"):
        with suppress(OSError):
            part.unlink()


LOG_NAME = "log.json"


def read_log(root: Path) -> tuple[str, ...]:
    """The images that the log of a directory names; empty without a log.

    Raises :class:`~icf_utils.errors.InvalidSetting` for a file of that name that is something else.
    """
    path = root / LOG_NAME
    with storage_errors(path, "read"):
        try:
            raw = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return ()
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        document = None
    logs = document.get("logs") if isinstance(document, dict) else None
    if not isinstance(logs, list) or not all(isinstance(item, str) for item in logs):
        raise InvalidSetting(str(path), 'expected {"logs": [...]} as cod-retrieve writes it; move the file away')
    return tuple(logs)


def update_log(root: Path, work: Path, saved: Collection[str], absent: Collection[str]) -> None:
    """Have the log name ``saved`` and not ``absent``; what it says of other images stays."""
    old = read_log(root)
    gone = set(absent)
    new = tuple(dict.fromkeys((*(item for item in old if item not in gone), *saved)))
    if new == old:
        return
    text = json.dumps({"logs": new}, separators=(",", ":"))
    path = root / LOG_NAME
    part = work / "log.part"
    with new_file(part, like=path) as file:
        with storage_errors(path, "write"):
            file.write(text.encode("utf-8", errors="backslashreplace"))
        sync_file(file, path)
    with storage_errors(path, "replace"):
        rename_file(part, path)
