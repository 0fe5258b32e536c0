"""Bytes of files on this machine, by path or ``file://`` URL. Reads these files, writes nothing."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote_to_bytes, urlsplit

from icf_utils.errors import InvalidSetting, StorageFailure
from icf_utils.fetch.errors import FetchFailure, Kind
from icf_utils.fetch.source import CHUNK
from icf_utils.formatting import format_count

#: The request by which Linux lets a file share the blocks of another one (linux/fs.h); Btrfs, XFS, NFS 4.2 and others.
_FICLONE = 0x40049409


def path_of(url: str) -> Path:
    """The file that a ``file://`` URL (RFC 8089) names. Raises :class:`~icf_utils.errors.InvalidSetting`."""
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise InvalidSetting(url, "expected file:///PATH: an absolute path on this machine, with three slashes")
    return Path(os.fsdecode(unquote_to_bytes(parts.path)))


class FileSource:
    """A file on this machine, of ``expected`` bytes; see :class:`~icf_utils.fetch.source.Source`."""

    def __init__(self, path: Path, expected: int | None = None) -> None:
        self._path, self._expected = path, expected
        self._state: tuple[int, int, int] | None = None

    @property
    def where(self) -> str:
        return os.fspath(self._path)

    def size(self) -> int:
        with self._open() as file:
            return os.fstat(file.fileno()).st_size

    def exists(self) -> bool:
        try:
            self.size()
        except FetchFailure as failure:
            if failure.kind == "missing":
                return False
            raise
        return True

    def read(self, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        with self._open() as file:
            end = os.fstat(file.fileno()).st_size if size is None else start + size
            file.seek(start)
            while start < end:
                chunk = self._piece(file, min(CHUNK, end - start))
                if not chunk:
                    raise self._failure(
                        "size", f"expected at least {format_count(end, 'byte')}, found {start}", "it is damaged"
                    )
                start += len(chunk)
                yield chunk
            self._compare(file)

    def share_with(self, file: BinaryIO) -> bool:
        """Give an empty file all of the content by sharing its blocks (reflink), on file systems that can do so.

        Returns false where they cannot; then the file is still empty.
        """
        with self._open() as own:
            try:
                fcntl.ioctl(file.fileno(), _FICLONE, own.fileno())
            except OSError:
                return False
            self._compare(own)
        return True

    def _open(self) -> BinaryIO:
        try:
            file = self._path.open("rb")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise self._failure("missing", "no such file", "check the address") from error
        except PermissionError as error:
            raise self._failure("forbidden", "permission denied", "ask its owner for access") from error
        except OSError as error:
            raise StorageFailure(self._path, "read", error) from error
        try:
            self._compare(file)
        except BaseException:
            file.close()
            raise
        return file

    def _piece(self, file: BinaryIO, size: int) -> bytes:
        try:
            return file.read(size)
        except OSError as error:
            raise StorageFailure(self._path, "read", error) from error

    def _compare(self, file: BinaryIO) -> None:
        found = os.fstat(file.fileno())
        state = (found.st_ino, found.st_size, found.st_mtime_ns)
        if self._expected not in (None, found.st_size):
            problem = f"expected {format_count(self._expected, 'byte')} in total, found {found.st_size}"
            raise self._failure("size", problem, "it is another file, or damaged")
        self._state = self._state or state
        if self._state != state:
            raise self._failure("changed", "it changed while it was read", "run the same command again")

    def _failure(self, kind: Kind, problem: str, remedy: str) -> FetchFailure:
        return FetchFailure(self.where, problem, remedy, kind=kind)
