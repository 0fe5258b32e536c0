"""Fingerprints of files and folders, and when a recorded one is trusted. Reads files; writes nothing.

A fingerprint holds the MD5 of the content, the size, and a stamp of what the file system says about the file (time of
the last modification and inode). While size and stamp are unchanged, the recorded MD5 is trusted and the file is not
read.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

from icf_utils.archive.checksum import file_md5
from icf_utils.errors import StorageFailure, storage_errors
from icf_utils.sources.leave_out import DEFAULT, LeftOut

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Fingerprint:
    """The fingerprint of a file, or of a folder with everything in it: MD5 of the content, size in bytes, and stamp.

    The digest is empty if it was not computed, see :class:`Fingerprinter`.
    """

    digest: str
    size: int
    stamp: str


@dataclass(frozen=True)
class SourceFingerprint:
    """What an input looked like when it was archived: number and total size of its files, and a stamp of their listing.

    ``latest`` is the latest status change (``st_ctime``) of its files, in nanoseconds.
    """

    path: str
    files: int
    size: int
    latest: int
    stamp: str


class Fingerprinter:
    """Computes fingerprints of files below a folder, by their names relative to it.

    ``known`` fingerprints are trusted unless ``paranoid``. With ``quick``, no file is read and each is examined only
    once: the digest of a file that is unknown or looks different stays empty.
    """

    def __init__(
        self, folder: Path, known: Mapping[str, Fingerprint], paranoid: bool = False, quick: bool = False
    ) -> None:
        self._folder = os.fspath(folder)
        self._known = {} if paranoid else dict(known)
        self._quick = quick
        self._seen: dict[str, os.stat_result | None] = {}

    def record_digest(self, name: str, digest: str) -> None:
        """Take over a digest that was just computed from the file's bytes."""
        if status := self._status(name):
            self._known[name] = Fingerprint(digest, status.st_size, _stamp(status))

    def exists(self, name: str) -> bool:
        """Whether there is a file or folder of this name. Raises ``StorageFailure``."""
        return self._status(name) is not None

    def fingerprint(self, name: str) -> Fingerprint | None:
        """The fingerprint of a file or folder, or ``None`` if it does not exist. Raises ``StorageFailure``."""
        status = self._status(name)
        if status is None:
            return None
        return self._of_folder(name) if stat.S_ISDIR(status.st_mode) else self._of_file(name, status)

    def fingerprints(self, names: Iterable[str]) -> dict[str, Fingerprint]:
        """The fingerprints of those that exist."""
        return {name: fingerprint for name in names if (fingerprint := self.fingerprint(name))}

    def _status(self, name: str) -> os.stat_result | None:
        if self._quick and name in self._seen:
            return self._seen[name]
        path = f"{self._folder}/{name}"
        try:
            status: os.stat_result | None = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            status = None
        except OSError as error:
            raise StorageFailure(path, "examine", error) from error
        self._seen[name] = status
        return status

    def _of_file(self, name: str, status: os.stat_result) -> Fingerprint:
        known, stamp = self._known.get(name), _stamp(status)
        if known and (known.size, known.stamp) == (status.st_size, stamp):
            return known
        digest = "" if self._quick else file_md5(f"{self._folder}/{name}")
        return self._keep(name, Fingerprint(digest, status.st_size, stamp))

    def _of_folder(self, name: str) -> Fingerprint:
        files = _listing(f"{self._folder}/{name}")
        size, stamp = sum(status.st_size for _, status in files), _listing_stamp(files, _stamp)
        known = self._known.get(name)
        if known and (known.size, known.stamp) == (size, stamp):
            return known
        if self._quick:
            return Fingerprint("", size, stamp)
        digest = hashlib.md5(usedforsecurity=False)
        for below, _ in files:
            content = file_md5(f"{self._folder}/{name}/{below}")
            digest.update(f"{content} {below}\0".encode("utf-8", "surrogateescape"))
        return self._keep(name, Fingerprint(digest.hexdigest(), size, stamp))

    def _keep(self, name: str, fingerprint: Fingerprint) -> Fingerprint:
        self._known[name] = fingerprint
        return fingerprint


def fingerprint_source(path: Path, leave_out: LeftOut = DEFAULT) -> SourceFingerprint | None:
    """Fingerprint an input without reading its files; ``None`` if it does not exist."""
    with storage_errors(path, "read"):
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
    files = [(path.name, status)]
    if stat.S_ISDIR(status.st_mode):
        files = [item for item in _listing(os.fspath(path)) if not leave_out.path(item[0])]
    return SourceFingerprint(
        path=str(path),
        files=len(files),
        size=sum(status.st_size for _, status in files),
        latest=max((status.st_ctime_ns for _, status in files), default=0),
        stamp=_listing_stamp(files, lambda status: f"{_stamp(status)}:{status.st_ctime_ns}"),
    )


def changed_files(path: Path, then: SourceFingerprint) -> list[str]:
    """The files of an input whose status changed since ``then`` (content, name or mode), sorted."""
    if not path.is_dir():
        return [path.name]
    return [name for name, status in _listing(os.fspath(path)) if status.st_ctime_ns > then.latest]


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns}:{status.st_ino}"


def _listing(folder: str) -> list[tuple[str, os.stat_result]]:
    """All files below a folder by relative name, sorted, links followed. Special files are left to the archive
    stage.
    """
    found, pending = [], [""]
    while pending:
        below = pending.pop()
        with storage_errors(folder, "read"), os.scandir(f"{folder}/{below}") as items:
            for item in items:
                if item.is_dir(follow_symlinks=False):
                    pending.append(f"{below}{item.name}/")
                else:
                    found.append((f"{below}{item.name}", _status(item)))
    return sorted(found, key=itemgetter(0))


def _status(item: os.DirEntry[str]) -> os.stat_result:
    try:
        return item.stat()
    except OSError:  # a link that leads nowhere
        return item.stat(follow_symlinks=False)


def _listing_stamp(files: Iterable[tuple[str, os.stat_result]], stamp: Callable[[os.stat_result], str]) -> str:
    text = "\0".join(f"{name}\0{status.st_size}:{stamp(status)}" for name, status in files)
    return hashlib.md5(text.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest()
