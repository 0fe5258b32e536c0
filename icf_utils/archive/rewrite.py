"""Write archives from other archives: under another top folder, or several as one. Reads archives, writes one.

The result has the bytes that :mod:`icf_utils.archive.writer` gives for the same files: members keep their contents and
their times (:mod:`icf_utils.archive.member_times`), and headers are made anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from icf_utils.archive.checksum import format_checksum
from icf_utils.archive.member_times import choose_times
from icf_utils.archive.members import read_member
from icf_utils.archive.reader import ArchiveMember, list_members
from icf_utils.archive.tar_headers import content_padding, end_of_archive, member_header
from icf_utils.errors import DepositDamaged, storage_errors
from icf_utils.progress import Progress
from icf_utils.results import Written
from icf_utils.store.files import new_part, publish_part, sync_file
from icf_utils.store.layout import Visit
from icf_utils.store.sums import publish_with_sums


def rewrite_archive(
    sources: Sequence[Path],
    place: Visit,
    progress: Progress,
    left_out: Mapping[Path, Container[str]] | None = None,
) -> tuple[str, int]:
    """Write the archive of ``place`` with checksum and sums from the members of ``sources``; returns its MD5 and size.

    A file that several sources have is taken from the first; its content must be the same in all. ``left_out`` has
    paths below the top folder that are not taken from a source. Raises
    :class:`~icf_utils.errors.DepositDamaged`, also for members that are not regular files.
    """
    members, latest = _members(sources, left_out or {})
    changes_times = len(set(latest.values())) > 1 or left_out
    times = choose_times(members, latest) if changes_times else {}
    study = place.of_study
    digest, sha256, position = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0
    with new_part(study, place.archive) as handle:

        def write(data: bytes) -> None:
            nonlocal position
            handle.write(data)
            digest.update(data)
            sha256.update(data)
            position += len(data)

        with progress.task("archive", sum(member.size for _, member in members.values()), "B") as task:
            for name in sorted(members, key=lambda name: name.split("/")):
                path, member = members[name]
                with storage_errors(path, "copy from"), path.open("rb", buffering=0) as source:
                    write(member_header(f"{place.member_root}/{name}", member.size, times.get(name, member.mtime)))
                    for block in read_member(source.fileno(), member):
                        write(block)
                    write(content_padding(member.size))
                task.advance(member.size)
            with storage_errors(place.archive, "write"):
                write(end_of_archive(position))
        sync_file(handle, place.archive)
    publish_part(study, place.archive)
    checksum = [(place.checksum, format_checksum(digest.hexdigest(), place.archive.name))]
    publish_with_sums(place, checksum, [(Written(place.archive, "written"), sha256.hexdigest())])
    return digest.hexdigest(), position


def _members(
    sources: Sequence[Path], left_out: Mapping[Path, Container[str]]
) -> tuple[Mapping[str, tuple[Path, ArchiveMember]], Mapping[Path, float]]:
    """The members by their paths below the top folder, and the latest time in each source."""
    found: dict[str, tuple[Path, ArchiveMember]] = {}
    latest: dict[Path, float] = {}
    for path in sources:
        for member in list_members(path):
            if not member.is_file:
                remedy = "archive the visit again from its files"
                raise DepositDamaged(path, "an archive of regular files", f"'{member.name}', a link", remedy)
            latest[path] = max(latest.get(path, 0.0), member.mtime)
            name = member.name.partition("/")[2]
            if name not in left_out.get(path, ()):
                found.setdefault(name, (path, member))
    return found, latest
