"""Digests of files and folders, and when an earlier one may be trusted. Reads files; writes nothing.

A mark holds a digest of the content, the size, and a stamp of what the file system says about the file (time of the
last change of its content, inode). While size and stamp are the same the digest is not computed again.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from icf_utils.errors import storage_errors

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Mark:
    """A file, or a folder with all that is in it: MD5 of its content, size in bytes, and a stamp.

    The digest is empty where it was not computed, see :class:`Marker`.
    """

    digest: str
    size: int
    stamp: str


@dataclass(frozen=True)
class SourceMark:
    """What an input looked like when it was archived: number and bytes of its files, and a stamp of their listing.

    ``latest`` is the newest time, in nanoseconds, at which the system changed one of its files in any way.
    """

    path: str
    files: int
    size: int
    latest: int
    stamp: str


class Marker:
    """Marks files; trusts the digests it is given, by path, unless it is ``paranoid``.

    A ``quick`` one reads no file: the digest of one that is not known, or looks different, stays empty.
    """

    def __init__(self, known: Mapping[Path, Mark], paranoid: bool = False, quick: bool = False) -> None:
        self._known = {} if paranoid else dict(known)
        self._quick = quick

    def learn(self, path: Path, digest: str) -> None:
        """Take a digest that somebody has just computed from the file's bytes."""
        with storage_errors(path, "examine"):
            status = os.stat(path)
        self._keep(path, Mark(digest, status.st_size, _stamp(status)))

    def mark(self, path: Path) -> Mark | None:
        """The mark of a file or folder; ``None`` where there is none. Raises ``StorageFailure``."""
        with storage_errors(path, "examine"):
            try:
                status = os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                return None
        return self._folder(path) if stat.S_ISDIR(status.st_mode) else self._file(path, status)

    def _file(self, path: Path, status: os.stat_result) -> Mark:
        known = self._known.get(path)
        if known and (known.size, known.stamp) == (status.st_size, _stamp(status)):
            return known
        digest = "" if self._quick else file_digest(path)
        return self._keep(path, Mark(digest, status.st_size, _stamp(status)))

    def _folder(self, path: Path) -> Mark:
        files = list(_listing(path))
        size, stamp = sum(status.st_size for _, status in files), _listing_stamp(files, _stamp)
        known = self._known.get(path)
        if known and (known.size, known.stamp) == (size, stamp):
            return known
        if self._quick:
            return Mark("", size, stamp)
        digest = hashlib.md5(usedforsecurity=False)
        for name, _ in files:
            digest.update(f"{file_digest(path / name)} {name}\0".encode("utf-8", "surrogateescape"))
        return self._keep(path, Mark(digest.hexdigest(), size, stamp))

    def _keep(self, path: Path, mark: Mark) -> Mark:
        self._known[path] = mark
        return mark


def file_digest(path: Path) -> str:
    """The MD5 of a file's bytes."""
    digest = hashlib.md5(usedforsecurity=False)
    with storage_errors(path, "read"), open(path, "rb", buffering=0) as handle:
        while block := handle.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def mark_source(path: Path) -> SourceMark | None:
    """What an input looks like now, without reading a file of it; ``None`` where it is not there."""
    with storage_errors(path, "read"):
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        files = list(_listing(path)) if stat.S_ISDIR(status.st_mode) else [(path.name, status)]
    return SourceMark(
        path=str(path),
        files=len(files),
        size=sum(status.st_size for _, status in files),
        latest=max((status.st_ctime_ns for _, status in files), default=0),
        stamp=_listing_stamp(files, lambda status: f"{_stamp(status)}:{status.st_ctime_ns}"),
    )


def changed_names(path: Path, then: SourceMark) -> list[str]:
    """The files of an input that were changed, moved in or had their modes changed since; sorted."""
    if not path.is_dir():
        return [path.name]
    return [name for name, status in _listing(path) if status.st_ctime_ns > then.latest]


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns}:{status.st_ino}"


def _listing(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """All files below a folder by relative name, sorted, links followed; what is odd is left to the archive stage."""
    found = []
    pending = [""]
    while pending:
        below = pending.pop()
        with storage_errors(folder / below, "read"), os.scandir(folder / below) as items:
            for item in items:
                name = f"{below}/{item.name}" if below else item.name
                if item.is_dir(follow_symlinks=False):
                    pending.append(name)
                else:
                    found.append((name, _status(item)))
    yield from sorted(found, key=lambda entry: entry[0])


def _status(item: os.DirEntry[str]) -> os.stat_result:
    try:
        return item.stat()
    except OSError:  # a link that leads nowhere
        return item.stat(follow_symlinks=False)


def _listing_stamp(files: list[tuple[str, os.stat_result]], stamp: Callable[[os.stat_result], str]) -> str:
    text = "\0".join(f"{name}\0{status.st_size}:{stamp(status)}" for name, status in files)
    return hashlib.md5(text.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest()
