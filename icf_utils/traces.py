"""What a process leaves on the disk: folders made on the way, files that are not finished, and who may use them.

Touches folders and modes, and remembers for this process what must be gone when it is interrupted: a signal may be
heard between any two steps, also where no ``finally`` holds yet. Knows nothing of what the files are.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from icf_utils.config import SETTINGS_NAME, load_settings

#: What a group-shared store adds: its group may read every file, and change what lies in a folder. New folders hand
#: their group on (setgid), so that it does not matter who makes them.
_SHARED_FILE, _SHARED_FOLDER = stat.S_IRGRP, stat.S_ISGID | stat.S_IRWXG

_ATTEMPTS = 3

#: Unfinished files of this process, by path; those of fixed names with the content that only its own have.
_unfinished: dict[Path, bytes | None] = {}

#: Folders above the studies that this process has made, the innermost first, by store.
_made: dict[Path, list[Path]] = {}


def expect(path: Path, content: bytes | None = None) -> None:
    """A file is about to be made that must not outlive an interrupt; with ``content``, only if it has just that."""
    _unfinished[path] = content


def settle(path: Path) -> None:
    """The file is gone, or has become what it should."""
    _unfinished.pop(path, None)


def remove(path: Path) -> None:
    """Remove a file that is not needed any more, if it is there; a fault that passes is no reason to leave it."""
    for _ in range(_ATTEMPTS):
        with suppress(OSError):
            path.unlink(missing_ok=True)
            settle(path)
            return


def sweep() -> None:
    """Remove what an interrupt left of this process's unfinished files, and folders that are empty then."""
    for path, content in list(_unfinished.items()):
        with suppress(OSError):
            if content is None or path.read_bytes() == content:
                remove(path)
        settle(path)
        with suppress(OSError):  # the work folder and the study's; others stop at the first that is not empty
            path.parent.rmdir()
            path.parent.parent.rmdir()
    for root in list(_made):
        remove_made(root)


def make_folders(root: Path, folder: Path) -> None:
    """Make ``folder`` of the store at ``root``, and what is missing above it. Raises ``OSError``.

    The store's own folder, and those above, are remembered: see :func:`remove_made`. The names of these, and of a
    study's folder, are durable on return.
    """
    missing = [folder] if not folder.is_dir() else []
    while missing and missing[-1] != missing[-1].parent and not missing[-1].parent.is_dir():
        missing.append(missing[-1].parent)
    above = [path for path in missing if path == root or path in root.parents]
    if above:
        _made[root] = above
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


def remove_made(root: Path) -> None:
    """Remove the store's folder, and those above it, if this process has made them and nothing is in them."""
    with suppress(OSError):
        for path in _made.get(root, []):
            path.rmdir()
        _made.pop(root, None)


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
