"""Which visit one has become: by a rename, or because it was merged into another. Reads the histories of a store.

The history of a visit has its former names (:func:`~icf_utils.metadata.history.former_names`), so that a command that
still uses one can say what the visit is called now.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from icf_utils.errors import DepositDamaged, storage_errors
from icf_utils.metadata.history import FormerName, former_names, read_history
from icf_utils.store.layout import HISTORY_SUFFIX, Study, Visit, is_identifier, list_study_folders


@dataclass(frozen=True)
class Successor:
    """The visit ``place`` that another one has become; ``is_merged`` if it was merged into it."""

    place: Visit
    is_merged: bool

    @property
    def name(self) -> str:
        return f"{self.place.study}/{self.place.visit}"

    def __str__(self) -> str:
        return f"was merged into {self.name}" if self.is_merged else f"was renamed to {self.name}"


def find_successors(place: Visit) -> list[Successor]:
    """Find the other visits of the store that have a name among their former names, sorted by study and visit.

    Raises :class:`~icf_utils.errors.StorageFailure`.
    """
    found = list_successors(place.root).get((place.study, place.visit), [])
    return [successor for successor in found if successor.place != place]


def list_successors(root: Path) -> dict[tuple[str, str], list[Successor]]:
    """List the former names of all visits of a store. Raises :class:`~icf_utils.errors.StorageFailure`.

    Histories that cannot be read are left out: ``verify`` reports them.
    """
    found: dict[tuple[str, str], list[Successor]] = {}
    for study in list_study_folders(root):
        for place in _changed_visits(study):
            for former in _former_names(place):
                known = found.setdefault((former.study, former.visit), [])
                known.append(Successor(place, former.is_merged))
    return found


def _former_names(place: Visit) -> list[FormerName]:
    with suppress(DepositDamaged):
        return former_names(place.study, read_history(place))
    return []


def _changed_visits(study: Study) -> Iterator[Visit]:
    """The visits of a study that have a history, sorted."""
    with storage_errors(study.folder, "read"):
        try:
            names = sorted(os.listdir(study.folder))
        except (FileNotFoundError, NotADirectoryError):
            return
    for name in names:
        visit = name.removesuffix(HISTORY_SUFFIX)
        if visit != name and is_identifier("visit", visit):
            yield Visit(study.root, study.study, visit)
