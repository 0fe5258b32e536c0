"""Where the files of a series are in the archive and the dataset, as far as pages may show it. Pure.

Export programs put names of patients into names of files and folders, so the file tree of a page has names of its own.
Where a series' real folders and names are harmless, readers get them as well: the same paths are in the archive, in a
clone of the dataset, and in what ``icf-utils retrieve`` makes.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from icf_utils.catalog.privacy import NameRule, is_shown_folder
from icf_utils.metadata.records import ImageRecord

#: The most folders of a series that are listed.
_MOST = 4
#: The owner of a folder with images of several series.
_SHARED = -1


@dataclass(frozen=True)
class SeriesPaths:
    """The folders of a series; none if they must not be shown, or are too many.

    ``alone``: they contain no other series. ``names``: the page shows the files' real names.
    """

    folders: tuple[str, ...]
    alone: bool
    names: bool


def folder_owners(groups: Iterable[Sequence[ImageRecord]]) -> dict[str, int]:
    """The position of the one group whose images are in or below a folder, for each folder; -1 if there are several."""
    owners: dict[str, int] = {}
    for at, members in enumerate(groups):
        for found in {posixpath.dirname(image.path) for image in members}:
            folder = found
            while folder and owners.get(folder) not in (at, _SHARED):  # else, so are the folders above
                owners[folder] = at if folder not in owners else _SHARED
                folder = posixpath.dirname(folder)
    return owners


def find_paths(
    at: int,
    members: Sequence[ImageRecord],
    owners: Mapping[str, int],
    texts: Sequence[str],
    rule: NameRule,
    shown: Iterable[str],
) -> SeriesPaths:
    """The paths of the group at position ``at``; ``texts`` are on its page, and ``shown`` its names of files there."""
    found = sorted({posixpath.dirname(image.path) for image in members})
    common = posixpath.commonpath(found)
    folders = [common] if owners.get(common) == at else found
    names = all(posixpath.basename(image.path) == name for image, name in zip(members, shown, strict=True))
    uids = [uid for image in members for uid in image.uids.values()] if len(folders) <= _MOST else []
    if len(folders) > _MOST or not all(is_shown_folder(folder, uids, texts, rule) for folder in folders):
        return SeriesPaths((), False, names)
    return SeriesPaths(tuple(folders), all(owners.get(folder) == at for folder in folders), names)
