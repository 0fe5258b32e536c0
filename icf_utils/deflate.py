"""Write and read deflate and zlib streams that compress nothing. Pure.

Implementations of zlib (zlib-ng, Intel's, Apple's) turn the same input into different bytes, all correct. The output of
icf-utils must be the same on every machine, so its streams consist of *stored* blocks (RFC 1951, 3.2.4), which leave
nothing to choose. The price is space: a visit's dataset takes about one kilobyte per image, less than half a percent of
the images.
"""

from __future__ import annotations

import zlib

#: The largest content of a stored block, in bytes.
_BLOCK = 0xFFFF

_ZLIB_HEADER = b"\x78\x01"


def stored_deflate(data: bytes) -> bytes:
    """Make a raw deflate stream of ``data``, as zip files contain it."""
    if len(data) <= _BLOCK:
        return _block_head(len(data), last=True) + data
    parts: list[bytes | memoryview] = []
    view = memoryview(data)
    for at in range(0, len(data), _BLOCK):
        block = view[at : at + _BLOCK]
        parts += [_block_head(len(block), last=at + _BLOCK >= len(data)), block]
    return b"".join(parts)


def stored_zlib(data: bytes) -> bytes:
    """Make a zlib stream (RFC 1950) of ``data``, as git's packs and PNG files contain it."""
    return b"".join((_ZLIB_HEADER, stored_deflate(data), zlib.adler32(data).to_bytes(4, "big")))


def _block_head(length: int, *, last: bool) -> bytes:
    return bytes((last,)) + length.to_bytes(2, "little") + (length ^ 0xFFFF).to_bytes(2, "little")


def read_stored(raw: bytes, at: int) -> tuple[bytes, int]:
    """Read the raw deflate stream at ``at``; returns its content, and where the stream ends.

    Raises ``ValueError`` for a stream that :func:`stored_deflate` does not make.
    """
    parts, last = [], 0
    while not last:
        head = raw[at : at + 5]
        length = int.from_bytes(head[1:3], "little")
        last = head[0] if head else 2
        part = raw[at + 5 : at + 5 + length]
        if last > 1 or head != _block_head(length, last=bool(last)) or len(part) != length:
            raise ValueError(f"other data than a stored block at byte {at}")
        parts.append(part)
        at += 5 + length
    return parts[0] if len(parts) == 1 else b"".join(parts), at


def read_zlib(raw: bytes, at: int) -> tuple[bytes, int]:
    """Read the zlib stream at ``at``; returns its content, and where the stream ends. Raises ``ValueError``."""
    if raw[at : at + 2] != _ZLIB_HEADER:
        raise ValueError(f"other data than a zlib stream at byte {at}")
    data, end = read_stored(raw, at + 2)
    if raw[end : end + 4] != zlib.adler32(data).to_bytes(4, "big"):
        raise ValueError(f"wrong checksum at byte {end}")
    return data, end + 4
