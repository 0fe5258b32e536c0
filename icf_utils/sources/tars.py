"""A tar, plain or compressed, as input. A compressed one is unpacked into an unnamed temporary file first,

because an archive's members are needed in the order of their names, and a compressed stream has no other order than
its own.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, BinaryIO, cast

from icf_utils.errors import storage_errors
from icf_utils.sources.entries import clean_member_name, resolve_link
from icf_utils.sources.packed import Listing, PackedSource

_CHUNK = 1 << 20
_BLOCK = 512


def tar_source(path: str, packed: BinaryIO, spool_dir: Path, strip: int, resources: ExitStack) -> PackedSource:
    """The files of a tar; ``packed`` is the open file and stays open as long as the source is used.

    ``resources`` closes the temporary file that a compressed one needs.
    """
    return PackedSource(path, packed, lambda: _list(_uncompressed(packed, spool_dir, resources)), strip)


def _open_zstd(packed: BinaryIO) -> IO[bytes]:
    import zstandard

    _refuse_cut_zstd(packed)
    return cast("IO[bytes]", zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True, closefd=False))


def _refuse_cut_zstd(packed: BinaryIO) -> None:
    """Walk over frames and blocks (RFC 8878 section 3.1): readers of zstandard take a cut file for a short one."""
    import zstandard

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
        position += 3 + (1 if header >> 1 & 3 == 1 else header >> 3)  # a repeated byte, or as many as said
    return position


#: First bytes of a compressed file -> what unpacks it.
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
        if type(error).__module__.startswith("zstandard"):  # its error class is known only once it is imported
            raise ValueError(str(error)) from error
        raise


def _list(tar: BinaryIO) -> Listing:
    archive = tarfile.open(fileobj=tar, mode="r:", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
    listing = Listing()
    for info in archive:
        if info.isdir():
            listing.add_folder(info.name)
            continue
        name = listing.place(info.name)
        if name:
            _add(listing, archive, info, name)
    _check_end(tar, archive.offset)
    return listing


def _check_end(tar: BinaryIO, offset: int) -> None:
    """After the last member: an end mark of zeros (pax, IEEE Std 1003.1), and nothing else up to the file's end.

    Readers of tars stop at the mark. What stands behind it (members after a header that became zeros, or another tar)
    would be lost without a word.
    """
    tar.seek(offset)
    if tar.read(_BLOCK) != bytes(_BLOCK):
        raise tarfile.ReadError("there is no end mark, so something is missing")
    while chunk := tar.read(_CHUNK):
        if chunk.strip(b"\0"):
            raise tarfile.ReadError(f"more data after the end mark at byte {offset}: a lost header, or a second tar")


def _add(listing: Listing, archive: tarfile.TarFile, info: tarfile.TarInfo, name: str) -> None:
    if info.isreg():
        listing.add_file(name, info.size, lambda: cast("IO[bytes]", archive.extractfile(info)))
    elif info.issym():
        listing.links[name] = resolve_link(name, info.linkname)
    elif info.islnk():
        listing.links[name] = clean_member_name(info.linkname)
    else:
        listing.refused.append((name, "is a device or a named pipe"))
