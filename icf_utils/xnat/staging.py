"""Bring a session's files to their place in XNAT's prearchive or inbox, and remove them again. Writes folders there.

A place is first **reserved**: a folder name with a time stamp that no other session has. The session is then **copied**
to ``<root>/.icf-utils/``, where XNAT does not look; every file is synced to the disk, and read again. Only the complete
session is **moved** to ``<root>/[PROJECT/]TIMESTAMP/SESSION``, by one rename.

A journal in ``.icf-utils`` records where that is, from the reservation to its release. Its writer holds a lock on it.
So a journal without a lock is that of a command that was killed, and the next command on the same host can undo it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TextIO

from icf_utils.archive.checksum import file_md5
from icf_utils.errors import InputRefused, StorageFailure, storage_errors
from icf_utils.progress import Progress
from icf_utils.sources.source import Source
from icf_utils.store.files import sync_folder
from icf_utils.store.flock import try_flock
from icf_utils.xnat.session_layout import PlacedFile, SessionLayout

#: The folder, in the prearchive or inbox, of sessions that are not complete and of journals.
WORK_DIR = ".icf-utils"

_JOURNAL, _PART, _NEW = ".journal", ".part", ".new"


@dataclass(frozen=True)
class Reservation:
    """The place of a session below ``root``; ``made_project`` says that its project had no folder before."""

    root: Path
    project: str | None
    timestamp: str
    foldername: str
    made_project: bool

    @property
    def project_dir(self) -> Path:
        return self.root / self.project if self.project else self.root

    @property
    def timestamp_dir(self) -> Path:
        return self.project_dir / self.timestamp

    @property
    def session_dir(self) -> Path:
        return self.timestamp_dir / self.foldername

    @property
    def made_folders(self) -> tuple[Path, ...]:
        """The folders that are made for the session, from the outermost on."""
        return (self.project_dir, self.timestamp_dir) if self.made_project else (self.timestamp_dir,)

    @property
    def staging(self) -> Path:
        """The folder in which the session is prepared."""
        return self.root / WORK_DIR / f"{self.timestamp}{_PART}"

    @property
    def journal(self) -> Path:
        return self.root / WORK_DIR / f"{self.timestamp}{_JOURNAL}"

    @property
    def key(self) -> dict[str, object]:
        """The values that identify the session's row in XNAT's table."""
        return {"project": self.project, "timestamp": self.timestamp, "foldername": self.foldername}


def format_timestamp(moment: datetime) -> str:
    """A moment as XNAT names folders by it: ``yyyyMMdd_HHmmssSSS`` in local time (PrearcUtils.makeTimestamp).

    >>> format_timestamp(datetime(2024, 2, 3, 4, 5, 6, 7999))
    '20240203_040506007'
    """
    return f"{moment:%Y%m%d_%H%M%S}{moment.microsecond // 1000:03}"


@contextmanager
def reserve_place(root: Path, project: str | None, foldername: str) -> Iterator[Reservation]:
    """Reserve a place that no other session has or gets.

    :func:`remove_session` or :func:`release_reservation` ends the reservation. Where the block ends without either, the
    next command that finds the journal removes what is left.
    """
    moment = datetime.now().astimezone().replace(tzinfo=None)
    for step in range(60_000):
        made = bool(project) and not (root / str(project)).is_dir()
        timestamp = format_timestamp(moment + timedelta(milliseconds=step))
        reservation = Reservation(root, project, timestamp, foldername, made)
        if _is_taken(reservation):
            continue
        handle = _write_journal(reservation)
        if handle is not None:
            with handle:
                yield reservation
            return
    raise StorageFailure(root, "find an unused time stamp in", OSError(errno.EEXIST, "all are in use"))


def _is_taken(reservation: Reservation) -> bool:
    return reservation.timestamp_dir.exists() or (reservation.root / reservation.timestamp).exists()


def _write_journal(reservation: Reservation) -> TextIO | None:
    """The journal, complete, locked and under its name; ``None`` where another time stamp must be tried."""
    writer = f"{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
    new = reservation.journal.with_name(f"{reservation.timestamp}.{writer}{_NEW}")
    record = {"host": socket.gethostname(), **reservation.key, "made_project": reservation.made_project}
    with storage_errors(reservation.journal, "create"):
        new.parent.mkdir(exist_ok=True)
        try:
            handle = open(new, "x", encoding="utf-8")  # noqa: SIM115 - the caller closes it
        except FileNotFoundError:  # another command has just removed the work folder
            return None
        try:
            try_flock(handle)  # nobody else knows its name
            handle.write(json.dumps(record) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
            os.link(new, reservation.journal)
        except BaseException as error:
            handle.close()
            if isinstance(error, (FileExistsError, FileNotFoundError)):  # in use, or removed before it was locked
                return None
            raise
        finally:
            with suppress(OSError):
                new.unlink()
    sync_folder(reservation.journal.parent)
    return handle


def list_abandoned(root: Path) -> Iterator[Reservation]:
    """The reservations of commands of this host that were killed, each locked while the caller uses it."""
    for path in sorted((root / WORK_DIR).glob(f"*{_NEW}")):
        with _locked(path) as text:
            if text is not None:
                path.unlink(missing_ok=True)
    for path in sorted((root / WORK_DIR).glob(f"*{_JOURNAL}")):
        with _locked(path) as text:
            reservation = _parse(root, path, text) if text else None
            if reservation is not None:
                yield reservation


@contextmanager
def _locked(path: Path) -> Iterator[str | None]:
    """The text of a journal that no other process has locked, else ``None``."""
    try:
        handle = path.open("r+", encoding="utf-8")
    except OSError:  # removed since, or another user's
        yield None
        return
    with handle:
        with storage_errors(path, "lock"):
            is_ours = try_flock(handle)
        yield handle.read() if is_ours and path.exists() else None


def _parse(root: Path, path: Path, text: str) -> Reservation | None:
    try:
        record = json.loads(text)
        names = (record["project"], record["timestamp"], record["foldername"])
        reservation = Reservation(root, *names, made_project=record["made_project"])
    except (ValueError, KeyError, TypeError):
        return None
    return reservation if record.get("host") == socket.gethostname() and reservation.journal == path else None


def move_into_place(reservation: Reservation) -> None:
    """Move the complete session to its place, by one rename."""
    with storage_errors(reservation.timestamp_dir, "create"):
        if reservation.made_project:
            reservation.project_dir.mkdir(exist_ok=True)
        reservation.timestamp_dir.mkdir()
    with storage_errors(reservation.session_dir, "create"):
        os.rename(reservation.staging / reservation.foldername, reservation.session_dir)
        reservation.staging.rmdir()
    for folder in (reservation.timestamp_dir, reservation.project_dir, reservation.root):
        sync_folder(folder)


def remove_session(reservation: Reservation) -> None:
    """Remove everything that was made for a reservation, as far as it exists; the journal last.

    A session in its place is first moved to where XNAT does not look. Raises
    :class:`~icf_utils.errors.StorageFailure`.
    """
    with storage_errors(reservation.session_dir, "remove"):
        if reservation.session_dir.is_dir():
            reservation.staging.mkdir(exist_ok=True)
            os.rename(reservation.session_dir, reservation.staging / f"{reservation.foldername}.undone")
        if reservation.staging.is_dir():
            shutil.rmtree(reservation.staging)
        with suppress(FileNotFoundError, OSError):
            reservation.timestamp_dir.rmdir()  # fails if it contains the files of others
        if reservation.made_project:
            with suppress(OSError):
                reservation.project_dir.rmdir()
    release_reservation(reservation)


def release_reservation(reservation: Reservation) -> None:
    """Leave the session to XNAT: remove its journal, and the work folder if it is empty then."""
    with storage_errors(reservation.journal, "remove"):
        reservation.journal.unlink(missing_ok=True)
    with suppress(OSError):
        reservation.journal.parent.rmdir()


_CHUNK = 1 << 20


@dataclass(frozen=True)
class FileRights:
    """Owner and mode of the copies, so that XNAT's own user can read, change and delete them.

    ``user`` and ``group`` are numeric IDs, -1 for those of this process; ``umask`` removes permissions, ``None`` means
    the umask of this process.
    """

    user: int = -1
    group: int = -1
    umask: int | None = None


@dataclass(frozen=True)
class CopiedFile:
    """A copied file: its name in the input, its place in the session, its size in bytes, its MD5."""

    name: str
    place: str
    size: int
    md5: str


def copy_session(
    source: Source,
    layout: SessionLayout,
    folder: Path,
    rights: FileRights,
    expected: Mapping[str, str],
    progress: Progress,
) -> tuple[CopiedFile, ...]:
    """Copy every file to its place below ``folder``, which is created; each is synced, and read again from the disk.

    ``expected`` contains MD5s by name, where they are known. Raises :class:`~icf_utils.errors.InputRefused` where the
    input changes or has another MD5, and :class:`~icf_utils.errors.StorageFailure` where a copy differs from what was
    written.
    """
    with storage_errors(folder, "create"):
        folder.mkdir(parents=True)
        folders = [folder, folder / "SCANS"]
        for scan in layout.scans:
            folders += [folder / "SCANS" / scan, folder / "SCANS" / scan / "DICOM"]
        for path in folders[1:]:
            path.mkdir()
    copied = []
    with progress.task("copying", layout.size, "B") as task:
        for file in layout.files:
            done = _copy(source, file, folder, rights, task.advance)
            if expected.get(file.entry.name, done.md5) != done.md5:
                why = "does not have the MD5 recorded in the metadata"
                advice = "Run 'icf-utils verify' to find out which of the two is wrong."
                raise InputRefused(source.label, [(file.entry.name, why)], advice)
            copied.append(done)
    source.check_unchanged()
    for path in reversed(folders):
        with storage_errors(path, "set owner and mode of"):
            _set_rights(path, rights, 0o777)
        sync_folder(path)
    return tuple(copied)


def _copy(
    source: Source, file: PlacedFile, folder: Path, rights: FileRights, advance: Callable[[int], None]
) -> CopiedFile:
    path = folder / file.place
    digest = hashlib.md5(usedforsecurity=False)
    size = 0
    with source.open(file.entry) as reader, storage_errors(path, "write"), open(path, "xb") as target:
        while block := reader.read(_CHUNK):
            digest.update(block)
            target.write(block)
            size += len(block)
            advance(len(block))
        target.flush()
        _set_rights(path, rights, 0o666)
        os.fsync(target.fileno())
        os.posix_fadvise(target.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if file_md5(path) != digest.hexdigest():
        raise StorageFailure(path, "read back what was written to", OSError(errno.EIO, "the bytes differ"))
    return CopiedFile(file.entry.name, file.place, size, digest.hexdigest())


def _set_rights(path: Path, rights: FileRights, mode: int) -> None:
    if rights.umask is not None:
        os.chmod(path, mode & ~rights.umask)
    if rights.user != -1 or rights.group != -1:
        os.chown(path, rights.user, rights.group)


def set_folder_rights(folders: tuple[Path, ...], rights: FileRights) -> None:
    """Set owner and mode of folders that were made for a session."""
    for path in folders:
        with storage_errors(path, "set owner and mode of"):
            _set_rights(path, rights, 0o777)
