"""Build a visit's dataset from its metadata: the same bytes on every machine. Pure: reads and writes no files.

The texts of its commits are in :mod:`icf_utils.dataset.lineage`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from icf_utils.dataset import annex_branch, annex_url
from icf_utils.dataset.annex_logs import next_records
from icf_utils.dataset.annex_url import DepositFile
from icf_utils.dataset.export import ANNEX, MAIN, export_bytes, refs_bytes
from icf_utils.dataset.git_objects import BranchFile, GitObjects
from icf_utils.dataset.lineage import ANNEX_MESSAGE, FIRST_MESSAGE, WEB_MESSAGE, Lineage
from icf_utils.dataset.origin import DatasetOrigin
from icf_utils.errors import InputRefused
from icf_utils.formatting import format_count
from icf_utils.metadata.records import VisitMetadata
from icf_utils.results import Notice
from icf_utils.store.layout import Visit


@dataclass(frozen=True)
class BuiltDataset:
    """The bytes of ``<visit>_XDLRA--refs`` and ``<visit>_XDLRA--repo-export``, and what they contain."""

    refs: bytes
    export: bytes
    main_commit: str
    annex_commit: str
    images: int
    notices: tuple[Notice, ...]
    main_files: Mapping[bytes, BranchFile]
    annex_files: Mapping[bytes, BranchFile]


@dataclass(frozen=True)
class BuiltAnnexDeposit:
    """The same dataset for ``annex::`` addresses: ``files`` in the order of publication.

    ``export`` and ``refs`` have the form of :class:`BuiltDataset` and the content of this deposit, for git to check.
    """

    files: tuple[DepositFile, ...]
    export: bytes
    refs: bytes


def build_dataset(
    metadata: VisitMetadata, visit: Visit, origin: DatasetOrigin, lineage: Lineage | None = None
) -> BuiltDataset:
    """Build the dataset from ``metadata`` and ``origin``; of ``visit``, only the identifiers are used.

    With ``lineage``, its commits follow earlier ones; ``origin.time`` is later than theirs.

    ``metadata`` has passed :func:`icf_utils.metadata.records.check_metadata`. Raises
    :class:`~icf_utils.errors.InputRefused` for more images than a deposit can contain (over a million).
    """
    branches = _branches(metadata, visit, origin, lineage)
    objects, refs = _commits(branches, origin, lineage)
    try:
        export = export_bytes(objects.objects, refs)
    except OverflowError as error:
        raise _too_large(visit, branches) from error
    return BuiltDataset(
        refs=refs_bytes(refs),
        export=export,
        main_commit=refs[MAIN],
        annex_commit=refs[ANNEX],
        images=branches.images,
        notices=branches.notices,
        main_files=branches.main,
        annex_files=branches.annex,
    )


def build_annex_deposit(
    metadata: VisitMetadata, visit: Visit, origin: DatasetOrigin, lineage: Lineage | None = None
) -> BuiltAnnexDeposit:
    """Build the deposit for ``annex::`` addresses that belongs to :func:`build_dataset`; raises the same."""
    branches = _branches(metadata, visit, origin, lineage)
    objects, refs = _commits(branches, origin, lineage)
    files = {**branches.annex, **annex_url.web_branch_files(branches.annex, origin)}
    last = objects.add_commit(files, origin.time, WEB_MESSAGE, bytes.fromhex(refs[ANNEX]))
    refs[ANNEX] = last.hex()
    try:
        made = annex_url.annex_deposit_files(objects.objects, refs, visit, origin)
        return BuiltAnnexDeposit(made, export_bytes(objects.objects, refs), refs_bytes(refs))
    except OverflowError as error:
        raise _too_large(visit, branches) from error


def _branches(
    metadata: VisitMetadata, visit: Visit, origin: DatasetOrigin, lineage: Lineage | None
) -> annex_branch.Branches:
    branches = annex_branch.make_branches(metadata, visit, origin)
    if lineage is None:
        return branches
    wanted = dict(branches.annex)
    for key, name in lineage.kept.items():
        wanted.update(annex_branch.archive_files(key, f"{visit.study}/{name}", origin))
    wanted.update(annex_branch.archive_files(annex_branch.archive_key(metadata.tarball), visit.storepath, origin))
    return replace(branches, annex=next_records(lineage.earlier.annex_files, wanted, origin.time, lineage.kept))


def _commits(
    branches: annex_branch.Branches, origin: DatasetOrigin, lineage: Lineage | None
) -> tuple[GitObjects, dict[str, str]]:
    earlier = lineage.earlier if lineage else None
    objects = GitObjects(dict(earlier.objects) if earlier else {})
    message, before = (lineage.message, bytes.fromhex(earlier.main)) if lineage and earlier else (FIRST_MESSAGE, b"")
    main = objects.add_commit(branches.main, origin.time, message, before).hex()
    before = bytes.fromhex(earlier.annex) if earlier else b""
    annex = objects.add_commit(branches.annex, origin.time, ANNEX_MESSAGE, before).hex()
    return objects, {MAIN: main, ANNEX: annex}


def _too_large(visit: Visit, branches: annex_branch.Branches) -> InputRefused:
    reason = f"the dataset of its {format_count(branches.images, 'image')} would be larger than 2 GiB"
    return InputRefused(visit.dicoms_json, [(visit.dicoms_json.name, reason)])
