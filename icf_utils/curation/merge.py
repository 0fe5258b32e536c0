"""Make one visit of two: the second one's images become part of the first. Reads and writes the store.

What arrived late may be a visit of its own, such as a revision that a receiver made. The merged archive has the files
of both; the second visit goes in the same transaction.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from icf_utils.archive.checksum import refuse_damaged_archive
from icf_utils.archive.members import digest_members
from icf_utils.archive.rewrite import rewrite_archive
from icf_utils.curation.difference import VisitDifference, no_new_version
from icf_utils.curation.identity import refuse_other_patient
from icf_utils.curation.remove import remove_files
from icf_utils.curation.replace import (
    ReplaceResult,
    check_date,
    check_reason,
    prepared_change,
    put_if_accepted,
    unchanged,
)
from icf_utils.curation.traces import work_files
from icf_utils.curation.version import ChangeNote, CurrentVisit, read_current
from icf_utils.errors import InputRefused, InvalidSetting
from icf_utils.metadata.allowlist import recorded_tags
from icf_utils.metadata.describe import describe_archive
from icf_utils.metadata.history import FormerName, former_names, merged_with
from icf_utils.metadata.records import VisitMetadata
from icf_utils.metadata.stage import build_visit_metadata
from icf_utils.progress import SILENT, Progress
from icf_utils.results import Notice
from icf_utils.settings import Settings, load_settings
from icf_utils.store.elsewhere import refuse_elsewhere
from icf_utils.store.files import describe_access
from icf_utils.store.layout import OUTPUT_SUFFIX, Visit, is_output_file
from icf_utils.store.locks import remove_dead_locks, visit_lock
from icf_utils.store.visit_files import is_archive_name, visit_files

_DATASET_REMOVED = (
    "the visit had a dataset, and the visit that it was merged into has none: "
    "run 'icf-utils deposit_visit_dataset' for that visit"
)


def merge_visits(
    store_dir: str | os.PathLike[str],
    study: str,
    visit: str,
    other: str,
    *,
    reason: str = "",
    date: str = "",
    keep: bool = False,
    refuse: Collection[str] = (),
    accept: Callable[[VisitDifference], bool] | None = None,
    settings: Settings | None = None,
    progress: Progress = SILENT,
) -> ReplaceResult:
    """Merge the visit ``other`` of a study into ``visit``, whose next version this is; ``other`` goes.

    ``reason`` is followed by a note that names ``other``; by it, a repeated command finds that the visits were merged
    before, and returns ``unchanged``; if ``other`` was archived again and has nothing new, it is removed. ``refuse``
    are checks (:data:`~icf_utils.settings.MERGE_CHECKS`) for which visits are not merged. The remaining arguments are
    those of :func:`~icf_utils.curation.replace.replace_visit`. Raises :class:`~icf_utils.errors.InputRefused` if both
    have a file of the same name with different content, and otherwise what that function raises.
    """
    place, second = Visit(Path(store_dir), study, visit), Visit(Path(store_dir), study, other)
    chosen = load_settings(place.root) if settings is None else settings
    words = merged_with(other, reason)
    check_reason(words)
    check_date(date)
    if place == second:
        raise InvalidSetting("--from", "is the visit itself")
    remove_dead_locks(place.of_study)
    with ExitStack() as locks:
        for one in sorted((place, second), key=lambda one: one.visit):
            locks.enter_context(visit_lock(one, progress))
        if place.archive.exists() and not visit_files(second):
            current = read_current(place)
            if _was_merged(current, other):
                return unchanged(current, "unchanged", None)
        refuse_elsewhere(place, chosen)
        refuse_elsewhere(second, chosen)
        current = read_current(place)
        arriving = read_current(second)
        for one in (place, second):
            refuse_damaged_archive(one)
        current = replace(current, metadata=current.metadata or _described_as(arriving, place, progress))
        refuse_other_patient(second.archive, place, second.archive, refuse)
        _refuse_clashes(place, second)
        is_catalogued = current.is_catalogued or arriving.is_catalogued
        has_previews = current.has_previews or arriving.has_previews
        current = replace(current, is_catalogued=is_catalogued, has_previews=has_previews)
        limits = _limits(place, second)
        with prepared_change(place, limits) as (change, staged):
            md5, _ = rewrite_archive([place.archive, second.archive], staged, progress)
            if md5 == current.md5 and _was_merged(current, other):
                return _remove_again(current, second, accept, chosen, progress)
            return put_if_accepted(
                change,
                current,
                staged,
                accept,
                note=ChangeNote(words, date, keep),
                settings=chosen,
                progress=progress,
                notices=_no_dataset(current, arriving),
                remove=[*visit_files(second), *work_files(second)],
                merged=[other],
                remarks=[*_other_studies(current, arriving), *_other_access(place, limits), *_removed_with(second)],
            )


def _was_merged(current: CurrentVisit, other: str) -> bool:
    """Whether the history of a visit says that another one was merged into it."""
    study = current.place.study
    return FormerName(study, other, is_merged=True) in former_names(study, current.history)


def _remove_again(
    current: CurrentVisit,
    second: Visit,
    accept: Callable[[VisitDifference], bool] | None,
    settings: Settings,
    progress: Progress,
) -> ReplaceResult:
    """Remove a visit that was archived again after it had been merged: the other one has its files."""
    place = current.place
    words = f"it has the files of {second.visit}, which was merged before; {second.visit} is removed"
    difference = no_new_version(place.study, place.visit, current.version, current.size, words)
    if accept is not None and not accept(difference):
        return unchanged(current, "declined", difference)
    remove_files(second, visit_files(second), work_files(second), settings=settings, progress=progress)
    return unchanged(current, "unchanged", difference)


def _described_as(arriving: CurrentVisit, place: Visit, progress: Progress) -> VisitMetadata | None:
    """The metadata of a visit that has none, with the tags of the one that is merged into it, if that has any."""
    if arriving.metadata is None:
        return None
    tags = recorded_tags(arriving.metadata)
    return build_visit_metadata(place, describe_archive(place.archive, place.member_root, tags, progress))


def _no_dataset(current: CurrentVisit, arriving: CurrentVisit) -> tuple[Notice, ...]:
    if current.dataset is not None or arriving.dataset is None:
        return ()
    return (Notice("dataset-removed", arriving.place.refs.name, _DATASET_REMOVED),)


def _limits(place: Visit, second: Visit) -> dict[str, Path]:
    """The files of the second visit, by the names of the files that get their content."""
    files = [path for path in visit_files(second) if path.is_file()]
    limits = {place.visit + path.name.removeprefix(second.visit): path for path in files}
    return {place.history.name: second.archive, **limits}


def _other_studies(current: CurrentVisit, arriving: CurrentVisit) -> Iterator[str]:
    """Says if the visits have images of different DICOM studies."""
    uids = [
        {image.uids.get("StudyInstanceUID", "") for image in one.metadata.images} - {""} if one.metadata else set()
        for one in (current, arriving)
    ]
    if uids[1] - uids[0] and uids[0]:
        yield f"{arriving.place.visit} has another StudyInstanceUID than {current.place.visit}"


def _other_access(place: Visit, limits: Mapping[str, Path]) -> Iterator[str]:
    """Says if the files of the visits have different access; the names of those with the same difference, once."""
    found: dict[tuple[str, str], str] = {}
    archive = place.archive.name
    for name, path in sorted(limits.items(), key=lambda item: (item[0] != archive, item[0])):
        mine = place.of_study.folder / name
        if mine.exists() and describe_access(mine) != describe_access(path):
            found.setdefault((describe_access(mine), describe_access(path)), name)
    for (one, other), name in found.items():
        yield f"'{name}' ({one}) and '{limits[name].name}' ({other}) differ in access; the stricter one applies"


def _removed_with(second: Visit) -> Iterator[str]:
    """Says which files of the second visit go whose content the merged one does not have."""
    for path in visit_files(second):
        if is_output_file(path.name):
            if path.name.endswith(OUTPUT_SUFFIX):
                yield f"'{path.name}' is removed: it was made from the archive of {second.visit}"
        elif is_archive_name(path.name) and path != second.archive:
            yield f"'{path.name}', an earlier version that was kept, is removed: copy it first if it is to stay"


def _refuse_clashes(place: Visit, second: Visit) -> None:
    """Refuse two files of one name with different content."""
    one = digest_members(place.archive, lambda _: True)
    other = digest_members(second.archive, lambda member: member.name.partition("/")[2] in one)
    clashes = [name for name, digest in other.items() if one[name] != digest]
    if clashes:
        reason = f"is also in '{place.archive.name}', with different content"
        advice = "Archive both again with other file names, or make one folder of both and use 'visit replace'."
        raise InputRefused(second.archive, [(name, reason) for name in clashes], advice)
