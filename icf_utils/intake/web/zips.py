"""A zip that is never written: its skeleton is made once, and any part of it can be read. Reads the files in it.

Members are stored, not compressed, with fixed times and modes, so that the same files are the same bytes, today and
after a restart: an interrupted download goes on where it stopped (RFC 9110 section 14). ``zipfile`` makes the format.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from icf_utils.errors import storage_errors

_CHUNK = 1 << 20
_TIME = (1980, 1, 1, 0, 0, 0)
_MODE = 0o100644 << 16


@dataclass(frozen=True)
class Member:
    """A file under a name in the zip."""

    name: str
    path: Path


@dataclass(frozen=True)
class _Piece:
    """Bytes of the zip: given ones, or ``size`` bytes that are the whole of a file."""

    start: int
    size: int
    raw: bytes
    path: Path | None


@dataclass(frozen=True)
class VirtualZip:
    """A zip of ``size`` bytes. ``sha256`` is over all of them; ``tag`` is an entity tag without its quotes."""

    size: int
    sha256: bytes
    tag: str
    pieces: tuple[_Piece, ...]

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from ``start`` up to ``stop``, in blocks.

        Raises :class:`~icf_utils.errors.StorageFailure`, also for a file that has become shorter.
        """
        for piece in self.pieces:
            first, last = max(start, piece.start), min(stop, piece.start + piece.size)
            if first < last and piece.path is None:
                yield piece.raw[first - piece.start : last - piece.start]
            elif first < last and piece.path is not None:
                yield from _read(piece.path, first - piece.start, last - first)


def _read(path: Path, start: int, size: int) -> Iterator[bytes]:
    with storage_errors(path, "read"), path.open("rb") as file:
        file.seek(start)
        while size:
            block = file.read(min(size, _CHUNK))
            if not block:
                raise OSError("it has become shorter")
            size -= len(block)
            yield block


def stamp_of(members: Sequence[Member]) -> str:
    """What tells whether a zip of these files is still the one that was made: names, sizes, times, inodes."""
    digest = hashlib.sha256()
    for member in members:
        with storage_errors(member.path, "examine"):
            status = os.stat(member.path)
        text = f"{member.name}\0{status.st_size}:{status.st_mtime_ns}:{status.st_ino}\0"
        digest.update(text.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def virtual_zip(members: Sequence[Member]) -> VirtualZip:
    """Read all files twice: for the checksums in the zip, and for that of the zip. Nothing is written."""
    sink = _Sink()
    with zipfile.ZipFile(cast(Any, sink), "w") as archive:
        for member in members:
            info = zipfile.ZipInfo(_text(member.name), _TIME)
            info.external_attr, info.create_system = _MODE, 3
            with storage_errors(member.path, "read"), member.path.open("rb") as file:
                info.file_size = os.fstat(file.fileno()).st_size
                with archive.open(info, "w") as target:
                    sink.file = member.path
                    while block := file.read(_CHUNK):
                        target.write(block)
                    sink.file = None
    tag, whole = hashlib.sha256(), hashlib.sha256()
    for piece in sink.pieces:
        tag.update(piece.raw)
    done = VirtualZip(sink.end, b"", "", tuple(sink.pieces))
    for block in done.read(0, done.size):
        whole.update(block)
    return VirtualZip(done.size, whole.digest(), tag.hexdigest(), done.pieces)


def _text(name: str) -> str:
    """Bytes of names that are no UTF-8 cannot stand in a zip; they are escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class _Sink:
    """Takes the place of the zip's file: keeps what ``zipfile`` writes around the members, not what is in them."""

    def __init__(self) -> None:
        self.pieces: list[_Piece] = []
        self.file: Path | None = None
        self.end = self._at = 0

    def write(self, data: bytes) -> int:
        size = len(data)
        if self._at < self.end:  # the header of a member once more, now with its checksum
            found = next(at for at in reversed(range(len(self.pieces))) if self.pieces[at].start == self._at)
            assert self.pieces[found].size == size
            self.pieces[found] = _Piece(self._at, size, bytes(data), None)
        elif self.file is not None and self.pieces and self.pieces[-1].path == self.file:
            last = self.pieces[-1]
            self.pieces[-1] = _Piece(last.start, last.size + size, b"", self.file)
        else:
            self.pieces.append(_Piece(self._at, size, b"" if self.file else bytes(data), self.file))
        self._at += size
        self.end = max(self.end, self._at)
        return size

    def tell(self) -> int:
        return self._at

    def seek(self, position: int, whence: int = 0) -> int:
        self._at = self.end + position if whence == 2 else position
        return self._at

    def flush(self) -> None:
        pass

    def seekable(self) -> bool:
        return True
