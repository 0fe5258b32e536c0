"""The examination of an installation and of a store, check by check."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from icf_utils.doctor.components import check_installation
from icf_utils.doctor.folder import check_folder, read_settings
from icf_utils.doctor.model import Check
from icf_utils.settings import Settings


def examine(store: Path | None = None, ca: Path | None = None) -> Iterator[Check]:
    """Check the installation, and a store if one is given. Raises nothing: what goes wrong is a check that failed.

    ``ca`` is a file of CA certificates that the store's server is trusted by, instead of the system's.
    """
    yield from check_installation()
    if store is None:
        return
    yield from check_folder(store)
    settings = read_settings(store)
    if isinstance(settings, Settings):
        from icf_utils.doctor.address import check_address

        yield from check_address(store, settings.store.url, ca)
