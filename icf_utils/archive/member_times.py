"""The times of members when an archive is written from others. Reads the beginnings of members.

A file with a study time of its own has that time. The others, such as companions, have the latest time of the visit,
which is another one after visits were merged or images went.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import timezone
from pathlib import Path

from icf_utils.archive.reader import ArchiveMember
from icf_utils.dicom.header import FACT_TAGS, file_facts, read_head
from icf_utils.errors import storage_errors
from icf_utils.regular_files import open_regular

Members = Mapping[str, tuple[Path, ArchiveMember]]


def choose_times(members: Members, latest: Mapping[Path, float]) -> dict[str, float]:
    """Return the times of members that come from several archives, by name, in seconds since 1970.

    ``latest`` is the latest time in each archive, also of members that are not taken. A member with that time may have
    it from the visit, and is read. Raises :class:`~icf_utils.errors.StorageFailure`.
    """
    doubtful = {name: (path, member) for name, (path, member) in members.items() if member.mtime == latest[path]}
    without = set(_without_time(doubtful))
    own = [member.mtime for name, (_, member) in members.items() if name not in without]
    time = max(own, default=0.0)
    return {name: time if name in without else member.mtime for name, (_, member) in members.items()}


def _without_time(members: Members) -> Iterator[str]:
    """The names of members without a usable study time."""
    for path in sorted({path for path, _ in members.values()}):
        with storage_errors(path, "read"), open_regular(path) as handle:
            for name, (source, member) in members.items():
                if source == path and not _has_time(handle.fileno(), member):
                    yield name


def _has_time(descriptor: int, member: ArchiveMember) -> bool:
    at = member.offset

    def read(size: int) -> bytes:
        nonlocal at
        data = os.pread(descriptor, min(size, member.offset + member.size - at), at)
        at += len(data)
        return data

    _, found = read_head(read, member.size, FACT_TAGS)
    return file_facts(found, timezone.utc).time is not None
