"""How a file gets its name: never half-done. THE atomic write of the package, and who may use what it makes.

A new file is written under another name, on the same file system, synced where it must outlive a power failure, and
then given its name by a hard link (nothing is replaced) or a rename (what was there is replaced), so that a final name
never shows a partial file. A replacement keeps the owner, group, mode and ACL of the old file as far as this process
may set them; where the group cannot be kept, the new one gets no more rights than everybody had.

:func:`new_file` and :func:`rename_file` are the primitives, :func:`replace_file` does all at once. For the files of a
study, :func:`new_part`, :func:`publish_part`, :func:`replace_with_part` and :func:`publish_bytes` write below
``<store>/<study>/.icf/`` first. A new file has the mode that the umask gives, and what a group-shared store adds. Three
more ways have their reasons in ``docs/decisions/0010-atomic-writes.md``: the receiver's spool, the exchange of a whole
catalog, and reservations in XNAT's prearchive.

Touches files, folders and modes, and registers unfinished files (:mod:`icf_utils.interrupts`): a signal may arrive
between any two steps, also where no ``finally`` block is active yet. Knows nothing of what the files mean.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import socket
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from icf_utils.errors import DepositDiffers, StorageFailure, storage_errors
from icf_utils.formatting import format_count
from icf_utils.interrupts import (
    expect_unfinished,
    forget_made_folders,
    forget_unfinished,
    made_folders_lock,
    remember_made_folders,
    remove_file,
    remove_made_folders,
)
from icf_utils.results import Notice, Written
from icf_utils.settings import SETTINGS_NAME, load_settings
from icf_utils.store.layout import ANNEX_FOLDER_SUFFIX, ANNEX_URL_SUFFIX, SUMS_SUFFIX, VISIT_SUFFIXES, Study, Visit

#: File names may have 255 bytes: the name of a part is cut after this many, and made distinct by a digest.
_LONGEST_PART = 180

#: This host, in names of temporary files.
_HOST = socket.gethostname()[:64]

#: The extended attribute that holds a POSIX ACL, see acl(5).
_ACL = "system.posix_acl_access"
_DEFAULT_ACL = "system.posix_acl_default"


def make_workdir(study: Study) -> Path:
    """Create the study's work folder if it is missing, and return it.

    Other processes may remove it, empty, at any moment of this; it is then created again.
    """
    with storage_errors(study.workdir, "create"):
        for _ in range(1000):
            with suppress(FileNotFoundError, FileExistsError):
                make_folders(study.root, study.workdir)
                return study.workdir
        make_folders(study.root, study.workdir)
    return study.workdir


def tidy_workdir(study: Study) -> None:
    """Remove the study's work folder, and the folders that this process created for the store, where empty.

    The folder of a study may have been prepared by somebody else, with a group and a mode: it stays, then.
    """
    with suppress(OSError):
        study.workdir.rmdir()
        remove_made_folders(study.root)


def part_name(study: Study, target: Path) -> Path:
    """The file that will be renamed to ``target``: a fixed name, so that a rerun replaces a leftover."""
    name = target.relative_to(study.folder).as_posix().replace("/", "+")
    if len(name) > _LONGEST_PART:
        digest = hashlib.md5(os.fsencode(name), usedforsecurity=False).hexdigest()
        name = f"{name[:_LONGEST_PART]}+{digest}"
    return study.workdir / f"{name}.part"


def remove_parts(visit: Visit) -> None:
    """Remove unfinished files of this visit; the caller has its lock, so that no process is writing them."""
    names = [f"{visit.visit}{suffix}" for suffix in (*VISIT_SUFFIXES, ANNEX_URL_SUFFIX, SUMS_SUFFIX)]
    parts = [part_name(visit.of_study, visit.of_study.folder / name) for name in names]
    for part in [*parts, *visit.workdir.glob(f"{visit.visit}{ANNEX_FOLDER_SUFFIX}+*.part")]:
        with storage_errors(part, "remove"):
            part.unlink(missing_ok=True)
        forget_unfinished(part)


@contextmanager
def new_file(
    part: Path,
    *,
    root: Path | None = None,
    like: Path | None = None,
    folders: Sequence[Path] = (),
    mode: int = 0o666,
) -> Iterator[BinaryIO]:
    """Make the file ``part``, open for reading and writing; it is removed when the block fails, else left there.

    It gets the access rights of ``like``, if there is such a file, else those of a new file (of the store at ``root``):
    ``mode`` without what the umask removes.
    ``folders`` are those that an interrupt removes with it where they are empty.
    Raises :class:`~icf_utils.errors.StorageFailure`, also where ``part`` exists.
    """
    expect_unfinished(part, folders=folders)
    try:  # around open() as well: a signal may arrive just when it returns
        with storage_errors(part, "create"):
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with _closing(os.fdopen(descriptor, "w+b"), part) as handle:
            with storage_errors(part, "set the mode of"):
                if not (like and keep_access(like, descriptor)) and root:
                    share_file(root, descriptor)
            yield handle
    except BaseException:
        remove_file(part)
        raise


def rename_file(part: Path, target: Path) -> None:
    """Give a finished file its name; what was there is replaced. Raises ``OSError``; ``part`` is removed then."""
    try:
        _replace(part, target)
        forget_unfinished(part)
    except BaseException:
        remove_file(part)
        raise


def _replace(part: Path, target: Path) -> None:
    """Rename a file. An NFS server's response can be lost, and the repeated request then finds nothing to rename."""
    before = os.lstat(part)
    try:
        os.replace(part, target)
    except FileNotFoundError:
        if not os.path.lexists(target) or not os.path.samestat(before, os.lstat(target)):
            raise


