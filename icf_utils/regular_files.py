"""Open files of a store without waiting for anybody: only regular files are opened. Reads; writes nothing.

A name in a store may lead to something else that somebody put there: a named pipe, of which reading waits for a writer,
or a device such as ``/dev/zero``, which never ends. A symbolic link to a regular file is followed.
"""

from __future__ import annotations

import errno
import io
import os
import stat

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotARegularFile(OSError):
    """A name leads to a pipe, a socket or a device."""


def kind_of_special(path: str | os.PathLike[str]) -> str:
    """What a name leads to if that is neither a regular file nor a folder; empty for these, and where nothing is."""
    try:
        return _KINDS.get(stat.S_IFMT(os.stat(path).st_mode), "")
    except OSError:
        return ""


def open_regular(path: str | os.PathLike[str]) -> io.FileIO:
    """Open a regular file for reading, without a buffer. Raises ``OSError``; :class:`NotARegularFile` for others."""
    _check(os.stat(path).st_mode, path)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _check(os.fstat(descriptor).st_mode, path)
        return io.FileIO(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike[str]) -> bytes:
    """Read a regular file. Raises ``OSError``; :class:`NotARegularFile` for others."""
    with open_regular(path) as file:
        return file.readall()


def _check(mode: int, path: str | os.PathLike[str]) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        raise NotARegularFile(f"it is {_KINDS.get(stat.S_IFMT(mode), 'something else')}, not a file")
