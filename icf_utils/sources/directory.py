"""A directory as input. Reads the directory tree and its files; writes nothing.

Names are handled as the bytes on disk and decoded as UTF-8 here, so that they do not depend on the locale.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from icf_utils.errors import InputRefused, StorageFailure
from icf_utils.results import Notice
from icf_utils.sources.leave_out import DEFAULT, LeftOut, left_out_notices
from icf_utils.sources.source import (
    FileReader,
    InputFile,
    empty_folder_notices,
    format_changes,
    name_notices,
    path_sort_key,
)

#: A file changed less than this many seconds ago may change again without a new time stamp: their clock is coarse.
_TICK = 0.05

_SPECIAL = {
    stat.S_IFIFO: "is a named pipe",
    stat.S_IFSOCK: "is a socket",
    stat.S_IFCHR: "is a device",
    stat.S_IFBLK: "is a device",
}


@dataclass(frozen=True)
class _FileState:
    """Identifies a file and its state, so that a later change is noticed."""

    path: bytes
    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


def _file_state(path: bytes, status: os.stat_result) -> _FileState:
    return _FileState(path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class DirectorySource:
    """All regular files below a directory, or only those named in ``only`` (relative to the directory, and inside it).

    Files whose names are in ``leave_out`` are not part of it; the notices name them. ``newest_change`` is the latest
    change of a file, or of a folder's content, in seconds since 1970, as the file system recorded it (``st_ctime``,
    which no program can set). Raises :class:`~icf_utils.errors.InputRefused`, which names every file that cannot be
    archived.
    """

    def __init__(self, path: str, only: Sequence[str] | None = None, leave_out: LeftOut = DEFAULT) -> None:
        self.label = path
        self._root = os.path.realpath(os.fsencode(path))
        self._only, self._leave_out = only, leave_out
        walk = _Walk(self._root, only, leave_out)
        if walk.refused:
            raise InputRefused(path, sorted(walk.refused), "Remove or replace these files and try again.")
        self._files = walk.files
        self.newest_change = walk.newest_ns / 1e9
        self.entries = tuple(
            sorted((InputFile(name, state.size) for name, state in walk.files.items()), key=path_sort_key)
        )
        self.notices: tuple[Notice, ...] = (
            *name_notices(self.entries),
            *empty_folder_notices(walk.folders, self.entries),
            *left_out_notices(walk.left_out),
        )

    @contextmanager
    def open(self, entry: InputFile) -> Iterator[FileReader]:
        """Open one file. Raises ``InputRefused`` if it changed since it was listed, or changes while it is read."""
        state = self._files[entry.name]
        _wait_for_clock_tick(state)
        try:
            descriptor = os.open(state.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
                raise self._changed(entry.name, "was removed or replaced") from error
            raise StorageFailure(_text(state.path), "read", error) from error
        try:
            self._compare(entry.name, os.fstat(descriptor))
            yield _FileReader(descriptor, _text(state.path))
            self._compare(entry.name, os.fstat(descriptor))
        finally:
            os.close(descriptor)

    def check_unchanged(self) -> None:
        """Walk the tree again and raise ``InputRefused`` if a file was added, removed or changed."""
        walk = _Walk(self._root, self._only, self._leave_out)
        names = sorted(set(walk.files) ^ set(self._files)) or [name for name, _ in walk.refused]
        if names:
            raise self._changed(names[0], "appeared or disappeared")
        for name, state in self._files.items():
            if walk.files[name] != state:
                raise self._changed(name, "changed")

    def _count_changes(self) -> str:
        """How many files were added, changed and removed since the input was listed."""
        now = _Walk(self._root, self._only, self._leave_out).files
        added, removed = len(set(now) - set(self._files)), len(set(self._files) - set(now))
        changed = sum(now[name] != seen for name, seen in self._files.items() if name in now)
        return format_changes(added, changed, removed)

    def _compare(self, name: str, status: os.stat_result) -> None:
        if _file_state(self._files[name].path, status) != self._files[name]:
            raise self._changed(name, "changed")

    def _changed(self, name: str, what: str) -> InputRefused:
        return InputRefused(
            self.label,
            [(name, f"{what} while the input was read")],
            f"Since it was listed: {self._count_changes()}. Wait until nothing writes to the input.",
        )


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _wait_for_clock_tick(state: _FileState) -> None:
    age = time.time() - max(state.mtime_ns, state.ctime_ns) / 1e9
    if 0 <= age < _TICK:
        time.sleep(_TICK - age)


class _FileReader:
    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor, self._path = descriptor, path

    def read(self, size: int) -> bytes:
        try:
            return os.read(self._descriptor, size)
        except OSError as error:
            raise StorageFailure(self._path, "read", error) from error


class _Walk:
    """The state of a tree, or of some of its files, at one time.

    ``files`` by relative name, ``folders``, the names that are ``left_out``, and ``refused`` ``(name, reason)`` pairs.
    ``newest_ns`` is the latest change in nanoseconds since 1970.
    """

    def __init__(self, root: bytes, only: Sequence[str] | None, leave_out: LeftOut) -> None:
        self._root, self._leave_out = root, leave_out
        self.newest_ns = 0
        self.left_out: list[str] = []
        self.files: dict[str, _FileState] = {}
        self.folders: list[str] = []
        self.refused: list[tuple[str, str]] = []
        if only is not None:
            for name in only:
                if leave_out.path(name):
                    self.left_out.append(name)
                else:
                    self._named(name)
            return
        pending = [b""]
        while pending:
            self._folder(pending.pop(), pending)

    def _named(self, name: str) -> None:
        path = os.path.join(self._root, name.encode("utf-8", "surrogateescape"))
        try:
            status = os.lstat(path)
        except OSError as error:
            self.refused.append((name, f"cannot be examined ({os.strerror(error.errno or 0)})"))
            return
        if stat.S_ISLNK(status.st_mode) or os.path.realpath(os.path.dirname(path)) != os.path.dirname(path):
            self._link(name, path)
        elif stat.S_ISDIR(status.st_mode):
            self.refused.append((name, "is a folder"))
        else:
            self._file(name, path, status)

    def _folder(self, name: bytes, pending: list[bytes]) -> None:
        try:
            with os.scandir(os.path.join(self._root, name)) as items:
                self._changed_at(os.stat(os.path.join(self._root, name)))
                for item in items:
                    self._item(name + b"/" + item.name if name else item.name, item, pending)
        except OSError as error:
            self.refused.append((_text(name) or ".", f"cannot be read as a folder ({os.strerror(error.errno or 0)})"))

    def _item(self, raw_name: bytes, item: os.DirEntry[bytes], pending: list[bytes]) -> None:
        name = _text(raw_name)
        if self._leave_out.path(name):
            self.left_out.append(name)
            return
        try:
            status = item.stat(follow_symlinks=False)
        except OSError as error:
            self.refused.append((name, f"cannot be examined ({os.strerror(error.errno or 0)})"))
            return
        if stat.S_ISDIR(status.st_mode):
            self.folders.append(name)
            pending.append(raw_name)
        elif stat.S_ISLNK(status.st_mode):
            self._link(name, item.path)
        else:
            self._file(name, item.path, status)

    def _link(self, name: str, path: bytes) -> None:
        try:
            real = os.path.realpath(path, strict=True)
            status = os.lstat(real)
        except OSError:
            self.refused.append((name, "is a broken symbolic link"))
            return
        if not real.startswith(self._root.rstrip(b"/") + b"/"):
            self.refused.append((name, "is a symbolic link to a place outside the input"))
        elif stat.S_ISDIR(status.st_mode):
            self.refused.append((name, "is a symbolic link to a folder"))
        else:
            self._file(name, real, status)

    def _file(self, name: str, path: bytes, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            self.refused.append((name, _SPECIAL.get(stat.S_IFMT(status.st_mode), "is not a regular file")))
        elif not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
            self.refused.append((name, "cannot be read (no permission)"))
        else:
            self.files[name] = _file_state(path, status)
            self._changed_at(status)

    def _changed_at(self, status: os.stat_result) -> None:
        self.newest_ns = max(self.newest_ns, status.st_ctime_ns)