def link_file(part: Path, target: Path) -> None:
    """Give a finished file its name, unless the name is taken; ``part`` is removed in any case.

    Raises ``FileExistsError`` where it is taken, else ``OSError``.
    """
    try:
        try:
            os.link(part, target)
        except FileExistsError:
            if not is_same_file(part, target):
                raise
        except OSError:  # a file system without hard links; the caller's lock keeps other writers out
            os.rename(part, target)
    finally:
        remove_file(part)


def link_or_copy(path: Path, new: Path) -> None:
    """Give a file a second name, or a copy where the file system has no hard links. Raises ``OSError``."""
    try:
        os.link(path, new)
    except OSError:
        shutil.copy2(path, new)


def is_same_file(one: Path, other: Path) -> bool:
    """Whether two names are of one file: a link was made although its creation was reported to have failed.

    An NFS server's response can be lost; the request is repeated, and finds that the name exists.
    """
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def replace_file(path: Path, data: bytes, *, root: Path | None = None, durable: bool = True) -> None:
    """Write ``data`` to a new file in the folder of ``path``, then give it that name; what was there is replaced.

    The bytes are on the device on return, unless ``durable`` is false; for the name, call :func:`sync_folder`.
    Raises :class:`~icf_utils.errors.StorageFailure`.
    """
    part = temporary_name(path)
    with new_file(part, root=root, like=path) as handle:
        with storage_errors(path, "write"):
            handle.write(data)
        if durable:
            sync_file(handle, path)
    with storage_errors(path, "replace"):
        rename_file(part, path)


def temporary_name(path: Path) -> Path:
    """A new name in the folder of ``path``, for a file that will be renamed to it; it names this process.

    What a killed process leaves is removed by :func:`remove_temporaries`.
    """
    name = path.name[: _LONGEST_PART - len(_HOST)]
    return path.with_name(f".{name}.{_HOST}.{os.getpid()}.{secrets.token_hex(4)}.part")


def remove_temporaries(folder: Path) -> None:
    """Remove the temporary files and folders of processes of this host that were killed. Never raises."""
    with suppress(OSError):
        for name in os.listdir(folder):
            pid = name.split(".")[-3:][0]
            if not (name.endswith(".part") and f".{_HOST}.{pid}." in name) or os.path.exists(f"/proc/{pid}"):
                continue
            with suppress(OSError):
                (os.rmdir if os.path.isdir(folder / name) else os.unlink)(folder / name)


