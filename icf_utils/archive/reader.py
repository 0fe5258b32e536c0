"""Read an archive: its TAR headers, and its content in one pass. This is the package's one TAR parser.

It reads what ``make_studyvisit_archive`` writes (POSIX.1-2017 pax: "ustar Interchange Format" and "pax Extended
Header", regular files), and links and the like as older tools stored them, which become members without content and are
never followed. Everything else is damage: sizes beyond the end of the file, a missing end mark and, where names matter,
GNU's headers and global headers. Python's ``tarfile`` takes a second for the headers of 10,000 members, longer than all
the rest of a dataset, and stops silently at a header of zeros.

:func:`read_members` parses; its callers provide the bytes: :class:`ArchivePass` reads the whole file in sequence,
:func:`latest_time` the headers alone. Reads that one file, writes nothing.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from icf_utils.archive.hashing import BackgroundDigests, Digests
from icf_utils.archive.tar_headers import BLOCK
from icf_utils.errors import DepositDamaged, storage_errors
from icf_utils.formatting import format_count
from icf_utils.progress import Task
from icf_utils.regular_files import open_regular

_CHUNK = 1 << 20
_REMEDY = "restore the archive from a copy, or make it again from the visit's files"
_EXTENDED, _REGULAR = b"x", (b"0", b"\0")
_NAMING = (b"g", b"L", b"K")
_OTHER_KINDS = (b"1", b"2", b"3", b"4", b"5", b"6")
_EMPTY = bytes(BLOCK)

#: A longer extended header (bytes) is taken for damage.
_LONGEST_EXTENDED_HEADER = 1 << 20

#: One read gets the extended header, its records and the header proper of nearly every member.
_HEADERS_READ = 3 * BLOCK


class DamagedTar(ValueError):
    """The structure of a TAR is broken; ``expected`` and ``found`` say where and how."""

    def __init__(self, expected: str, found: str) -> None:
        self.expected, self.found = expected, found
        super().__init__(f"expected {expected}, found {found}")


class ArchiveMember(NamedTuple):
    """One member of an archive.

    ``offset`` is the byte position of its content in the archive, ``size`` the length of the content in bytes,
    ``mtime`` its time in seconds since 1970. ``is_file`` is false for links and the like.
    """

    name: str
    size: int
    offset: int
    mtime: float
    is_file: bool


class _Header(NamedTuple):
    kind: bytes
    block: bytes
    size: int
    mtime: float


def read_members(read: Callable[[int, int], bytes], *, any_names: bool = False) -> Iterator[ArchiveMember]:
    """Yield the members of an archive in their order.

    ``read(position, size)`` returns exactly ``size`` bytes from ``position`` on, or raises :class:`DamagedTar`;
    positions only increase. With ``any_names``, global headers and GNU's long names are skipped, so that the names of
    members may be wrong. Raises :class:`DamagedTar` if the structure is broken.
    """
    position = 0
    records: Mapping[str, bytes] = {}
    while (block := read(position, BLOCK)) != _EMPTY:
        header = _parse_header(block, position)
        position += BLOCK
        if header.kind == _EXTENDED:
            records = _read_records(read, position, header.size)
        if header.kind == _EXTENDED or (any_names and header.kind in _NAMING):
            position += _padded(header.size)
            continue
        member = _member(header, records, position)
        records = {}
        yield member
        if member.is_file:
            position += _padded(member.size)
    if read(position + BLOCK, BLOCK) != _EMPTY:
        raise DamagedTar(f"an end mark of two empty blocks at byte {position}", "one empty block")


def _read_records(read: Callable[[int, int], bytes], position: int, size: int) -> Mapping[str, bytes]:
    if not 0 <= size <= _LONGEST_EXTENDED_HEADER:
        raise DamagedTar(f"a PAX header of plausible length at byte {position}", f"one of {format_count(size, 'byte')}")
    try:
        return parse_pax_records(read(position, size))
    except DamagedTar:
        raise
    except ValueError as error:
        raise DamagedTar(f"a PAX header at byte {position}", "something else") from error


def parse_pax_records(data: bytes) -> Mapping[str, bytes]:
    """Parse the records ``length key=value`` of a PAX header. Raises ``ValueError`` if they are malformed."""
    records, position = {}, 0
    while position < len(data):
        space = data.index(b" ", position, position + 20)
        length = int(data[position:space])
        key, equals, value = data[space + 1 : position + length].partition(b"=")
        if not space - position < length <= len(data) - position or not equals or not value.endswith(b"\n"):
            raise ValueError("malformed PAX record")
        records[key.decode("utf-8")] = value[:-1]
        position += length
    return records


def _parse_header(block: bytes, position: int) -> _Header:
    try:
        if not _has_checksum(block):
            raise ValueError("wrong checksum")
        size, mtime = _number(block[124:136]), _number(block[136:148])
    except ValueError as error:
        raise DamagedTar(f"a tar header at byte {position}", "something else") from error
    kind = block[156:157]
    if kind == b"\0" and _name(block).endswith(b"/"):  # a folder in tars from before POSIX.1-1988
        kind = b"5"
    return _Header(kind, block, size, mtime)


def _name(block: bytes) -> bytes:
    name, prefix = _until_nul(block[:100]), _until_nul(block[345:500])
    return prefix + b"/" + name if prefix else name


def _has_checksum(block: bytes) -> bool:
    """Whether the sum of the bytes is right, the field of the sum counted as spaces; old tars may add signed bytes."""
    field = block[148:156]
    expected = _number(field)
    if sum(block) - sum(field) + 256 == expected:
        return True
    signed = struct.unpack("148b8x356b", block)
    return bool(256 + sum(signed) == expected)


def _number(field: bytes) -> int:
    """Parse a number of a header: octal text, or (GNU) big-endian after a byte 0x80, or 0xFF if it is negative."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    if field[0] == 0xFF:
        return int.from_bytes(field, "big", signed=True)
    return int(field.strip(b"\0 ") or b"0", 8)


