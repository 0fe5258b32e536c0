"""A visit as a bag: the tag files of BagIt 1.0 (RFC 8493). Pure.

No file has a date or a host's name, so that the same visit gives the same bag.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from urllib.parse import quote

from icf_utils.export.model import PayloadFile

#: The folder of the visit's files.
PAYLOAD = "data"

_DECLARATION = b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"


def tag_files(
    study: str, visit: str, files: Mapping[str, PayloadFile], address: str = "", fetched: Collection[str] = ()
) -> dict[str, bytes]:
    """The tag files of a bag, by name; ``fetched`` are files that are not in it, but below ``address`` on the web."""
    total = sum(file.size for file in files.values())
    tags = {
        "bagit.txt": _DECLARATION,
        "bag-info.txt": f"External-Identifier: {study}/{visit}\nPayload-Oxum: {total}.{len(files)}\n".encode("ascii"),
        "manifest-sha256.txt": _lines(f"{file.sha256}  {PAYLOAD}/{name}" for name, file in files.items()),
    }
    if fetched:
        lines = (f"{address}/{study}/{quote(name)} {files[name].size} {PAYLOAD}/{name}" for name in sorted(fetched))
        tags["fetch.txt"] = _lines(lines)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in tags.items()}
    return {**tags, "tagmanifest-sha256.txt": _lines(f"{digests[name]}  {name}" for name in sorted(digests))}


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode("ascii")
