"""Keep ``STUDY/visits.json`` current: a line for each visit that is published, written last whenever one changes.

Takes a visit's line from its entry on the study's page, else from its metadata. Dates are in the list if the study's
catalog shows them. A list that is missing or damaged is made anew as a whole. Reads and writes files; callers hold the
catalog's lock, as the list belongs to all visits of a study.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from icf_utils.catalog.page import read_entries, visit_date
from icf_utils.catalog.records import VisitEntry
from icf_utils.catalog.series import group_series, list_modalities
from icf_utils.catalog.study import study_id
from icf_utils.catalog.writer import read_marker
from icf_utils.dataset.reader import read_dataset
from icf_utils.dataset.study_stage import write_study_dataset
from icf_utils.errors import DepositDamaged, DepositMissing
from icf_utils.metadata.history import current_version
from icf_utils.metadata.records import TarballRecord, VisitMetadata, parse_tarball, read_visit_metadata
from icf_utils.metadata.visit_list import (
    VisitLine,
    encode_visit_list,
    parse_visit_list,
    with_line,
    without_dates,
    without_line,
)
from icf_utils.progress import Progress
from icf_utils.settings import CatalogSettings, Settings
from icf_utils.store.files import replace_bytes, sync_folder
from icf_utils.store.layout import Study, Visit, find_deposit, read_deposit
from icf_utils.store.locks import catalog_lock


def publish_visit(place: Visit, settings: Settings, progress: Progress) -> None:
    """Bring a visit's line up to date in a study whose catalog does not show the visit; nothing without metadata.

    So is the study's dataset. Raises :class:`~icf_utils.errors.StorageFailure` and :class:`~icf_utils.errors.Busy`.
    """
    with catalog_lock(place.of_study, progress):
        line = _line_from_files(place, {})
        if line:
            write_study_dataset(place.of_study, settings.store.id, [place.visit])
            write_visit_list(place.of_study, list_with(place.of_study, line, settings.catalog))


def visit_line(entry: VisitEntry, version: int) -> VisitLine:
    """The line of a visit that the catalog shows."""
    return VisitLine(
        visit=entry.visit,
        version=version,
        size=entry.size,
        md5=entry.version,
        images=entry.images,
        series=entry.series,
        modalities=entry.modalities,
        date=entry.date,
    )


def list_with(study: Study, line: VisitLine, settings: CatalogSettings, raw: bytes | None = None) -> bytes:
    """The list after a visit was added or changed: that in the store, or ``raw``."""
    line = replace(line, date="") if hides_dates(study, settings) else line
    raw = read_visit_list(study) if raw is None else raw
    if raw is not None:
        raw = with_line(_without_hidden_dates(raw, study, settings), line)
    if raw is None:
        others = [other for other in _lines(study, settings) if other.visit != line.visit]
        raw = encode_visit_list([*others, line])
    return raw


def list_without(study: Study, visit: str, settings: CatalogSettings, raw: bytes | None = None) -> bytes:
    """The list after a visit was removed: that in the store, or ``raw``."""
    raw = read_visit_list(study) if raw is None else raw
    if raw is not None:
        raw = without_line(_without_hidden_dates(raw, study, settings), visit)
    if raw is None:
        raw = encode_visit_list(other for other in _lines(study, settings) if other.visit != visit)
    return raw


def encode_changed_list(
    study: Study, settings: CatalogSettings, remove: Collection[str], line: VisitLine | None
) -> bytes | None:
    """The list after the visits ``remove`` went and ``line`` came; ``None`` if a changed study has no list."""
    raw = read_visit_list(study)
    if raw is None and remove:
        return None
    for visit in remove:
        raw = list_without(study, visit, settings, raw)
    return list_with(study, line, settings, raw) if line else raw


def build_visit_list(study: Study, settings: CatalogSettings) -> bytes:
    """The list as the study's files give it: all visits that have metadata."""
    return encode_visit_list(_lines(study, settings))


