"""A deposited dataset against the JSON. Reads the two files of the deposit; the comparison is pure.

What the metadata and the dataset's own origin make is built again and compared, byte by byte and then by meaning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from icf_utils.dataset.branches import plan
from icf_utils.dataset.build import expected_deposit
from icf_utils.dataset.deposit_reader import Deposit, read_dataset
from icf_utils.dataset.gitobjects import File
from icf_utils.dataset.origin import Origin, Uuids
from icf_utils.errors import IcfError, shown
from icf_utils.identity import store_identity
from icf_utils.metadata.checks import check_metadata
from icf_utils.metadata.records import VisitMetadata
from icf_utils.store import Visit, read_deposit
from icf_utils.verify.findings import Finding, finding_of
from icf_utils.verify.plain import check_plain

_GONE = "run 'icf-utils deposit_visit_dataset' again"


def check_dataset(place: Visit, metadata: VisitMetadata, store_url: str | None, store_id: str | None) -> list[Finding]:
    """Hold keys, URLs, tags, links and commits of the dataset against the metadata.

    ``store_url`` and ``store_id`` are the address that the dataset should name and the identity that it should be
    made for, ``None`` where that is not known.
    """
    try:
        deposit = read_dataset(place)
        if deposit is None:
            return [Finding(place.refs, "", "is missing beside the dataset's other file")]
        check_metadata(metadata, place)
        expected = expected_deposit(metadata, place, deposit.origin)
    except IcfError as error:
        return [finding_of(place.export, error)]
    findings = [Finding(place.export, "", text) for text in _other_store(place, deposit.origin, store_url, store_id)]
    findings += check_plain(place, metadata, deposit.origin)
    if read_deposit(place.export, _GONE) == expected.export and read_deposit(place.refs, _GONE) == expected.refs:
        return findings
    differences = [Finding(place.export, name, problem) for name, problem in _differences(place, metadata, deposit)]
    return findings + (differences or [Finding(place.export, "", "is not, byte by byte, the dataset of this metadata")])


def _other_store(place: Visit, origin: Origin, store_url: str | None, store_id: str | None) -> Iterator[str]:
    if store_url is not None and origin.store_url != store_url.rstrip("/"):
        yield f"names the store '{origin.store_url}', not '{store_url}'"
    if store_id is not None and origin.uuids != Uuids.of(store_identity(origin.store_url, store_id), place):
        yield f"was not made for the store identity '{shown(store_id)}'"


def _differences(place: Visit, metadata: VisitMetadata, deposit: Deposit) -> Iterator[tuple[str, str]]:
    wanted = plan(metadata, place, deposit.origin)
    yield from _files("main", deposit.main.files, wanted.main)
    yield from _files("git-annex", deposit.annex.files, wanted.annex)


def _files(branch: str, there: Mapping[bytes, File], wanted: Mapping[bytes, File]) -> Iterator[tuple[str, str]]:
    for path in sorted(there.keys() | wanted.keys()):
        if there.get(path) != wanted.get(path):
            name = path.decode("utf-8", "surrogateescape")
            state = "missing" if path not in there else "not expected" if path not in wanted else "different"
            yield name, f"is {state} on the branch {branch}"
