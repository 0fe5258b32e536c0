"""The SHA-256 sums of a visit in a store that is read: received files must agree with them. Reads by a given function.

The metadata records an MD5 of each image. ``<visit>_SHA256SUMS`` records a SHA-256 of the metadata, and of each output.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from icf_utils.errors import DepositDamaged
from icf_utils.fetch.errors import FetchFailure
from icf_utils.results import Notice
from icf_utils.store.layout import Visit
from icf_utils.store.sums import parse_sums

#: Reads a file of the store by its path; returns its bytes, and its address for messages.
ReadFile = Callable[[str], tuple[bytes, str]]

#: Readers cannot repair a store.
REMEDY = "check the address and the names of study and visit, or ask the store's administrator"

_NOT_COMPARED = "its SHA-256 sums cannot be read: what is received is compared only with the MD5s of the metadata"


@dataclass(frozen=True)
class FetchedSums:
    """SHA-256s by file name, empty for a visit without a list; ``notices`` say that a list cannot be used."""

    values: Mapping[str, str]
    notices: tuple[Notice, ...] = ()

    def check(self, name: str, data: bytes, where: str) -> None:
        """Raise :class:`~icf_utils.errors.DepositDamaged` for a file that differs from its line, if it has one."""
        found = hashlib.sha256(data).hexdigest()
        expected = self.values.get(name, found)
        if found != expected:
            raise DepositDamaged(where, f"SHA-256 {expected}, as the visit's SHA-256 sums record", found, REMEDY)


def fetch_sums(read: ReadFile, place: Visit) -> FetchedSums:
    """Read a visit's list. Older visits have none, and some servers do not serve it.

    Raises :class:`~icf_utils.fetch.errors.FetchFailure` where the server does not answer.
    """
    try:
        raw, where = read(place.sums.as_posix())
    except FetchFailure as failure:
        if failure.kind == "missing":
            return FetchedSums({})
        if failure.kind in ("forbidden", "page", "refused"):
            return _unusable(place, str(failure))
        raise
    try:
        return FetchedSums(parse_sums(raw, where))
    except DepositDamaged as error:
        return _unusable(place, f"expected {error.expected}, found {error.found}")


def _unusable(place: Visit, why: str) -> FetchedSums:
    return FetchedSums({}, (Notice("not-compared", place.sums.as_posix(), f"{_NOT_COMPARED} ({why})"),))
