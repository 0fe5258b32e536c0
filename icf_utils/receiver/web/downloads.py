"""Zips as answers: whole, or a part of one (RFC 9110 section 14), with checksum (RFC 9530). Reads through the shelf.

A zip that is never written: its skeleton is made once, and any part of it can be read. Reads the files in it.

Members are stored, not compressed, with fixed times and modes, so that the same files are the same bytes, today and
after a restart: an interrupted download goes on where it stopped (RFC 9110 section 14). ``zipfile`` makes the format.


What can be downloaded of a session: its images, its results, its log. Reads the session's folder and the store.

Every path comes from the journal or the store's own names, never from a client.
"""

from __future__ import annotations

import base64
import hashlib
import os
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from flask import Request, Response

from icf_utils.errors import IcfError, storage_errors
from icf_utils.receiver.model import Session
from icf_utils.sources.selection import list_files
from icf_utils.store.layout import VISIT_SUFFIXES, Visit


def zip_response(request: Request, found: VirtualZip, name: str) -> Response:
    """The zip, or the part that the request asks for. ``name`` is for the client's disk."""
    tag = f'"{found.tag}"'
    if found.tag in request.if_none_match:
        return Response(status=304, headers={"ETag": tag})
    span = _span(request, found)
    if span is None:
        return Response(status=416, headers={"Content-Range": f"bytes */{found.size}", "ETag": tag})
    start, stop = span
    is_part = (start, stop) != (0, found.size) or ("Range" in request.headers and _range_counts(request, found))
    response = Response(
        _blocks(found, start, stop) if request.method == "GET" else b"",
        status=206 if is_part else 200,
        mimetype="application/zip",
        direct_passthrough=True,
    )
    response.headers["Content-Length"] = str(stop - start)
    response.headers["Accept-Ranges"] = "bytes"
    response.headers["ETag"] = tag
    response.headers["Repr-Digest"] = f"sha-256=:{base64.b64encode(found.sha256).decode('ascii')}:"
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    response.headers["Cache-Control"] = "private, no-cache"
    if is_part:
        response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{found.size}"
    return response


def _range_counts(request: Request, found: VirtualZip) -> bool:
    """A range of an older zip (If-Range) is answered by the whole new one; so are several ranges at once."""
    condition = request.if_range
    if condition is not None and (condition.etag or condition.date) and condition.etag != found.tag:
        return False
    wanted = request.range
    return wanted is not None and wanted.units == "bytes" and len(wanted.ranges) == 1


def _span(request: Request, found: VirtualZip) -> tuple[int, int] | None:
    """First byte and the one behind the last; ``None`` for a range that the zip does not have."""
    if not _range_counts(request, found):
        return 0, found.size
    assert request.range is not None
    return request.range.range_for_length(found.size)


def _blocks(found: VirtualZip, start: int, stop: int) -> Iterator[bytes]:
    try:
        yield from found.read(start, stop)
    except IcfError:  # too late for another status: the connection is cut, and the client asks for the rest
        raise OSError("a file changed or could not be read while it was sent") from None


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


#: How many zips are remembered, so that the parts of a download need no new checksums.
_REMEMBERED = 64


class NothingThere(IcfError):
    """A session has no such file now; the message says why."""


def input_members(session: Session) -> list[Member]:
    """What came in, below ``<id>/INPUT/``. Raises :class:`NothingThere`."""
    place = session.input
    if session.state == "receiving":
        raise NothingThere(f"the images of {session.id} are still coming")
    if place.is_dir():
        names = list_files(os.fspath(place))
        members = [Member(f"{session.id}/INPUT/{name}", place / name) for name in names if (place / name).is_file()]
    else:
        members = [Member(f"{session.id}/INPUT/{place.name}", place)] if place.is_file() else []
    if not members:
        raise NothingThere(f"the images of {session.id} are not kept any more, or none have come")
    return members


def output_members(session: Session, store: Path) -> list[Member]:
    """The visit's files in the store, below ``<id>/OUTPUT/``. Raises :class:`NothingThere`."""
    if session.state not in ("success", "partial"):
        raise NothingThere(f"{session.id} has no results: it is {session.state}")
    place = Visit(store, session.study, session.visit)
    paths = [place.of_study.folder / f"{session.visit}{suffix}" for suffix in VISIT_SUFFIXES]
    members = [Member(f"{session.id}/OUTPUT/{path.name}", path) for path in paths if path.is_file()]
    if not members:
        raise NothingThere(f"the files of {session.name} are not in the store any more")
    return members


def log_status(session: Session) -> tuple[int, float | None]:
    """Size of the log in bytes and when it last changed; nothing where there is none."""
    try:
        status = os.stat(session.log)
    except OSError:
        return 0, None
    return status.st_size, status.st_mtime


def read_log(session: Session) -> bytes:
    """The log's bytes; empty where there is none yet."""
    with storage_errors(session.log, "read"):
        try:
            return session.log.read_bytes()
        except FileNotFoundError:
            return b""


class ZipShelf:
    """Remembers zips of files that have not changed; safe for threads, which do not make the same one twice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, VirtualZip] = OrderedDict()
        self._making: dict[str, threading.Lock] = {}

    def zip_of(self, members: Sequence[Member]) -> VirtualZip:
        """The zip of these files. Raises :class:`~icf_utils.errors.StorageFailure`."""
        stamp = stamp_of(members)
        with self._lock:
            making = self._making.setdefault(stamp, threading.Lock())
        with making:
            with self._lock:
                if known := self._known.get(stamp):
                    self._known.move_to_end(stamp)
                    return known
            made = virtual_zip(members)
            with self._lock:
                self._known[stamp] = made
                self._making.pop(stamp, None)
                while len(self._known) > _REMEMBERED:
                    self._known.popitem(last=False)
        return made
