"""A zip or a tar as input. Reads the packed file; nothing is ever extracted under a name.

The rules are the same for both: members that are not regular files, whose names leave the archive, or that occur twice
are refused by name; links to files of the same archive become these files; data that readers would skip silently (in
front of a zip, after a tar's end mark) is refused.

An archive's members are needed in the order of their names, and a compressed tar can only be read from front to back:
it is unpacked into an unnamed temporary file first. The format of zip is that of APPNOTE.TXT.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, BinaryIO, cast

from icf_utils.errors import InputRefused, StorageFailure, storage_errors
from icf_utils.formatting import format_count
from icf_utils.installation import import_package
from icf_utils.results import Notice
from icf_utils.sources.leave_out import DEFAULT, LeftOut, left_out_notices
from icf_utils.sources.source import (
    FileReader,
    InputFile,
    clean_member_name,
    empty_folder_notices,
    follow_links,
    name_notices,
    path_sort_key,
    resolve_link,
    strip_components,
)
from icf_utils.sources.zip_directory import refuse_huge_directory

#: What the readers of the standard library and zstandard raise for damaged, cut, encrypted or unknown data.
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


class MemberListing:
    """The directory of a packed file, by clean member name: sizes, functions that open members, links, and so on."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.openers: dict[str, Callable[[], IO[bytes]]] = {}
        self.links: dict[str, str | None] = {}
        self.folders: list[str] = []
        self.refused: list[tuple[str, str]] = []

    def place(self, raw_name: str) -> str | None:
        """Return the clean name of a new member, or ``None`` after recording why it is refused."""
        name = clean_member_name(raw_name)
        if not name:
            self.refused.append((raw_name, "is an absolute name, a name outside the archive, or empty"))
        elif name in self.sizes or name in self.links:
            self.refused.append((raw_name, "occurs in the archive twice"))
        else:
            return name
        return None

    def add_folder(self, raw_name: str) -> None:
        """Record a folder; the topmost one has no name."""
        name = clean_member_name(raw_name)
        if name is None:
            self.refused.append((raw_name, "is an absolute name or a name outside the archive"))
        elif name:
            self.folders.append(name)

    def add_file(self, name: str, size: int, opener: Callable[[], IO[bytes]]) -> None:
        """Record a regular file under its clean name."""
        self.sizes[name] = size
        self.openers[name] = opener


class PackedSource:
    """The files of a zip or tar. The first ``strip`` folders are removed from every name.

    ``list_members`` reads the packed file's directory. Raises :class:`~icf_utils.errors.InputRefused`.
    """

    def __init__(
        self, path: str, packed: BinaryIO, list_members: Callable[[], MemberListing], strip: int, leave_out: LeftOut
    ) -> None:
        self.label = path
        self._leave_out, self._left_out = leave_out, list[str]()
        self._packed = packed
        self._status = self._fingerprint()
        with self.refusing(path):
            listing = list_members()
        self._openers = listing.openers
        self._members = self._name_members(listing, strip)
        entries = [InputFile(name, listing.sizes[member]) for name, member in self._members.items()]
        self.entries = tuple(sorted(entries, key=path_sort_key))
        folders = [strip_components(name, strip) for name in listing.folders]
        self.notices: tuple[Notice, ...] = (
            *name_notices(self.entries),
            *empty_folder_notices([name for name in folders if not leave_out.path(name)], self.entries),
            *left_out_notices(self._left_out),
        )
        with storage_errors(path, "examine"):
            self.newest_change = os.fstat(packed.fileno()).st_ctime

    @contextmanager
    def open(self, entry: InputFile) -> Iterator[FileReader]:
        """Open one member. Raises ``InputRefused``, which names it, if it is damaged."""
        with self.refusing(entry.name):
            handle = self._openers[self._members[entry.name]]()
        with handle:
            yield _MemberReader(self, entry, handle)

    def check_unchanged(self) -> None:
        """Raise ``InputRefused`` if the packed file itself has changed."""
        if self._fingerprint() != self._status:
            refusals = [(self.label, "changed while it was read")]
            raise InputRefused(self.label, refusals, "Wait until nothing writes to it.")

    def _fingerprint(self) -> tuple[int, ...]:
        with storage_errors(self.label, "examine"):
            now = os.fstat(self._packed.fileno())
            named = os.stat(self.label)
        return (named.st_dev, named.st_ino, now.st_size, now.st_mtime_ns)

    def _name_members(self, listing: MemberListing, strip: int) -> dict[str, str]:
        """Map the name of each file in the new archive to the member with its content."""
        links, refused = follow_links(listing.links, listing.sizes)
        refused += listing.refused
        members: dict[str, str] = {}
        for name in (*listing.sizes, *links):
            short = strip_components(name, strip)
            if self._leave_out.path(short or name):
                self._left_out.append(short or name)
            elif not short:
                refused.append((name, f"would have no name without its first {format_count(strip, 'part')}"))
            elif short in members:
                refused.append((name, "occurs in the archive twice"))
            else:
                members[short] = links.get(name, name)
        refused += [(name, "is both a file and a folder") for name in _files_that_are_folders(members)]
        if refused:
            raise InputRefused(self.label, sorted(refused), "Pack the visit again without these members.")
        return members

    @contextmanager
    def refusing(self, name: str) -> Iterator[None]:
        """Convert errors of the readers of packed files into a refusal of ``name``."""
        try:
            yield
        except _DAMAGED as error:
            raise InputRefused(self.label, [(name, _reason(error))], "Check the file, or pack it again.") from error
        except OSError as error:
            if error.errno is not None:
                raise StorageFailure(self.label, "read", error) from error
            raise InputRefused(self.label, [(name, _reason(error))], "Check the file, or pack it again.") from error


