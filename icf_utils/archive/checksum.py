"""The archive's ``.md5sum`` file, in the form that ``md5sum -c`` reads, and the MD5 of a file. Reads files."""

from __future__ import annotations

import hashlib
import os
import re

from icf_utils.errors import DepositDamaged, storage_errors
from icf_utils.regular_files import open_regular
from icf_utils.store.layout import Visit, read_deposit

_LINE = re.compile(rb"([0-9a-f]{32})  ([^\n]+)\n")

#: What to do about an archive that is damaged or missing.
RESTORE_ADVICE = "restore it from a copy, or by 'icf-utils visit replace' with the input that it was made from"

#: Bytes read at a time.
_CHUNK = 1 << 20


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


def read_checksum(place: Visit, remedy: str) -> str:
    """Return the MD5 in the checksum file of a visit's archive.

    Raises :class:`~icf_utils.errors.DepositMissing` with ``remedy``, :class:`~icf_utils.errors.DepositDamaged`, or
    :class:`~icf_utils.errors.StorageFailure`.
    """
    return parse_checksum(read_deposit(place.checksum, remedy), place.archive.name, str(place.checksum))


def file_md5(path: str | os.PathLike[str]) -> str:
    """Compute the MD5 of a file. Raises :class:`~icf_utils.errors.StorageFailure`."""
    digest = hashlib.md5(usedforsecurity=False)
    with storage_errors(path, "read"), open_regular(path) as handle:
        while block := handle.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def refuse_damaged_archive(place: Visit) -> None:
    """Read a visit's archive, and compare it with its checksum file: a command is about to take its content over.

    Raises :class:`~icf_utils.errors.DepositMissing`, :class:`~icf_utils.errors.DepositDamaged` and
    :class:`~icf_utils.errors.StorageFailure`.
    """
    expected = read_checksum(place, "run 'icf-utils verify --repair' for this visit")
    compare_checksum(place, expected, file_md5(place.archive))


def compare_checksum(place: Visit, expected: str, found: str) -> None:
    """Raise :class:`~icf_utils.errors.DepositDamaged` if the archive does not have the MD5 of its checksum file."""
    if found != expected:
        remedy = f"the archive or its checksum file was changed or damaged: {RESTORE_ADVICE}"
        raise DepositDamaged(place.archive, f"the MD5 {expected} of its checksum file", found, remedy)
