"""Copying an input into a session's folder, synced and checked. Writes below the folder it is given."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from icf_utils.errors import InputRefused, StorageFailure, storage_errors
from icf_utils.progress import Progress
from icf_utils.publishing import sync_folder
from icf_utils.sources.entries import Source
from icf_utils.xnat.arrange import Arrangement, Placed

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