@contextmanager
def new_part(study: Study, target: Path) -> Iterator[BinaryIO]:
    """Make the file that will be ``target`` in the study's work folder, as :func:`new_file` does.

    The caller holds the lock of the visit or study; what another process left under the name is removed.
    """
    part = part_name(study, target)
    make_workdir(study)
    with storage_errors(part, "replace"):
        part.unlink(missing_ok=True)
    with new_file(part, root=study.root, like=target, folders=(study.workdir,)) as handle:
        yield handle


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


def sync_all(files: Sequence[Path], folders: Sequence[Path]) -> None:
    """Bring files, and the names in folders, to the device, all at the same time: a disk writes them together.

    Raises :class:`~icf_utils.errors.StorageFailure`.
    """
    with ThreadPoolExecutor(len(files) + len(folders)) as pool:
        done = [pool.submit(_sync_content, path) for path in files]
        done += [pool.submit(sync_folder, folder) for folder in folders]
    for one in done:
        one.result()


def _sync_content(path: Path) -> None:
    with storage_errors(path, "sync"):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def publish_part(study: Study, target: Path) -> None:
    """Give a finished, synced part its name, durably; never replaces what is there.

    Raises :class:`~icf_utils.errors.DepositDiffers` if the name was taken meanwhile.
    """
    try:
        with storage_errors(target, "create"):
            link_file(part_name(study, target), target)
    except StorageFailure as error:
        if isinstance(error.__cause__, FileExistsError):
            raise DepositDiffers(target, "it appeared while this command was running") from error
        raise
    forget_made_folders(study.root)
    sync_folder(target.parent)


def replace_with_part(study: Study, target: Path) -> None:
    """Give a finished, synced part its name; what was there is replaced. The name is not durable yet."""
    with storage_errors(target, "replace"):
        rename_file(part_name(study, target), target)


def replace_bytes(study: Study, target: Path, data: bytes) -> None:
    """Write a small file of a study by way of its work folder; what was there is replaced.

    The bytes are on the device on return; for the name, call :func:`sync_folder`. The caller holds the lock of the
    visit or study. Raises :class:`~icf_utils.errors.StorageFailure`.
    """
    with new_part(study, target) as handle:
        with storage_errors(target, "write"):
            handle.write(data)
        sync_file(handle, target)
    replace_with_part(study, target)


def publish_bytes(study: Study, files: Sequence[tuple[Path, bytes]]) -> tuple[Written, ...]:
    """Publish small files in the given order, the one that marks completeness last.

    All existing ones are compared before the first is written; identical ones are not touched.
    Raises :class:`~icf_utils.errors.DepositDiffers` or :class:`~icf_utils.errors.StorageFailure`.
    """
    present = compare_existing(files)
    outcome = []
    for (path, data), there in zip(files, present, strict=True):
        if not there:
            publish_file(study, path, data)
        outcome.append(Written(path, "unchanged" if there else "written"))
    return tuple(outcome)


def compare_existing(files: Sequence[tuple[Path, bytes]]) -> list[bool]:
    """Say which files exist. Raises :class:`~icf_utils.errors.DepositDiffers` for one with other content."""
    return [_same_or_absent(path, data) for path, data in files]


def publish_file(study: Study, path: Path, data: bytes) -> None:
    """Write a new file of a deposit durably; nothing is replaced."""
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
        raise DepositDiffers(path, describe_difference(existing, data))
    return True


def describe_difference(existing: bytes, new: bytes) -> str:
    """Describe where two byte strings differ, without quoting them."""
    pairs = enumerate(zip(existing, new, strict=False))
    first = next((at for at, (old, now) in pairs if old != now), min(len(existing), len(new)))
    same_size = len(existing) == len(new)
    sizes = (
        f"{format_count(len(new), 'byte')} both"
        if same_size
        else f"{format_count(len(existing), 'byte')} there, {format_count(len(new), 'byte')} now"
    )
    return f"first difference at byte {first} (line {existing[:first].count(10) + 1}), {sizes}"


#: What a group-shared store adds to modes: its group may read every file, and add to and remove from every folder. New
#: folders pass on their group (setgid), whoever creates them.
_SHARED_FILE, _SHARED_FOLDER = stat.S_IRGRP, stat.S_ISGID | stat.S_IRWXG


