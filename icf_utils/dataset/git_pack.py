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
_REF_DELTA = 7

#: Offsets in an index have 31 bits; larger packs would need another form. Over a million images fit.
MOST_BYTES = 2**31 - 1


class Pack(NamedTuple):
    """A pack: ``data`` and ``idx`` are the contents of its ``.pack`` and ``.idx``, ``name`` is part of both names."""

    name: str
    data: bytes
    idx: bytes


def write_pack(objects: Mapping[bytes, GitObject]) -> Pack:
    """Write the pack of ``objects`` by id. Raises ``OverflowError`` above :data:`MOST_BYTES`."""
    return join_pack([(oid, pack_entry(objects[oid])) for oid in sorted(objects)])


def pack_entry(item: GitObject) -> bytes:
    """An object as a pack has it, complete."""
    return _head(_KINDS[item.kind], len(item.data)) + stored_zlib(item.data)


def delta_entry(data: bytes, base: GitObject, head: int = 0) -> bytes:
    """An object as a pack has it, by its difference to ``base``, which is of the same kind and in the same pack.

    The difference is one piece that replaces another among the first ``head`` bytes, and one after them: everything
    around both is copied from the base.
    """
    delta = b"".join(
        (
            *(_varint(len(base.data)), _varint(len(data))),
            *_splice(data[:head], base.data[:head], 0),
            *_splice(data[head:], base.data[head:], min(head, len(base.data))),
        )
    )
    return _head(_REF_DELTA, len(delta)) + base.oid + stored_zlib(delta)


def _splice(data: bytes, base: bytes, at: int) -> list[bytes]:
    """The instructions that make ``data`` from ``base``, which begins at byte ``at`` of the whole base."""
    start = _common(data, base)
    end = _common(data[start:][::-1], base[start:][::-1])
    middle = data[start : len(data) - end]
    inserts = [bytes([len(piece)]) + piece for piece in (middle[i : i + 127] for i in range(0, len(middle), 127))]
    return [*_copies(at, start), *inserts, *_copies(at + len(base) - end, end)]


def join_pack(entries: list[tuple[bytes, bytes]]) -> Pack:
    """The pack of entries by id, in their order. Raises ``OverflowError`` above :data:`MOST_BYTES`."""
    offsets, at = {}, 12
    for oid, entry in entries:
        offsets[oid] = (at, zlib.crc32(entry))
        at += len(entry)
    if at > MOST_BYTES:
        raise OverflowError(f"a pack of {at} bytes")
    data, trailer = _sealed([b"PACK" + struct.pack(">II", 2, len(entries)), *(entry for _, entry in entries)])
    oids = sorted(offsets)
    index = _index(oids, [offsets[oid][1] for oid in oids], [offsets[oid][0] for oid in oids], trailer)
    return Pack(trailer.hex(), data, index)


def _common(one: bytes, other: bytes) -> int:
    """How many bytes at their beginning are equal."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


def _varint(size: int) -> bytes:
    found = bytearray()
    while size > 0x7F:
        found.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*found, size])


def _copies(start: int, size: int) -> list[bytes]:
    """The instructions that copy ``size`` bytes of the base from ``start``, at most 65,536 each."""
    return [
        b"\xbf" + (start + done).to_bytes(4, "little") + (min(size - done, 0xFFFF)).to_bytes(2, "little")
        for done in range(0, size, 0xFFFF)
    ]


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


class PackReader:
    """Looks objects up in a pack by its index, without reading the others."""

    def __init__(self, data: bytes, idx: bytes) -> None:
        """Raises ``ValueError`` for what is not a pack with its index as :func:`write_pack` makes them."""
        if idx[:8] != b"\xfftOc\0\0\0\2" or data[:8] != b"PACK\0\0\0\2" or data[-20:] != idx[-40:-20]:
            raise ValueError("other data than a pack of version 2 and its index")
        self._data = data
        count = int.from_bytes(idx[1028:1032], "big")
        if len(idx) != 1032 + 28 * count + 40:
            raise ValueError("an index of another length")
        oids = [idx[1032 + 20 * at : 1052 + 20 * at] for at in range(count)]
        offsets = struct.unpack(f">{count}I", idx[1032 + 24 * count : 1032 + 28 * count])
        self._offsets = dict(zip(oids, offsets, strict=True))

    def get(self, oid: bytes, kind: str) -> bytes:
        """The content of a complete object. Raises ``ValueError`` if there is none, or it is damaged."""
        at = self._offsets.get(oid)
        if at is None:
            raise ValueError(f"no {kind} {oid.hex()}")
        found, at = _read_kind(self._data, at)
        item = GitObject(found, read_zlib(self._data, at)[0])
        if item.oid != oid or found != kind:
            raise ValueError(f"no {kind} {oid.hex()}")
        return item.data

    def entries(self) -> list[tuple[bytes, bytes]]:
        """All entries by id as they are, in their order."""
        ordered = sorted(self._offsets, key=self._offsets.__getitem__)
        ends = [*(self._offsets[oid] for oid in ordered[1:]), len(self._data) - 20]
        return [(oid, self._data[self._offsets[oid] : end]) for oid, end in zip(ordered, ends, strict=True)]