def _files_that_are_folders(names: dict[str, str]) -> list[str]:
    found = set()
    for name in names:
        parent = name.rpartition("/")[0]
        while parent:
            if parent in names:
                found.add(parent)
            parent = parent.rpartition("/")[0]
    return sorted(found)


def _reason(error: BaseException) -> str:
    if isinstance(error, RuntimeError) and "encrypted" in str(error):
        return "is encrypted; passwords are not supported"
    if isinstance(error, NotImplementedError):
        return "is compressed by a method that is not supported"
    return f"is damaged or cut off, or neither a zip nor a tar ({type(error).__name__}: {error})"


class _MemberReader:
    def __init__(self, source: PackedSource, entry: InputFile, handle: IO[bytes]) -> None:
        self._source, self._entry, self._handle = source, entry, handle
        self._left = entry.size

    def read(self, size: int) -> bytes:
        with self._source.refusing(self._entry.name):
            data = self._handle.read(size)
            self._left -= len(data)
            if size and not data and self._left > 0:
                raise EOFError(f"{self._left} bytes are missing")
        return data


_CHUNK = 1 << 20


def tar_source(
    path: str, packed: BinaryIO, spool_dir: Path, strip: int, resources: ExitStack, leave_out: LeftOut = DEFAULT
) -> PackedSource:
    """Open a tar, plain or compressed. ``packed`` is the open file, which stays open as long as the source is used.

    ``resources`` closes the temporary file of a compressed tar.
    """
    return PackedSource(path, packed, lambda: _list_tar(_uncompressed(packed, spool_dir, resources)), strip, leave_out)


def _open_zstd(packed: BinaryIO) -> IO[bytes]:
    zstandard = import_package("zstandard")
    _refuse_cut_zstd(packed)
    return cast("IO[bytes]", zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True, closefd=False))


def _refuse_cut_zstd(packed: BinaryIO) -> None:
    """Raise for a file that is cut off; zstandard's readers mistake it for a shorter one.

    Walks over frames and blocks (RFC 8878 section 3.1).
    """
    zstandard = import_package("zstandard")
    size, position = packed.seek(0, os.SEEK_END), 0
    while position < size:
        packed.seek(position)
        head = packed.read(18)
        if head[1:4] == b"\x2a\x4d\x18":  # a skippable frame
            position += 8 + int.from_bytes(head[4:8], "little")
            continue
        try:
            has_checksum = zstandard.get_frame_parameters(head).has_checksum
            position += zstandard.frame_header_size(head)
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from error
        position = _after_zstd_blocks(packed, position) + 4 * has_checksum
    if position != size:
        raise EOFError("the compressed file ends too early")
    packed.seek(0)


def _after_zstd_blocks(packed: BinaryIO, position: int) -> int:
    is_last = False
    while not is_last:
        packed.seek(position)
        raw = packed.read(3)
        if len(raw) < 3:
            raise EOFError("the compressed file ends too early")
        header = int.from_bytes(raw, "little")
        is_last = bool(header & 1)
        position += 3 + (
            1 if header >> 1 & 3 == 1 else header >> 3
        )  # a repeated byte, or as many bytes as the header says
    return position


#: First bytes of a compressed file -> its decompressor.
_UNPACKERS: dict[bytes, Callable[[BinaryIO], IO[bytes]]] = {
    b"\x1f\x8b": lambda packed: cast("IO[bytes]", gzip.GzipFile(fileobj=packed)),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": _open_zstd,
}


def _uncompressed(packed: BinaryIO, spool_dir: Path, resources: ExitStack) -> BinaryIO:
    magic = packed.read(6)
    packed.seek(0)
    for first, unpack in _UNPACKERS.items():
        if magic.startswith(first):
            return _spool(unpack(packed), spool_dir, resources)
    return packed


def _spool(unpacked: IO[bytes], spool_dir: Path, resources: ExitStack) -> BinaryIO:
    with storage_errors(spool_dir, "create a temporary file in"):
        spool = cast(BinaryIO, resources.enter_context(tempfile.TemporaryFile(dir=spool_dir)))  # noqa: SIM115
    with unpacked:
        while chunk := _decompress(unpacked):
            with storage_errors(spool_dir, "unpack into"):
                spool.write(chunk)
    spool.seek(0)
    return spool


