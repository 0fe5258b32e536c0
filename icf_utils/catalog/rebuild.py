"""Rebuild a study's catalog from its visits' metadata and datasets, and repair what its visits share.

A rebuild writes a new folder next to the catalog and exchanges the two when the new one is complete. Nothing is taken
from the old catalog but the decision to hide dates and, unless other ones are asked for, the previews. Readers of the
catalog see the old one or the new one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from icf_utils.catalog import swap, writer
from icf_utils.catalog.application import FOLDERS
from icf_utils.catalog.burned_in import check_kinds
from icf_utils.catalog.content import ContentOptions, load_application, own_names, shared_files, visit_content
from icf_utils.catalog.page import read_study_page
from icf_utils.catalog.previews import count_previews
from icf_utils.catalog.records import VisitEntry, visit_entry
from icf_utils.catalog.study import StudyPage, study_id, study_path
from icf_utils.catalog.study_description import study_catalog
from icf_utils.catalog.study_index import INDEX_PATH
from icf_utils.catalog.visit_list import build_visit_list, write_visit_list
from icf_utils.dataset.study_stage import write_study_dataset
from icf_utils.errors import DepositDamaged, DepositMissing, InvalidSetting, storage_errors
from icf_utils.outputs.listing import OUTPUTS_PATH, OutputLine, encode_outputs, visit_outputs
from icf_utils.progress import SILENT, Progress
from icf_utils.results import Notice
from icf_utils.settings import Settings, load_settings
from icf_utils.store.layout import Study, Visit
from icf_utils.store.locks import catalog_lock


@dataclass(frozen=True)
class UnusableVisit:
    """A visit whose files keep the catalog from being rebuilt: ``problem`` says what is wrong with them."""

    visit: str
    problem: str


@dataclass(frozen=True)
class CatalogBuildResult:
    """What the catalog now shows. If any visit is ``unusable``, the old catalog was kept unchanged.

    ``dropped`` are visits that the old catalog showed and the store no longer has.
    """

    study: str
    catalog: Path
    visits: int
    images: int
    previews: int
    dropped: tuple[str, ...]
    unusable: tuple[UnusableVisit, ...]
    notices: tuple[Notice, ...]


def build_catalog(
    store_dir: str | os.PathLike[str],
    study: str,
    *,
    store_url: str | None = None,
    store_id: str | None = None,
    hide_dates: bool | None = None,
    previews: bool | None = None,
    previews_of: Collection[str] = (),
    settings: Settings | None = None,
    progress: Progress = SILENT,
) -> CatalogBuildResult:
    """Rebuild a study's catalog from its visits' metadata, and replace the old one when the new one is complete.

    ``None`` for ``hide_dates`` or ``previews`` keeps what the old catalog has. ``previews_of`` names kinds of images to
    show although they may have text in their pixels (:data:`icf_utils.catalog.burned_in.KINDS`). A visit without
    metadata is left out and named. Raises :class:`~icf_utils.errors.IcfError`: ``DepositMissing`` or
    ``InvalidSetting`` for a study that does not exist, ``ExistingFileDiffers`` if the folder ``catalog`` was made by
    something else, ``MissingRequirement``, ...
    """
    place = Study(Path(store_dir), study)
    chosen = load_settings(place.root) if settings is None else settings
    if not place.visits() and not place.catalog.is_dir():
        if os.path.lexists(place.folder):
            problem = "it has no visits; name a study of the store"
            raise InvalidSetting(str(place.folder), problem)
        raise DepositMissing(
            place.folder,
            "this store has no such study; name another one, or another store with -o/--store-dir",
        )
    kinds = check_kinds(previews_of)
    how: Literal["make", "keep", "none"] = "keep" if previews is None else "make" if previews else "none"
    options = ContentOptions(chosen, store_url, store_id, "make" if kinds else how, kinds)
    with catalog_lock(place, progress):
        swap.restore_old_folder(place)
        writer.refuse_foreign(place, study_id(study))
        writer.remove_unfinished_files(place)
        return _build(place, options, _old_page(place, hide_dates), progress)


def _old_page(study: Study, hide_dates: bool | None) -> StudyPage:
    """The old page as far as it can be read, hiding dates if that is requested or the page or the marker says so."""
    try:
        page = read_study_page(study)
    except DepositDamaged:
        page = StudyPage(hides_dates=bool(writer.read_marker(study, study_id(study.study))))
    return page if hide_dates is None else replace(page, hides_dates=hide_dates)


def _build(study: Study, options: ContentOptions, old: StudyPage, progress: Progress) -> CatalogBuildResult:
    settings = study_catalog(study, options.settings.catalog)
    application = load_application(study, settings)
    swap.create_new_folder(study)
    try:
        builder = _CatalogBuilder(study, options, {entry.visit: entry for entry in old.entries}, progress)
        builder.add_visits()
        if not builder.unusable:
            page = StudyPage(tuple(builder.entries), old.hides_dates)
            for files in shared_files(study.study, page, settings, application):
                swap.add_files(study, files)
            swap.add_files(study, {OUTPUTS_PATH: encode_outputs(builder.outputs)})
            swap.add_files(study, {writer.MARKER: writer.marker_bytes(study_id(study.study), page.hides_dates)})
            swap.publish_new_folder(study, {writer.MARKER, *FOLDERS, *own_names(application)})
            write_study_dataset(study, options.settings.store.id)
            write_visit_list(study, build_visit_list(study, settings))
        return builder.result()
    finally:
        swap.remove_work_folders(study)


class _CatalogBuilder:
    """Adds the visits of a study to the new folder, one at a time so that memory use does not grow."""

    def __init__(
        self, study: Study, options: ContentOptions, old: Mapping[str, VisitEntry], progress: Progress
    ) -> None:
        self._study, self._options, self._old, self._progress = study, options, old, progress
        self.entries: list[VisitEntry] = []
        self.unusable: list[UnusableVisit] = []
        self.outputs: list[OutputLine] = []
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
                why = "its metadata, from which its pages are made, is gone; run 'icf-utils deposit_visit_metadata'"
                self.unusable.append(UnusableVisit(place.visit, why))
                return
            why = "has no metadata yet and is not in the catalog"
            self._notices.append(Notice("not-in-catalog", place.visit, why))
            return
        try:
            self._add_content(place)
        except (DepositDamaged, DepositMissing) as error:
            self.unusable.append(UnusableVisit(place.visit, str(error)))

    def _add_content(self, place: Visit) -> None:
        old = self._old.get(place.visit)
        options = self._options
        if options.previews == "keep" and old is None:  # pictures of a visit that the catalog does not show
            options = replace(options, previews="none")
        content = visit_content(place, options, self._progress, old.dataset_id if old else None)
        swap.add_files(self._study, content.files)
        self._notices += content.notices
        self.entries.append(visit_entry(content.page))
        self.outputs += visit_outputs(place)
        self._previews += count_previews(content.page)

    def result(self) -> CatalogBuildResult:
        shown = {entry.visit for entry in self.entries} | {one.visit for one in self.unusable}
        return CatalogBuildResult(
            study=self._study.study,
            catalog=self._study.catalog,
            visits=len(self.entries),
            images=sum(entry.images for entry in self.entries),
            previews=self._previews,
            dropped=tuple(sorted(set(self._old) - shown)),
            unusable=tuple(self.unusable),
            notices=tuple(self._notices),
        )


def is_study_page_lost(study: Study) -> bool:
    """Whether the study's page is missing or cannot be read."""
    try:
        read_study_page(study)
    except DepositDamaged:
        return True
    return writer.read_file(study, study_path(study_id(study.study))) is None


