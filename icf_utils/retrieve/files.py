"""The target directory: which images it has, writing others, and its ``log.json``. Reads and writes files.

An image is written in the work folder (:data:`WORK_NAME`), compared with its checksum as it arrives, synced, and
renamed, so that no name ever shows a partial file. A lock that ends with the process keeps other writers out.

``log.json`` is that of ``cod-retrieve``, ``{"logs": ["STUDY/SERIES/SOP", ...]}``. It is written for other programs;
icf-utils never relies on it.
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

#: The work folder in the target directory, while a retrieval runs or is unfinished.
WORK_NAME = ".icf-retrieve"


#: Errors that concern one name only; others, such as a full disk, end the retrieval.
_OF_ONE_NAME = {
    *(errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.EACCES, errno.EPERM),
    *(errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EXDEV, errno.EBUSY),
}


#: In the target of each symbolic link that git-annex makes (https://git-annex.branchable.com/internals/).
_ANNEXED = f".git{os.sep}annex{os.sep}objects"


class PathBlocked(Exception):
    """An image cannot get its name; other images are not affected. The text says why, and what to do."""


def find_obstacle(target: Path) -> str:
    """What prevents a file from getting this name, and what to do; empty if nothing is found."""
    if os.path.isdir(target) and not os.path.islink(target):
        return f"'{printable(target)}' is a folder, and a file belongs there: move it away"
    if os.path.islink(target) and _ANNEXED in os.readlink(target):
        return f"'{printable(target)}' is a file of a git-annex clone: use 'icf-utils get' there, or another folder"
    for folder in target.parents:
        if os.path.isdir(folder):
            break
        if os.path.lexists(folder):
            return f"'{printable(folder)}' is not a folder, and a folder belongs there: move it away"
    return ""


def digest_of(chunks: Iterable[bytes], like: Digest) -> Digest:
    """The checksum of bytes, of the same kind as ``like``."""
    running = RunningDigest(like.kind)
    for chunk in chunks:
        running.update(chunk)
    return running.digest()


class FolderDestination:
    """The target directory ``root``; images are written in ``work`` first, on the same file system."""

    def __init__(self, root: Path, work: Path) -> None:
        self._root, self._work = root, work

    def has_correct(self, planned: PlannedFile) -> bool:
        """Whether the image exists with the right size and checksum; false if it cannot be read."""
        path = self.path(planned)
        with storage_errors(path, "read"):
            try:
                if path.is_symlink() or not path.is_file() or path.stat().st_size != planned.image.span.size:
                    return False
                return digest_of(_chunks(path), planned.image.digest) == planned.image.digest
            except OSError as error:
                if error.errno in {errno.ENOENT, *_OF_ONE_NAME}:
                    return False
                raise

    def find_obstacle(self, planned: PlannedFile) -> str:
        """Why the image cannot get its name, as far as can be known before it is written; empty if it can."""
        return find_obstacle(self.path(planned))

    def exists(self, planned: PlannedFile) -> bool:
        """Whether something has the image's name."""
        return os.path.lexists(self.path(planned))

    def path(self, planned: PlannedFile) -> Path:
        return self._root / planned.path

    def begin(self, planned: PlannedFile) -> IncomingFile:
        """Begin to write an image."""
        return IncomingFile(planned, self.path(planned), self._work)


class IncomingFile:
    """An image that is being received; a context manager that removes it unless :meth:`save` has returned true."""

    def __init__(self, planned: PlannedFile, target: Path, work: Path) -> None:
        self._planned, self._target = planned, target
        self._part = work / f"{os.getpid()}-{id(self)}.part"
        self._running, self._size = RunningDigest(planned.image.digest.kind), 0
        self._stack = ExitStack()
        with storage_errors(self._part, "create"):
            work.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = self._stack.enter_context(new_file(self._part, like=target))

    def __enter__(self) -> IncomingFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(StorageFailure):  # it is not kept, and the reason was raised before
            self._stack.close()
        remove_file(self._part)

    def write(self, chunk: bytes) -> None:
        self._running.update(chunk)
        self._size += len(chunk)
        with storage_errors(self._target, "write"):
            self._file.write(chunk)

    def save(self) -> bool:
        """Give the image its name, replacing what has it, if size and checksum are right; returns whether they are.

        Raises :class:`PathBlocked`.
        """
        image = self._planned.image
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
    """Names the folder: the images that belong there fail for the same reason, and are reported together."""
    problem = f"cannot write into '{printable(target.parent)}' ({os.strerror(error.errno or 0)})"
    return f"{problem}: change its permissions, or choose another folder"


def check_saved(
    items: Sequence[PlannedFile], has_correct: Callable[[PlannedFile], bool], pool: Executor, progress: Progress
) -> dict[PlannedFile, bool]:
    """For each image, in the given order, whether it exists and is correct."""
    with progress.task("Checking saved images", len(items), "image") as task:
        found = {}
        for item, is_saved in zip(items, pool.map(has_correct, items), strict=True):
            found[item] = is_saved
            task.advance(1)
    return found


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


@contextmanager
def lock_directory(root: Path) -> Iterator[Path]:
    """The work folder in ``root``, locked for this process; removed at the end if it is empty.

    So is ``root``, if it is new and empty. Raises :class:`~icf_utils.errors.Busy` if another process has the lock.
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
    """The lock file, locked."""
    path = work / "lock"
    while True:
        with storage_errors(path, "create"):
            work.mkdir(parents=True, exist_ok=True)
            try:
                lock = open_locked(path)
            except FileNotFoundError:  # another process has just removed the empty folder
                continue
        if lock is None:
            raise _busy(path, work.parent)
        return lock


def _busy(path: Path, root: Path) -> Busy:
    """The usual advice would be wrong: this lock ends with its process, and was not waited for."""
    error = Busy(path, "another icf-utils retrieve", 0.0)
    error.args = (
        f"another icf-utils retrieve is writing to '{printable(root)}'; wait for it, or choose another folder",
    )
    return error


def _sweep(work: Path) -> None:
    """Remove unfinished files of processes that were killed."""
    for part in work.glob("*.part"):
        with suppress(OSError):
            part.unlink()


LOG_NAME = "log.json"


def read_log(root: Path) -> tuple[str, ...]:
    """The images that the log in a directory lists; empty without a log.

    Raises :class:`~icf_utils.errors.InvalidSetting` for another kind of file of that name.
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
    """Add ``saved`` to the log and remove ``absent``; entries for other images stay."""
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
