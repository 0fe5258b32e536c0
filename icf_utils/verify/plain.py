"""The deposit for ``annex::`` addresses against the metadata and the dataset. Reads its files; writes nothing."""

from __future__ import annotations

from pathlib import Path

from icf_utils.dataset.build import expected_plain
from icf_utils.dataset.origin import Origin
from icf_utils.dataset.plain_store import has_plain, paths_of, stored_files
from icf_utils.errors import IcfError
from icf_utils.metadata.records import VisitMetadata
from icf_utils.store import Visit, read_deposit
from icf_utils.verify.findings import Finding, finding_of

_INTERRUPTED = "is missing: the step was interrupted, or it was lost"
_ALONE = "belongs to a dataset that is not there"
_GONE = "run 'icf-utils deposit_visit_dataset --annex-url' again"


def check_plain(place: Visit, metadata: VisitMetadata, origin: Origin) -> list[Finding]:
    """Hold every byte of the deposit against what the metadata and the dataset's ``origin`` make; it may be absent."""
    if not has_plain(place):
        return []
    try:
        wanted = dict(paths_of(place, expected_plain(metadata, place, origin).files))
    except IcfError as error:
        return [finding_of(place.annex_url, error)]
    strangers = [path for path in stored_files(place) if path not in wanted]
    findings = [Finding(path, "", "does not belong to this dataset") for path in strangers]
    return [*findings, *(item for path, data in wanted.items() for item in _check_file(path, data))]


def _check_file(path: Path, data: bytes) -> list[Finding]:
    try:
        if not path.exists():
            return [Finding(path, "", _INTERRUPTED)]
        same = read_deposit(path, _GONE) == data
    except IcfError as error:
        return [finding_of(path, error)]
    return [] if same else [Finding(path, "", "is not, byte by byte, what this dataset makes")]


def check_alone(place: Visit) -> list[Finding]:
    """For a visit without a dataset: there must be no such deposit either."""
    return [Finding(place.annex_url, "", _ALONE)] if has_plain(place) else []
