"""Whether a file can be replaced or removed, found out before it is tried. Reads file attributes, writes nothing.

A change of several files must not fail in its middle. Permission to replace or remove a file is that of its folder;
root has it nearly always, but neither root nor the owner can replace a file or change a folder that is marked
*immutable* or *append-only* (``chattr +i``, ``+a``; ``chflags`` on macOS), as some archives protect their files.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import sys
from contextlib import suppress
from pathlib import Path

from icf_utils.errors import storage_errors

#: FS_IOC_GETFLAGS, FS_IMMUTABLE_FL and FS_APPEND_FL of linux/fs.h, for machines of 64 bits.
_GET_FLAGS, _LINUX_FIXED = 0x80086601, 0x10 | 0x20

_BSD_FIXED = stat.UF_IMMUTABLE | stat.UF_APPEND | stat.SF_IMMUTABLE | stat.SF_APPEND


def refuse_fixed(target: Path) -> None:
    """Raise :class:`~icf_utils.errors.StorageFailure` if ``target`` cannot be replaced or removed, as far as is known.

    It need not exist, nor need its folder. A folder can be removed if all that is in it can.
    """
    parent = next(folder for folder in target.parents if folder.is_dir())
    with storage_errors(parent, "change the files in"):
        if not os.access(parent, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with storage_errors(target, "replace"):
        if _is_fixed(parent) or _is_fixed(target) or _is_anothers(target, parent):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
    if target.is_dir() and not target.is_symlink():
        for below, _, names in os.walk(target):
            for name in names:
                refuse_fixed(Path(below, name))


def _is_fixed(path: Path) -> bool:
    """Whether the file system lets nobody replace a file, or change a folder; false where it does not say."""
    with suppress(OSError):
        status = os.lstat(path)
        if getattr(status, "st_flags", 0) & _BSD_FIXED:
            return True
        if sys.platform == "linux" and (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                raw = fcntl.ioctl(descriptor, _GET_FLAGS, bytes(8))
            finally:
                os.close(descriptor)
            return bool(struct.unpack("=q", raw)[0] & _LINUX_FIXED)
    return False


def _is_anothers(target: Path, parent: Path) -> bool:
    """Whether the folder lets only owners remove files (its sticky bit), and this one is another user's."""
    with suppress(OSError):
        folder = os.stat(parent)
        if folder.st_mode & stat.S_ISVTX:
            return os.geteuid() not in (0, folder.st_uid, os.lstat(target).st_uid)
    return False
