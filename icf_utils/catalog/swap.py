"""Replace a whole catalog at once. Writes in ``STORE/STUDY/.icf`` and exchanges the result with the catalog's folder.

The new folder is written and flushed first. It is then exchanged with the old one in a single step if the system can do
that (renameat2(2) of Linux with RENAME_EXCHANGE), else by two renames; :func:`restore_old_folder` repairs what a crash
between these two leaves. Callers hold the catalog's lock.

What others have set stays: owner, group, mode and ACLs of the catalog's folders and files, and files that are not
icf-utils', such as ``.htaccess``.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from icf_utils.errors import storage_errors
from icf_utils.store.files import keep_access, keep_folder_access, make_folders, make_workdir, share_file, sync_folder
from icf_utils.store.layout import Study

#: No visit has files of these names: identifiers contain no ``+``.
_NEW, _OLD = "catalog+new", "catalog+old"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def create_new_folder(study: Study) -> None:
    """Create an empty folder for the new catalog; remove what an interrupted attempt left."""
    make_workdir(study)
    remove_work_folders(study)
    folder = study.workdir / _NEW
    with storage_errors(folder, "create"):
        make_folders(study.root, folder)
        keep_folder_access(study.catalog, folder)


def add_files(study: Study, files: Mapping[str, bytes]) -> None:
    """Write files of the new catalog. They are not visible yet, so they are flushed together at the end."""
    for name, data in files.items():
        path = study.workdir / _NEW / name
        with storage_errors(path, "write"):
            make_folders(study.root, path.parent)
            with path.open("xb") as handle:
                share_file(study.root, handle.fileno())
                handle.write(data)


def publish_new_folder(study: Study, own: Collection[str]) -> None:
    """Put the new catalog in the place of the old one, and remove the old one.

    ``own`` are the names of icf-utils' files and folders in a catalog's folder; others stay.
    """
    new, catalog = study.workdir / _NEW, study.catalog
    with storage_errors(catalog, "keep the access rules of"):
        _keep_what_others_set(catalog, new, own)
    with storage_errors(new, "flush"):
        _flush(new)
    with storage_errors(catalog, "replace"):
        if not os.path.lexists(catalog):
            os.rename(new, catalog)
        elif not _exchanged(new, catalog):
            os.rename(catalog, study.workdir / _OLD)
            os.rename(new, catalog)
    sync_folder(study.folder)
    remove_work_folders(study)


def _keep_what_others_set(old: Path, new: Path, own: Collection[str]) -> None:
    """Take over from the old folder the rights of what both have, and what somebody else put there."""
    for parent, folders, files in os.walk(old):
        below = Path(parent).relative_to(old)
        if not (new / below).is_dir():
            folders.clear()
            continue
        keep_folder_access(old / below, new / below)
        for name in [*files, *folders]:
            before, after = old / below / name, new / below / name
            if before.is_file() and after.is_file() and not before.is_symlink():
                _keep_file_access(before, after)
            elif not os.path.lexists(after) and _is_foreign(name, parent == str(old), own):
                _copy(before, after)


def _is_foreign(name: str, is_at_top: bool, own: Collection[str]) -> bool:
    """Whether somebody else put a file or folder into a catalog: hidden ones anywhere, others at its top."""
    return name not in own and (name.startswith(".") or is_at_top)


def _copy(before: Path, after: Path) -> None:
    if before.is_dir() and not before.is_symlink():
        shutil.copytree(before, after, symlinks=True)
        for parent, _, files in os.walk(before):
            keep_folder_access(Path(parent), after / Path(parent).relative_to(before))
            for path in (Path(parent, name).relative_to(before) for name in files):
                if not (before / path).is_symlink():
                    _keep_file_access(before / path, after / path)
    else:
        shutil.copy2(before, after, follow_symlinks=False)
        if not before.is_symlink():
            _keep_file_access(before, after)


def _keep_file_access(before: Path, after: Path) -> None:
    descriptor = os.open(after, os.O_RDONLY | os.O_CLOEXEC)
    try:
        keep_access(before, descriptor)
    finally:
        os.close(descriptor)


def remove_work_folders(study: Study) -> None:
    """Remove the folders next to the catalog that a replacement uses."""
    restore_old_folder(study)
    for name in (_NEW, _OLD):
        with storage_errors(study.workdir / name, "remove"):
            if (study.workdir / name).exists():
                shutil.rmtree(study.workdir / name)


def restore_old_folder(study: Study) -> None:
    """Put an old catalog back that was moved away for a new one, if the new one never took its place."""
    old = study.workdir / _OLD
    if old.is_dir() and not os.path.lexists(study.catalog):
        with storage_errors(study.catalog, "restore"):
            os.rename(old, study.catalog)


def _flush(folder: Path) -> None:
    """Write a folder's whole file system to its device with syncfs(2), which reports data that could not be written."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if function is None:
        os.sync()
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if function(descriptor):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), os.fspath(folder))
    finally:
        os.close(descriptor)


def _exchanged(first: Path, second: Path) -> bool:
    """Exchange two names in one step; false if this system or file system cannot."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    names = (os.fsencode(first), os.fsencode(second))
    return bool(function(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)
