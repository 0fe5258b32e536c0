"""The files of the spool: images while they are received, and their final names. Writes below the spool folder only.

An image is written to a file in ``<spool>/parts``, synced, and renamed to its place in a session's folder, so that no
image is visible before it is complete. One sync for each image is enough, because the file in ``parts`` existed before,
empty, with its name on the disk. If the power fails before the new name is on the disk, the image still has the old
one, and :meth:`Spool.leftover_parts` finds it.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import shutil
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path

from icf_utils.errors import Busy, storage_errors
from icf_utils.receiver.journal_space import JournalSpace, is_journal_space_used
from icf_utils.receiver.model import Session, visit_of_revision
from icf_utils.store.files import sync_names
from icf_utils.store.flock import try_flock
from icf_utils.store.layout import Visit
from icf_utils.waiting import poll

#: Below the spool: unfinished files, and the lock of the process that receives.
PARTS_NAME, LOCK_NAME = "parts", "receiver.lock"

#: In a session's folder: the states of what is sent on. Below the spool: a file for each session that is not done.
SENDS_FILE, SEND_MARKS = "sends.json", "sends"

_BLOCK = 1 << 20

#: Bytes that are kept of an image for which the disk has no space.
KEPT_HEAD = 1 << 16

#: Seconds for which the lock is tried.
_LOCK_TIMEOUT = 0.5

#: The number of empty parts that are created at once, with one sync for all.
_POOL_SIZE = 64


class Spool:
    """The spool folder, used by one receiver at a time.

    ``reserve`` is the space in bytes that stays free on its disk. Raises :class:`~icf_utils.errors.Busy` if another
    receiver uses the spool.
    """

    def __init__(self, folder: Path, reserve: int, durable: bool = True) -> None:
        self.folder, self._reserve, self.durable = folder, reserve, durable
        self._numbers, self._pool_lock = itertools.count(), threading.Lock()
        self._pools: dict[str, deque[Path]] = {}
        self._unsynced: set[Path] = set()
        with storage_errors(folder, "create"):
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(folder / LOCK_NAME, "a+", encoding="ascii")  # noqa: SIM115 - closed by close()
        self._hold()
        self.parts = folder / PARTS_NAME
        self._journal_space = JournalSpace(folder, self.free_space)

    def _hold(self) -> None:
        """Take the lock, which :func:`is_held` in another process may have for a moment."""
        for _ in poll(0.02, 0.02, timeout=_LOCK_TIMEOUT):
            with storage_errors(self.folder / LOCK_NAME, "lock"):
                if try_flock(self._lock):
                    return
        self._lock.close()
        raise Busy(self.folder / LOCK_NAME, "another receiver", 0)

    def close(self) -> None:
        """Let another receiver use the spool."""
        self._lock.close()

    def leftover_parts(self, rule: str) -> list[Path]:
        """The parts of a rule that a killed receiver has left, without the empty ones."""
        with storage_errors(self.parts, "read"):
            return [path for path in sorted(self._parts_of(rule).glob("*.part")) if path.stat().st_size]

    def clear_parts(self) -> None:
        """Remove all parts; to be called once, before :meth:`new_part`."""
        with storage_errors(self.parts, "empty"):
            if self.parts.exists():
                shutil.rmtree(self.parts)

    def space_problem(self) -> str:
        """Why there is no room for an image: only the reserve is free, or the journal is using its own space."""
        if self._journal_space.is_used:
            self._journal_space.update()
        return _space_problem(self.free_space(), self._reserve, self._journal_space.is_used)

    def free_space(self) -> int:
        """Free bytes on the spool's disk."""
        return free_space(self.folder)

    def update_journal_space(self) -> bool:
        """Give the journal the space that is kept for it, or take it back; returns whether the journal has it."""
        self._journal_space.update()
        return self._journal_space.is_used

    def new_part(self, rule: str) -> PartialImage:
        """An empty file for an image. Raises ``OSError`` if none can be created."""
        with self._pool_lock:
            pool = self._pools.setdefault(rule, deque())
            if not pool:
                self._fill(pool, self._parts_of(rule))
            return PartialImage(pool.popleft(), self.durable)

    def sync(self, folder: Path) -> None:
        """Bring the names in a folder to the disk."""
        if self.durable:
            sync_names(folder)

    def publish(self, part: Path, target: Path) -> None:
        """Give a synced part its final name. Raises ``OSError``."""
        try:
            os.rename(part, target)
        except FileNotFoundError:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(part, target)
        with self._pool_lock:
            self._unsynced |= {target.parent, target.parent.parent}

    def sync_names(self) -> None:
        """Bring the names of all published images to the disk. Raises ``OSError``."""
        with self._pool_lock:
            folders, self._unsynced = self._unsynced, set()
        for folder in folders:
            with suppress(FileNotFoundError):  # the session was deleted
                self.sync(folder)

    def _parts_of(self, rule: str) -> Path:
        return self.parts / hashlib.sha256(rule.encode()).hexdigest()[:16]

    def _fill(self, pool: deque[Path], folder: Path) -> None:
        """Create empty files and bring their names to the disk; the caller has the lock."""
        if not folder.exists():
            folder.mkdir(parents=True)
            self.sync(self.folder)
            self.sync(self.parts)
        fresh = [folder / f"{next(self._numbers)}.part" for _ in range(_POOL_SIZE)]
        for path in fresh:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666))
        self.sync(folder)
        pool.extend(fresh)


