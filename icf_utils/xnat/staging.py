"""A place of our own in XNAT's prearchive, and its removal. Writes and removes folders below the prearchive.

A session is made ready in ``<prearchive>/.icf-utils/``, where XNAT looks for nothing, and moved to
``<prearchive>/[PROJECT/]TIMESTAMP/SESSION`` when it is complete. A journal beside it says where that will be. Its
writer holds a lock on it, so that the next command knows the journals of those that were killed.


Copying an input into a session's folder, synced and checked. Writes below the folder it is given.
"""

from __future__ import annotations

import errno
import fcntl
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

from icf_utils.errors import InputRefused, StorageFailure, storage_errors
from icf_utils.progress import Progress
from icf_utils.sources.source import Source
from icf_utils.store.files import sync_folder
from icf_utils.xnat.session_layout import Arrangement, Placed

#: Below the prearchive: sessions that are not complete, and journals.
WORK_DIR = ".icf-utils"

_JOURNAL, _PART, _NEW = ".journal", ".part", ".new"


@dataclass(frozen=True)
class Claim:
    """A session's place: ``root`` is the prearchive, ``made_project`` whether its project had no folder before."""

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
    def staging(self) -> Path:
        """Where the session is made ready."""
        return self.root / WORK_DIR / f"{self.timestamp}{_PART}"

    @property
    def journal(self) -> Path:
        return self.root / WORK_DIR / f"{self.timestamp}{_JOURNAL}"

    @property
    def key(self) -> dict[str, object]:
        """What finds the session's row."""
        return {"project": self.project, "timestamp": self.timestamp, "foldername": self.foldername}


def timestamp_of(moment: datetime) -> str:
    """XNAT's name of a moment, ``yyyyMMdd_HHmmssSSS`` in local time (PrearcUtils.makeTimestamp).

    >>> timestamp_of(datetime(2024, 2, 3, 4, 5, 6, 7999))
    '20240203_040506007'
    """
    return f"{moment:%Y%m%d_%H%M%S}{moment.microsecond // 1000:03}"


@contextmanager
def claimed(root: Path, project: str | None, foldername: str) -> Iterator[Claim]:
    """A new place that no other session has or gets; whoever takes it calls :func:`remove` or :func:`release`.

    What is left of it at the end of the block belongs to whoever finds the journal.
    """
    moment = datetime.now().astimezone().replace(tzinfo=None)
    for step in range(60_000):
        made = bool(project) and not (root / str(project)).is_dir()
        claim = Claim(root, project, timestamp_of(moment + timedelta(milliseconds=step)), foldername, made)
        if _is_taken(claim):
            continue
        handle = _write_journal(claim)
        if handle is not None:
            with handle:
                yield claim
            return
    raise StorageFailure(root, "find an unused time stamp in", OSError(errno.EEXIST, "all are taken"))


def _is_taken(claim: Claim) -> bool:
    return claim.timestamp_dir.exists() or (claim.root / claim.timestamp).exists()


