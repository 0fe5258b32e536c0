"""Put the archive of a visit back that is damaged or missing, from an input that gives it byte for byte.

The input's archive is accepted if what is left of the visit proves it, as a repair requires of an archive
(:mod:`icf_utils.verify.evidence`). The visit keeps its version. Reads the visit, writes to the store.
"""

from __future__ import annotations

from contextlib import suppress

from icf_utils.archive.checksum import RESTORE_ADVICE, file_md5
from icf_utils.errors import DepositDamaged, DepositMissing, IcfError
from icf_utils.metadata.allowlist import AllowList
from icf_utils.metadata.describe import describe_archive
from icf_utils.progress import Progress
from icf_utils.store.layout import Visit
from icf_utils.store.locks import catalog_lock
from icf_utils.store.transaction import Change, Step
from icf_utils.verify.evidence import collect_evidence, weigh_evidence

_NO_TAGS = AllowList({}, False)


def find_damage(place: Visit, md5: str) -> IcfError | None:
    """Find why the archive of a visit does not have this MD5: it is missing, or has another one. Reads it.

    Returns ``None`` if it has this MD5. Raises :class:`~icf_utils.errors.StorageFailure`.
    """
    if not place.archive.exists():
        return DepositMissing(place.archive, RESTORE_ADVICE)
    found = file_md5(place.archive)
    expected = f"the MD5 {md5} of its checksum file"
    return None if found == md5 else DepositDamaged(place.archive, expected, found, RESTORE_ADVICE)


def describe_proof(staged: Visit, place: Visit, progress: Progress) -> str:
    """Say what proves that a prepared archive is the one that the visit had; empty if nothing does."""
    with suppress(DepositDamaged):
        found = describe_archive(staged.archive, staged.member_root, _NO_TAGS, progress, sha256=True)
        verdict = weigh_evidence(found, collect_evidence(place))
        return verdict.reason if verdict.is_sound else ""
    return ""


def put_archive_back(change: Change, place: Visit, staged: Visit, progress: Progress) -> None:
    """Give a prepared archive, and its checksum file, their names."""
    with catalog_lock(place.of_study, progress):
        change.commit([Step(path.name, change.path_of(path)) for path in (staged.archive, staged.checksum)])
