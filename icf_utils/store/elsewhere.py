"""Stores that only index: their archives are in another store. Reads the store; writes nothing.

``[store] archives`` of the settings has that store's address: ``<archives>/<study>/<visit>_dicom.tar``. Metadata,
datasets and catalogs are in this store, at its own address. An archive that is in this store as well is used.
"""

from __future__ import annotations

from icf_utils.errors import DepositMissing, InvalidSetting, storage_errors
from icf_utils.settings import Settings
from icf_utils.store.address import check_store_url
from icf_utils.store.layout import Visit


def archives_address(settings: Settings, store_url: str | None = None) -> str:
    """The address of the store that has the archives: this one's (``store_url``, else the settings'), or another's.

    Raises :class:`~icf_utils.errors.InvalidSetting`.
    """
    own = check_store_url(settings.store.url if store_url is None else store_url)
    return other_archives(settings) or own


def other_archives(settings: Settings) -> str:
    """The address of the other store that has the archives; empty if they are in this one.

    Raises :class:`~icf_utils.errors.InvalidSetting`.
    """
    if not settings.store.archives:
        return ""
    if settings.dataset.annex_url:
        problem = "cannot be combined with [store] archives: clones without DataLad need the archive in the same store"
        raise InvalidSetting("[dataset] annex_url", problem)
    return check_store_url(settings.store.archives)


def find_elsewhere(place: Visit, settings: Settings) -> str:
    """The address of a visit's archive if it is in another store only; empty if it is here, or should be.

    Raises :class:`~icf_utils.errors.InvalidSetting` and :class:`~icf_utils.errors.StorageFailure`.
    """
    archives = other_archives(settings)
    with storage_errors(place.archive, "examine"):
        return "" if not archives or place.archive.exists() else f"{archives}/{place.storepath}"


def refuse_elsewhere(place: Visit, settings: Settings) -> None:
    """Refuse what needs the archive of a visit, if that is in another store.

    Raises :class:`~icf_utils.errors.DepositMissing`, and what :func:`find_elsewhere` raises.
    """
    if address := find_elsewhere(place, settings):
        advice = f"it is at {address}: copy it and its .md5sum here first, or change the visit in that store"
        raise DepositMissing(place.archive, advice)
