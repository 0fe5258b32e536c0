"""The files of a visit that a bag or an OCFL object contains. Reads the store; writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from icf_utils.errors import DepositDamaged, DepositMissing, storage_errors
from icf_utils.results import Notice
from icf_utils.store.layout import Visit
from icf_utils.store.sums import file_sha256, read_sums

_NO_SUMS = "run 'icf-utils verify --repair' for this visit first"


@dataclass(frozen=True)
class PayloadFile:
    """A file of a visit: where it is, its size in bytes and its SHA-256."""

    path: Path
    size: int
    sha256: str


@dataclass(frozen=True)
class ExportResult:
    """A visit that was exported to ``folder``; ``bytes`` and ``files`` are those of the visit.

    ``state`` is ``unchanged`` if the folder had it already. ``fetched`` counts files that ``fetch.txt`` names.
    """

    study: str
    visit: str
    folder: Path
    state: Literal["written", "unchanged"]
    files: int
    bytes: int
    fetched: int = 0
    notices: tuple[Notice, ...] = ()


def list_payload(place: Visit) -> Mapping[str, PayloadFile]:
    """The files of a visit by name, with its SHA-256 sums and the signature of that; the list says their digests.

    Raises :class:`~icf_utils.errors.DepositMissing` for a visit without a list, and
    :class:`~icf_utils.errors.DepositDamaged` for a file that it lists and that is not there.
    """
    sums = read_sums(place)
    if sums is None:
        raise DepositMissing(place.sums, _NO_SUMS)
    own = [path for path in (place.sums, place.signature) if path.exists()]
    digests = sums | {path.name: file_sha256(path) for path in own}
    found = {}
    for name in sorted(digests):
        path = place.of_study.folder / name
        with storage_errors(path, "examine"):
            if not path.is_file():
                raise DepositDamaged(path, f"a file, as '{place.sums.name}' lists it", "none", _NO_SUMS)
            found[name] = PayloadFile(path, path.stat().st_size, digests[name])
    return found
