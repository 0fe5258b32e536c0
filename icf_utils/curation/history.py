"""The versions of a visit. Reads the store; writes nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from icf_utils.curation.version import read_current
from icf_utils.metadata.history import VersionRecord
from icf_utils.metadata.records import read_visit_metadata
from icf_utils.settings import load_settings
from icf_utils.store.elsewhere import find_elsewhere
from icf_utils.store.layout import Visit


@dataclass(frozen=True)
class HistoryResult:
    """The versions of a visit, the first one first; the last one is in the store."""

    study: str
    visit: str
    versions: tuple[VersionRecord, ...]


def list_versions(store_dir: str | os.PathLike[str], study: str, visit: str) -> HistoryResult:
    """List the versions of a visit; a visit that was never changed has one.

    Raises :class:`~icf_utils.errors.DepositMissing` and :class:`~icf_utils.errors.DepositDamaged`.
    """
    place = Visit(Path(store_dir), study, visit)
    is_elsewhere = bool(find_elsewhere(place, load_settings(place.root)))
    metadata = read_visit_metadata(place) if is_elsewhere and not place.tombstone.exists() else None
    return HistoryResult(study, visit, read_current(place, metadata, is_elsewhere=is_elsewhere).history)
