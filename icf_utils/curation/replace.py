"""Replace a visit by its next version, in one transaction. Reads the input, writes to the store.

The archive, the metadata, the dataset (as commits after the present ones), the catalog, the list of visits and the
visit's history change together: who looks finds the old version or the new one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import date as calendar_date
from pathlib import Path
from typing import Literal

from icf_utils.archive.checksum import refuse_damaged_archive
from icf_utils.archive.members import digest_members
from icf_utils.archive.reader import list_members
from icf_utils.archive.stage import ArchiveResult, choose_left_out, make_studyvisit_archive
from icf_utils.curation.difference import Difference, VisitDifference, compare_files, compare_images, no_new_version
from icf_utils.curation.identity import refuse_other_visit
from icf_utils.curation.restore import describe_proof, find_damage, put_archive_back
from icf_utils.curation.version import ChangeNote, CurrentVisit, put_version, read_current, tags_of
from icf_utils.errors import (
    DepositDamaged,
    DepositMissing,
    IcfError,
    InputRefused,
    InvalidSetting,
    StorageFailure,
    printable,
)
from icf_utils.metadata.allowlist import AllowList
from icf_utils.metadata.describe import ArchiveDescription, describe_archive
from icf_utils.metadata.history import current_version, former_names, kept_archive, read_history
from icf_utils.metadata.records import VisitMetadata, read_visit_metadata
from icf_utils.metadata.stage import build_visit_metadata
from icf_utils.progress import SILENT, Progress
from icf_utils.results import Notice
from icf_utils.settings import DEFAULT_LEAVE_OUT, Settings, load_settings
from icf_utils.store.elsewhere import refuse_elsewhere
from icf_utils.store.layout import Visit
from icf_utils.store.locks import remove_dead_locks, visit_lock
from icf_utils.store.transaction import Change
from icf_utils.store.visit_files import first_file, is_archive_name, list_links, visit_files

_NOT_COMPARED = "the present archive is damaged or missing: its files other than images were not compared"
_LONGEST_REASON = 500
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


@dataclass(frozen=True)
class ReplaceResult:
    """What became of a visit that was to be replaced.

    ``state`` is ``unchanged`` if the input gives the archive that the store has, ``restored`` if it gives the present
    version's, which was damaged or missing, and ``declined`` if the difference was not accepted. ``version``, ``md5``
    and ``size`` (bytes) are of the version that is in the store then; ``kept`` is the file of the old archive, if it
    was kept.
    """

    study: str
    visit: str
    state: Literal["replaced", "restored", "unchanged", "declined"]
    version: int
    md5: str
    size: int
    difference: VisitDifference | None
    kept: Path | None
    notices: tuple[Notice, ...]


def replace_visit(
    input_path: str | os.PathLike[str],
    store_dir: str | os.PathLike[str],
    study: str,
    visit: str,
    *,
    reason: str,
    date: str = "",
    keep: bool = False,
    time_zone: str = "UTC",
    strip: int = 0,
    refuse: Collection[str] = (),
    accept: Callable[[VisitDifference], bool] | None = None,
    settings: Settings | None = None,
    progress: Progress = SILENT,
) -> ReplaceResult:
    """Make an input the next version of a visit that is in the store.

    An input that gives the present version's archive changes nothing; if that archive is damaged or missing in the
    store, and what is left of the visit proves the input's, it is put back.

    ``input_path``, ``time_zone`` and ``strip`` are those of
    :func:`~icf_utils.archive.stage.make_studyvisit_archive`. ``reason`` (one line) and ``date`` (``YYYY-MM-DD``) are
    recorded in the history and in the dataset's commits: neither may identify a person. ``keep`` keeps the old archive
    as ``<visit>_dicom.v<n>.tar``; otherwise its bytes are removed. ``refuse`` are checks
    (:data:`~icf_utils.settings.REPLACE_CHECKS`) for which an input is refused: its StudyInstanceUID is that of
    another visit of the store, its PatientID is not that of the present version. ``accept`` is called with the
    difference before anything is changed, and may decline it. Of the stages, those that the visit has are made again,
    with the tags that its metadata records.

    After an interrupt or a failure, the store has the old version whole or the new one; what was decided is finished
    by the next command for the study. Raises an :class:`~icf_utils.errors.IcfError`: ``InvalidSetting``,
    ``InvalidIdentifier``, ``DepositMissing``, ``DepositDamaged``, ``InputRefused``, ``MissingRequirement``,
    ``StorageFailure``, ``Busy``.
    """
    place = Visit(Path(store_dir), study, visit)
    chosen = load_settings(place.root) if settings is None else settings
    check_reason(reason)
    check_date(date)
    remove_dead_locks(place.of_study)
    with visit_lock(place, progress):
        refuse_elsewhere(place, chosen)
        current, problem = _read_replaceable(place)
        with prepared_change(place) as (change, staged):
            made = make_studyvisit_archive(
                input_path,
                change.root,
                study,
                visit,
                time_zone=time_zone,
                strip=strip or _own_folders(input_path, place),
                leave_out=choose_left_out(place, chosen, DEFAULT_LEAVE_OUT),
                refuse=refuse,
                progress=progress,
            )
            if current is None or made.md5 == current.md5:
                return _restore_if_damaged(
                    change, staged, current, problem, place=place, made=made, accept=accept, progress=progress
                )
            if not made.dicom_files and current.metadata is not None and current.metadata.images:
                advice = "Check the path. To take the visit's images away, use 'icf-utils visit remove'."
                raise InputRefused(input_path, [(f"{study}/{visit}", "would have no DICOM images")], advice)
            if keep:
                refuse_damaged_archive(place)  # it stays
            remarks = refuse_other_visit(input_path, place, staged.archive, refuse)
            links = [] if keep else list_links([place.archive])
            remarks += [f"'{name}' is a link; the file '{printable(target)}' stays" for name, target in links]
            return put_if_accepted(
                change,
                current,
                staged,
                accept,
                note=ChangeNote(reason, date, keep),
                settings=chosen,
                progress=progress,
                notices=made.notices,
                remarks=remarks,
            )


def _read_replaceable(place: Visit) -> tuple[CurrentVisit | None, IcfError | None]:
    """Read a visit, also one whose archive is missing; or the error that says why that is not possible.

    Raises that error if the store has nothing of the visit.
    """
    try:
        is_lost = not place.archive.exists() and place.tarball_json.exists()
        return read_current(place, read_visit_metadata(place) if is_lost else None, is_elsewhere=is_lost), None
    except (DepositDamaged, DepositMissing) as error:
        if not visit_files(place):
            raise
        return None, error


def _restore_if_damaged(
    change: Change,
    staged: Visit,
    current: CurrentVisit | None,
    problem: IcfError | None,
    *,
    place: Visit,
    made: ArchiveResult,
    accept: Callable[[VisitDifference], bool] | None,
    progress: Progress,
) -> ReplaceResult:
    """Put the archive of the present version back, which the input gives, if it is damaged or missing.

    Raises ``problem``, which the visit has, if nothing proves that it is this archive.
    """
    damage = find_damage(place, made.md5)
    if damage is None and current is not None:
        return unchanged(current, "unchanged", None)
    proof = describe_proof(staged, place, progress) if damage else ""
    if not proof:
        raise problem or damage or AssertionError
    difference = no_new_version(place.study, place.visit, current_version(place), made.size, _put_back(proof))
    state: Literal["restored", "declined"] = "declined"
    if accept is None or accept(difference):
        put_archive_back(change, place, staged, progress)
        state = "restored"
    return ReplaceResult(
        study=place.study,
        visit=place.visit,
        state=state,
        version=difference.version,
        md5=made.md5,
        size=made.size,
        difference=difference,
        kept=None,
        notices=made.notices,
    )


def _put_back(proof: str) -> str:
    return f"its archive is damaged or missing, and is put back from the input: {proof}"


def _own_folders(input_path: str | os.PathLike[str], place: Visit) -> int:
    """How many folders above the files of an input are those of an archive of this visit: 1, or 0 for other inputs.

    An archive that was kept or downloaded is an input like its files. Raises
    :class:`~icf_utils.errors.InvalidSetting` for the archive of another visit of the store.
    """
    path = Path(input_path)
    try:
        roots = {member.name.partition("/")[0] for member in list_members(path)} if path.is_file() else set()
    except IcfError:  # not a plain TAR
        return 0
    former = []
    with suppress(DepositDamaged):
        former = [Visit(place.root, one.study, one.visit) for one in former_names(place.study, read_history(place))]
    if roots and roots <= {place.member_root, *(one.member_root for one in former)}:
        return 1
    if is_archive_name(path.name) and path.resolve().parent.parent == place.root.resolve():
        problem = f"'{printable(path)}' is the archive of another visit; see 'icf-utils visit merge' and 'visit rename'"
        raise InvalidSetting("INPUT", problem)
    return 0


def put_if_accepted(
    change: Change,
    current: CurrentVisit,
    staged: Visit,
    accept: Callable[[VisitDifference], bool] | None,
    *,
    note: ChangeNote,
    settings: Settings,
    progress: Progress,
    notices: tuple[Notice, ...] = (),
    remove: Sequence[Path] = (),
    merged: Sequence[str] = (),
    remarks: Sequence[str] = (),
) -> ReplaceResult:
    """Make a prepared archive the next version of a visit, unless ``accept`` declines the difference.

    ``notices`` are those of the archive, ``remarks`` what is to be said with the difference. The remaining arguments
    are those of :func:`~icf_utils.curation.version.put_version`.
    """
    allowed = tags_of(current, settings)
    found = describe_archive(staged.archive, staged.member_root, allowed, progress)
    difference = _describe_difference(current, staged, found, allowed, progress)
    difference = replace(difference, remarks=(*difference.remarks, *remarks))
    if accept is not None and not accept(difference):
        return unchanged(current, "declined", difference)
    noted = put_version(
        change, current, staged, found, note=note, settings=settings, progress=progress, remove=remove, merged=merged
    )
    place = current.place
    return ReplaceResult(
        study=place.study,
        visit=place.visit,
        state="replaced",
        version=current.version + 1,
        md5=found.md5,
        size=found.size,
        difference=difference,
        kept=kept_archive(place, current.version) if note.keep else None,
        notices=(*notices, *found.notices, *noted),
    )


@contextmanager
def prepared_change(place: Visit, limits: Mapping[str, Path] | None = None) -> Iterator[tuple[Change, Visit]]:
    """A change of a visit, and the visit's place among the files that are prepared. The caller holds its lock.

    ``limits`` are those of :class:`~icf_utils.store.transaction.Change`.
    """
    with Change(place.of_study, place.visit, like=first_file(place), limits=limits) as change:
        yield change, Visit(change.root, place.study, place.visit)


def _describe_difference(
    current: CurrentVisit, staged: Visit, found: ArchiveDescription, allowed: AllowList, progress: Progress
) -> VisitDifference:
    """Compare a prepared archive with the present one, which is read if the visit has no metadata."""
    place = current.place
    new, old = build_visit_metadata(staged, found), current.metadata
    if old is None:
        old = build_visit_metadata(place, describe_archive(place.archive, place.member_root, allowed, progress))
    series, renamed = compare_images(old, new)
    remarks: tuple[str, ...] = ()
    try:
        others = compare_files(_other_files(place, old), _other_files(staged, new))
    except (DepositDamaged, StorageFailure):
        others, remarks = Difference(""), (_NOT_COMPARED,)
    return VisitDifference(
        study=staged.study,
        visit=staged.visit,
        version=current.version + 1,
        series=series,
        others=others,
        renamed=renamed,
        old_size=current.size,
        new_size=found.size,
        old_images=len(old.images),
        new_images=len(new.images),
        remarks=remarks,
    )


def _other_files(place: Visit, metadata: VisitMetadata) -> dict[str, str]:
    """The MD5s of the archive's members that are not images, by their path."""
    images = {image.path for image in metadata.images}
    return digest_members(place.archive, lambda member: member.name not in images)


def unchanged(
    current: CurrentVisit, state: Literal["unchanged", "declined"], difference: VisitDifference | None
) -> ReplaceResult:
    """The result for a visit that keeps its version."""
    place = current.place
    version, md5, size = current.version, current.md5, current.size
    return ReplaceResult(place.study, place.visit, state, version, md5, size, difference, None, ())


def check_reason(reason: str) -> None:
    """Check that a reason is one line of printable text. Raises :class:`~icf_utils.errors.InvalidSetting`."""
    if not reason.strip() or not reason.isprintable() or len(reason) > _LONGEST_REASON:
        raise InvalidSetting("--reason", f"expected one line of text, at most {_LONGEST_REASON} characters")


def check_date(date: str) -> None:
    """Check a date; it may be empty. Raises :class:`~icf_utils.errors.InvalidSetting`."""
    try:
        if date and not _DATE.fullmatch(date):
            raise ValueError(date)
        if date:
            calendar_date.fromisoformat(date)
    except ValueError as error:
        raise InvalidSetting("--date", f"'{printable(date)}' is not a date such as 2024-05-31") from error
