"""Which store a visit's files speak of. Reads the visit's dataset, where there is one; writes nothing.

What a user says comes first, then what the deposited dataset was made with, then the store's settings: so that all of
a visit's files name the same address.
"""

from __future__ import annotations

from dataclasses import dataclass

from icf_utils.dataset.origin import DatasetOrigin, check_store_id, check_store_url, make_origin
from icf_utils.dataset.reader import read_dataset
from icf_utils.settings import Settings
from icf_utils.store.layout import Visit, store_identity, visit_uuid


@dataclass(frozen=True)
class StoreAddress:
    """The store's address, and the id of the visit's dataset in it.

    ``time`` is that of the dataset's commits in seconds since 1970, where the dataset was read to know all this.
    """

    url: str
    dataset_id: str
    time: int | None = None


def find_store_address(visit: Visit, settings: Settings, store_url: str | None, store_id: str | None) -> StoreAddress:
    """The place that options, deposited dataset and settings tell, in this order.

    Raises :class:`~icf_utils.errors.InvalidSetting`, and :class:`~icf_utils.errors.DepositDamaged` or
    :class:`~icf_utils.errors.DepositMissing` for a damaged dataset.
    """
    if store_url is None or store_id is None:
        deposit = read_dataset(visit)
        if deposit and _agrees(deposit.origin, visit, store_url, store_id):
            return StoreAddress(deposit.origin.store_url, str(deposit.origin.uuids.dataset), deposit.origin.time)
    return address_from_settings(visit, settings, store_url, store_id)


def _agrees(origin: DatasetOrigin, visit: Visit, store_url: str | None, store_id: str | None) -> bool:
    """Whether a dataset was made for what the user says of the store."""
    if store_url is not None and check_store_url(store_url) != origin.store_url:
        return False
    return store_id is None or origin == make_origin(origin.store_url, store_id, visit, origin.time)


def address_from_settings(
    visit: Visit, settings: Settings, store_url: str | None, store_id: str | None
) -> StoreAddress:
    """The same without looking at the dataset."""
    url = check_store_url(settings.store.url if store_url is None else store_url)
    identity = store_identity(url, check_store_id(settings.store.id if store_id is None else store_id))
    return StoreAddress(url, str(visit_uuid(identity, visit.study, visit.visit, "dataset")))
