"""Give a visit another identifier, or put it into another study. Reads and writes the store.

The archive is written anew, as if it had been made under the new name: its members are below the new top folder. The
dataset keeps its history and its remotes, and its id becomes that of the new name. In one study, the change is one
transaction. Between studies it is two: the visit is put into the new study, then removed from the old one; repeating
the command completes an interrupted one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from icf_utils.archive.checksum import format_checksum, refuse_damaged_archive
from icf_utils.archive.rewrite import rewrite_archive
from icf_utils.archive.stage import identifier_notices
from icf_utils.catalog.index_page import update_index
from icf_utils.curation.remove import remove_files
from icf_utils.curation.replace import check_date, check_reason
from icf_utils.curation.traces import work_files
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
from icf_utils.dataset.reader import kept_keys
from icf_utils.errors import DepositDiffers, InvalidSetting, VisitRemoved, storage_errors
from icf_utils.formatting import format_count, format_size
from icf_utils.interrupts import note_leftovers, noted_leftovers
from icf_utils.metadata.describe import describe_archive
from icf_utils.metadata.history import (
    FormerName,
    VersionRecord,
    former_names,
    kept_archive,
    read_history,
    renamed_from,
)
from icf_utils.metadata.records import VisitMetadata
from icf_utils.metadata.stage import build_visit_metadata, encode_metadata_files
from icf_utils.progress import SILENT, Progress
from icf_utils.results import Notice
from icf_utils.settings import Settings, load_settings
from icf_utils.store.access_files import list_access_files
from icf_utils.store.elsewhere import refuse_elsewhere
from icf_utils.store.files import keep_folder_access, make_folders, publish_bytes, remove_study_folders
from icf_utils.store.layout import OUTPUT_SUFFIX, Study, Visit
from icf_utils.store.locks import remove_dead_locks, visit_lock
from icf_utils.store.permitted import refuse_fixed
from icf_utils.store.transaction import Change
from icf_utils.store.visit_files import first_file, visit_files

_IN_BOTH = "the visit is in its new study and still in the old one; repeat the command"


@dataclass(frozen=True)
class RenameResult:
    """A renamed visit: its new identifiers, its version, and MD5 and size (bytes) of its archive.

    ``state`` is ``unchanged`` if this rename was done before, and ``declined`` if it was not accepted: the identifiers
    and the version are those before, then.
    """

    study: str
    visit: str
    version: int
    md5: str
    size: int
    notices: tuple[Notice, ...]
    state: Literal["renamed", "unchanged", "declined"] = "renamed"


def rename_visit(
    store_dir: str | os.PathLike[str],
    study: str,
    visit: str,
    new_study: str,
    new_visit: str,
    *,
    reason: str = "",
    date: str = "",
    accept: Callable[[list[str]], bool] | None = None,
    settings: Settings | None = None,
    progress: Progress = SILENT,
) -> RenameResult:
    """Rename a visit; this is its next version.

    ``reason`` is followed by a note that names the old identifiers; by it, a repeated command finds that the visit was
    renamed before, and returns ``unchanged``. ``accept`` is called with what would change, in lines, and may
    decline it.
    Raises an :class:`~icf_utils.errors.IcfError`: ``DepositDiffers`` if the store has another visit of the new name,
    ``VisitRemoved`` for a name that a tombstone holds, ``DepositMissing``, ``DepositDamaged``, ``InvalidIdentifier``,
    ``InvalidSetting``, ``StorageFailure``, ``Busy``.
    """
    place, target = Visit(Path(store_dir), study, visit), Visit(Path(store_dir), new_study, new_visit)
    chosen = load_settings(place.root) if settings is None else settings
    words = renamed_from(study, visit, reason)
    check_reason(words)
    check_date(date)
    if place == target:
        raise InvalidSetting("--to", "is the visit's present name")
    remove_dead_locks(place.of_study)
    remove_dead_locks(target.of_study)
    _make_study(place.of_study, target.of_study)
    with ExitStack() as locks:
        for one in sorted((place, target), key=lambda one: (one.study, one.visit)):
            locks.enter_context(visit_lock(one, progress))
        if target.tombstone.exists():
            raise VisitRemoved(target.study, target.visit, target.tombstone)
        result = _find_done(place, target)
        if result is None:
            refuse_elsewhere(place, chosen)
            current = read_current(place)
            _refuse_other(target, current)
            if accept is not None and not accept(_lines(current, target)):
                return RenameResult(study, visit, current.version, current.md5, current.size, (), "declined")
            old = {target.visit + path.name.removeprefix(place.visit): path for path in visit_files(place)}
            with Change(target.of_study, target.visit, old, like=first_file(place)) as change:
                result = _rename(change, current, target, VersionRecord(0, "", 0, "", words, date), chosen, progress)
    remove_study_folders(place.of_study)
    update_index(place.root, chosen)
    return result


def _lines(current: CurrentVisit, target: Visit) -> list[str]:
    """What a rename changes, for people."""
    place = current.place
    found = [f"{place.study}/{place.visit}: becomes {target.study}/{target.visit}, version {current.version + 1}"]
    if current.metadata is not None:
        images = format_count(len(current.metadata.images), "image")
        found.append(f"  {images}; {format_size(current.size)}")
    outputs = [path.name for path in visit_files(place) if path.name.endswith(OUTPUT_SUFFIX)]
    found += [f"  '{name}' is removed: it was made from the archive under its old name" for name in outputs]
    if target.study != place.study:
        rules = [name for name in list_access_files(place.of_study) if not (target.of_study.folder / name).exists()]
        found += [f"  '{place.study}/{name}' does not apply in {target.study}" for name in rules]
    return found


def _refuse_other(target: Visit, current: CurrentVisit) -> None:
    """Refuse the name of another visit, before the archive is written anew.

    What an interrupted attempt has put into its new study has the present version in its history.
    """
    is_another_study = target.study != current.place.study
    is_begun = is_another_study and current.md5 in {one.md5 for one in read_history(target)}
    if visit_files(target) and not is_begun:
        raise DepositDiffers(target.archive, "the store has another visit of this name")


def _find_done(place: Visit, target: Visit) -> RenameResult | None:
    """What a rename that was done before has made; ``None`` if the history does not say it."""
    if visit_files(place):
        return None
    former = FormerName(place.study, place.visit, is_merged=False)
    if former not in former_names(target.study, read_history(target)):
        return None
    current = read_current(target)
    return RenameResult(target.study, target.visit, current.version, current.md5, current.size, (), "unchanged")


def _rename(
    change: Change, current: CurrentVisit, target: Visit, note: VersionRecord, settings: Settings, progress: Progress
) -> RenameResult:
    place, staged = current.place, Visit(change.root, target.study, target.visit)
    refuse_damaged_archive(place)
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
        for path in gone:  # between studies, they go when the visit is in the new one
            refuse_fixed(path)
        with _catalog_folder(current, target):
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
        try:
            remove_files(place, gone, [], settings=settings, progress=progress)
        except BaseException as error:
            if not noted_leftovers(error):
                note_leftovers(error, _IN_BOTH)
            raise
    return RenameResult(target.study, target.visit, len(history), md5, size, (*notices, *dropped))


def _make_study(old: Study, new: Study) -> None:
    """Make the folder of a study that does not exist, with the access of the folder that the visit comes from."""
    with storage_errors(new.folder, "create"):
        if not new.folder.is_dir():
            make_folders(new.root, new.folder)
            keep_folder_access(old.folder, new.folder)


@contextmanager
def _catalog_folder(current: CurrentVisit, target: Visit) -> Iterator[None]:
    """Make the folder of a new catalog, with the access of the one that shows the visit."""
    old, new = current.place.of_study.catalog, target.of_study.catalog
    is_new = current.is_catalogued and not os.path.lexists(new)
    try:
        if is_new:
            with storage_errors(new, "create"):
                new.mkdir()
                keep_folder_access(old, new)
        yield
    except BaseException:
        if is_new:
            with suppress(OSError):  # it has the catalog: the change was decided
                new.rmdir()
        raise


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
