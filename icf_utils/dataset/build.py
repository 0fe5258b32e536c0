"""A visit's deposit from its metadata: pure, the same bytes on every machine. Reads and writes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from icf_utils.dataset import annex_branch, annex_url
from icf_utils.dataset.annex_url import DepositFile
from icf_utils.dataset.export import ANNEX, MAIN, export_bytes, refs_bytes
from icf_utils.dataset.git_objects import GitObjects
from icf_utils.dataset.origin import DatasetOrigin
from icf_utils.errors import InputRefused
from icf_utils.formatting import format_count
from icf_utils.metadata.records import VisitMetadata
from icf_utils.results import Notice
from icf_utils.store.layout import Visit

_MAIN_MESSAGE = "Dataset of a visit"
_ANNEX_MESSAGE = "Annex of a visit"
_WEB_MESSAGE = "The archive is on the web"


@dataclass(frozen=True)
class BuiltDataset:
    """The bytes of ``<visit>_XDLRA--refs`` and ``<visit>_XDLRA--repo-export``, and what they hold."""

    refs: bytes
    export: bytes
    main_commit: str
    annex_commit: str
    images: int
    notices: tuple[Notice, ...]


@dataclass(frozen=True)
class BuiltAnnexDeposit:
    """The same dataset for git-annex alone: ``files`` in the order in which they are to be published.

    ``export`` and ``refs`` have the form of :class:`BuiltDataset`'s and the content of the deposit, for git to check.
    """

    files: tuple[DepositFile, ...]
    export: bytes
    refs: bytes


def build_dataset(metadata: VisitMetadata, visit: Visit, origin: DatasetOrigin) -> BuiltDataset:
    """The deposit that ``metadata`` and ``origin`` make; of ``visit``, only the identifiers matter.

    ``metadata`` has passed :func:`icf_utils.metadata.records.check_metadata`. Raises
    :class:`~icf_utils.errors.InputRefused` for more images than a deposit can hold (over a million).
    """
    plan = annex_branch.make_branches(metadata, visit, origin)
    objects, refs = _commits(plan, origin)
    try:
        export = export_bytes(objects.objects, refs)
    except OverflowError as error:
        raise _too_large(visit, plan) from error
    return BuiltDataset(refs_bytes(refs), export, refs[MAIN], refs[ANNEX], plan.images, plan.notices)


def build_annex_deposit(metadata: VisitMetadata, visit: Visit, origin: DatasetOrigin) -> BuiltAnnexDeposit:
    """The deposit for ``annex::`` addresses that goes with :func:`build_dataset`; raises the same."""
    plan = annex_branch.make_branches(metadata, visit, origin)
    objects, refs = _commits(plan, origin)
    stem = annex_branch.key_log_path(annex_branch.archive_key(metadata.tarball), b".log")
    files = {**plan.annex, **annex_url.web_branch_files(stem, visit, origin)}
    last = objects.add_commit(files, origin.time, _WEB_MESSAGE, bytes.fromhex(refs[ANNEX]))
    refs[ANNEX] = last.hex()
    try:
        made = annex_url.annex_deposit_files(objects.objects, refs, visit, origin)
        return BuiltAnnexDeposit(made, export_bytes(objects.objects, refs), refs_bytes(refs))
    except OverflowError as error:
        raise _too_large(visit, plan) from error


def _commits(plan: annex_branch.Branches, origin: DatasetOrigin) -> tuple[GitObjects, dict[str, str]]:
    objects = GitObjects()
    main = objects.add_commit(plan.main, origin.time, _MAIN_MESSAGE).hex()
    annex = objects.add_commit(plan.annex, origin.time, _ANNEX_MESSAGE).hex()
    return objects, {MAIN: main, ANNEX: annex}


def _too_large(visit: Visit, plan: annex_branch.Branches) -> InputRefused:
    reason = f"the dataset of its {format_count(plan.images, 'image')} would be larger than 2 GiB"
    return InputRefused(visit.dicoms_json, [(visit.dicoms_json.name, reason)])
