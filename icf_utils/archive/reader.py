"""One sequential pass over an archive: members with their places, content on demand, the whole file's MD5.

Reads that one file. Understands what ``make_studyvisit_archive`` writes (PAX, regular files); members of another kind,
as older tools stored links, are passed on as such and never followed.
"""

from __future__ import annotations

import math
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from icf_utils.archive.hashing import BackgroundMd5
from icf_utils.archive.tar_headers import BLOCK, parse_pax_records
from icf_utils.errors import DepositDamaged, storage_errors
from icf_utils.formatting import format_count
from icf_utils.progress import Task

_CHUNK = 1 << 20
_REMEDY = "restore the archive from a copy, or make it again from the visit's files"
_EXTENDED, _REGULAR = (b"x",), (b"0", b"\0")
_OTHER_KINDS = (b"1", b"2", b"3", b"4", b"5", b"6")
_LONGEST_EXTENDED_HEADER = 1 << 20


@dataclass(frozen=True)
class Member:
    """One member: ``offset`` is the byte position of its content in the archive, ``size`` the content's length,

    ``mtime`` its time in seconds since 1970. ``is_file`` is false for links and the like.
    """

    name: str
    size: int
    offset: int
    mtime: float
    is_file: bool


class ArchivePass:
    """Read an open archive once from its beginning to its end. Close it to end its background thread.

    Raises :class:`~icf_utils.errors.DepositDamaged` where the file is cut or no such archive.
    """

    def __init__(self, handle: BinaryIO, path: Path, task: Task) -> None:
        self._handle, self._path, self._task = handle, path, task
        self._md5 = BackgroundMd5()
        self._block = b""
        self._at = 0
        self._position = 0
        self._content_left = 0

    def members(self) -> Iterator[Member]:
        """The members in their order; :meth:`content` reads the current one's, what is left of it is passed over."""
        records: Mapping[str, bytes] = {}
        while True:
            header = self._exactly(BLOCK)
            if header == bytes(BLOCK):
                return
            info = self._parse(header)
            if info.type in _EXTENDED:
                records = self._extended(info.size)
                continue
            member = self._member(info, records)
            records = {}
            self._content_left = member.size if member.is_file else 0
            end = self._position + self._content_left
            yield member
            self._pass_over(end + (-end % BLOCK) - self._position)

    def content(self, size: int) -> bytes:
        """Up to ``size`` bytes more of the current member's content; empty at its end."""
        data = self._some(min(size, self._content_left))
        self._content_left -= len(data)
        return data

    def finish(self) -> tuple[str, int]:
        """Read what is left of the file; returns the MD5 of all its bytes, and their number."""
        while self._some(_CHUNK):
            pass
        return self._md5.finish(), self._position

    def close(self) -> None:
        """End the background thread."""
        self._md5.close()

    def _some(self, size: int) -> bytes:
        """At least one byte and up to ``size``, unless the file ends or nothing is wanted."""
        if self._at == len(self._block) and size:
            with storage_errors(self._path, "read"):
                self._block, self._at = self._handle.read(_CHUNK), 0
            self._md5.update([self._block])
            self._task.advance(len(self._block))
        data = self._block[self._at : self._at + size]
        self._at += len(data)
        self._position += len(data)
        return data

    def _exactly(self, size: int) -> bytes:
        data = self._some(size)
        while len(data) < size:
            more = self._some(size - len(data))
            if not more:
                raise self._damaged(f"{size - len(data)} more bytes", f"the end of the file at byte {self._position}")
            data += more
        return data

    def _pass_over(self, size: int) -> None:
        while size:
            step = len(self._some(min(size, _CHUNK)))
            if not step:
                raise self._damaged(f"{size} more bytes", f"the end of the file at byte {self._position}")
            size -= step

    def _parse(self, header: bytes) -> tarfile.TarInfo:
        try:
            return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise self._damaged(f"a tar header at byte {self._position - BLOCK}", "something else") from error

    def _extended(self, size: int) -> Mapping[str, bytes]:
        start = self._position
        if size > _LONGEST_EXTENDED_HEADER:
            raise self._damaged(
                f"a PAX header of sensible length at byte {start}", f"one of {format_count(size, 'byte')}"
            )
        try:
            records = parse_pax_records(self._exactly(size))
        except ValueError as error:
            raise self._damaged(f"a PAX header at byte {start}", "something else") from error
        self._pass_over(-size % BLOCK)
        return records

    def _member(self, info: tarfile.TarInfo, records: Mapping[str, bytes]) -> Member:
        if info.type not in _REGULAR and info.type not in _OTHER_KINDS:
            found = f"a header of type {info.type!r}"
            raise self._damaged(f"a PAX archive of regular files at byte {self._position - BLOCK}", found)
        try:
            size, mtime = int(records.get("size", info.size)), float(records.get("mtime", info.mtime))
            if size < 0 or not math.isfinite(mtime):
                raise ValueError("no size or no time")
        except ValueError as error:
            raise self._damaged(
                f"a size and a time in the header before byte {self._position}", "something else"
            ) from error
        raw_name = records.get("path")
        name = info.name if raw_name is None else raw_name.decode("utf-8", "surrogateescape")
        return Member(name, size, self._position, mtime, info.type in _REGULAR)

    def _damaged(self, expected: str, found: str) -> DepositDamaged:
        return DepositDamaged(self._path, expected, found, _REMEDY)
