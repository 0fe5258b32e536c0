"""Zips that are never written: the bytes around the files are kept in memory, the files are read when they are sent.

Members are stored without compression, with fixed times and modes, so that the same files always give the same bytes:
any part of a zip can be sent, and an interrupted download can be resumed, even after a restart. ``zipfile`` makes the
format. Reads the files.
"""

from __future__ import annotations

import hashlib
import os
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from icf_utils.errors import storage_errors

_CHUNK = 1 << 20
_TIME = (1980, 1, 1, 0, 0, 0)
_MODE = 0o100644 << 16


@dataclass(frozen=True)
class ZippedFile:
    """A file, or ``size`` bytes of it from ``offset`` on, and its name in the zip."""

    name: str
    path: Path
    offset: int = 0
    size: int | None = None


@dataclass(frozen=True)
class _Piece:
    """Bytes of the zip: ``raw``, or ``size`` bytes of the file at ``path`` from ``offset`` on."""

    start: int
    size: int
    raw: bytes
    path: Path | None
    offset: int = 0


@dataclass(frozen=True)
class VirtualZip:
    """A zip of ``size`` bytes. ``sha256`` is its digest; ``tag`` is an entity tag without quotes."""

    size: int
    sha256: bytes
    tag: str
    pieces: tuple[_Piece, ...]

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from ``start`` to ``stop``, in blocks.

        Raises :class:`~icf_utils.errors.StorageFailure`, also if a file has become shorter.
        """
        for piece in self.pieces:
            first, last = max(start, piece.start), min(stop, piece.start + piece.size)
            if first < last and piece.path is None:
                yield piece.raw[first - piece.start : last - piece.start]
            elif first < last and piece.path is not None:
                yield from _read(piece.path, piece.offset + first - piece.start, last - first)


def _read(path: Path, start: int, size: int) -> Iterator[bytes]:
    with storage_errors(path, "read"), path.open("rb") as file:
        file.seek(start)
        while size:
            block = file.read(min(size, _CHUNK))
            if not block:
                raise OSError("it became shorter")
            size -= len(block)
            yield block


def files_fingerprint(members: Sequence[ZippedFile]) -> str:
    """A text that changes when the files change: of their names, sizes, times and inodes."""
    digest = hashlib.sha256()
    for member in members:
        with storage_errors(member.path, "examine"):
            status = os.stat(member.path)
        text = f"{member.name}\0{member.offset}:{member.size}:{status.st_size}:{status.st_mtime_ns}:{status.st_ino}\0"
        digest.update(text.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def make_virtual_zip(members: Sequence[ZippedFile]) -> VirtualZip:
    """Make a zip of files. Reads each twice: for its checksum in the zip, and for the digest of the zip."""
    recorder = _Recorder()
    with zipfile.ZipFile(cast(Any, recorder), "w") as archive:
        for member in members:
            info = zipfile.ZipInfo(_zip_name(member.name), _TIME)
            info.external_attr, info.create_system = _MODE, 3
            with storage_errors(member.path, "read"), member.path.open("rb") as file:
                left = os.fstat(file.fileno()).st_size - member.offset if member.size is None else member.size
                info.file_size = left
                file.seek(member.offset)
                with archive.open(info, "w") as target:
                    recorder.file, recorder.offset = member.path, member.offset
                    while block := file.read(min(_CHUNK, left)):
                        target.write(block)
                        left -= len(block)
                    recorder.file = None
    tag, whole = hashlib.sha256(), hashlib.sha256()
    for piece in recorder.pieces:
        tag.update(piece.raw)
    done = VirtualZip(recorder.end, b"", "", tuple(recorder.pieces))
    for block in done.read(0, done.size):
        whole.update(block)
    return VirtualZip(done.size, whole.digest(), tag.hexdigest(), done.pieces)


def _zip_name(name: str) -> str:
    """A name for the zip, with bytes that are not UTF-8 escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class _Recorder:
    """The file that ``zipfile`` writes to: keeps what it writes around the members, not their content."""

    def __init__(self) -> None:
        self.pieces: list[_Piece] = []
        self.file: Path | None = None
        self.offset = 0
        self.end = self._at = 0

    def write(self, data: bytes) -> int:
        size = len(data)
        if self._at < self.end:  # a member's header again, now with its checksum
            found = next(at for at in reversed(range(len(self.pieces))) if self.pieces[at].start == self._at)
            assert self.pieces[found].size == size
            self.pieces[found] = _Piece(self._at, size, bytes(data), None)
        elif self.file is not None and self.pieces and self.pieces[-1].path == self.file:
            last = self.pieces[-1]
            self.pieces[-1] = _Piece(last.start, last.size + size, b"", self.file, last.offset)
        else:
            self.pieces.append(_Piece(self._at, size, b"" if self.file else bytes(data), self.file, self.offset))
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


#: The number of zips that are kept, so that their checksums are not computed for each part of a download.
_KEPT = 64


class ZipCache:
    """Keeps zips while their files do not change. Safe for threads; each zip is made only once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, VirtualZip] = OrderedDict()
        self._making: dict[str, threading.Lock] = {}

    def get(self, members: Sequence[ZippedFile]) -> VirtualZip:
        """The zip of some files. Raises :class:`~icf_utils.errors.StorageFailure`."""
        fingerprint = files_fingerprint(members)
        with self._lock:
            making = self._making.setdefault(fingerprint, threading.Lock())
        with making:
            with self._lock:
                if known := self._known.get(fingerprint):
                    self._known.move_to_end(fingerprint)
                    return known
            made = make_virtual_zip(members)
            with self._lock:
                self._known[fingerprint] = made
                self._making.pop(fingerprint, None)
                while len(self._known) > _KEPT:
                    self._known.popitem(last=False)
        return made
