"""The catalog stage: bring a visit into the catalog of its study.

``STORE/STUDY/catalog`` is a static web site for any web server, under any path; it needs no other host and no network.
Browsers do not let a page fetch data from ``file://``, so a local copy has to be served as well, for example by
``icf-utils catalog serve``. The stage combines what a catalog should contain (:mod:`icf_utils.catalog.content`) with
writing it (:mod:`icf_utils.catalog.writer`), under the catalog's lock.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from icf_utils.catalog import writer
from icf_utils.catalog.burned_in import check_kinds
from icf_utils.catalog.content import ContentOptions, VisitContent, load_application, shared_files, visit_content
from icf_utils.catalog.html_pages import LISTS
from icf_utils.catalog.page import read_study_page
from icf_utils.catalog.records import VisitPage, visit_entry
from icf_utils.catalog.study import StudyPage, study_id
from icf_utils.catalog.study_description import CITATIONS, study_catalog
from icf_utils.catalog.swap import remove_work_folders
from icf_utils.catalog.visit_list import list_with, visit_line, write_visit_list
from icf_utils.dataset.study_stage import write_study_dataset
from icf_utils.metadata.history import current_version
from icf_utils.outputs.listing import OUTPUTS_PATH, changed_list, read_list, visit_outputs
from icf_utils.progress import SILENT, Progress
from icf_utils.results import Notice
from icf_utils.settings import CatalogSettings, Settings, load_settings
from icf_utils.store.layout import Visit
from icf_utils.store.locks import catalog_lock


@dataclass(frozen=True)
class CatalogResult:
    """What the catalog now shows of a visit, and how many files were written for it."""

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


def catalogify_studyvisit_from_meta(
    store_dir: str | os.PathLike[str],
    study: str,
    visit: str,
    *,
    store_url: str | None = None,
    store_id: str | None = None,
    hide_dates: bool = False,
    previews: bool = False,
    previews_of: Collection[str] = (),
    settings: Settings | None = None,
    progress: Progress = SILENT,
) -> CatalogResult:
    """Bring a visit into its study's catalog, or update it there; creates the catalog if there is none.

    ``store_url`` is the address under which the store is served, ``store_id`` what identifies it when the address
    changes; without them, the visit's dataset decides, and without a dataset, the settings. ``hide_dates`` removes the
    dates of all visits from the study's page and keeps them off. ``previews`` makes a picture of each series; existing
    pictures are kept. ``previews_of`` names kinds of images to show although they may have text in their pixels
    (:data:`icf_utils.catalog.burned_in.KINDS`). The same visits give the same catalog in every order of additions;
    adding an unchanged visit writes no file. Raises :class:`~icf_utils.errors.IcfError` (``DepositMissing`` without
    metadata, ``ExistingFileDiffers`` if the folder ``catalog`` was made by something else, ``MissingRequirement``
    without datalad-catalog, ``InvalidSetting``, ...).
    """
    place = Visit(Path(store_dir), study, visit)
    settings = load_settings(place.root) if settings is None else settings
    kinds = check_kinds(previews_of)
    options = ContentOptions(settings, store_url, store_id, "make" if previews or kinds else "keep", kinds)
    look = study_catalog(place.of_study, settings.catalog)
    application = load_application(place.of_study, look)
    before = _metadata_bytes(place)
    content = visit_content(place, options, progress)
    with catalog_lock(place.of_study, progress):
        if _metadata_bytes(place) != before:  # the visit got another version meanwhile
            content = visit_content(place, options, progress)
        writer.refuse_foreign(place.of_study, study_id(study))
        write_study_dataset(place.of_study, settings.store.id, [visit])
        tally = _write(place, content, application, look, hide_dates, progress)
    return _result(content.page, place, tally, content.notices)


def _metadata_bytes(place: Visit) -> bytes:
    with suppress(OSError):
        return place.tarball_json.read_bytes()
    return b""


def _write(
    place: Visit,
    content: VisitContent,
    application: Mapping[str, bytes],
    settings: CatalogSettings,
    hide_dates: bool,
    progress: Progress,
) -> writer.Tally:
    """Write what has changed, in an order in which whatever a page refers to exists before the page.

    The list of visits is written last: a reader who finds a visit there finds all its other files.
    """
    study = place.of_study
    catalog_id = study_id(study.study)
    remove_work_folders(study)
    writer.remove_unfinished_files(study)
    before = read_study_page(study)
    after = replace(before.with_entry(visit_entry(content.page)), hides_dates=before.hides_dates or hide_dates)
    groups = [
        {writer.MARKER: writer.marker_bytes(catalog_id, after.hides_dates)},
        content.files,
        *shared_files(study.study, after, settings, application),
        {OUTPUTS_PATH: changed_list(study, read_list(study), visit_outputs(place), without=[place.visit])},
    ]
    tally = writer.Tally()
    with progress.task("catalog", sum(map(len, groups)), "file") as task:
        for files in groups:
            writer.write_files(study, files, tally, task)
    for dataset_id in sorted(_former_ids(before, content.page)):
        writer.remove_files(study, writer.stale_nodes(study, dataset_id, content.files))
    writer.remove_files(study, writer.stale_assets(study, application))
    writer.remove_files(study, writer.stale_lists(study, LISTS, groups[3]))
    writer.remove_files(study, [study.catalog / name for name in CITATIONS if name not in groups[3]])
    line = visit_line(visit_entry(content.page), current_version(place))
    write_visit_list(study, list_with(study, line, settings))
    return tally


def _former_ids(before: StudyPage, page: VisitPage) -> Iterable[str]:
    """The dataset ids of the visit's pages so far: the id changes if the store gets another identity."""
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