def make_folders(root: Path, folder: Path) -> None:
    """Create ``folder`` of the store at ``root``, and what is missing above it. Raises ``OSError``.

    A study's folder, the store's own and those above it are registered
    (:func:`~icf_utils.interrupts.remove_made_folders`). Their names are durable on return.
    """
    if not folder.is_dir():
        with made_folders_lock:
            _make_missing(root, folder)


def _make_missing(root: Path, folder: Path) -> None:
    missing = [folder] if not folder.is_dir() else []
    while missing and missing[-1] != missing[-1].parent and not missing[-1].parent.is_dir():
        missing.append(missing[-1].parent)
    above = [path for path in missing if path == root or path in root.parents]
    if made := [path for path in missing if path.parent == root or path in above]:
        remember_made_folders(root, made)
    for path in reversed(missing):
        if path.is_file():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fspath(path))
        path.mkdir(exist_ok=True)
        if path not in above or path == root:
            _share(root, path, _SHARED_FOLDER)
        if path in above or path.parent == root:  # below a study, whoever names files makes names durable
            with suppress(PermissionError):  # a folder that may be written, but not read
                sync_names(path.parent)


def remove_study_folders(study: Study) -> None:
    """Remove the folders of a study and its catalog, if empty, that icf-utils would make again with the same access.

    One that somebody else prepared, with another group, mode or ACL, stays. Never raises.
    """
    _remove_as_made(study.root, study.catalog)
    _remove_as_made(study.root, study.folder)


def _remove_as_made(root: Path, folder: Path) -> None:
    remove_temporaries(folder.parent)
    probe = temporary_name(folder)
    expect_unfinished(probe, folders=(probe,))
    try:
        if not folder.is_symlink() and not os.listdir(folder):
            probe.mkdir()
            _share(root, probe, _SHARED_FOLDER)
            if _folder_access(probe) == _folder_access(folder):
                folder.rmdir()
                sync_names(folder.parent)
    except OSError:
        pass
    finally:
        with suppress(OSError):
            probe.rmdir()
        forget_unfinished(probe)


def _folder_access(folder: Path) -> tuple[object, ...]:
    """Everything that says who may use a folder."""
    status = folder.stat()
    default = b""
    with suppress(OSError):
        default = os.getxattr(folder, _DEFAULT_ACL)
    return status.st_mode, status.st_uid, status.st_gid, _acl_of(folder), default


#: What file systems answer that cannot sync a folder (SMB, WSL): they write names through, or there is no way.
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


#: A folder for each file system that could not sync one, by device.
_unsynced: dict[int, Path] = {}


def take_unsynced() -> tuple[Notice, ...]:
    """A notice for each file system that refused to sync a folder since the last call."""
    found = tuple(Notice("names-not-synced", os.fspath(folder), _NOT_SYNCED) for folder in _unsynced.values())
    _unsynced.clear()
    return found


_NOT_SYNCED = "its file system cannot sync folders: after a power failure, files that were just written may be missing"


