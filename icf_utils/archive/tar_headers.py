"""The headers of an archive's members, written as bytes (:mod:`icf_utils.archive.reader` reads them). Pure.

The bytes are those of Python's ``tarfile`` in PAX format (POSIX.1-2001 pax, ``ustar`` headers with extended records)
when it is given normalised members: uid and gid 0, ``root``, mode 0644, and a time that is a float, which makes every
member carry a PAX ``mtime`` record with the fraction kept.
"""

from __future__ import annotations

import tarfile

BLOCK = tarfile.BLOCKSIZE

#: A tar ends with two zero blocks, filled up to a whole record.
_END = bytes(2 * BLOCK)


def member_header(name: str, size: int, mtime: float) -> bytes:
    """Everything in front of a member's content: the PAX header with its records, and the ``ustar`` header.

    ``name`` may hold surrogates for bytes that are no UTF-8; ``size`` in bytes; ``mtime`` in seconds since 1970.
    """
    info = tarfile.TarInfo(name)
    info.size = size
    info.mtime = float(mtime)  # a float is what makes the PAX record
    info.mode = 0o100644
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def content_padding(size: int) -> bytes:
    """The zero bytes that fill a content of ``size`` bytes up to a whole block."""
    return bytes(-size % BLOCK)


def end_of_archive(position: int) -> bytes:
    """What ends an archive whose members take ``position`` bytes."""
    return _END + bytes(-(position + len(_END)) % tarfile.RECORDSIZE)