def reset_study_page(study: Study, progress: Progress) -> None:
    """Repair the catalog's marker, and remove a study page that cannot be read, so that visits can be added again.

    Raises :class:`~icf_utils.errors.StorageFailure` and :class:`~icf_utils.errors.Busy`.
    """
    with catalog_lock(study, progress):
        _repair_marker(study)
        if is_study_page_lost(study):
            for name in (INDEX_PATH, study_path(study_id(study.study))):
                page = study.catalog / name
                with storage_errors(page, "remove"):
                    if os.path.lexists(page):
                        page.unlink()


#: A date on a study's page.
_DATE = re.compile(rb'"date":"\d')


def _repair_marker(study: Study) -> None:
    """Write the marker again if it is damaged and the folder certainly is this study's catalog.

    Whether dates are hidden is taken from whatever is left of the marker and the page. If too little is left of both,
    dates stay hidden: they can be shown again later.
    """
    catalog_id = study_id(study.study)
    if not (study.catalog / "metadata" / catalog_id).is_dir() or writer.read_marker(study, catalog_id) is not None:
        return
    marker = writer.read_file(study, writer.MARKER) or b""
    page = writer.read_file(study, study_path(catalog_id)) or b""
    hides = b"hides" in marker or b'"hides"' in page or not (page.endswith(b"}\n") or _DATE.search(page))
    writer.replace_file(study, writer.MARKER, writer.marker_bytes(catalog_id, hides))
