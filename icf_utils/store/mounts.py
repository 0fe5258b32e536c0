"""Which file system a path is on, as proc(5) lists the mounts of this process. Reads ``/proc``; writes nothing."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path

#: File systems on a block device, or in memory, that only one kernel has mounted at a time; ``overlay`` refuses to
#: write to others. Network and cluster file systems, and those of other programs (FUSE, 9p, virtiofs), are not among
#: them.
_OWN_DISK = frozenset(
    ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "bcachefs", "vfat", "exfat", "tmpfs", "overlay")
)

_ESCAPE = re.compile(rb"\\([0-7]{3})")


def is_on_own_disk(folder: Path) -> bool:
    """Whether a folder is on a disk that only this machine's kernel writes to; false where it is not known."""
    try:
        return _kind(os.path.realpath(folder), os.stat(folder).st_dev) in _OWN_DISK
    except OSError:
        return False


def is_mount(path: str) -> bool:
    """Whether a file or folder is itself a mount point, as of a bind mount."""
    return os.fsencode(path) in _mounts()


@lru_cache(maxsize=64)
def _kind(folder: str, _device: int) -> str:
    """The type of a folder's file system; empty where it is not known."""
    path, mounts = os.fsencode(folder), _mounts()
    while path not in mounts and path != (above := os.path.dirname(path)):
        path = above
    return mounts.get(path, "")


def _mounts() -> dict[bytes, str]:
    """The types of file systems by mount point; the last mount of several at one place counts."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        words, _, rest = line.partition(b" - ")
        if len(fields := words.split()) > 4 and rest:
            point = _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), fields[4])
            found[point] = rest.split()[0].decode("ascii", "replace")
    return found
