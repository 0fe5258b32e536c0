"""Give a visit another identifier, or put it into another study. Reads and writes the store.

The archive is written anew, as if it had been made under the new name: its members are below the new top folder. The
dataset keeps its history and its remotes, and its id becomes that of the new name. In one study, the change is one
transaction. Between studies it is two: the visit is put into the new study, then removed from the old one; repeating
the command completes an interrupted one.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from icf_utils.archive.checksum import format_checksum
from icf_utils.archive.rewrite import rewrite_archive
from icf_utils.archive.stage import identifier_notices
from icf_utils.curation.remove import remove_files
from icf_utils.curation.replace import check_date, check_reason
from icf_utils.curation.traces import visit_files, work_files
from icf_utils.curation.version import (
    CurrentVisit,
    commit_version,
    keep_archive_as,
    next_time,
    output_notices,
    read_current,
    tags_of,
    write_dataset,
    write_history,
)
from icf_utils.dataset.lineage import version_message
from icf_utils.dataset.origin import make_origin
from icf_utils.dataset.reader import BranchContent, kept_keys, read_dataset
from icf_utils.errors import DepositDiffers, InvalidSetting, VisitRemoved, storage_errors
from icf_utils.metadata.describe import describe_archive
from icf_utils.metadata.history import VersionRecord, kept_archive
from icf_utils.metadata.records import VisitMetadata
from icf_utils.metadata.stage import build_visit_metadata, encode_metadata_files
from icf_utils.progress import SILENT, Progress
from icf_utils.results import Notice
from icf_utils.settings import Settings, load_settings
from icf_utils.store.elsewhere import refuse_elsewhere
from icf_utils.store.files import publish_bytes
from icf_utils.store.layout import Visit
from icf_utils.store.locks import remove_dead_locks, visit_lock
from icf_utils.store.transaction import Change

RENAMED = "renamed"


@dataclass(frozen=True)
class RenameResult:
    """A renamed visit: its new identifiers, its version, and MD5 and size (bytes) of its archive.

    ``state`` is ``unchanged`` if this rename was done before.
    """

    study: str
    visit: str
    version: int
    md5: str
    size: int
    notices: tuple[Notice, ...]
    state: Literal["renamed", "unchanged"] = "renamed"


def rename_visit(
    store_dir: str | os.PathLike[str],
    study: str,
    visit: str,
    new_study: str,
    new_visit: str,
    *,
    reason: str = RENAMED,
    date: str = "",
    settings: Settings | None = None,
    progress: Progress = SILENT,
) -> RenameResult:
    """Rename a visit; this is its next version.

    The old name stays in the dataset's earlier commits; by them, a repeated command finds that it was done before.
    Raises an :class:`~icf_utils.errors.IcfError`: ``DepositDiffers`` if the store has another visit of the new name,
    ``VisitRemoved`` for a name that a tombstone holds, ``DepositMissing``, ``DepositDamaged``, ``InvalidIdentifier``,
    ``InvalidSetting``, ``StorageFailure``, ``Busy``.
    """
    place, target = Visit(Path(store_dir), study, visit), Visit(Path(store_dir), new_study, new_visit)
    chosen = load_settings(place.root) if settings is None else settings
    check_reason(reason)
    check_date(date)
    if place == target:
        raise InvalidSetting("--to", "is the visit's present name")
    remove_dead_locks(place.of_study)
    remove_dead_locks(target.of_study)
    with ExitStack() as locks:
        for one in sorted((place, target), key=lambda one: (one.study, one.visit)):
            locks.enter_context(visit_lock(one, progress))
        if target.tombstone.exists():
            raise VisitRemoved(target.study, target.visit, target.tombstone)
        if done := _find_done(place, target):
            return done
        refuse_elsewhere(place, chosen)
        current = read_current(place)
        old = {target.visit + path.name.removeprefix(place.visit): path for path in visit_files(place)}
        change = Change(target.of_study, target.visit, old)
        try:
            return _rename(change, current, target, VersionRecord(0, "", 0, "", reason, date), chosen, progress)
        finally:
            change.close()


def _find_done(place: Visit, target: Visit) -> RenameResult | None:
    """What a rename that was done before has made; ``None`` if the dataset does not prove it."""
    if visit_files(place):
        return None
    dataset = read_dataset(target)
    if dataset is None or not any(_is_of(place, branch) for branch in dataset.branches()):
        return None
    current = read_current(target)
    return RenameResult(target.study, target.visit, current.version, current.md5, current.size, (), "unchanged")


def _is_of(place: Visit, branch: BranchContent) -> bool:
    """Whether a commit has the archive and the images, if any, of the visit under its old name."""
    images = [path for path in branch.files if path.startswith(place.member_root.encode("ascii") + b"/")]
    return place.dspath.encode("ascii") in branch.files and bool(images)


def _rename(
    change: Change, current: CurrentVisit, target: Visit, note: VersionRecord, settings: Settings, progress: Progress
) -> RenameResult:
    place, staged = current.place, Visit(change.root, target.study, target.visit)
    md5, size = rewrite_archive([place.archive], staged, progress)
    is_there = _is_there(target, md5)
    found = describe_archive(staged.archive, staged.member_root, tags_of(current, settings), progress)
    history = (*_kept_under(current, staged), replace(note, version=current.version + 1, md5=md5, size=size))
    notices: tuple[Notice, ...] = tuple(identifier_notices(target))
    gone = [*visit_files(place), *work_files(place)]
    dropped = output_notices(gone)
    if not is_there:
        notices += _prepare(current, staged, target, build_visit_metadata(staged, found), history, settings)
        another = target.of_study if target.study != place.study else None
        notices += commit_version(
            change,
            current,
            staged,
            settings=settings,
            progress=progress,
            remove=() if another else gone,
            study=another,
        )
    if target.study != place.study:
        remove_files(place, gone, [], settings=settings, progress=progress)
    return RenameResult(target.study, target.visit, len(history), md5, size, (*notices, *dropped))


def _is_there(target: Visit, md5: str) -> bool:
    """Whether an interrupted attempt has put the visit into its new study already."""
    if not visit_files(target):
        return False
    with storage_errors(target.checksum, "read"):
        same = target.checksum.exists() and target.checksum.read_bytes() == format_checksum(md5, target.archive.name)
    if not same:
        raise DepositDiffers(target.archive, "the store has another visit of this name")
    return True


def _kept_under(current: CurrentVisit, staged: Visit) -> tuple[VersionRecord, ...]:
    """The history with the new names of kept archives, which are prepared under these names."""
    found = []
    for version in current.history:
        if version.kept:
            old, new = kept_archive(current.place, version.version), kept_archive(staged, version.version)
            keep_archive_as(new, old)
            version = replace(version, kept=new.name)  # noqa: PLW2901
        found.append(version)
    return tuple(found)


def _prepare(
    current: CurrentVisit,
    staged: Visit,
    target: Visit,
    metadata: VisitMetadata,
    history: tuple[VersionRecord, ...],
    settings: Settings,
) -> tuple[Notice, ...]:
    commit = ""
    notices: tuple[Notice, ...] = ()
    if current.metadata is not None:
        publish_bytes(staged.of_study, encode_metadata_files(staged, metadata))
    if current.dataset is not None:
        old = current.dataset.origin
        new = make_origin(
            old.store_url, settings.store.id, target, next_time(current, staged.archive, history[-1].size)
        )
        origin = replace(new, uuids=replace(old.uuids, dataset=new.uuids.dataset))
        message = version_message(len(history), history[-1].reason, history[-1].date)
        commit, notices = write_dataset(current, staged, metadata, origin, message, kept_keys(target, history))
    write_history(staged, history, commit)
    return notices
