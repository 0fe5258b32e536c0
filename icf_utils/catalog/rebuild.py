"""A study's catalog made anew from its visits' metadata. Reads the JSON and datasets; replaces the catalog's folder.

What is in the old catalog matters for nothing but the wish to hide dates and, unless new ones are asked for, pictures.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from icf_utils.catalog import swap, writer
from icf_utils.catalog.content import study_files, super_files, visit_files
from icf_utils.catalog.page import visit_page
from icf_utils.catalog.previews import make_previews, read_previews
from icf_utils.catalog.records import VisitEntry, VisitPage, visit_entry
from icf_utils.catalog.stage import add_previews, load_application, preview_files, read_study_page
from icf_utils.catalog.study import StudyPage, study_id
from icf_utils.dataset.store_address import find_store_address
from icf_utils.errors import DepositDamaged, DepositMissing, InvalidSetting
from icf_utils.metadata.records import read_visit_metadata
from icf_utils.progress import SILENT, Progress
from icf_utils.results import Notice
from icf_utils.settings import Settings, load_settings
from icf_utils.store.layout import Study, Visit
from icf_utils.store.locks import catalog_lock


@dataclass(frozen=True)
class UnusableVisit:
    """A visit whose files keep the catalog from being made: ``problem`` says what is wrong with them."""

    visit: str
    problem: str


@dataclass(frozen=True)
class CatalogBuildResult:
    """What the catalog shows now. With any ``unusable`` visit the old catalog is still there, untouched.

    ``dropped`` are visits that the old catalog showed and the store has no more.
    """

    study: str
    catalog: Path
    visits: int
    images: int
    previews: int
    dropped: tuple[str, ...]
    unusable: tuple[UnusableVisit, ...]
    notices: tuple[Notice, ...]


@dataclass(frozen=True)
class _BuildRequest:
    """What a user asked for; ``None`` leaves it as it is."""

    store_url: str | None
    store_id: str | None
    previews: bool | None
    settings: Settings


def build_catalog(
    store_dir: str | os.PathLike[str],
    study: str,
    *,
    store_url: str | None = None,
    store_id: str | None = None,
    hide_dates: bool | None = None,
    previews: bool | None = None,
    settings: Settings | None = None,
    progress: Progress = SILENT,
) -> CatalogBuildResult:
    """Make a study's catalog from its visits' metadata, and put it in the old one's place when it is complete.

    ``hide_dates`` and ``previews`` are kept as they were where they are ``None``. A visit without metadata is left
    out and named. Raises :class:`~icf_utils.errors.IcfError`: ``DepositMissing`` or ``InvalidSetting`` for what is
    no study, ``ExistingFileDiffers`` for a folder 'catalog' of other origin, ``MissingRequirement``, ...
    """
    place = Study(Path(store_dir), study)
    chosen = load_settings(place.root) if settings is None else settings
    if not place.visits() and not place.catalog.is_dir():
        if os.path.lexists(place.folder):
            problem = "there is no visit of a study in it; name a study's folder in a store, as in STORE/STUDY"
            raise InvalidSetting(str(place.folder), problem)
        raise DepositMissing(place.folder, "there is no visit of this study; name a study's folder in a store")
    wish = _BuildRequest(store_url, store_id, previews, chosen)
    with catalog_lock(place, progress):
        swap.restore_old_folder(place)
        writer.refuse_foreign(place, study_id(study))
        writer.remove_unfinished_files(place)
        return _build(place, wish, _old_page(place, hide_dates), progress)


def _old_page(study: Study, hide_dates: bool | None) -> StudyPage:
    """The old page, as far as it can be read, with the wish about dates; the marker, read before, has that, too."""
    try:
        page = read_study_page(study)
    except DepositDamaged:
        page = StudyPage(hides_dates=bool(writer.read_marker(study, study_id(study.study))))
    return page if hide_dates is None else replace(page, hides_dates=hide_dates)


def _build(study: Study, wish: _BuildRequest, old: StudyPage, progress: Progress) -> CatalogBuildResult:
    application, assets = load_application(study, wish.settings.catalog)
    swap.create_new_folder(study)
    try:
        work = _CatalogBuilder(study, wish, {entry.visit: entry for entry in old.entries}, progress)
        work.add_visits()
        if work.unusable:
            return work.result(assets.notices)
        catalog_id = study_id(study.study)
        page = StudyPage(tuple(work.entries), old.hides_dates)
        swap.add_files(study, application)
        swap.add_files(study, study_files(study.study, catalog_id, page, wish.settings.catalog))
        swap.add_files(study, super_files(catalog_id))
        swap.add_files(study, {writer.MARKER: writer.marker_bytes(catalog_id, page.hides_dates)})
        swap.publish_new_folder(study)
        return work.result(assets.notices)
    finally:
        swap.remove_work_folders(study)


class _CatalogBuilder:
    """The visits of a study on their way into the new folder, one at a time so that memory does not grow."""

    def __init__(self, study: Study, wish: _BuildRequest, old: Mapping[str, VisitEntry], progress: Progress) -> None:
        self._study, self._wish, self._old, self._progress = study, wish, old, progress
        self.entries: list[VisitEntry] = []
        self.unusable: list[UnusableVisit] = []
        self._notices: list[Notice] = []
        self._previews = 0

    def add_visits(self) -> None:
        visits = self._study.visits()
        with self._progress.task("catalog", len(visits), "visit") as task:
            for visit in visits:
                self._add(Visit(self._study.root, self._study.study, visit))
                task.advance(1)

    def _add(self, place: Visit) -> None:
        if not (place.dicoms_json.exists() or place.tarball_json.exists()):
            if place.visit in self._old:
                why = "its metadata, from which its pages are made, are gone; run 'icf-utils deposit_visit_metadata'"
                self.unusable.append(UnusableVisit(place.visit, why))
                return
            why = "has no metadata yet and is not in the catalog"
            self._notices.append(Notice("not-in-catalog", place.visit, why))
            return
        try:
            self._add_page(place)
        except (DepositDamaged, DepositMissing) as error:
            self.unusable.append(UnusableVisit(place.visit, str(error)))

    def _add_page(self, place: Visit) -> None:
        wish = self._wish
        where = find_store_address(place, wish.settings, wish.store_url, wish.store_id)
        page = visit_page(place, read_visit_metadata(place), where, wish.settings.catalog)
        pictures = self._pictures(place, page)
        swap.add_files(self._study, {**preview_files(page, pictures), **visit_files(add_previews(page, pictures))})
        self.entries.append(visit_entry(page))
        self._previews += len(pictures)

    def _pictures(self, place: Visit, page: VisitPage) -> dict[int, bytes]:
        if self._wish.previews:
            made, notices = make_previews(place, page, self._progress)
            self._notices += notices
            return made
        old = self._old.get(place.visit)
        if self._wish.previews is False or old is None:
            return {}
        return read_previews(self._study, replace(page, dataset_id=old.dataset_id))

    def result(self, notices: tuple[Notice, ...]) -> CatalogBuildResult:
        shown = {entry.visit for entry in self.entries} | {one.visit for one in self.unusable}
        return CatalogBuildResult(
            study=self._study.study,
            catalog=self._study.catalog,
            visits=len(self.entries),
            images=sum(entry.images for entry in self.entries),
            previews=self._previews,
            dropped=tuple(sorted(set(self._old) - shown)),
            unusable=tuple(self.unusable),
            notices=(*notices, *self._notices),
        )
