"""Publishing that is never half-done.

Touches the disk: new files are written below ``<store>/<study>/.icf/``, synced, and moved to their names with a
hard link or rename, so that a final name never shows a partial file. Nothing here knows what the files mean.


What a process leaves on the disk: folders made on the way, files that are not finished, and who may use them.

Touches folders and modes, and remembers for this process what must be gone when it is interrupted: a signal may be
heard between any two steps, also where no ``finally`` holds yet. Knows nothing of what the files are.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from icf_utils.errors import DepositDiffers, StorageFailure, storage_errors
from icf_utils.formatting import format_count
from icf_utils.interrupts import (
    expect_unfinished,
    forget_unfinished,
    remember_made_folders,
    remove_file,
    remove_made_folders,
)
from icf_utils.results import Written
from icf_utils.settings import SETTINGS_NAME, load_settings
from icf_utils.store.layout import ANNEX_FOLDER_SUFFIX, ANNEX_URL_SUFFIX, VISIT_SUFFIXES, Study, Visit

#: File names may have 255 bytes; a part's longer than this is cut, and told apart by a digest.
_LONGEST_PART = 180


def prepare_workdir(study: Study) -> Path:
    """Make sure that the study's work folder exists, and return it.

    Others may be tidying it away at the same time, at every step of making it; nobody is that unlucky for long.
    """
    with storage_errors(study.workdir, "create"):
        for _ in range(1000):
            with suppress(FileNotFoundError, FileExistsError):
                make_folders(study.root, study.workdir)
                return study.workdir
        make_folders(study.root, study.workdir)
    return study.workdir


def tidy_workdir(study: Study) -> None:
    """Remove the work folder, the study's, and a store's that was made for nothing, where nothing was left in them."""
    with suppress(OSError):
        study.workdir.rmdir()
        study.folder.rmdir()
        remove_made_folders(study.root)


def part_name(study: Study, target: Path) -> Path:
    """Where the file that will be ``target`` is written first: a fixed name, so that a rerun replaces a leftover."""
    name = target.relative_to(study.folder).as_posix().replace("/", "+")
    if len(name) > _LONGEST_PART:
        digest = hashlib.md5(os.fsencode(name), usedforsecurity=False).hexdigest()
        name = f"{name[:_LONGEST_PART]}+{digest}"
    return study.workdir / f"{name}.part"


def clear_parts(visit: Visit) -> None:
    """Remove unfinished files of this visit; the caller holds its lock, so nobody is writing them any more."""
    names = [f"{visit.visit}{suffix}" for suffix in (*VISIT_SUFFIXES, ANNEX_URL_SUFFIX)]
    parts = [part_name(visit.of_study, visit.of_study.folder / name) for name in names]
    for part in [*parts, *visit.workdir.glob(f"{visit.visit}{ANNEX_FOLDER_SUFFIX}+*.part")]:
        with storage_errors(part, "remove"):
            part.unlink(missing_ok=True)
        forget_unfinished(part)


@contextmanager
def new_part(study: Study, target: Path) -> Iterator[BinaryIO]:
    """A new file beside ``target``, open for reading and writing; removed when the block fails.

    The caller holds the lock of the visit or study. Modes follow the umask, and the store's settings.
    """
    part = part_name(study, target)
    prepare_workdir(study)
    expect_unfinished(part)
    with storage_errors(part, "replace"):
        part.unlink(missing_ok=True)
    try:  # around open(), too: a signal may be heard just when it returns
        with storage_errors(part, "create"):
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with _closing(os.fdopen(descriptor, "w+b"), part) as handle:
            with storage_errors(part, "set the mode of"):
                share_file(study.root, descriptor)
            yield handle
    except BaseException:
        remove_file(part)
        raise


@contextmanager
def _closing(handle: BinaryIO, path: Path) -> Iterator[BinaryIO]:
    """Close in the end. After a failed write, closing tries it again: that failure must not hide the first one."""
    try:
        yield handle
    except BaseException:
        with suppress(OSError):
            handle.close()
        raise
    with storage_errors(path, "write"):
        handle.close()


def sync_file(handle: BinaryIO, path: Path) -> None:
    """Flush ``handle`` to the device."""
    with storage_errors(path, "write"):
        handle.flush()
        os.fsync(handle.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    with storage_errors(folder, "sync"):
        sync_names(folder)


def publish_part(study: Study, target: Path) -> None:
    """Give a finished, synced part its final name; never replaces what is there.

    Raises :class:`~icf_utils.errors.DepositDiffers` if the name was taken meanwhile.
    """
    part = part_name(study, target)
    try:
        _link_or_rename(part, target)
    finally:
        remove_file(part)
    sync_folder(target.parent)


def _link_or_rename(part: Path, target: Path) -> None:
    try:
        os.link(part, target)
    except FileExistsError as error:
        raise DepositDiffers(target, "it appeared while this command was running") from error
    except OSError:  # a file system without hard links; the lock keeps other writers out
        with storage_errors(target, "create"):
            os.rename(part, target)


def publish_bytes(study: Study, files: Sequence[tuple[Path, bytes]]) -> tuple[Written, ...]:
    """Publish small files in the given order, the one that marks completeness last.

    All existing ones are compared before the first is written; what is the same stays untouched.
    Raises :class:`~icf_utils.errors.DepositDiffers` or :class:`~icf_utils.errors.StorageFailure`.
    """
    present = refuse_different(files)
    outcome = []
    for (path, data), there in zip(files, present, strict=True):
        if not there:
            write_new(study, path, data)
        outcome.append(Written(path, "unchanged" if there else "written"))
    return tuple(outcome)


def refuse_different(files: Sequence[tuple[Path, bytes]]) -> list[bool]:
    """Which of the files are there. Raises :class:`~icf_utils.errors.DepositDiffers` for one with other bytes."""
    return [_same_or_absent(path, data) for path, data in files]


def write_new(study: Study, path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path``, sync it and give it its name."""
    with new_part(study, path) as handle:
        with storage_errors(path, "write"):
            handle.write(data)
        sync_file(handle, path)
    publish_part(study, path)


