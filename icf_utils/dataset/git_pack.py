"""Write a git pack and its index from objects, and read objects from a pack. Pure.

Format: https://git-scm.com/docs/gitformat-pack (pack version 2, index version 2). Objects are in the order of their
ids, complete (no deltas) and uncompressed (:mod:`icf_utils.deflate`), so that the same objects give the same bytes on
every machine, whatever its git and zlib.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from icf_utils.dataset.git_objects import GitObject
from icf_utils.deflate import read_zlib, stored_zlib

_KINDS = {"commit": 1, "tree": 2, "blob": 3}
_NAMES = {number: name for name, number in _KINDS.items()}

#: Offsets in an index have 31 bits; larger packs would need another form. Over a million images fit.
MOST_BYTES = 2**31 - 1


class Pack(NamedTuple):
    """A pack: ``data`` and ``idx`` are the contents of its ``.pack`` and ``.idx``, ``name`` is part of both names."""

    name: str
    data: bytes
    idx: bytes


def write_pack(objects: Mapping[bytes, GitObject]) -> Pack:
    """Write the pack of ``objects`` by id. Raises ``OverflowError`` above :data:`MOST_BYTES`."""
    oids = sorted(objects)
    parts = [b"PACK" + struct.pack(">II", 2, len(oids))]
    offsets, checks, at = [], [], 12
    for oid in oids:
        item = objects[oid]
        part = _head(_KINDS[item.kind], len(item.data)) + stored_zlib(item.data)
        parts.append(part)
        offsets.append(at)
        checks.append(zlib.crc32(part))
        at += len(part)
    if at > MOST_BYTES:
        raise OverflowError(f"a pack of {at} bytes")
    data, trailer = _sealed(parts)
    return Pack(trailer.hex(), data, _index(oids, checks, offsets, trailer))


def _sealed(parts: list[bytes]) -> tuple[bytes, bytes]:
    """Join the parts and append their SHA-1; the second value is that SHA-1."""
    digest = hashlib.sha1(usedforsecurity=False)
    for part in parts:
        digest.update(part)
    return b"".join([*parts, digest.digest()]), digest.digest()


def _index(oids: list[bytes], checks: list[int], offsets: list[int], pack_trailer: bytes) -> bytes:
    firsts = [0] * 256
    for oid in oids:
        firsts[oid[0]] += 1
    fanout = [sum(firsts[: byte + 1]) for byte in range(256)]
    numbers = [struct.pack(f">{len(values)}I", *values) for values in (checks, offsets)]
    parts = [b"\xfftOc", struct.pack(">I256I", 2, *fanout), *oids, *numbers, pack_trailer]
    return _sealed(parts)[0]


def _head(kind: int, size: int) -> bytes:
    """Encode kind and size of an object: the kind with four bits of the size, then seven bits a byte, lowest first."""
    byte, size = kind << 4 | size & 15, size >> 4
    head = bytearray()
    while size:
        head.append(byte | 0x80)
        byte, size = size & 0x7F, size >> 7
    head.append(byte)
    return bytes(head)


def read_pack(data: bytes) -> dict[bytes, GitObject]:
    """Read the objects of a pack by id; the ids are recomputed.

    Raises ``ValueError`` for a pack that :func:`write_pack` does not make.
    """
    if data[:8] != b"PACK\0\0\0\2":
        raise ValueError("other data than a pack of version 2")
    objects: dict[bytes, GitObject] = {}
    at = 12
    for _ in range(int.from_bytes(data[8:12], "big")):
        kind, at = _read_kind(data, at)
        content, at = read_zlib(data, at)
        item = GitObject(kind, content)
        objects[item.oid] = item
    return objects


def _read_kind(data: bytes, at: int) -> tuple[str, int]:
    """Return the kind of an object, and where its content starts; the content itself shows the size."""
    if at >= len(data) - 20:
        raise ValueError("fewer objects than its header states")
    kind = _NAMES.get(data[at] >> 4 & 7)
    if kind is None:
        raise ValueError(f"an incomplete or unknown object at byte {at}")
    while data[at] & 0x80:
        at += 1
    return kind, at + 1
