"""Find the store address that a visit's files name. Reads the visit's dataset if there is one; writes nothing.

Options of the user take precedence, then what the deposited dataset was built from, then the store's settings, so that
all files of a visit name the same address.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from icf_utils.dataset.origin import DatasetOrigin, make_origin
from icf_utils.dataset.reader import DepositedDataset, read_dataset
from icf_utils.settings import Settings
from icf_utils.store.address import check_store_id, check_store_url
from icf_utils.store.elsewhere import other_archives
from icf_utils.store.layout import Visit, store_identity, visit_uuid


@dataclass(frozen=True)
class StoreAddress:
    """The store address, and the id of the visit's dataset in it.

    ``archives`` is the address of another store that has the archive; empty if it is in this one.
    ``time`` is that of the dataset's commits in seconds since 1970; ``None`` if the dataset was not used.
    """

    url: str
    dataset_id: str
    time: int | None = None
    archives: str = ""


def find_store_address(
    visit: Visit,
    settings: Settings,
    store_url: str | None,
    store_id: str | None,
    read: Callable[[Visit], DepositedDataset | None] = read_dataset,
) -> StoreAddress:
    """Take the address from options, the deposited dataset or the settings, in this order.

    ``read`` reads the dataset, for a caller that needs it for more.
    Raises :class:`~icf_utils.errors.InvalidSetting`, and :class:`~icf_utils.errors.DepositDamaged` or
    :class:`~icf_utils.errors.DepositMissing` for a damaged dataset.
    """
    if store_url is None or store_id is None:
        deposit = read(visit)
        if deposit and (archives := other_archives(settings)) == deposit.origin.store_url:
            own = address_from_settings(visit, settings, store_url, store_id)
            if store_id is None or own.dataset_id == str(deposit.origin.uuids.dataset):
                return StoreAddress(own.url, str(deposit.origin.uuids.dataset), deposit.origin.time, archives)
            return own
        if deposit and _agrees(deposit.origin, visit, store_url, store_id):
            return StoreAddress(deposit.origin.store_url, str(deposit.origin.uuids.dataset), deposit.origin.time)
    return address_from_settings(visit, settings, store_url, store_id)


def _agrees(origin: DatasetOrigin, visit: Visit, store_url: str | None, store_id: str | None) -> bool:
    """Whether a dataset was built for the address and identity that the user gave."""
    if store_url is not None and check_store_url(store_url) != origin.store_url:
        return False
    return store_id is None or origin == make_origin(origin.store_url, store_id, visit, origin.time)


def address_from_settings(
    visit: Visit, settings: Settings, store_url: str | None, store_id: str | None
) -> StoreAddress:
    """Take the address from options or the settings, without reading the dataset."""
    url = check_store_url(settings.store.url if store_url is None else store_url)
    identity = store_identity(url, check_store_id(settings.store.id if store_id is None else store_id))
    dataset_id = str(visit_uuid(identity, visit.study, visit.visit, "dataset"))
    return StoreAddress(url, dataset_id, archives=other_archives(settings))
