"""Count how an input differs from the archive that was made of it. Reads both; writes nothing."""

from __future__ import annotations

import os
from pathlib import Path

from icf_utils.archive.reader import ArchiveMember, DamagedTar, read_members
from icf_utils.errors import storage_errors
from icf_utils.sources.source import InputFile, Source, format_changes

_CHUNK = 1 << 20


def count_changes(source: Source, archive: Path, root: str) -> str:
    """Say how many files an input has more, with other content, and less than its archive.

    ``root`` is the folder of all members. Empty if the archive is damaged, or if all files are the same.
    """
    with storage_errors(archive, "read"), open(archive, "rb", buffering=0) as handle:
        descriptor = handle.fileno()
        try:
            members = {member.name.removeprefix(f"{root}/"): member for member in _members(descriptor)}
        except DamagedTar:
            return ""
        names = {entry.name for entry in source.entries}
        common = [entry for entry in source.entries if entry.name in members]
        changed = sum(not _is_equal(source, entry, descriptor, members[entry.name]) for entry in common)
    added, removed = len(source.entries) - len(common), len(set(members) - names)
    return format_changes(added, changed, removed) if added or changed or removed else ""


def _members(descriptor: int) -> list[ArchiveMember]:
    def read(position: int, size: int) -> bytes:
        data = os.pread(descriptor, size, position)
        if len(data) < size:
            raise DamagedTar(f"{size} bytes at {position}", f"{len(data)}")
        return data

    return list(read_members(read))


def _is_equal(source: Source, entry: InputFile, descriptor: int, member: ArchiveMember) -> bool:
    if entry.size != member.size:
        return False
    position, end = member.offset, member.offset + member.size
    with source.open(entry) as reader:
        while position < end:
            data = reader.read(min(_CHUNK, end - position))
            if not data or data != os.pread(descriptor, len(data), position):
                return False
            position += len(data)
    return True
