"""Bring a damaged catalog up to date again. Writes to the catalog only, under its lock, as its own stage does."""

from __future__ import annotations

import os

from icf_utils.catalog import writer
from icf_utils.catalog.stage import catalogify_studyvisit_from_meta
from icf_utils.catalog.study import study_id, study_path
from icf_utils.config import Settings
from icf_utils.dataset.where import place_from_settings, store_place
from icf_utils.errors import DepositDamaged, IcfError, storage_errors
from icf_utils.lock import catalog_lock
from icf_utils.progress import Progress
from icf_utils.store import Study, Visit
from icf_utils.verify.recover import StoreOptions


def mend_catalog(place: Visit, options: StoreOptions, settings: Settings, progress: Progress) -> int:
    """Write again what is not as it should be; returns how many files that were. Raises what the stage raises."""
    study = place.of_study
    visits = [place.visit]
    if _is_page_lost(study):
        visits = sorted({place.visit, *_visits_with_pages(study, settings)})
    with catalog_lock(study, progress):
        _mend_marker(study)
        if len(visits) > 1 or _is_page_lost(study):
            _remove_page(study)
    count = 0
    for visit in visits:
        own = options if visit == place.visit else StoreOptions(None, None)
        result = catalogify_studyvisit_from_meta(
            place.root, study.study, visit, store_url=own.url, store_id=own.id, settings=settings, progress=progress
        )
        count += result.files_written
    return count


def _is_page_lost(study: Study) -> bool:
    """Whether the study's page cannot be read any more, although the catalog has pages of visits."""
    from icf_utils.catalog.stage import read_page

    try:
        raw = writer.read_file(study, study_path(study_id(study.study)))
        read_page(study)
    except DepositDamaged:
        return True
    return raw is None


def _visits_with_pages(study: Study, settings: Settings) -> list[str]:
    found = []
    for visit in study.visits():
        place = Visit(study.root, study.study, visit)
        try:
            where = store_place(place, settings, None, None)
        except IcfError:
            where = place_from_settings(place, settings, None, None)
        if writer.has_pages(study, where.dataset_id):
            found.append(visit)
    return found


def _mend_marker(study: Study) -> None:
    """Say again whose catalog it is, if the study's own pages in it leave no doubt."""
    catalog_id = study_id(study.study)
    right = writer.marker_bytes(catalog_id)
    if (study.catalog / "metadata" / catalog_id).is_dir() and writer.read_file(study, writer.MARKER) != right:
        with storage_errors(study.catalog / writer.MARKER, "replace"):
            (study.catalog / writer.MARKER).write_bytes(right)


def _remove_page(study: Study) -> None:
    page = study.catalog / study_path(study_id(study.study))
    with storage_errors(page, "remove"):
        if os.path.lexists(page):
            page.unlink()
