"""The catalog stage: bring a visit into the catalog of its study.

``STORE/STUDY/catalog`` is a static web site for any web server, under any path; it needs no other host and no network.
Browsers do not let a page fetch data from ``file://``, so a local copy has to be served as well, for example by
``icf-utils catalog serve``. The stage combines what a catalog should contain (:mod:`icf_utils.catalog.content`) with
writing it (:mod:`icf_utils.catalog.writer`), under the catalog's lock.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from icf_utils.catalog import writer
from icf_utils.catalog.burned_in import check_kinds
from icf_utils.catalog.content import ContentOptions, VisitContent, load_application, shared_files, visit_content
from icf_utils.catalog.html_pages import LISTS
from icf_utils.catalog.page import read_study_page
from icf_utils.catalog.previews import count_previews
from icf_utils.catalog.records import VisitEntry, VisitPage, visit_entry
from icf_utils.catalog.study import StudyPage, study_id
from icf_utils.catalog.study_description import CITATIONS, study_catalog
from icf_utils.catalog.swap import remove_work_folders
from icf_utils.catalog.visit_list import list_with, visit_line, write_visit_list
from icf_utils.dataset.study_stage import write_study_dataset
from icf_utils.errors import IcfError
from icf_utils.metadata.history import current_version
from icf_utils.outputs.listing import OUTPUTS_PATH, changed_list, read_list, visit_outputs
from icf_utils.progress import SILENT, Progress
from icf_utils.results import Notice
from icf_utils.settings import CatalogSettings, Settings, load_settings
from icf_utils.store.layout import Study, Visit
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
    (result,) = catalogify_visits(
        store_dir,
        study,
        [visit],
        store_url=store_url,
        store_id=store_id,
        hide_dates=hide_dates,
        previews=previews,
        previews_of=previews_of,
        settings=settings,
        progress=progress,
    )
    if isinstance(result, IcfError):
        raise result
    return result


def catalogify_visits(
    store_dir: str | os.PathLike[str],
    study: str,
    visits: Sequence[str],
    *,
    store_url: str | None = None,
    store_id: str | None = None,
    hide_dates: bool = False,
    previews: bool = False,
    previews_of: Collection[str] = (),
    settings: Settings | None = None,
    progress: Progress = SILENT,
) -> list[CatalogResult | IcfError]:
    """Bring visits of one study into its catalog as :func:`catalogify_studyvisit_from_meta` does.

    The files that all visits share are written once, after those of the visits; they count in the result of the last.
    Returns a result for each visit in the order given, or its error. Raises errors that concern the whole study.
    """
    place = Study(Path(store_dir), study)
    settings = load_settings(place.root) if settings is None else settings
    kinds = check_kinds(previews_of)
    options = ContentOptions(settings, store_url, store_id, "make" if previews or kinds else "keep", kinds)
    look = study_catalog(place, settings.catalog)
    application = load_application(place, look)
    addition = _Addition(place, options, look, application, hide_dates, progress)
    places = [Visit(place.root, study, visit) for visit in visits]
    # pictures take long: they are made before others have to wait
    prepared = [addition.prepare(visit) if options.previews == "make" else None for visit in places]
    with catalog_lock(place, progress):
        writer.refuse_foreign(place, study_id(study))
        return addition.write(places, prepared)


def _metadata_bytes(place: Visit) -> bytes:
    with suppress(OSError):
        return place.tarball_json.read_bytes()
    return b""


@dataclass(frozen=True)
class _Prepared:
    """The content of a visit, or its error, and the metadata from which it was made."""

    content: VisitContent | IcfError
    metadata: bytes


@dataclass(frozen=True)
class _Added:
    """A visit whose own files have been written."""

    place: Visit
    entry: VisitEntry
    files: frozenset[str]
    result: CatalogResult

    def with_shared(self, tally: writer.Tally) -> _Added:
        """The visit with the files that it shares with others counted in its result."""
        result = self.result
        written, unchanged = result.files_written + tally.written, result.files_unchanged + tally.unchanged
        return replace(self, result=replace(result, files_written=written, files_unchanged=unchanged))


@dataclass(frozen=True)
class _Addition:
    """Adds visits to the catalog of one study.

    Files are written in an order in which whatever a page refers to exists before the page. The list of visits is
    written last: a reader who finds a visit there finds all its other files.
    """

    study: Study
    options: ContentOptions
    look: CatalogSettings
    application: Mapping[str, bytes]
    hide_dates: bool
    progress: Progress

    def prepare(self, place: Visit) -> _Prepared:
        metadata = _metadata_bytes(place)
        try:
            return _Prepared(visit_content(place, self.options, self.progress), metadata)
        except IcfError as error:
            return _Prepared(error, metadata)

    def write(self, places: Sequence[Visit], prepared: Sequence[_Prepared | None]) -> list[CatalogResult | IcfError]:
        """Write what has changed; the caller has the catalog's lock."""
        remove_work_folders(self.study)
        writer.remove_unfinished_files(self.study)
        before = read_study_page(self.study)
        hides_dates = before.hides_dates or self.hide_dates
        marker = {writer.MARKER: writer.marker_bytes(study_id(self.study.study), hides_dates)}
        made: list[_Added | IcfError] = []
        with self.progress.task("catalog", len(places), "visit") as task:
            for place, early in zip(places, prepared, strict=True):
                made.append(self._write_visit(place, early, marker))
                task.advance(1)
        added = [visit for visit in made if isinstance(visit, _Added)]
        if added:
            tally = self._write_shared(replace(before, hides_dates=hides_dates), added)
            made[made.index(added[-1])] = added[-1].with_shared(tally)
        return [visit.result if isinstance(visit, _Added) else visit for visit in made]

    def _write_visit(self, place: Visit, early: _Prepared | None, marker: Mapping[str, bytes]) -> _Added | IcfError:
        if early is None or early.metadata != _metadata_bytes(place):  # the visit got another version meanwhile
            early = self.prepare(place)
        if isinstance(early.content, IcfError):
            return early.content
        content, tally = early.content, writer.Tally()
        try:
            for files in (marker, content.files):
                writer.write_files(self.study, files, tally)
        except IcfError as error:
            return error
        result = _result(content.page, place, tally, content.notices)
        return _Added(place, visit_entry(content.page), frozenset(content.files), result)

    def _write_shared(self, before: StudyPage, added: Sequence[_Added]) -> writer.Tally:
        study, entries, tally = self.study, [visit.entry for visit in added], writer.Tally()
        write_study_dataset(study, self.options.settings.store.id, [entry.visit for entry in entries])
        lines = [line for visit in added for line in visit_outputs(visit.place)]
        outputs = changed_list(study, read_list(study), lines, without=[entry.visit for entry in entries])
        groups = shared_files(study.study, before.with_entries(entries), self.look, self.application)
        for files in (*groups, {OUTPUTS_PATH: outputs}):
            writer.write_files(study, files, tally)
        pages = set().union(*groups)
        former = {entry.visit: entry.dataset_id for entry in before.entries}
        for visit in added:
            for dataset_id in sorted(_former_ids(former, visit.entry)):
                writer.remove_files(study, writer.stale_nodes(study, dataset_id, visit.files))
        writer.remove_files(study, writer.stale_assets(study, self.application))
        writer.remove_files(study, writer.stale_lists(study, LISTS, pages))
        writer.remove_files(study, [study.catalog / name for name in CITATIONS if name not in pages])
        raw = None
        for visit in added:
            raw = list_with(study, visit_line(visit.entry, current_version(visit.place)), self.look, raw)
        write_visit_list(study, raw or b"")
        return tally


def _former_ids(before: Mapping[str, str], entry: VisitEntry) -> set[str]:
    """The dataset ids of the visit's pages so far: the id changes if the store gets another identity."""
    return {before.get(entry.visit, entry.dataset_id), entry.dataset_id}


def _result(page: VisitPage, place: Visit, tally: writer.Tally, notices: tuple[Notice, ...]) -> CatalogResult:
    return CatalogResult(
        study=place.study,
        visit=place.visit,
        catalog=place.of_study.catalog,
        dataset_id=page.dataset_id,
        series=len(page.series),
        images=len(page.metadata.images),
        previews=count_previews(page),
        files_written=tally.written,
        files_unchanged=tally.unchanged,
        notices=notices,
    )
