"""Build a visit's dataset from its metadata: the same bytes on every machine. Pure: reads and writes no files."""

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
    """The bytes of ``<visit>_XDLRA--refs`` and ``<visit>_XDLRA--repo-export``, and what they contain."""

    refs: bytes
    export: bytes
    main_commit: str
    annex_commit: str
    images: int
    notices: tuple[Notice, ...]


@dataclass(frozen=True)
class BuiltAnnexDeposit:
    """The same dataset for ``annex::`` addresses: ``files`` in the order of publication.

    ``export`` and ``refs`` have the form of :class:`BuiltDataset` and the content of this deposit, for git to check.
    """

    files: tuple[DepositFile, ...]
    export: bytes
    refs: bytes


def build_dataset(metadata: VisitMetadata, visit: Visit, origin: DatasetOrigin) -> BuiltDataset:
    """Build the dataset from ``metadata`` and ``origin``; of ``visit``, only the identifiers are used.

    ``metadata`` has passed :func:`icf_utils.metadata.records.check_metadata`. Raises
    :class:`~icf_utils.errors.InputRefused` for more images than a deposit can contain (over a million).
    """
    branches = annex_branch.make_branches(metadata, visit, origin)
    objects, refs = _commits(branches, origin)
    try:
        export = export_bytes(objects.objects, refs)
    except OverflowError as error:
        raise _too_large(visit, branches) from error
    return BuiltDataset(refs_bytes(refs), export, refs[MAIN], refs[ANNEX], branches.images, branches.notices)


def build_annex_deposit(metadata: VisitMetadata, visit: Visit, origin: DatasetOrigin) -> BuiltAnnexDeposit:
    """Build the deposit for ``annex::`` addresses that belongs to :func:`build_dataset`; raises the same."""
    branches = annex_branch.make_branches(metadata, visit, origin)
    objects, refs = _commits(branches, origin)
    stem = annex_branch.key_log_path(annex_branch.archive_key(metadata.tarball), b".log")
    files = {**branches.annex, **annex_url.web_branch_files(stem, visit, origin)}
    last = objects.add_commit(files, origin.time, _WEB_MESSAGE, bytes.fromhex(refs[ANNEX]))
    refs[ANNEX] = last.hex()
    try:
        made = annex_url.annex_deposit_files(objects.objects, refs, visit, origin)
        return BuiltAnnexDeposit(made, export_bytes(objects.objects, refs), refs_bytes(refs))
    except OverflowError as error:
        raise _too_large(visit, branches) from error


def _commits(branches: annex_branch.Branches, origin: DatasetOrigin) -> tuple[GitObjects, dict[str, str]]:
    objects = GitObjects()
    main = objects.add_commit(branches.main, origin.time, _MAIN_MESSAGE).hex()
    annex = objects.add_commit(branches.annex, origin.time, _ANNEX_MESSAGE).hex()
    return objects, {MAIN: main, ANNEX: annex}


def _too_large(visit: Visit, branches: annex_branch.Branches) -> InputRefused:
    reason = f"the dataset of its {format_count(branches.images, 'image')} would be larger than 2 GiB"
    return InputRefused(visit.dicoms_json, [(visit.dicoms_json.name, reason)])