def _decompress(unpacked: IO[bytes]) -> bytes:
    try:
        return unpacked.read(_CHUNK)
    except Exception as error:
        if type(error).__module__.startswith("zstandard"):  # its error class exists only after its import
            raise ValueError(str(error)) from error
        raise


def _list_tar(tar: BinaryIO) -> MemberListing:
    archive = tarfile.open(fileobj=tar, mode="r:", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
    listing = MemberListing()
    for info in archive:
        if info.isdir():
            listing.add_folder(info.name)
            continue
        name = listing.place(info.name)
        if name:
            _add_member(listing, archive, info, name)
    _check_end(tar, archive.offset)
    return listing


def _check_end(tar: BinaryIO, offset: int) -> None:
    """Raise unless the last member is followed by an end mark of zeros (pax, IEEE Std 1003.1) and nothing else.

    Readers of tars stop at the mark: members after a header that became zeros, or a second tar, would be lost silently.
    """
    tar.seek(offset)
    if tar.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it has no end mark, so members may be missing")
    while chunk := tar.read(_CHUNK):
        if chunk.strip(b"\0"):
            raise tarfile.ReadError(f"data after the end mark at byte {offset}: a lost header, or a second tar")


def _add_member(listing: MemberListing, archive: tarfile.TarFile, info: tarfile.TarInfo, name: str) -> None:
    if info.isreg():
        listing.add_file(name, info.size, lambda: cast("IO[bytes]", archive.extractfile(info)))
    elif info.issym():
        listing.links[name] = resolve_link(name, info.linkname)
    elif info.islnk():
        listing.links[name] = clean_member_name(info.linkname)
    else:
        listing.refused.append((name, "is a device or a named pipe"))


#: A zip starts with a member or, if it is empty, with the end record.
ZIP_MAGIC = (b"PK\3\4", b"PK\5\6")

_UNIX, _UTF8_NAME, _UNICODE_PATH = 3, 0x800, 0x7075


#: Systems of a zip's writer (APPNOTE.TXT 4.4.2) on which a backslash can only separate folders: MS-DOS, NTFS, VFAT.
_WINDOWS = (0, 10, 14)


def zip_source(path: str, packed: BinaryIO, strip: int, leave_out: LeftOut = DEFAULT) -> PackedSource:
    """Open a zip. ``packed`` is the open file, which stays open as long as the source is used."""
    return PackedSource(path, packed, lambda: _list_zip(packed, path), strip, leave_out)


def _list_zip(packed: BinaryIO, path: str) -> MemberListing:
    refuse_huge_directory(packed, path)
    archive, listing = zipfile.ZipFile(packed), MemberListing()
    _check_begin(archive)
    for info in archive.infolist():
        raw_name = _name(info)
        if info.create_system in _WINDOWS:  # where it can only separate folders, as old tools write it
            raw_name = raw_name.replace("\\", "/")
        if raw_name.endswith("/"):
            listing.add_folder(raw_name)
            continue
        name = listing.place(raw_name)
        if name:
            _add_entry(listing, archive, info, name)
    return listing


def _check_begin(archive: zipfile.ZipFile) -> None:
    """Raise if data precede the first member: zips are read from the end, and a zip in front would be lost silently."""
    begin = min((info.header_offset for info in archive.infolist()), default=archive.start_dir)
    if begin:
        raise zipfile.BadZipFile(
            f"its directory does not cover the first {format_count(begin, 'byte')}; perhaps another zip precedes it"
        )


def _add_entry(listing: MemberListing, archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> None:
    kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == _UNIX else 0
    if kind == stat.S_IFLNK:
        target = archive.read(info) if info.file_size <= 4096 else b"/"
        listing.links[name] = resolve_link(name, target.decode("utf-8", "surrogateescape"))
    elif kind not in (0, stat.S_IFREG):
        listing.refused.append((name, "is not a regular file"))
    else:
        listing.add_file(name, info.file_size, lambda: archive.open(info))


def _name(info: zipfile.ZipInfo) -> str:
    """Return the name that the file had on disk.

    Zips of Unix programs contain the bytes of the name, which Python decodes as code page 437. Some Python versions
    apply the Unicode extra field themselves, others do not; the result must be the same.
    """
    if info.flag_bits & _UTF8_NAME:
        return info.orig_filename
    raw = info.orig_filename.encode("cp437")
    unicode_name = _unicode_name(info.extra, raw)
    if unicode_name is not None:
        return unicode_name
    return raw.decode("utf-8", "surrogateescape") if info.create_system == _UNIX else info.orig_filename


def _unicode_name(extra: bytes, raw_name: bytes) -> str | None:
    """Return the name in the Info-ZIP Unicode Path field (APPNOTE.TXT 4.6.9), if the field belongs to ``raw_name``."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == _UNICODE_PATH and field[:5] == b"\x01" + struct.pack("<L", zlib.crc32(raw_name)):
            return field[5:].decode("utf-8", "surrogateescape")
    return None