class PartialImage:
    """The file of an image that is being received. ``error`` is the first one that occurred, ``size`` is in bytes."""

    def __init__(self, path: Path, durable: bool) -> None:
        self.path, self.size, self._durable = path, 0, durable
        self.error: OSError | None = None
        self._descriptor = -1
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            self.error = error

    def write(self, piece: bytes | memoryview) -> None:
        """Write all of it, unless an error has occurred; never raises."""
        rest = memoryview(piece)
        try:
            while rest.nbytes > 0 and self.error is None:
                count = os.write(self._descriptor, rest)
                self.size += count
                rest = rest[count:]
        except OSError as error:
            self.error = error
            self._cut()

    def _cut(self) -> None:
        """Keep only what says where the image belongs: the rest of a large one would keep the disk full."""
        with suppress(OSError):
            os.ftruncate(self._descriptor, min(self.size, KEPT_HEAD))
            self.size = min(self.size, KEPT_HEAD)

    def read_at(self, position: int, count: int) -> bytes:
        """Up to ``count`` bytes of what was written, from ``position`` on."""
        if self._descriptor >= 0:
            return os.pread(self._descriptor, count, position)
        with open(self.path, "rb") as file:
            return os.pread(file.fileno(), count, position)

    def sync(self) -> None:
        """Bring the content to the disk and close the file; never raises."""
        try:
            if self.error is None and self._durable:
                os.fsync(self._descriptor)
        except OSError as error:
            self.error = error
        self._close()

    def discard(self) -> None:
        """Remove the file, unless it was published. May be called at any time."""
        self._close()
        with suppress(OSError):
            self.path.unlink()

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def is_disk_full(error: OSError) -> bool:
    """Whether an error says that the disk or a quota is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def file_md5(path: Path) -> bytes:
    """The MD5 of a file."""
    engine = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            engine.update(block)
    return engine.digest()


def same_content(one: Path, other: Path) -> bool:
    """Whether two files have the same bytes; false if one of them does not exist."""
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
    """The images in a session's input folder by their keys (:func:`~icf_utils.receiver.identify.image_key`)."""
    with storage_errors(folder, "read"):
        return {path.stem.rpartition("-")[2]: path for path in sorted(folder.glob("*/*.dcm"))}


def count_quarantined(session: Session) -> int:
    """The number of images in a session's quarantine."""
    return sum(1 for _ in session.quarantine.glob("*.dcm"))


def first_free_revision(store: Path, study: str, visit: str) -> int:
    """The first revision of a visit that has no archive in the store; ``visit`` is without a suffix."""
    revision = 1
    while Visit(store, study, visit_of_revision(visit, revision)).archive.exists():
        revision += 1
    return revision


def free_space(folder: Path) -> int:
    """Free bytes on a folder's disk."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def space_problem(folder: Path, reserve: int = 0) -> str:
    """Why the receiver that uses a spool refuses images for lack of space; empty if it does not.

    ``reserve`` is the space in bytes that stays free. For other processes than the receiver.
    """
    return _space_problem(free_space(folder), reserve, is_journal_space_used(folder))


def _space_problem(free: int, reserve: int, is_journal_short: bool) -> str:
    if free <= reserve and reserve:
        return "less than the reserve is free on the disk"
    return "the disk is full" if not free or is_journal_short else ""


def is_held(folder: Path) -> bool:
    """Whether a receiver is using the spool."""
    try:
        lock = open(folder / LOCK_NAME, "rb")  # noqa: SIM115 - closed below
    except FileNotFoundError:
        return False
    except OSError:  # another user's, which cannot be examined
        return True
    with lock:  # a shared lock, which does not conflict with that of another process that only looks
        try:
            return not try_flock(lock, shared=True)
        except OSError:
            return True


def has_sends(session: Session) -> bool:
    """Whether a session's rule had targets when it ended."""
    return (session.folder / SENDS_FILE).exists()


def mark_sends(spool: Path, session_id: str) -> None:
    """Have the receiver look at what is to be sent of a session."""
    path = spool / SEND_MARKS / session_id
    with storage_errors(path, "create"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
