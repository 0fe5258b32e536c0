"""Bring a damaged catalog up to date again. Writes to the catalog only, under its lock, as its own stage does."""

from __future__ import annotations

import os
import re
from contextlib import suppress

from icf_utils.catalog import writer
from icf_utils.catalog.check import entry_of
from icf_utils.catalog.stage import catalogify_studyvisit_from_meta, read_page
from icf_utils.catalog.study import study_id, study_path
from icf_utils.config import Settings
from icf_utils.dataset.deposit_reader import read_dataset
from icf_utils.dataset.where import store_place
from icf_utils.errors import DepositDamaged, IcfError, storage_errors
from icf_utils.lock import catalog_lock
from icf_utils.progress import Progress
from icf_utils.store import Study, Visit
from icf_utils.verify.recover import StoreOptions, catalogued_store

#: A day on a study's page.
_DATE = re.compile(rb'"date":"\d')


def mend_catalog(place: Visit, options: StoreOptions, settings: Settings, progress: Progress) -> int:
    """Write again what is not as it should be; returns how many files that were. Raises what the stage raises, and
    :class:`~icf_utils.errors.DepositDamaged` where nothing tells which store the visit's pages should speak of.
    """
    study = place.of_study
    stores = {place.visit: options if options.is_given else _said_by_catalog(place, settings)}
    if _is_page_lost(study):
        stores = {**_visits_with_pages(study, settings), **stores}
    with catalog_lock(study, progress):
        _mend_marker(study)
        if _is_page_lost(study):
            _remove_page(study)
    count = 0
    for visit, store in sorted(stores.items()):
        result = catalogify_studyvisit_from_meta(
            place.root, study.study, visit, store_url=store.url, store_id=store.id, settings=settings, progress=progress
        )
        count += result.files_written
    return count


def _said_by_catalog(place: Visit, settings: Settings) -> StoreOptions:
    """The store of a visit whose dataset does not tell; of one whose dataset does, nothing has to be said."""
    with suppress(IcfError):
        if read_dataset(place) is not None:
            return StoreOptions(None, None)
    found = catalogued_store(place, settings)
    if found is None and entry_of(place) is not None:
        raise DepositDamaged(
            place.of_study.catalog,
            "pages that tell which store they were made for",
            "none that can be proven",
            "repair it with the --store-url and --store-id that it was made with",
        )
    return found or StoreOptions(None, None)


def _is_page_lost(study: Study) -> bool:
    """Whether the study's page cannot be read any more, although the catalog has pages of visits."""
    try:
        raw = writer.read_file(study, study_path(study_id(study.study)))
        read_page(study)
    except DepositDamaged:
        return True
    return raw is None


def _visits_with_pages(study: Study, settings: Settings) -> dict[str, StoreOptions]:
    """The visits that the lost page must have shown, and which store their pages speak of."""
    found = {}
    for visit in study.visits():
        place = Visit(study.root, study.study, visit)
        try:
            store, dataset_id = StoreOptions(None, None), store_place(place, settings, None, None).dataset_id
        except IcfError:
            dataset_id = ""
        if not (dataset_id and writer.has_pages(study, dataset_id)):
            known = catalogued_store(place, settings)
            if known is None:
                continue
            store = known
        found[visit] = store
    return found


def _mend_marker(study: Study) -> None:
    """Say again whose catalog it is, if the study's own pages in it leave no doubt.

    That dates are hidden is believed from whatever is left of the marker and the page. Where too little is left of
    both, they stay hidden: a date that was shown can be shown again.
    """
    catalog_id = study_id(study.study)
    if not (study.catalog / "metadata" / catalog_id).is_dir() or writer.marked_as(study, catalog_id) is not None:
        return
    marker = writer.read_file(study, writer.MARKER) or b""
    page = writer.read_file(study, study_path(catalog_id)) or b""
    hides = b"hides" in marker or b'"hides"' in page or not (page.endswith(b"}\n") or _DATE.search(page))
    writer.replace_file(study, writer.MARKER, writer.marker_bytes(catalog_id, hides))


def _remove_page(study: Study) -> None:
    page = study.catalog / study_path(study_id(study.study))
    with storage_errors(page, "remove"):
        if os.path.lexists(page):
            page.unlink()