def _same_or_absent(path: Path, data: bytes) -> bool:
    try:
        with storage_errors(path, "read"):
            existing = path.read_bytes()
    except StorageFailure as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return False
        raise
    if existing != data:
        raise DepositDiffers(path, difference(existing, data))
    return True


def difference(existing: bytes, new: bytes) -> str:
    """Where and how two byte strings part, in words; never quotes their content."""
    pairs = enumerate(zip(existing, new, strict=False))
    first = next((at for at, (old, now) in pairs if old != now), min(len(existing), len(new)))
    same_size = len(existing) == len(new)
    sizes = (
        f"{format_count(len(new), 'byte')} both"
        if same_size
        else f"{format_count(len(existing), 'byte')} there, {format_count(len(new), 'byte')} now"
    )
    return f"first difference at byte {first} (line {existing[:first].count(10) + 1}), {sizes}"


#: What a group-shared store adds: its group may read every file, and change what lies in a folder. New folders hand
#: their group on (setgid), so that it does not matter who makes them.
_SHARED_FILE, _SHARED_FOLDER = stat.S_IRGRP, stat.S_ISGID | stat.S_IRWXG


def make_folders(root: Path, folder: Path) -> None:
    """Make ``folder`` of the store at ``root``, and what is missing above it. Raises ``OSError``.

    The store's own folder, and those above, are remembered: see
    :func:`~icf_utils.interrupts.remove_made_folders`. The names of these, and of a
    study's folder, are durable on return.
    """
    missing = [folder] if not folder.is_dir() else []
    while missing and missing[-1] != missing[-1].parent and not missing[-1].parent.is_dir():
        missing.append(missing[-1].parent)
    above = [path for path in missing if path == root or path in root.parents]
    if above:
        remember_made_folders(root, above)
    for path in reversed(missing):
        if path.is_file():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fspath(path))
        path.mkdir(exist_ok=True)
        if path not in above or path == root:
            _share(root, path, _SHARED_FOLDER)
        if path in above or path.parent == root:  # below a study, who names files there makes the names durable
            with suppress(PermissionError):  # a folder that may be written to, and not be looked into
                sync_names(path.parent)


def sync_names(folder: Path) -> None:
    """Make the names in ``folder`` durable. Raises ``OSError``."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def share_file(root: Path, file: int) -> None:
    """Give the open file of the store at ``root`` the mode that the store's settings want, beyond the umask."""
    _share(root, file, _SHARED_FILE)


def _share(root: Path, place: Path | int, more: int) -> None:
    if not is_group_shared(root):
        return
    with suppress(PermissionError):  # another user has just made the folder, and does the same
        os.chmod(place, stat.S_IMODE(os.stat(place).st_mode) | more)


def is_group_shared(root: Path) -> bool:
    """Whether the store's settings say so."""
    try:
        found = os.stat(root / SETTINGS_NAME)
    except OSError:
        return False
    return _setting(root, found.st_mtime_ns, found.st_size, found.st_ino)


@lru_cache(maxsize=8)
def _setting(root: Path, *_state: int) -> bool:
    return load_settings(root).store.group_shared
