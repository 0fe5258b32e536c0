"""Check that a catalog shows a visit as the visit's metadata describes it. Reads the catalog's folder; changes nothing.

Every file is made again from the metadata and compared, byte for byte, with the one in the catalog.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from icf_utils.catalog import writer
from icf_utils.catalog.content import load_application, own_names, study_files, super_files, visit_files
from icf_utils.catalog.page import visit_page
from icf_utils.catalog.previews import is_intact, list_previews
from icf_utils.catalog.records import VisitEntry, VisitPage, previews_folder, visit_entry
from icf_utils.catalog.study import StudyPage, parse_study_page, study_id, study_path
from icf_utils.catalog.study_description import study_catalog
from icf_utils.catalog.study_index import INDEX_PATH, NO_SERIES, PROTOCOLS_PATH, VISITS_PATH
from icf_utils.catalog.visit_data import visit_path
from icf_utils.dataset.store_address import StoreAddress
from icf_utils.errors import DepositDamaged, StorageFailure
from icf_utils.metadata.records import VisitMetadata
from icf_utils.outputs.listing import OUTPUTS_PATH, changed_list, read_list, visit_outputs
from icf_utils.settings import CatalogSettings
from icf_utils.sources.leave_out import DEFAULT
from icf_utils.store.files import describe_difference
from icf_utils.store.layout import Study, Visit

UUID_NAME = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_UNEXPECTED = "does not belong to this catalog; remove it unless somebody put it there on purpose"

#: A file's path and what is wrong with the file.
Problem = tuple[str, str]


def check_catalog(
    visit: Visit,
    metadata: VisitMetadata,
    store: StoreAddress,
    settings: CatalogSettings,
    *,
    dataset_is_lost: bool = False,
) -> list[Problem]:
    """List what is missing, different or left over in the catalog, as ``(path, problem)``; empty if nothing is wrong.

    Covers the visit's pages and previews, its entry and the totals on the study's page, and the application's files. A
    preview is compared with the MD5 in its name, not with the archive. ``store`` is that of the visit's dataset.
    ``dataset_is_lost``: there was a dataset, so that pages which show it are right. Raises
    :class:`~icf_utils.errors.StorageFailure` for what cannot be read,
    :class:`~icf_utils.errors.MissingRequirement` without datalad-catalog and
    :class:`~icf_utils.errors.InvalidSetting` for settings that an addition would also refuse.
    """
    study = visit.of_study
    settings = study_catalog(study, settings)
    page = visit_page(visit, metadata, store, settings)
    page = replace(page, previews=list_previews(study, page), has_dataset=page.has_dataset or dataset_is_lost)
    problems = _problems(study, page, settings)
    if problems and page.has_dataset:  # a catalog may be made before the dataset
        return [] if not _problems(study, replace(page, has_dataset=False), settings) else problems
    return problems


def _problems(study: Study, page: VisitPage, settings: CatalogSettings) -> list[Problem]:
    catalog_id = study_id(study.study)
    pages, application = visit_files(page), load_application(study, settings)
    return [
        *_compared(study, pages),
        *_pictures(study, page),
        *_left_over(study, page, pages, application),
        *_unexpected_files(study, catalog_id, application),
        *_study_page(study, catalog_id, page, settings),
        *_outputs(Visit(study.root, study.study, page.visit)),
        *_compared(study, super_files(catalog_id)),
        *_compared(study, application),
    ]


def _pictures(study: Study, page: VisitPage) -> Iterator[Problem]:
    for name in page.previews.values():
        path = f"{previews_folder(page)}/{name}"
        if not is_intact(name, writer.read_file(study, path) or b""):
            yield str(study.catalog / path), "does not match the MD5 in its name"


def _outputs(place: Visit) -> Iterator[Problem]:
    """Compare what the list of outputs says of the visit with its outputs."""
    study, path = place.of_study, str(place.of_study.catalog / OUTPUTS_PATH)
    raw = read_list(study)
    if raw is None:
        yield path, "is missing"
        return
    if raw != changed_list(study, raw, visit_outputs(place), without=[place.visit]):
        yield path, "does not list the outputs of the visit's processings"


def is_in_catalog(visit: Visit, dataset_id: str) -> bool:
    """Whether the catalog has anything of the visit: its pages, or an entry on the study's page.

    If the study's page cannot be read, the answer is yes, so that a check follows and reports the damage.
    """
    study = visit.of_study
    if writer.has_pages(study, dataset_id):
        return True
    name = study_path(study_id(study.study))
    try:
        raw = writer.read_file(study, name)
        return raw is not None and any(entry.visit == visit.visit for entry in parse_study_page(raw, name).entries)
    except (DepositDamaged, StorageFailure):
        return True


def _marker(study: Study, catalog_id: str, page: StudyPage | None) -> Iterator[Problem]:
    """Compare the marker: it must say the same about dates as the study's page, and may say either if that is
    unreadable.
    """
    hides = bool(writer.read_marker(study, catalog_id)) if page is None else page.hides_dates
    yield from _compared(study, {writer.MARKER: writer.marker_bytes(catalog_id, hides)})


def _compared(study: Study, files: Mapping[str, bytes]) -> Iterator[Problem]:
    for name, expected in files.items():
        found = writer.read_file(study, name)
        if found is None:
            yield str(study.catalog / name), "is missing"
        elif found != expected:
            yield str(study.catalog / name), f"is not what the metadata gives: {describe_difference(found, expected)}"


def _left_over(
    study: Study, page: VisitPage, pages: Mapping[str, bytes], application: Mapping[str, bytes]
) -> Iterator[Problem]:
    wanted = {*pages, *(f"{previews_folder(page)}/{name}" for name in page.previews.values())}
    for path in writer.stale_nodes(study, page.dataset_id, wanted):
        if not is_junk(path.name):
            yield str(path), "is left over from an earlier version of this visit"
    for path in writer.stale_assets(study, application):
        if not is_junk(path.name):
            yield str(path), "is left over from an earlier version of the catalog"


#: What file browsers (Finder, Explorer, those of storage boxes) leave in folders that they have shown.
_JUNK = ("Thumbs.db", "ehthumbs.db", "desktop.ini", "@eaDir", "Icon\r")


def is_junk(name: str) -> bool:
    """Whether a file is hidden, or left by a file browser: such files are passed over."""
    return name.startswith(".") or name in _JUNK


def find_junk(study: Study) -> list[str]:
    """The names of files that file browsers have left in a study's catalog, each once, sorted."""
    found = set()
    for _, folders, names in os.walk(study.catalog):
        found |= {name for name in (*folders, *names) if name in _JUNK or DEFAULT.name(name)}
    return sorted(found)