def sync_names(folder: Path) -> None:
    """Make the names in ``folder`` durable, on file systems that can; :func:`take_unsynced` names the others.

    Raises ``OSError``.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
        _unsynced.setdefault(os.fstat(descriptor).st_dev, folder)
    finally:
        os.close(descriptor)


def share_file(root: Path, file: int) -> None:
    """Give an open file of the store at ``root`` the mode that its settings ask for in addition to the umask."""
    _share(root, file, _SHARED_FILE)


def keep_access(path: Path, descriptor: int) -> bool:
    """Give an open file the owner, group, mode and ACL of the file at ``path``; false if there is none to keep.

    Raises ``OSError``. What this process may not set, it leaves; nobody gets more than the file at ``path`` gives.
    """
    try:
        old = os.stat(path, follow_symlinks=False)
    except OSError:
        return False
    if not stat.S_ISREG(old.st_mode):
        return False
    new, mode = os.fstat(descriptor), stat.S_IMODE(old.st_mode) & 0o777
    acl, is_kept = _acl_of(path), _keep_owner(old, new, descriptor)
    if acl != _acl_of(descriptor):
        is_kept = _set_acl(descriptor, acl) and is_kept
    if not is_kept:  # another group, or no list of others: what everybody had is all that it may have
        mode &= ~0o070 | (mode & 0o007) << 3
    _set_mode(descriptor, mode)
    return True


def limit_access(path: Path, descriptor: int) -> None:
    """Give an open file no more than the file at ``path`` gives; what cannot be compared goes. Raises ``OSError``.

    Members of another group, or those of an ACL that the file at ``path`` does not have, get what everybody has.
    """
    other, now = os.stat(path), os.fstat(descriptor)
    mode = stat.S_IMODE(now.st_mode) & stat.S_IMODE(other.st_mode)
    acl = _acl_of(descriptor)
    if other.st_gid != now.st_gid or acl != _acl_of(path):
        mode &= ~0o070 | (mode & 0o007) << 3
        if acl:
            _set_acl(descriptor, b"")
    _set_mode(descriptor, mode)


def describe_access(path: Path) -> str:
    """The mode, the owner and the group of a file, and whether it has an ACL, in words."""
    found = os.stat(path)
    acl = ", with an ACL" if _acl_of(path) else ""
    return f"{stat.filemode(found.st_mode)[1:]}, owner {found.st_uid}, group {found.st_gid}{acl}"


def keep_folder_access(path: Path, folder: Path) -> None:
    """Give ``folder`` the owner, group, mode, setgid bit and ACLs of the folder at ``path``, if that exists.

    What this process may not set, it leaves; nobody gets more than the folder at ``path`` gives. Raises ``OSError``.
    """
    old = os.stat(path, follow_symlinks=False) if path.is_dir() else None
    if old is None or not stat.S_ISDIR(old.st_mode):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mode, is_kept = stat.S_IMODE(old.st_mode), _keep_owner(old, os.fstat(descriptor), descriptor)
        if (acl := _acl_of(path)) != _acl_of(descriptor):
            is_kept = _set_acl(descriptor, acl) and is_kept
        with suppress(OSError):  # without one, or where the file system has none
            os.setxattr(descriptor, _DEFAULT_ACL, os.getxattr(path, _DEFAULT_ACL))
        if not is_kept:  # as for files
            mode &= ~0o2070 | (mode & 0o007) << 3
        _set_mode(descriptor, mode)
    finally:
        os.close(descriptor)


def _set_mode(descriptor: int, mode: int) -> None:
    """Set a mode, except where the file system has modes of its own, which give nobody more. Raises ``OSError``."""
    if mode == stat.S_IMODE(os.fstat(descriptor).st_mode):
        return
    try:
        os.fchmod(descriptor, mode)
    except OSError:
        if stat.S_IMODE(os.fstat(descriptor).st_mode) & ~mode:
            raise


def _keep_owner(old: os.stat_result, new: os.stat_result, descriptor: int) -> bool:
    """Whether the group is the same then."""
    if (old.st_uid, old.st_gid) == (new.st_uid, new.st_gid):
        return True
    for owner in (old.st_uid, -1):
        with suppress(OSError):
            os.fchown(descriptor, owner, old.st_gid)
            return True
    return old.st_gid == new.st_gid


def _acl_of(file: Path | int) -> bytes:
    """The file's POSIX ACL beyond its mode; empty where it has none."""
    try:
        return os.getxattr(file, _ACL)
    except OSError:
        return b""


def _set_acl(descriptor: int, acl: bytes) -> bool:
    try:
        os.setxattr(descriptor, _ACL, acl) if acl else os.removexattr(descriptor, _ACL)
    except OSError:
        return False
    return True


def _share(root: Path, place: Path | int, more: int) -> None:
    if not is_group_shared(root):
        return
    with suppress(OSError):  # another user has just created the folder, and does the same; or there are no modes
        os.chmod(place, stat.S_IMODE(os.stat(place).st_mode) | more)


def is_group_shared(root: Path) -> bool:
    """Whether the store's settings have ``group_shared``."""
    try:
        found = os.stat(root / SETTINGS_NAME)
    except OSError:
        return False
    return _setting(root, found.st_mtime_ns, found.st_size, found.st_ino)


@lru_cache(maxsize=8)
def _setting(root: Path, *_state: int) -> bool:
    return load_settings(root).store.group_shared
