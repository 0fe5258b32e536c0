"""The members of an archive one by one: listed from the headers, and read by their position. Reads that one file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from icf_utils.archive.reader import ArchiveMember, list_members
from icf_utils.errors import storage_errors
from icf_utils.regular_files import open_regular

_CHUNK = 1 << 20


def digest_members(path: Path, wanted: Callable[[ArchiveMember], bool]) -> dict[str, str]:
    """Return the MD5 of each wanted member's content by its path below the archive's top folder.

    Raises :class:`~icf_utils.errors.DepositDamaged` and :class:`~icf_utils.errors.StorageFailure`.
    """
    members = [member for member in list_members(path) if wanted(member)]
    with storage_errors(path, "read"), open_regular(path) as handle:
        return {member.name.partition("/")[2]: _digest(handle.fileno(), member) for member in members}


def _digest(descriptor: int, member: ArchiveMember) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for block in read_member(descriptor, member):
        digest.update(block)
    return digest.hexdigest()


def read_member(descriptor: int, member: ArchiveMember) -> Iterator[bytes]:
    """Read a member's content from an open archive. Raises ``OSError``."""
    at, left = member.offset, member.size if member.is_file else 0
    while left:
        block = os.pread(descriptor, min(_CHUNK, left), at)
        if not block:
            return
        yield block
        at, left = at + len(block), left - len(block)