def _unexpected_files(study: Study, catalog_id: str, application: Mapping[str, bytes]) -> Iterator[Problem]:
    """Find files that icf-utils did not write and that a web server would show; hidden files are left alone.

    Folders of datasets that the study's page does not show are reported where their visits are checked.
    """
    known = own_names(application)
    for name in writer.list_names(study, ""):
        if name not in known and not is_junk(name):
            yield str(study.catalog / name), _UNEXPECTED
    known = {PurePosixPath(name).name for name in (INDEX_PATH, VISITS_PATH, PROTOCOLS_PATH, OUTPUTS_PATH)} | {"visits"}
    for name in writer.list_names(study, "data"):
        if name not in known:
            yield str(study.catalog / "data" / name), _UNEXPECTED
    known = {catalog_id, *(name.split("/")[1] for name in super_files(catalog_id))}
    for name in writer.list_names(study, "metadata"):
        if name not in known and not UUID_NAME.fullmatch(name) and not is_junk(name):
            yield str(study.catalog / "metadata" / name), _UNEXPECTED


def _study_page(study: Study, catalog_id: str, page: VisitPage, settings: CatalogSettings) -> Iterator[Problem]:
    name = study_path(catalog_id)
    path, raw = str(study.catalog / name), writer.read_file(study, name)
    if raw is None:
        yield path, "is missing"
        yield from _marker(study, catalog_id, None)
        return
    try:
        index = str(study.catalog / INDEX_PATH)
        found = parse_study_page(raw, path, writer.read_file(study, INDEX_PATH), index)
    except DepositDamaged as error:
        yield str(error.path), f"expected {error.expected}, found {error.found}"
        yield from _marker(study, catalog_id, None)
        return
    yield from _marker(study, catalog_id, found)
    expected = _as_dated(visit_entry(page), found, settings)
    if not (study.catalog / INDEX_PATH).exists():
        yield index, "is missing"
        return
    complaints = [(path, problem) for problem in _entries(found.entries, expected)]
    complaints = complaints or [(index, problem) for problem in _index_lines(found.entries, expected)]
    yield from complaints
    if not complaints:  # otherwise the whole file differs for that reason
        yield from _left_over_visits(study, found)
        yield from _compared(study, study_files(study.study, catalog_id, found.with_entry(expected), settings))


def _as_dated(entry: VisitEntry, found: StudyPage, settings: CatalogSettings) -> VisitEntry:
    """The entry with the date that the page should show: none if dates are hidden, the page's if only one side has a
    date.

    Catalogs can be made before datasets, and datasets can be lost.
    """
    (shown, *_) = [one.date for one in found.entries if one.visit == entry.visit] or [""]
    hidden = found.hides_dates or settings.hide_dates
    return replace(entry, date="" if hidden else shown if not (shown and entry.date) else entry.date)


def _entries(entries: Sequence[VisitEntry], expected: VisitEntry) -> Iterator[str]:
    visits = [entry.visit for entry in entries]
    if len(set(visits)) != len(visits):
        yield "shows a visit more than once"
    elif visits != sorted(visits):
        yield "does not list the visits in order"
    mine = [entry for entry in entries if entry.visit == expected.visit]
    if not mine:
        yield f"does not show visit {expected.visit}"
    elif any(_without_series(entry) != _without_series(expected) for entry in mine):
        yield f"does not show visit {expected.visit} as its metadata describes it"


def _without_series(entry: VisitEntry) -> VisitEntry:
    return replace(entry, store="", has_dataset=True, columns=NO_SERIES)


def _index_lines(entries: Sequence[VisitEntry], expected: VisitEntry) -> Iterator[str]:
    if any(entry != expected for entry in entries if entry.visit == expected.visit):
        yield f"does not have the series of visit {expected.visit} as its metadata describes them"


def _left_over_visits(study: Study, page: StudyPage) -> Iterator[Problem]:
    """Find pages of visits that the study's page does not show."""
    shown = {PurePosixPath(visit_path(entry.visit)).name for entry in page.entries}
    folder = str(PurePosixPath(visit_path("x")).parent)
    for name in writer.list_names(study, folder):
        if name not in shown:
            yield str(study.catalog / folder / name), "belongs to a visit that the study's page does not show"
