"""The two files of a dataset's deposit: the refs, and a bare repository in a zip file. Pure.

``datalad clone datalad-annex::`` reads them (see the module docstring of datalad-next's
``gitremotes/datalad_annex.py``): the refs first, and the repository only if the refs are new. Zip format: PKWARE's
APPNOTE.TXT. Entries are deflate streams of stored blocks, dated 1980-01-01, in a fixed order.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from icf_utils.dataset.git_objects import GitObject
from icf_utils.dataset.git_pack import Pack, PackReader, read_pack, write_pack
from icf_utils.deflate import read_stored, stored_deflate

MAIN, ANNEX = "refs/heads/main", "refs/heads/git-annex"

_FOLDERS = ("objects/", "objects/info/", "objects/pack/", "refs/", "refs/heads/", "refs/tags/")
_CONFIG = b"[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n"
_HEAD = f"ref: {MAIN}\n".encode("ascii")
_PACKED_REFS = b"# pack-refs with: peeled fully-peeled sorted \n"

#: Needs version 2.0, no flags, method 8 (deflate), 00:00:00, 1980-01-01.
_COMMON = struct.pack("<HHHHH", 20, 0, 8, 0, 0x21)
_LOCAL, _CENTRAL, _END = b"PK\3\4", b"PK\1\2", b"PK\5\6"

#: Unix mode in the upper half, the folder bit of MS-DOS in the lower.
_FILE_MODE, _FOLDER_MODE = 0o100644 << 16, 0o40755 << 16 | 0x10


class ExportMember(NamedTuple):
    """A file of the zip, or a folder if ``name`` ends with a slash."""

    name: str
    data: bytes


def refs_bytes(refs: Mapping[str, str]) -> bytes:
    """Make ``<visit>_XDLRA--refs`` from commits by branch; sorted, so that a fetch without changes ends here."""
    return _ref_lines(refs) + f"@{MAIN} HEAD\n".encode("ascii")


def _ref_lines(refs: Mapping[str, str]) -> bytes:
    return "".join(f"{refs[name]} {name}\n" for name in sorted(refs)).encode("ascii")


def export_bytes(objects: Mapping[bytes, GitObject], refs: Mapping[str, str]) -> bytes:
    """Make ``<visit>_XDLRA--repo-export``. Raises ``OverflowError`` if the pack would be too large."""
    return export_pack(write_pack(objects), refs)


def export_pack(pack: Pack, refs: Mapping[str, str]) -> bytes:
    """The same from a pack."""
    members = [
        *(ExportMember(name, b"") for name in _FOLDERS),
        ExportMember("HEAD", _HEAD),
        ExportMember("config", _CONFIG),
        ExportMember("packed-refs", _PACKED_REFS + _ref_lines(refs)),
        ExportMember(f"objects/pack/pack-{pack.name}.idx", pack.idx),
        ExportMember(f"objects/pack/pack-{pack.name}.pack", pack.data),
    ]
    return write_zip(members)


def write_zip(members: list[ExportMember]) -> bytes:
    """Make a zip file of ``members`` in their order."""
    parts: list[bytes] = []
    directory: list[bytes] = []
    at = 0
    for member in members:
        name, body = member.name.encode("ascii"), stored_deflate(member.data)
        sizes = struct.pack("<IIIHH", zlib.crc32(member.data), len(body), len(member.data), len(name), 0)
        mode = _FOLDER_MODE if member.name.endswith("/") else _FILE_MODE
        directory.append(_CENTRAL + b"\x14\3" + _COMMON + sizes + struct.pack("<HHHII", 0, 0, 0, mode, at) + name)
        local = [_LOCAL + _COMMON + sizes + name, body]
        parts += local
        at += sum(map(len, local))
    size = sum(map(len, directory))
    end = _END + struct.pack("<HHHHIIH", 0, 0, len(members), len(members), size, at, 0)
    return b"".join([*parts, *directory, end])


def read_export(raw: bytes) -> tuple[dict[bytes, GitObject], dict[str, str]]:
    """Read objects and refs of an export. Raises ``ValueError`` unless it is byte for byte what this module writes.

    Checksums, lengths and order are not checked one by one: the result is written again and must give the same bytes.
    """
    found = _read_members(raw)
    packs = [data for name, data in found.items() if name.endswith(".pack")]
    if len(packs) != 1:
        raise ValueError("no pack, or several packs")
    objects, refs = read_pack(packs[0]), _read_refs(found.get("packed-refs", b""))
    if export_bytes(objects, refs) != raw:
        raise ValueError("other checksums, another order or more bytes than icf-utils writes")
    return objects, refs


def open_export(raw: bytes) -> tuple[PackReader, dict[str, str]]:
    """Open an export to look objects up, without a check of those that are not read. Raises ``ValueError``."""
    found = _read_members(raw)
    packs = {name.rpartition(".")[2]: data for name, data in found.items() if name.startswith("objects/pack/pack-")}
    if packs.keys() != {"pack", "idx"}:
        raise ValueError("no pack, or several packs")
    return PackReader(packs["pack"], packs["idx"]), _read_refs(found.get("packed-refs", b""))


def _read_members(raw: bytes) -> dict[str, bytes]:
    found, at = {}, 0
    while raw[at : at + 4] == _LOCAL and len(raw) >= at + 30:
        length = int.from_bytes(raw[at + 26 : at + 28], "little")
        name = raw[at + 30 : at + 30 + length].decode("ascii")
        found[name], at = read_stored(raw, at + 30 + length)
    return found


def _read_refs(packed: bytes) -> dict[str, str]:
    lines = packed.decode("ascii").splitlines()[1:]
    return {name: oid for oid, _, name in (line.partition(" ") for line in lines)}