def _until_nul(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _member(header: _Header, records: Mapping[str, bytes], position: int) -> ArchiveMember:
    if header.kind not in _REGULAR and header.kind not in _OTHER_KINDS:
        expected = f"a PAX archive of regular files at byte {position - BLOCK}"
        raise DamagedTar(expected, f"a header of type {header.kind!r}")
    try:
        size, mtime = int(records.get("size", header.size)), float(records.get("mtime", header.mtime))
        if size < 0 or not math.isfinite(mtime):
            raise ValueError("no size or no time")
    except ValueError as error:
        raise DamagedTar(f"a size and a time in the header before byte {position}", "something else") from error
    name = records["path"] if "path" in records else _name(header.block)
    return ArchiveMember(name.decode("utf-8", "surrogateescape"), size, position, mtime, header.kind in _REGULAR)


def _padded(size: int) -> int:
    return size + -size % BLOCK


def _ends_early(missing: int, position: int) -> DamagedTar:
    return DamagedTar(format_count(missing, "more byte"), f"the end of the file at byte {position}")


class ArchivePass:
    """One pass over an open archive: its members, their content on demand, and the digests of the whole file.

    ``sha256``: also compute the SHA-256. Close it to end its background threads.

    Raises :class:`~icf_utils.errors.DepositDamaged` if the file is cut off or is not such an archive.
    """

    def __init__(self, handle: BinaryIO, path: Path, task: Task, sha256: bool = False) -> None:
        self._handle, self._path, self._task = handle, path, task
        self._digests = BackgroundDigests(sha256)
        self._block = b""
        self._at = 0
        self._position = 0
        self._content_left = 0

    def members(self) -> Iterator[ArchiveMember]:
        """Yield the members in their order; :meth:`content` reads the current one's, and the rest of it is skipped."""
        try:
            for member in read_members(self._read_from):
                self._content_left = member.size if member.is_file else 0
                yield member
        except DamagedTar as error:
            raise DepositDamaged(self._path, error.expected, error.found, _REMEDY) from error

    def content(self, size: int) -> bytes:
        """Read up to ``size`` bytes more of the current member's content; empty at its end."""
        data = self._some(min(size, self._content_left))
        self._content_left -= len(data)
        return data

    def finish(self) -> tuple[Digests, int]:
        """Read the rest of the file; returns the digests of all its bytes, and their number."""
        while self._some(_CHUNK):
            pass
        return self._digests.finish(), self._position

    def close(self) -> None:
        """End the background threads."""
        self._digests.close()

    def _some(self, size: int) -> bytes:
        """Read one to ``size`` bytes; nothing only if the file ends or ``size`` is 0."""
        if self._at == len(self._block) and size:
            with storage_errors(self._path, "read"):
                self._block, self._at = self._handle.read(_CHUNK), 0
            self._digests.update([self._block])
            self._task.advance(len(self._block))
        data = self._block[self._at : self._at + size]
        self._at += len(data)
        self._position += len(data)
        return data

    def _read_from(self, position: int, size: int) -> bytes:
        """Read exactly ``size`` bytes from ``position`` on, which must not precede what was read."""
        while missing := position - self._position:
            if not self._some(min(missing, _CHUNK)):
                raise _ends_early(missing, self._position)
        data = self._some(size)
        while len(data) < size:
            more = self._some(size - len(data))
            if not more:
                raise _ends_early(size - len(data), self._position)
            data += more
        return data


def latest_time(path: Path, size: int) -> float:
    """Return the latest time of an archive's regular files in seconds since 1970; 0 if it has none.

    Reads headers alone. ``size`` is the archive's size in bytes according to the metadata. Raises
    :class:`~icf_utils.errors.DepositDamaged` or :class:`~icf_utils.errors.StorageFailure`.
    """
    with storage_errors(path, "read"), open_regular(path) as handle:
        found = os.fstat(handle.fileno()).st_size
        if found != size:
            raise DepositDamaged(
                path, f"{format_count(size, 'byte')} as in the visit's metadata", format_count(found, "byte"), _REMEDY
            )
        members = read_members(_headers_of(handle.fileno(), size), any_names=True)
        try:
            return max((member.mtime for member in members if member.is_file), default=0.0)
        except DamagedTar as error:
            raise DepositDamaged(path, error.expected, error.found, _REMEDY) from error


def list_members(path: Path) -> list[ArchiveMember]:
    """List the members of an archive from its headers alone.

    Raises :class:`~icf_utils.errors.DepositDamaged` or :class:`~icf_utils.errors.StorageFailure`.
    """
    with storage_errors(path, "read"), open_regular(path) as handle:
        size = os.fstat(handle.fileno()).st_size
        try:
            return list(read_members(_headers_of(handle.fileno(), size)))
        except DamagedTar as error:
            raise DepositDamaged(path, error.expected, error.found, _REMEDY) from error


def _headers_of(descriptor: int, file_size: int) -> Callable[[int, int], bytes]:
    """Make a reader for :func:`read_members` that skips content; reading three blocks at once saves most calls."""
    start, chunk = 0, b""

    def read(position: int, size: int) -> bytes:
        nonlocal start, chunk
        if position + size > file_size:
            raise _ends_early(position + size - max(position, file_size), file_size)
        if not start <= position <= position + size <= start + len(chunk):
            start, chunk = position, os.pread(descriptor, max(size, _HEADERS_READ), position)
            if len(chunk) < size:
                raise _ends_early(size - len(chunk), position + len(chunk))
        return chunk[position - start : position - start + size]

    return read


def read_header_time(data: bytes) -> float | None:
    """Return the time in the header of a member at the start of ``data``; ``None`` if it is not there."""

    def read(position: int, size: int) -> bytes:
        if position + size > len(data):
            raise _ends_early(position + size - len(data), len(data))
        return data[position : position + size]

    try:
        member = next(read_members(read), None)
    except DamagedTar:
        return None
    return member.mtime if member else None
