"""Sign visits: verify each, and sign its SHA-256 sums. Reads the store; writes signatures and missing lists."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from icf_utils.errors import printable
from icf_utils.progress import SILENT, Progress
from icf_utils.settings import Settings, load_settings
from icf_utils.store.elsewhere import find_elsewhere
from icf_utils.store.files import replace_bytes, sync_folder
from icf_utils.store.layout import Visit, find_deposit, read_deposit
from icf_utils.store.locks import remove_dead_locks, visit_lock
from icf_utils.store.sums import list_summed, sum_files, write_sums
from icf_utils.verify.checks import Finding
from icf_utils.verify.signatures import is_signature_of, make_signature
from icf_utils.verify.verify import CheckOptions, ExaminedVisit, examine_visit

_OTHER_LIST = (
    "is not a signature of the present SHA-256 sums: verify the visit, find out what changed, and sign with --again"
)

_CHANGED = "changed while the visit was verified; sign it once more"

SignState = Literal["signed", "unchanged", "refused"]


@dataclass(frozen=True)
class SignResult:
    """What became of a visit: ``signed`` now, ``unchanged`` as it has a signature, or ``refused`` for ``problems``."""

    study: str
    visit: str
    state: SignState
    problems: tuple[Finding, ...] = ()


def sign_visit(
    store_dir: Path,
    study: str,
    visit: str,
    key: Path,
    *,
    date: str = "",
    again: bool = False,
    settings: Settings | None = None,
    progress: Progress = SILENT,
) -> SignResult:
    """Verify a visit and sign its SHA-256 sums, unless it has a signature of this list.

    ``key`` is a private key, or a public one whose private key an agent has. ``date`` (``YYYY-MM-DD``) is today by
    default. ``again`` replaces a signature. A visit without a list gets one. A visit that ``verify`` finds a problem
    with is not signed. Raises an :class:`~icf_utils.errors.IcfError`: ``InvalidSetting`` for a key that cannot be used,
    ``MissingRequirement`` without ``ssh-keygen``, and what ``verify_visit`` raises.
    """
    place = Visit(store_dir, study, visit)
    chosen = load_settings(place.root) if settings is None else settings
    date = date or datetime.now(tz=timezone.utc).date().isoformat()
    remove_dead_locks(place.of_study)
    before = find_deposit(place.signature)
    if before is not None and not again:
        sums = read_deposit(place.sums, "run 'icf-utils verify' for this visit")
        if is_signature_of(sums, before):
            return SignResult(study, visit, "unchanged")
        return SignResult(study, visit, "refused", (Finding(place.signature, "", _OTHER_LIST),))
    if address := find_elsewhere(place, chosen):
        problem = f"is at {printable(address)}: only a visit whose archive is in this store is signed"
        return SignResult(study, visit, "refused", (Finding(place.archive, "", problem),))
    examined = examine_visit(place, chosen, CheckOptions(), progress)
    if examined.sums is None and not _problems(place, examined):
        with visit_lock(place, progress):
            if find_deposit(place.sums) is None:
                write_sums(place, sum_files({name: place.of_study.folder / name for name in list_summed(place)}, {}))
        examined = examine_visit(place, chosen, CheckOptions(), progress)  # what was listed is what was verified
    problems = _problems(place, examined)
    if problems or examined.sums is None:
        return SignResult(study, visit, "refused", problems or (Finding(place.sums, "", _CHANGED),))
    with visit_lock(place, progress):
        if find_deposit(place.sums) != examined.sums:
            return SignResult(study, visit, "refused", (Finding(place.sums, "", _CHANGED),))
        replace_bytes(place.of_study, place.signature, make_signature(examined.sums, key, date))
        sync_folder(place.signature.parent)
    return SignResult(study, visit, "signed")


def _problems(place: Visit, examined: ExaminedVisit) -> tuple[Finding, ...]:
    """What prevents a signature, which does not cover the catalog."""
    catalog = place.of_study.catalog
    return tuple(one for one in examined.check.findings if not one.path.is_relative_to(catalog))
