"""Pages of a catalog as values, from what is in the store. Reads metadata, datasets and catalogs; writes nothing.

A visit's page is made from its metadata and dataset. The study's page is read from the catalog: it carries the entries
of all visits, from which it is written anew when one of them changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timezone

from icf_utils.catalog import writer
from icf_utils.catalog.privacy import clean_text, name_rule
from icf_utils.catalog.records import VisitEntry, VisitPage
from icf_utils.catalog.study import StudyPage, parse_study_page, study_id, study_path
from icf_utils.catalog.study_index import INDEX_PATH
from icf_utils.dataset.reader import read_dataset
from icf_utils.dataset.store_address import StoreAddress
from icf_utils.errors import DepositDamaged, DepositMissing, StorageFailure, storage_errors
from icf_utils.metadata.history import current_version
from icf_utils.metadata.records import ImageRecord, VisitMetadata
from icf_utils.regular_files import read_regular
from icf_utils.settings import CatalogSettings
from icf_utils.store.layout import Study, Visit

_DICOM_DATE = re.compile(r"[0-9]{8}", re.ASCII)


def visit_page(place: Visit, metadata: VisitMetadata, store: StoreAddress, settings: CatalogSettings) -> VisitPage:
    """Make the page of a visit, without previews."""
    return VisitPage(
        study=place.study,
        visit=place.visit,
        url=store.url,
        dataset_id=store.dataset_id,
        metadata=metadata,
        date=visit_date(place, metadata, store.time),
        annex=annex_address(place, store.url),
        names=name_rule(settings.file_names),
        has_dataset=place.refs.exists(),
        number=current_version(place),
        archives=store.archives,
    )


def visit_date(place: Visit, metadata: VisitMetadata, time: int | None = None) -> str:
    """The date of a visit (``YYYY-MM-DD``): that of its dataset's commits, else a recorded StudyDate.

    ``time`` is the time of the commits in seconds since 1970, if the caller knows it. The dataset comes first because a
    user may have chosen the date that it shows. Empty if the date is unknown, and for 1970-01-01, the date of visits
    without a time.
    """
    seconds = _dataset_time(place) if time is None else time
    if seconds:
        return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d")
    return _study_date(metadata.images)


def _dataset_time(place: Visit) -> int | None:
    try:
        deposit = read_dataset(place)
    except (DepositDamaged, DepositMissing):  # reported where the dataset itself is checked
        return None
    return deposit.origin.time if deposit else None


def _study_date(images: Iterable[ImageRecord]) -> str:
    dates = {str(image.tags["StudyDate"]) for image in images if "StudyDate" in image.tags}
    days = sorted(date for date in dates if _DICOM_DATE.fullmatch(date))
    return f"{days[0][:4]}-{days[0][4:6]}-{days[0][6:]}" if days else ""


def annex_address(place: Visit, url: str) -> str:
    """The address for git-annex's remote helper (its page ``git-remote-annex``); empty without a deposit for it.

    The helper accepts the short form from web servers only; the deposited file contains the long one.
    """
    with storage_errors(place.annex_url, "read"):
        try:
            long_form = read_regular(place.annex_url).decode("utf-8", "replace").strip()
        except FileNotFoundError:
            return ""
    is_web = url.startswith(("https://", "http://"))
    return f"annex::{url.rstrip('/')}/{place.study}/{place.annex_url.name}" if is_web else clean_text(long_form)


def read_study_page(study: Study) -> StudyPage:
    """Read what the study's page shows, and whether the page or the catalog's marker says that dates are hidden.

    A study without a page gets an empty one. Raises :class:`~icf_utils.errors.DepositDamaged`.
    """
    catalog_id = study_id(study.study)
    name = study_path(catalog_id)
    raw = writer.read_file(study, name)
    index = writer.read_file(study, INDEX_PATH)
    page = StudyPage()
    if raw is not None:
        page = parse_study_page(raw, str(study.catalog / name), index, str(study.catalog / INDEX_PATH))
    return replace(page, hides_dates=page.hides_dates or bool(writer.read_marker(study, catalog_id)))


def read_entries(study: Study) -> tuple[VisitEntry, ...] | None:
    """Read the entries of the study's page; ``None`` if the page is missing or cannot be read."""
    name = study_path(study_id(study.study))
    try:
        raw = writer.read_file(study, name)
        return parse_study_page(raw, name).entries if raw is not None else None
    except (DepositDamaged, StorageFailure):
        return None


def read_entry(visit: Visit) -> VisitEntry | None:
    """Read the visit's entry on the study's page, if the page can be read and has one."""
    entries = read_entries(visit.of_study) or ()
    return next((entry for entry in entries if entry.visit == visit.visit), None)


def catalogued_visits(study: Study) -> list[str]:
    """The visits that the study's page shows; empty if the page is missing or cannot be read."""
    return [entry.visit for entry in read_entries(study) or ()]
