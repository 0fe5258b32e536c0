"""What a dataset's next commits follow: the commits of the dataset so far, and what their messages say. Pure.

A visit's dataset begins with one commit on each branch. Whatever changes it adds one commit to both. The messages on
``main`` say which version of the visit a commit is of, why and when it was made, in the words of who made the change;
the visit's history can be read from them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from icf_utils.dataset.git_objects import BranchFile, GitObject

#: The texts of commits on ``main``, and of those on ``git-annex``.
FIRST_MESSAGE = "Dataset of a visit"
REFRESHED_MESSAGE = "Dataset of a visit, refreshed"
ANNEX_MESSAGE = "Annex of a visit"
WEB_MESSAGE = "The archive is on the web"

_VERSION = re.compile(r"Version (\d+) of a visit\n\n(.*?)(?:\n\nDate: (\d{4}-\d\d-\d\d))?", re.DOTALL)


@dataclass(frozen=True)
class EarlierCommits:
    """The heads of both branches before the next commits, all their objects, and the files on ``git-annex``."""

    main: str
    annex: str
    objects: Mapping[bytes, GitObject]
    annex_files: Mapping[bytes, BranchFile]


@dataclass(frozen=True)
class Lineage:
    """What the next commits follow, and the message of the one on ``main``.

    ``kept`` has the keys of former archives that are still in the store, each with its file's name there.
    """

    earlier: EarlierCommits
    message: str
    kept: Mapping[bytes, str] = field(default_factory=dict)


def version_message(version: int, reason: str, date: str = "") -> str:
    r"""The message of a version's first commit.

    >>> version_message(2, "late images", "2024-05-31")
    'Version 2 of a visit\n\nlate images\n\nDate: 2024-05-31'
    """
    return f"Version {version} of a visit\n\n{reason}" + (f"\n\nDate: {date}" if date else "")


def parse_version_message(message: str) -> tuple[int, str, str] | None:
    """Version, reason and date in a commit's message; ``None`` for commits that begin no version."""
    match = _VERSION.fullmatch(message)
    return (int(match[1]), match[2], match[3] or "") if match else None