def _write_journal(claim: Claim) -> TextIO | None:
    """The journal, written whole, locked, and under its name; ``None`` where another moment must be tried."""
    new = claim.journal.with_name(f"{claim.timestamp}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}{_NEW}")
    record = {"host": socket.gethostname(), **claim.key, "made_project": claim.made_project}
    with storage_errors(claim.journal, "create"):
        new.parent.mkdir(exist_ok=True)
        try:
            handle = open(new, "x", encoding="utf-8")  # noqa: SIM115 - the caller closes it
        except FileNotFoundError:  # another command has just tidied the work folder away
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            handle.write(json.dumps(record) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
            os.link(new, claim.journal)
        except BaseException as error:
            handle.close()
            if isinstance(error, (FileExistsError, FileNotFoundError)):  # taken, or tidied away before it was locked
                return None
            raise
        finally:
            with suppress(OSError):
                new.unlink()
    sync_folder(claim.journal.parent)
    return handle


def leftovers(root: Path) -> Iterator[Claim]:
    """The places of commands of this host that were killed, each locked while it is looked at."""
    for path in sorted((root / WORK_DIR).glob(f"*{_NEW}")):
        with _locked(path) as text:
            if text is not None:
                path.unlink(missing_ok=True)
    for path in sorted((root / WORK_DIR).glob(f"*{_JOURNAL}")):
        with _locked(path) as text:
            claim = _parse(root, path, text) if text else None
            if claim is not None:
                yield claim


@contextmanager
def _locked(path: Path) -> Iterator[str | None]:
    """The text of a journal that nobody else holds; ``None`` for those of others."""
    try:
        handle = path.open("r+", encoding="utf-8")
    except OSError:  # gone meanwhile, or another user's
        yield None
        return
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield None
            return
        yield handle.read() if path.exists() else None


def _parse(root: Path, path: Path, text: str) -> Claim | None:
    try:
        record = json.loads(text)
        claim = Claim(root, record["project"], record["timestamp"], record["foldername"], record["made_project"])
    except (ValueError, KeyError, TypeError):
        return None
    return claim if record.get("host") == socket.gethostname() and claim.journal == path else None


def move_in(claim: Claim) -> None:
    """Give the finished session its place, by one rename; its timestamp's folder is made by nobody else."""
    with storage_errors(claim.timestamp_dir, "create"):
        if claim.made_project:
            claim.project_dir.mkdir(exist_ok=True)
        claim.timestamp_dir.mkdir()
    with storage_errors(claim.session_dir, "create"):
        os.rename(claim.staging / claim.foldername, claim.session_dir)
        claim.staging.rmdir()
    for folder in (claim.timestamp_dir, claim.project_dir, claim.root):
        sync_folder(folder)


def remove(claim: Claim) -> None:
    """Take everything away that was made for a claim, whichever of it is there; at last the journal.

    A session in its place is first moved out of XNAT's sight. Raises :class:`~icf_utils.errors.StorageFailure`.
    """
    with storage_errors(claim.session_dir, "remove"):
        if claim.session_dir.is_dir():
            claim.staging.mkdir(exist_ok=True)
            os.rename(claim.session_dir, claim.staging / f"{claim.foldername}.undone")
        if claim.staging.is_dir():
            shutil.rmtree(claim.staging)
        with suppress(FileNotFoundError, OSError):
            claim.timestamp_dir.rmdir()  # others' files keep it
        if claim.made_project:
            with suppress(OSError):
                claim.project_dir.rmdir()
    release(claim)


def release(claim: Claim) -> None:
    """The session is XNAT's: forget the claim, and the work folder where it is the last."""
    with storage_errors(claim.journal, "remove"):
        claim.journal.unlink(missing_ok=True)
    with suppress(OSError):
        claim.journal.parent.rmdir()


_CHUNK = 1 << 20


@dataclass(frozen=True)
class Rights:
    """Whom the copies belong to and who may use them, so that XNAT's own user can read, change and delete them.

    ``user`` and ``group`` are numbers, -1 for our own; ``umask`` takes rights away, ``None`` for the process's own.
    """

    user: int = -1
    group: int = -1
    umask: int | None = None


@dataclass(frozen=True)
class Copied:
    """A file that was copied: its name in the input, its place in the session, size in bytes, MD5."""

    name: str
    place: str
    size: int
    md5: str


def copy_session(
    source: Source,
    arrangement: Arrangement,
    folder: Path,
    rights: Rights,
    expected: Mapping[str, str],
    progress: Progress,
) -> tuple[Copied, ...]:
    """Copy every file to its place below ``folder``, which is made; each is synced, and read again from the device.

    ``expected`` holds MD5s by name where they are known. Raises :class:`~icf_utils.errors.InputRefused` where the input
    changes or is not as expected, :class:`~icf_utils.errors.StorageFailure` where a copy is not what was written.
    """
    with storage_errors(folder, "create"):
        folder.mkdir(parents=True)
        folders = [folder, folder / "SCANS"]
        for scan in arrangement.scans:
            folders += [folder / "SCANS" / scan, folder / "SCANS" / scan / "DICOM"]
        for path in folders[1:]:
            path.mkdir()
    copied = []
    with progress.task("copying", arrangement.size, "B") as task:
        for file in arrangement.files:
            done = _copy(source, file, folder, rights, task.advance)
            if expected.get(file.entry.name, done.md5) != done.md5:
                why = "has another MD5 than the metadata say"
                raise InputRefused(source.label, [(file.entry.name, why)], "See 'icf-utils verify'.")
            copied.append(done)
    source.check_unchanged()
    for path in reversed(folders):
        with storage_errors(path, "set owner and mode of"):
            _give(path, rights, 0o777)
        sync_folder(path)
    return tuple(copied)


def _copy(source: Source, file: Placed, folder: Path, rights: Rights, advance: Callable[[int], None]) -> Copied:
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
        _give(path, rights, 0o666)
        os.fsync(target.fileno())
        os.posix_fadvise(target.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if _md5_of(path) != digest.hexdigest():
        raise StorageFailure(path, "read back what was written to", OSError(5, "other bytes"))
    return Copied(file.entry.name, file.place, size, digest.hexdigest())


def _md5_of(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with storage_errors(path, "read"), open(path, "rb") as handle:
        while block := handle.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def _give(path: Path, rights: Rights, mode: int) -> None:
    if rights.umask is not None:
        os.chmod(path, mode & ~rights.umask)
    if rights.user != -1 or rights.group != -1:
        os.chown(path, rights.user, rights.group)


def give_folders(folders: tuple[Path, ...], rights: Rights) -> None:
    """The same for folders that were made on the way."""
    for path in folders:
        with storage_errors(path, "set owner and mode of"):
            _give(path, rights, 0o777)
