"""Replace a whole catalog at once. Writes in ``STORE/STUDY/.icf`` and exchanges the result with the catalog's folder.

The new folder is written and flushed first. It is then exchanged with the old one in a single step if the system can do
that (renameat2(2) of Linux with RENAME_EXCHANGE), else by two renames; :func:`restore_old_folder` repairs what a crash
between these two leaves. Callers hold the catalog's lock.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from icf_utils.errors import storage_errors
from icf_utils.store.files import make_folders, make_workdir, share_file, sync_folder
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


def add_files(study: Study, files: Mapping[str, bytes]) -> None:
    """Write files of the new catalog. They are not visible yet, so they are flushed together at the end."""
    for name, data in files.items():
        path = study.workdir / _NEW / name
        with storage_errors(path, "write"):
            make_folders(study.root, path.parent)
            with path.open("xb") as handle:
                share_file(study.root, handle.fileno())
                handle.write(data)


def publish_new_folder(study: Study) -> None:
    """Put the new catalog in the place of the old one, and remove the old one."""
    new, catalog = study.workdir / _NEW, study.catalog
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