def read_visit_list(study: Study) -> bytes | None:
    """Read the file's bytes; ``None`` where there is none. Raises :class:`~icf_utils.errors.StorageFailure`."""
    return find_deposit(study.visit_list)


def write_visit_list(study: Study, data: bytes) -> bool:
    """Write the list, durable on return, unless it has these bytes; returns whether it was written."""
    if read_visit_list(study) == data:
        return False
    replace_bytes(study, study.visit_list, data)
    sync_folder(study.folder)
    return True


def _lines(study: Study, settings: CatalogSettings) -> Iterator[VisitLine]:
    entries = {entry.visit: entry for entry in read_entries(study) or ()}
    old, hidden = _former_lines(study), hides_dates(study, settings)
    for visit in study.visits():
        place = Visit(study.root, study.study, visit)
        line = _line_from_files(place, entries) or old.get(visit)
        if line:
            yield replace(line, date="") if hidden else line


def _former_lines(study: Study) -> dict[str, VisitLine]:
    """The lines as they are: kept for visits whose files are damaged, which others repair."""
    try:
        return {line.visit: line for line in read_lines(study) or ()}
    except DepositDamaged:
        return {}


def line_from_files(place: Visit, settings: CatalogSettings) -> VisitLine | None:
    """The line of a visit as its metadata, dataset and history give it; ``None`` without usable metadata.

    Raises :class:`~icf_utils.errors.StorageFailure`.
    """
    line = _line_from_files(place, {})
    return replace(line, date="") if line and hides_dates(place.of_study, settings) else line


def _line_from_files(place: Visit, entries: dict[str, VisitEntry]) -> VisitLine | None:
    """The line of a visit, from its entry if that is about the present archive; ``None`` without usable metadata."""
    entry = entries.get(place.visit)
    try:
        tarball = _tarball(place)
        if entry and (entry.version, entry.size) == (tarball.md5, tarball.size):
            return visit_line(entry, current_version(place))
        metadata = read_visit_metadata(place)
        deposit = read_dataset(place)
    except (DepositDamaged, DepositMissing):  # reported where the visit itself is checked
        return None
    return line_of_metadata(place, metadata, deposit.origin.time if deposit else 0)


def line_of_metadata(place: Visit, metadata: VisitMetadata, time: int) -> VisitLine:
    """The line of a visit with its date, from its metadata; ``time`` is that of its dataset, 0 without one.

    Raises :class:`~icf_utils.errors.DepositDamaged` if the visit's history cannot be read.
    """
    series = group_series(metadata.images)
    return VisitLine(
        visit=place.visit,
        version=current_version(place),
        size=metadata.tarball.size,
        md5=metadata.tarball.md5,
        images=len(metadata.images),
        series=len(series),
        modalities=tuple(list_modalities(series)),
        date=visit_date(place, metadata, time),
    )


def _tarball(place: Visit) -> TarballRecord:
    path: Path = place.tarball_json
    return parse_tarball(read_deposit(path, ""), str(path))


def _without_hidden_dates(raw: bytes, study: Study, settings: CatalogSettings) -> bytes:
    """The list without dates if the study has come to hide them; a damaged one is made anew by the caller."""
    if not hides_dates(study, settings):
        return raw
    try:
        return without_dates(raw, str(study.visit_list))
    except DepositDamaged:
        return b""


def hides_dates(study: Study, settings: CatalogSettings) -> bool:
    """Whether the study shows no dates."""
    return settings.hide_dates or bool(read_marker(study, study_id(study.study)))


def read_lines(study: Study) -> tuple[VisitLine, ...] | None:
    """Read the lines of the list; ``None`` where there is none. Raises :class:`~icf_utils.errors.DepositDamaged`."""
    raw = read_visit_list(study)
    return None if raw is None else parse_visit_list(raw, str(study.visit_list))
