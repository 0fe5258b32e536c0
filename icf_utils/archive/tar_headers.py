"""Make the headers of an archive's members (:mod:`icf_utils.archive.reader` reads them). Pure.

The bytes are those that Python's ``tarfile`` writes in PAX format (POSIX.1-2001 pax, ``ustar`` headers with extended
records) for normalised members: uid and gid 0, ``root``, mode 0644. The time is a float, so that every member has a PAX
record ``mtime``, which keeps the fraction.
"""

from __future__ import annotations

import tarfile

BLOCK = tarfile.BLOCKSIZE

#: A tar ends with two blocks of zeros, filled up to a whole record.
_END = bytes(2 * BLOCK)


def member_header(name: str, size: int, mtime: float) -> bytes:
    """Make everything in front of a member's content: the PAX header with its records, and the ``ustar`` header.

    ``name`` may have surrogates for bytes outside UTF-8; ``size`` in bytes; ``mtime`` in seconds since 1970.
    """
    info = tarfile.TarInfo(name)
    info.size = size
    info.mtime = float(mtime)  # a float makes tarfile write the PAX record
    info.mode = 0o100644
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def content_padding(size: int) -> bytes:
    """Return the zero bytes that fill up a content of ``size`` bytes to a whole block."""
    return bytes(-size % BLOCK)


def end_of_archive(position: int) -> bytes:
    """Return the end of an archive whose members take ``position`` bytes."""
    return _END + bytes(-(position + len(_END)) % tarfile.RECORDSIZE)
