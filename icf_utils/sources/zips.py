"""A zip as input (APPNOTE.TXT). Reads the zip's directory and, later, its members."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from typing import BinaryIO

from icf_utils.sources.entries import resolve_link
from icf_utils.sources.packed import Listing, PackedSource

#: A zip starts with a member or, when empty, with the end record.
ZIP_MAGIC = (b"PK\3\4", b"PK\5\6")

_UNIX, _UTF8_NAME, _UNICODE_PATH = 3, 0x800, 0x7075


def zip_source(path: str, packed: BinaryIO, strip: int) -> PackedSource:
    """The files of a zip; ``packed`` is the open file and stays open as long as the source is used."""
    return PackedSource(path, packed, lambda: _list(packed), strip)


def _list(packed: BinaryIO) -> Listing:
    archive, listing = zipfile.ZipFile(packed), Listing()
    _check_begin(archive)
    for info in archive.infolist():
        raw_name = _name(info)
        if raw_name.endswith("/"):
            listing.add_folder(raw_name)
            continue
        name = listing.place(raw_name)
        if name:
            _add(listing, archive, info, name)
    return listing


def _check_begin(archive: zipfile.ZipFile) -> None:
    """Nothing before the first member: a zip is read from its end, and one put before it would be lost silently."""
    begin = min((info.header_offset for info in archive.infolist()), default=archive.start_dir)
    if begin:
        raise zipfile.BadZipFile(f"its directory does not speak of the first {begin} bytes: a second zip before it?")


def _add(listing: Listing, archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> None:
    kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == _UNIX else 0
    if kind == stat.S_IFLNK:
        target = archive.read(info) if info.file_size <= 4096 else b"/"
        listing.links[name] = resolve_link(name, target.decode("utf-8", "surrogateescape"))
    elif kind not in (0, stat.S_IFREG):
        listing.refused.append((name, "is no regular file"))
    else:
        listing.add_file(name, info.file_size, lambda: archive.open(info))


def _name(info: zipfile.ZipInfo) -> str:
    """The name as it was on disk: zips of Unix programs hold its bytes, which Python takes for code page 437.

    Some Pythons look into the Unicode extra field by themselves, others do not; this must not make a difference.
    """
    if info.flag_bits & _UTF8_NAME:
        return info.orig_filename
    raw = info.orig_filename.encode("cp437")
    unicode_name = _unicode_name(info.extra, raw)
    if unicode_name is not None:
        return unicode_name
    return raw.decode("utf-8", "surrogateescape") if info.create_system == _UNIX else info.orig_filename


def _unicode_name(extra: bytes, raw_name: bytes) -> str | None:
    """What the Info-ZIP Unicode Path field says (APPNOTE.TXT 4.6.9), if it is about ``raw_name``."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == _UNICODE_PATH and field[:5] == b"\x01" + struct.pack("<L", zlib.crc32(raw_name)):
            return field[5:].decode("utf-8", "surrogateescape")
    return None
