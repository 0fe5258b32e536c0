"""The headers of an archive's members, as bytes. Pure.

The bytes are those of Python's ``tarfile`` in PAX format (POSIX.1-2001 pax, ``ustar`` headers with extended records)
when it is given normalised members: uid and gid 0, ``root``, mode 0644, and a time that is a float, which makes every
member carry a PAX ``mtime`` record with the fraction kept.
"""

from __future__ import annotations

import math
import tarfile
from collections.abc import Mapping

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


def parse_pax_records(data: bytes) -> Mapping[str, bytes]:
    """The records ``length key=value`` of a PAX header. Raises ``ValueError`` where they are malformed."""
    records, position = {}, 0
    while position < len(data):
        digits = data[position : position + 20].split(b" ", 1)[0]
        length = int(digits)
        record = data[position + len(digits) + 1 : position + length]
        key, equals, value = record.partition(b"=")
        if not len(digits) < length <= len(data) - position or not equals or not value.endswith(b"\n"):
            raise ValueError("malformed PAX record")
        records[key.decode("utf-8")] = value[:-1]
        position += length
    return records


def header_time(data: bytes) -> float | None:
    """The time in a header as :func:`member_header` makes them, at the start of ``data``; ``None`` if it is none."""
    try:
        extended = tarfile.TarInfo.frombuf(data[:BLOCK], "utf-8", "surrogateescape")
        time = float(parse_pax_records(data[BLOCK : BLOCK + extended.size])["mtime"])
    except (tarfile.HeaderError, ValueError, KeyError):
        return None
    return time if math.isfinite(time) else None
