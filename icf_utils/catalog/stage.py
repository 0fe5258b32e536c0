"""The catalog stage: a visit's two JSON files become pages of its study's catalog.

``<store>/<study>/catalog`` is a static web site for any plain web server, under any path; it needs no other host and
no network. Browsers do not let a page fetch data from ``file://``, so that a local copy is served, too, for example
by ``icf-utils catalog serve``. Decides nothing about bytes (:mod:`icf_utils.catalog.content` does) and writes
nothing by itself (:mod:`icf_utils.catalog.writer` does).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from icf_utils.catalog import writer
from icf_utils.catalog.application import ApplicationFiles, load_application_files
from icf_utils.catalog.content import application_files, study_files, super_files, visit_files
from icf_utils.catalog.page import visit_page
from icf_utils.catalog.previews import make_previews, preview_name, read_previews
from icf_utils.catalog.records import VisitPage, previews_folder, visit_entry
from icf_utils.catalog.study import StudyPage, catalog_name, logo_target, parse_study_page, study_id, study_path
from icf_utils.catalog.swap import remove_work_folders
from icf_utils.dataset.store_address import find_store_address
from icf_utils.errors import InvalidSetting
from icf_utils.metadata.records import read_visit_metadata
from icf_utils.progress import SILENT, Progress
from icf_utils.results import Notice
from icf_utils.settings import CatalogSettings, Settings, load_settings
from icf_utils.store.layout import Study, Visit
from icf_utils.store.locks import catalog_lock


@dataclass(frozen=True)
class CatalogResult:
    """What the catalog shows of a visit now, and how many files had to be written for it."""

    study: str
    visit: str
    catalog: Path
    dataset_id: str
    series: int
    images: int
    previews: int
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
    hide_dates: bool = False,
    previews: bool = False,
    settings: Settings | None = None,
    progress: Progress = SILENT,
) -> CatalogResult:
    """Bring a visit into its study's catalog, or up to date there; creates the catalog if there is none.

    ``store_url`` is where the store is served, ``store_id`` what identifies it when that changes; without them, the
    visit's dataset says, and where there is none yet, the settings do. ``hide_dates`` takes the dates of all visits
    off the study's page, and keeps them off. ``previews`` makes a picture of each series; those that there are stay.
    The same visits give the same catalog in every order of additions; an unchanged one touches no file.
    Raises :class:`~icf_utils.errors.IcfError` (``DepositMissing`` without metadata, ``ExistingFileDiffers`` for a
    folder 'catalog' of other origin, ``MissingRequirement`` without datalad-catalog, ``InvalidSetting``, ...).
    """
    place = Visit(Path(store_dir), study, visit)
    settings = load_settings(place.root) if settings is None else settings
    where = find_store_address(place, settings, store_url, store_id)
    page = visit_page(place, read_visit_metadata(place), where, settings.catalog)
    content = _content(page, place, settings.catalog, previews, progress)
    with catalog_lock(place.of_study, progress):
        tally = _write(place.of_study, content, settings.catalog, hide_dates, progress)
    return _result(content.page, place, tally, content.notices)


def load_application(study: Study, settings: CatalogSettings) -> tuple[dict[str, bytes], ApplicationFiles]:
    """The web application's files as the catalog should have them, and where they come from."""
    logo = writer.read_logo(study.root, settings.logo) if logo_target(settings) else None
    if settings.logo and logo is None:
        raise InvalidSetting("[catalog] logo", "there is no such file in the store's folder")
    assets = load_application_files(catalog_name(study.study, settings))
    return application_files(study.study, settings, assets, logo), assets


def with_previews(
    page: VisitPage, place: Visit, previews: bool, progress: Progress
) -> tuple[VisitPage, dict[str, bytes], tuple[Notice, ...]]:
    """The page with its pictures, their files by name, and notices; without ``previews``, those that there are."""
    if previews:
        made, notices = make_previews(place, page, progress)
    else:
        made, notices = read_previews(place.of_study, page), ()
    return add_previews(page, made), preview_files(page, made), notices


def add_previews(page: VisitPage, pictures: Mapping[int, bytes]) -> VisitPage:
    """The page with pictures of the series at these places."""
    return replace(page, previews={at: preview_name(at, png) for at, png in pictures.items()})


def preview_files(page: VisitPage, pictures: Mapping[int, bytes]) -> dict[str, bytes]:
    """The pictures' files by their place below the catalog's folder."""
    return {f"{previews_folder(page)}/{preview_name(at, png)}": png for at, png in sorted(pictures.items())}


def _content(page: VisitPage, place: Visit, settings: CatalogSettings, previews: bool, progress: Progress) -> _Content:
    application, assets = load_application(place.of_study, settings)
    page, pictures, notices = with_previews(page, place, previews, progress)
    return _Content(page, {**pictures, **visit_files(page)}, application, (*assets.notices, *notices))


def _write(
    study: Study, content: _Content, settings: CatalogSettings, hide_dates: bool, progress: Progress
) -> writer.Tally:
    """In this order, so that whatever a page refers to is there before the page."""
    catalog_id = study_id(study.study)
    remove_work_folders(study)
    writer.refuse_foreign(study, catalog_id)
    writer.remove_unfinished_files(study)
    before = read_study_page(study)
    after = replace(before.with_entry(visit_entry(content.page)), hides_dates=before.hides_dates or hide_dates)
    steps = [
        {writer.MARKER: writer.marker_bytes(catalog_id, after.hides_dates)},
        content.visit,
        content.application,
        study_files(study.study, catalog_id, after, settings),
        super_files(catalog_id),
    ]
    tally = writer.Tally()
    with progress.task("catalog", sum(map(len, steps)), "file") as task:
        for step in steps:
            writer.write_files(study, step, tally, task)
    for dataset_id in sorted(_former_ids(before, content.page)):
        writer.remove_files(study, writer.stale_nodes(study, dataset_id, content.visit))
    writer.remove_files(study, writer.stale_assets(study, content.application))
    return tally


def read_study_page(study: Study) -> StudyPage:
    """What the study's page shows so far, and whether the page or the catalog's marker says that dates are hidden.

    Raises :class:`~icf_utils.errors.DepositDamaged`.
    """
    catalog_id = study_id(study.study)
    name = study_path(catalog_id)
    raw = writer.read_file(study, name)
    page = parse_study_page(raw, str(study.catalog / name)) if raw is not None else StudyPage()
    return replace(page, hides_dates=page.hides_dates or bool(writer.read_marker(study, catalog_id)))


def _former_ids(before: StudyPage, page: VisitPage) -> Iterable[str]:
    """Datasets that the visit's pages stood under before: a store that has moved gives it another id."""
    return {entry.dataset_id for entry in before.entries if entry.visit == page.visit} | {page.dataset_id}


def _result(page: VisitPage, place: Visit, tally: writer.Tally, notices: tuple[Notice, ...]) -> CatalogResult:
    return CatalogResult(
        study=place.study,
        visit=place.visit,
        catalog=place.of_study.catalog,
        dataset_id=page.dataset_id,
        series=len(page.series),
        images=len(page.metadata.images),
        previews=len(page.previews),
        files_written=tally.written,
        files_unchanged=tally.unchanged,
        notices=notices,
    )
