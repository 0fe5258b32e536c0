"""A visit's page as values, from what is in the store. Reads the visit's JSON and dataset; writes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timezone

from icf_utils.catalog.privacy import clean_text, name_rule
from icf_utils.catalog.records import VisitPage
from icf_utils.dataset.reader import read_dataset
from icf_utils.dataset.store_address import StoreAddress
from icf_utils.errors import DepositDamaged, DepositMissing, storage_errors
from icf_utils.metadata.records import ImageRecord, VisitMetadata
from icf_utils.settings import CatalogSettings
from icf_utils.store.layout import Visit

_DICOM_DATE = re.compile(r"[0-9]{8}", re.ASCII)


def visit_page(place: Visit, metadata: VisitMetadata, where: StoreAddress, settings: CatalogSettings) -> VisitPage:
    """The page without pictures."""
    return VisitPage(
        study=place.study,
        visit=place.visit,
        url=where.url,
        dataset_id=where.dataset_id,
        metadata=metadata,
        date=visit_date(place, metadata, where.time),
        annex=annex_address(place, where.url),
        names=name_rule(settings.file_names),
    )


def visit_date(place: Visit, metadata: VisitMetadata, time: int | None = None) -> str:
    """The day of a visit: that of its dataset's commits, else a StudyDate that the metadata were told to record.

    ``time`` is that of the commits in seconds since 1970, if the caller knows it.
    The dataset comes first, since there a user may have chosen another date to show. Empty where nobody knows, and
    for 1970-01-01, the day of visits without a time.
    """
    seconds = _dataset_time(place) if time is None else time
    if seconds:
        return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d")
    return _study_date(metadata.images)


def _dataset_time(place: Visit) -> int | None:
    try:
        deposit = read_dataset(place)
    except (DepositDamaged, DepositMissing):  # said where the dataset itself is checked
        return None
    return deposit.origin.time if deposit else None


def _study_date(images: Iterable[ImageRecord]) -> str:
    dates = {str(image.tags["StudyDate"]) for image in images if "StudyDate" in image.tags}
    days = sorted(date for date in dates if _DICOM_DATE.fullmatch(date))
    return f"{days[0][:4]}-{days[0][4:6]}-{days[0][6:]}" if days else ""


def annex_address(place: Visit, url: str) -> str:
    """What git takes by git-annex's remote helper (its page ``git-remote-annex``); empty without such a deposit.

    The helper gets the short form from web servers only; the file that it names holds the long one.
    """
    with storage_errors(place.annex_url, "read"):
        try:
            long_form = place.annex_url.read_text(encoding="utf-8", errors="replace").strip()
        except FileNotFoundError:
            return ""
    is_web = url.startswith(("https://", "http://"))
    return f"annex::{url.rstrip('/')}/{place.study}/{place.annex_url.name}" if is_web else clean_text(long_form)
