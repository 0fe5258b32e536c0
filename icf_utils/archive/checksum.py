"""Write and parse the archive's ``.md5sum`` file, in the form that ``md5sum -c`` reads. Pure."""

from __future__ import annotations

import re

from icf_utils.errors import DepositDamaged

_LINE = re.compile(rb"([0-9a-f]{32})  ([^\n]+)\n")


def format_checksum(md5: str, name: str) -> bytes:
    """Make the bytes of the checksum file of an archive ``name``."""
    return f"{md5}  {name}\n".encode("ascii")


def parse_checksum(raw: bytes, name: str, source: str) -> str:
    """Return the MD5 in a checksum file, which must name the archive ``name``; ``source`` names the file in errors.

    Raises :class:`~icf_utils.errors.DepositDamaged`.
    """
    match = _LINE.fullmatch(raw)
    remedy = "compare with a copy, or move it away and run 'icf-utils make_studyvisit_archive' again"
    if not match:
        raise DepositDamaged(source, "one line 'MD5  NAME'", f"{len(raw)} other bytes", remedy)
    if match[2] != name.encode("ascii"):
        raise DepositDamaged(source, f"the checksum of '{name}'", "the checksum of another file", remedy)
    return match[1].decode("ascii")
