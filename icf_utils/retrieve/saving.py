"""Images on disk: whether they are there and correct, and writing them so that no name shows a partial file.

Touches the target directory. Files are written below its work folder, compared with their checksums as they come,
synced, and renamed. A lock that the operating system drops with the process keeps other writers out.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO

from icf_utils.errors import Busy, storage_errors
from icf_utils.fetch.source import CHUNK
from icf_utils.progress import Progress
from icf_utils.retrieve.values import Digest, Running, Wanted

#: Below the target directory, while something runs or waits to be finished.
WORK_NAME = ".icf-retrieve"


def digest_of(chunks: Iterable[bytes], like: Digest) -> Digest:
    """The checksum of bytes, of the kind that ``like`` is."""
    running = Running(like.kind)
    for chunk in chunks:
        running.update(chunk)
    return running.digest()


class FolderShelf:
    """A directory that images go to; ``work`` is where they are written first, on the same file system."""

    def __init__(self, root: Path, work: Path) -> None:
        self._root, self._work = root, work

    def has(self, wanted: Wanted) -> bool:
        """Whether the image is there, with the right size and checksum."""
        path = self.path(wanted)
        with storage_errors(path, "read"):
            try:
                if path.is_symlink() or not path.is_file() or path.stat().st_size != wanted.image.span.size:
                    return False
                return digest_of(_chunks(path), wanted.image.digest) == wanted.image.digest
            except (FileNotFoundError, NotADirectoryError):
                return False

    def is_taken(self, wanted: Wanted) -> bool:
        """Whether something stands under the image's name."""
        return os.path.lexists(self.path(wanted))

    def path(self, wanted: Wanted) -> Path:
        return self._root / wanted.path

    def new(self, wanted: Wanted) -> Incoming:
        """Begin to write an image."""
        return Incoming(wanted, self.path(wanted), self._work)


class Incoming:
    """An image that is coming; a context manager that leaves nothing behind unless :meth:`keep` has returned true."""

    def __init__(self, wanted: Wanted, target: Path, work: Path) -> None:
        self._wanted, self._target = wanted, target
        self._part = work / f"{os.getpid()}-{id(self)}.part"
        self._running, self._size = Running(wanted.image.digest.kind), 0
        with storage_errors(self._part, "create"):
            work.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = self._part.open("xb")

    def __enter__(self) -> Incoming:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        with suppress(OSError):
            self._part.unlink()

    def write(self, chunk: bytes) -> None:
        self._running.update(chunk)
        self._size += len(chunk)
        with storage_errors(self._target, "write"):
            self._file.write(chunk)

    def keep(self) -> bool:
        """Give the image its name if size and checksum are right; replaces what was there. Says whether they were."""
        image = self._wanted.image
        if self._size != image.span.size or self._running.digest() != image.digest:
            return False
        with storage_errors(self._target, "write"):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self._part, self._target)
        return True


def check_saved(
    items: Sequence[Wanted], has: Callable[[Wanted], bool], pool: Executor, progress: Progress
) -> dict[Wanted, bool]:
    """Which of the images are there and correct, in the order given."""
    with progress.task("Looking at what is there", len(items), "images") as task:
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
def sole_writer(root: Path) -> Iterator[Path]:
    """The work folder below ``root``, for this process alone; removed at the end if nothing waits in it.

    Raises :class:`~icf_utils.errors.Busy` if another process has it.
    """
    work = root / WORK_NAME
    with _lock(work):
        _sweep(work)
        try:
            yield work
        finally:
            _sweep(work)
            with suppress(OSError):
                if os.listdir(work) == ["lock"]:
                    shutil.rmtree(work)


def _lock(work: Path) -> IO[str]:
    """The lock file, held; one that its last holder has just removed does not count."""
    path = work / "lock"
    while True:
        with storage_errors(path, "create"):
            work.mkdir(parents=True, exist_ok=True)
            try:
                lock = path.open("w")
            except FileNotFoundError:
                continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise Busy(path, "another icf-utils retrieve", 0.0) from error
        with suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(lock.fileno()).st_ino:
                return lock
        lock.close()


def _sweep(work: Path) -> None:
    """Remove what processes that were killed have left unfinished."""
    for part in work.glob("*.part"):
        with suppress(OSError):
            part.unlink()
