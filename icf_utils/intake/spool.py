"""Files of the spool: images that are being received, and their names. Writes below the spool folder only.

An image is written to ``<spool>/parts``, synced, and then renamed to where it belongs, so that a name never shows a
partial image; the folder is synced before anybody is told.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import os
import shutil
from contextlib import suppress
from pathlib import Path

from icf_utils.errors import Busy, storage_errors

#: Below the spool: unfinished files, and the lock of the process that receives.
PARTS_NAME, LOCK_NAME = "parts", "receiver.lock"

_BLOCK = 1 << 20


class Spool:
    """The spool folder, held by one receiver.

    ``reserve`` is in bytes. Raises :class:`~icf_utils.errors.Busy` where another process holds it.
    """

    def __init__(self, folder: Path, reserve: int, durable: bool = True) -> None:
        self.folder, self._reserve, self.durable = folder, reserve, durable
        self._numbers = itertools.count()
        with storage_errors(folder, "create"):
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(folder / LOCK_NAME, "a+", encoding="ascii")  # noqa: SIM115 - closed by close()
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise Busy(folder / LOCK_NAME, "another receiver", 0) from error
        self.parts = folder / PARTS_NAME
        with storage_errors(self.parts, "empty"):
            shutil.rmtree(self.parts, ignore_errors=True)  # of a receiver that was killed
            self.parts.mkdir(exist_ok=True)

    def close(self) -> None:
        """Let another process have it."""
        self._lock.close()

    def has_room(self) -> bool:
        """Whether more than the reserve is free."""
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize > self._reserve

    def new_part(self) -> Part:
        """A new file; errors are kept in it."""
        return Part(self.parts / f"{next(self._numbers)}.part", self.durable)

    def sync(self, folder: Path) -> None:
        """Make the names in a folder durable."""
        if self.durable:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def publish(self, part: Part, target: Path) -> None:
        """Give a synced part its name, for good. Raises ``OSError``."""
        try:
            os.rename(part.path, target)
        except FileNotFoundError:
            target.parent.mkdir(parents=True, exist_ok=True)
            self.sync(target.parent.parent)
            os.rename(part.path, target)
        self.sync(target.parent)


class Part:
    """A file that is being written. ``error`` is the first thing that went wrong, ``size`` in bytes."""

    def __init__(self, path: Path, durable: bool) -> None:
        self.path, self.size, self._durable = path, 0, durable
        self.error: OSError | None = None
        self._descriptor = -1
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except OSError as error:
            self.error = error

    def write(self, piece: bytes | memoryview) -> None:
        """Write all of it, unless something has gone wrong before."""
        rest = memoryview(piece)
        try:
            while rest.nbytes > 0 and self.error is None:
                count = os.write(self._descriptor, rest)
                self.size += count
                rest = rest[count:]
        except OSError as error:
            self.error = error

    def read_at(self, position: int, count: int) -> bytes:
        """Bytes of what has been written."""
        return os.pread(self._descriptor, count, position)

    def sync(self) -> None:
        """Bring it to the disk and close it."""
        try:
            if self.error is None and self._durable:
                os.fsync(self._descriptor)
        except OSError as error:
            self.error = error
        self._close()

    def discard(self) -> None:
        """Remove it, if it has no name yet. May be called at any time."""
        self._close()
        with suppress(OSError):
            self.path.unlink()

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def is_full(error: OSError) -> bool:
    """Whether an error says that there is no space."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def digest(path: Path) -> bytes:
    """The MD5 of a file."""
    engine = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            engine.update(block)
    return engine.digest()


def same_content(one: Path, other: Path) -> bool:
    """Whether two files have the same bytes; false where one of them is not there."""
    try:
        with open(one, "rb") as first, open(other, "rb") as second:
            if os.fstat(first.fileno()).st_size != os.fstat(second.fileno()).st_size:
                return False
            while block := first.read(_BLOCK):
                if block != second.read(_BLOCK):
                    return False
            return True
    except FileNotFoundError:
        return False


def images_below(folder: Path) -> dict[str, Path]:
    """The images of a session's input folder: SOPInstanceUID to file."""
    with storage_errors(folder, "read"):
        return {path.stem: path for path in sorted(folder.glob("*/*.dcm"))}
