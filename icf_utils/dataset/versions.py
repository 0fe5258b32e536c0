"""The versions of a visit as the commits of its dataset show them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from icf_utils.dataset.git_objects import BranchFile
from icf_utils.dataset.lineage import FIRST_MESSAGE, REFRESHED_MESSAGE, parse_version_message
from icf_utils.dataset.reader import DepositedDataset
from icf_utils.metadata.history import VersionRecord

_ARCHIVE_LINK = re.compile(rb"MD5E-s(\d+)--([0-9a-f]{32})\.tar\Z")


def versions_of(dataset: DepositedDataset) -> tuple[VersionRecord, ...]:
    """The versions that a dataset's commits are of, the first one first; without what was kept.

    A dataset that was first made of a later version has fewer of them.
    """
    found: list[VersionRecord] = []
    for branch in reversed(list(dataset.branches())):
        size, md5 = _archive_of(branch.files)
        version = parse_version_message(branch.message)
        if version:
            found.append(VersionRecord(version[0], md5, size, branch.commit, version[1], version[2]))
        elif branch.message == FIRST_MESSAGE or not found:
            found.append(VersionRecord(1, md5, size, branch.commit))
        elif branch.message == REFRESHED_MESSAGE:
            found[-1] = replace(found[-1], md5=md5, size=size, commit=branch.commit)
    return tuple(found)


def _archive_of(files: Mapping[bytes, BranchFile]) -> tuple[int, str]:
    """Size and MD5 of the archive that a commit has; 0 and an empty text without one."""
    for path, item in files.items():
        match = _ARCHIVE_LINK.search(item.content) if path.startswith(b"icf/") else None
        if match:
            return int(match[1]), match[2].decode("ascii")
    return 0, ""


def history_problems(history: tuple[VersionRecord, ...], dataset: DepositedDataset) -> Iterator[str]:
    """What a visit's history says that the commits of its dataset contradict."""
    known = {version.commit: version for version in versions_of(dataset)}
    for version in history:
        there = known.pop(version.commit, None)
        if there and (there.md5, there.size) != (version.md5, version.size):
            yield f"says of version {version.version} another archive than its commit has"
        if (
            there
            and there.reason
            and (there.version, there.reason, there.date)
            != (
                version.version,
                version.reason,
                version.date,
            )
        ):
            yield f"says of version {version.version} another reason or date than its commit has"
        if there is None and version.commit:
            yield f"names a commit of version {version.version} that the dataset does not have"
    if history[-1].commit not in ("", dataset.main.commit):
        yield "does not name the dataset's last commit"
    for left in known.values():
        if parse_version_message(_message_of(dataset, left.commit)):
            yield f"does not have version {left.version}, of which the dataset has a commit"


def _message_of(dataset: DepositedDataset, commit: str) -> str:
    return next((branch.message for branch in dataset.branches() if branch.commit == commit), "")
