"""The catalog stage: a visit's two JSON files become pages of its study's catalog.

``<store>/<study>/catalog`` is a static web site for any plain web server, under any path; it needs no other host and
no network. Browsers do not let a page fetch data from ``file://``, so that a local copy is served, too, for example
by ``python -m http.server``. Decides nothing about bytes (:mod:`icf_utils.catalog.plan` does) and writes nothing by
itself (:mod:`icf_utils.catalog.writer` does).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from icf_utils.catalog import writer
from icf_utils.catalog.assets import Assets, load_assets
from icf_utils.catalog.entries import VisitEntry, VisitPage, visit_entry
from icf_utils.catalog.plan import application_files, study_files, super_files, visit_files
from icf_utils.catalog.study import catalog_name, logo_target, merged, parse_entries, study_id, study_path
from icf_utils.config import CatalogSettings, Settings, load_settings
from icf_utils.dataset.where import store_place
from icf_utils.errors import InvalidSetting
from icf_utils.lock import catalog_lock
from icf_utils.metadata.reading import read_visit_metadata
from icf_utils.progress import SILENT, Progress
from icf_utils.results import Notice
from icf_utils.store import Study, Visit


@dataclass(frozen=True)
class CatalogResult:
    """What the catalog shows of a visit now, and how many files had to be written for it."""

    study: str
    visit: str
    catalog: Path
    dataset_id: str
    series: int
    images: int
    files_written: int
    files_unchanged: int
    notices: tuple[Notice, ...]


@dataclass(frozen=True)
class _Content:
    """Everything that does not depend on what the catalog holds already."""

    page: VisitPage
    visit: dict[str, bytes]
    application: dict[str, bytes]
    notices: tuple[Notice, ...]


def catalogify_studyvisit_from_meta(
    store_dir: str | os.PathLike[str],
    study: str,
    visit: str,
    *,
    store_url: str | None = None,
    store_id: str | None = None,
    settings: Settings | None = None,
    progress: Progress = SILENT,
) -> CatalogResult:
    """Bring a visit into its study's catalog, or up to date there; creates the catalog if there is none.

    ``store_url`` is where the store is served, ``store_id`` what identifies it when that changes; without them, the
    visit's dataset says, and where there is none yet, the settings do. The same visits
    give the same catalog in every order of additions; an unchanged one touches no file.
    Raises :class:`~icf_utils.errors.IcfError` (``DepositMissing`` without metadata, ``DepositDiffers`` for a folder
    'catalog' of other origin, ``MissingRequirement`` without datalad-catalog, ``InvalidSetting``, ...).
    """
    place = Visit(Path(store_dir), study, visit)
    settings = load_settings(place.root) if settings is None else settings
    where = store_place(place, settings, store_url, store_id)
    page = VisitPage(study, visit, where.url, where.dataset_id, read_visit_metadata(place))
    content = _content(page, place, settings.catalog)
    with catalog_lock(place.of_study, progress):
        tally = _write(place.of_study, content, settings.catalog, progress)
    return _result(page, place, tally, content.notices)


def load_application(study: Study, settings: CatalogSettings) -> tuple[dict[str, bytes], Assets]:
    """The web application's files as the catalog should have them, and where they come from."""
    logo = writer.read_logo(study.root, settings.logo) if logo_target(settings) else None
    if settings.logo and logo is None:
        raise InvalidSetting("[catalog] logo", "there is no such file in the store's folder")
    assets = load_assets(catalog_name(study.study, settings))
    return application_files(study.study, settings, assets, logo), assets


def _content(page: VisitPage, place: Visit, settings: CatalogSettings) -> _Content:
    application, assets = load_application(place.of_study, settings)
    return _Content(page, visit_files(page), application, assets.notices)


def _write(study: Study, content: _Content, settings: CatalogSettings, progress: Progress) -> writer.Tally:
    """In this order, so that whatever a page refers to is there before the page."""
    catalog_id = study_id(study.study)
    writer.refuse_foreign(study, catalog_id)
    writer.clear_leftovers(study)
    entries = _entries(study, catalog_id)
    steps = [
        {writer.MARKER: writer.marker_bytes(catalog_id)},
        content.visit,
        content.application,
        study_files(study.study, catalog_id, merged(entries, visit_entry(content.page)), settings),
        super_files(catalog_id),
    ]
    tally = writer.Tally()
    with progress.task("catalog", sum(map(len, steps)), "files") as task:
        for step in steps:
            writer.write_files(study, step, tally, task)
    for dataset_id in sorted(_former_ids(entries, content.page)):
        writer.remove_files(study, writer.stale_nodes(study, dataset_id, content.visit))
    writer.remove_files(study, writer.stale_assets(study, content.application))
    return tally


def _entries(study: Study, catalog_id: str) -> tuple[VisitEntry, ...]:
    """What the study's page shows so far."""
    name = study_path(catalog_id)
    raw = writer.read_file(study, name)
    return parse_entries(raw, str(study.catalog / name)) if raw is not None else ()


def _former_ids(entries: Iterable[VisitEntry], page: VisitPage) -> set[str]:
    """Datasets that the visit's pages stood under before: a store that has moved gives it another id."""
    return {entry.dataset_id for entry in entries if entry.visit == page.visit} | {page.dataset_id}


def _result(page: VisitPage, place: Visit, tally: writer.Tally, notices: tuple[Notice, ...]) -> CatalogResult:
    return CatalogResult(
        study=place.study,
        visit=place.visit,
        catalog=place.of_study.catalog,
        dataset_id=page.dataset_id,
        series=len(page.series),
        images=len(page.metadata.images),
        files_written=tally.written,
        files_unchanged=tally.unchanged,
        notices=notices,
    )
