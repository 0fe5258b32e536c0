"""The first stage: an input becomes ``<visit>_dicom.tar`` and its ``.md5sum``. Reads the input, writes the two."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import timezone, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

from icf_utils.archive.checksum import format_checksum, refuse_damaged_archive
from icf_utils.archive.explain import explain_difference, explain_listing
from icf_utils.archive.hashing import Digests
from icf_utils.archive.reader import list_members
from icf_utils.archive.writer import (
    NO_TIME,
    ArchiveOutput,
    ExistingArchive,
    HeaderLengthChanged,
    MemberObserver,
    NewArchive,
    Packer,
    PackingResult,
    examine_files,
)
from icf_utils.durations import format_duration
from icf_utils.errors import (
    DepositDamaged,
    DepositDiffers,
    InputRefused,
    InvalidSetting,
    NotSettled,
    VisitRemoved,
    printable,
    storage_errors,
)
from icf_utils.progress import SILENT, Progress
from icf_utils.results import Notice, Written
from icf_utils.settings import Settings, load_settings
from icf_utils.sources.leave_out import DEFAULT, LeftOut
from icf_utils.sources.open import open_source
from icf_utils.sources.source import WINDOWS_NAME, Source, is_windows_name
from icf_utils.store.files import make_workdir, new_part, part_name, publish_part, sync_file
from icf_utils.store.layout import Visit
from icf_utils.store.locks import visit_lock
from icf_utils.store.sums import publish_with_sums


@dataclass(frozen=True)
class ArchiveResult:
    """The result of ``make_studyvisit_archive``. ``size`` in bytes; ``time`` of the visit in seconds since 1970."""

    study: str
    visit: str
    archive: Written
    checksum: Written
    md5: str
    size: int
    dicom_files: int
    other_files: int
    time: float
    notices: tuple[Notice, ...]


def make_studyvisit_archive(
    input_path: str | os.PathLike[str],
    store_dir: str | os.PathLike[str],
    study: str,
    visit: str,
    *,
    time_zone: str = "UTC",
    strip: int = 0,
    settings: Settings | None = None,
    leave_out: LeftOut | None = None,
    settle: float = 0.0,
    refuse: Collection[str] = (),
    observer: MemberObserver | None = None,
    progress: Progress = SILENT,
) -> ArchiveResult:
    """Archive a visit reproducibly: the bytes depend only on content and names of the input's files and the time zone.

    ``input_path`` is a folder, a zip, or a plain or compressed tar; ``time_zone`` is the IANA name of the zone of study
    times, such as ``Europe/Berlin``; the first ``strip`` folders of every name in a zip or tar are removed. An archive
    that exists is compared, and never replaced. ``leave_out`` are files that are not part of the input; by default,
    those that ``settings`` name, which are the store's unless they are given (:func:`choose_left_out`). The input must
    not have changed for ``settle`` seconds. ``refuse`` are codes of notices, such as ``several-patients``: nothing is
    written of an input that has one of them. ``observer`` gets the members of a new archive.

    Raises :class:`~icf_utils.errors.InputRefused`, :class:`~icf_utils.errors.InvalidIdentifier`,
    :class:`~icf_utils.errors.NotSettled`, :class:`~icf_utils.errors.DepositDiffers`,
    :class:`~icf_utils.errors.StorageFailure`.
    """
    place = Visit(Path(store_dir), study, visit)
    zone = parse_time_zone(time_zone)
    _refuse_store_in_input(place, Path(input_path))
    if place.tombstone.exists():
        raise VisitRemoved(place.study, place.visit, place.tombstone)
    with visit_lock(place, progress):
        make_workdir(place.of_study)
        leave_out = leave_out or choose_left_out(place, settings or load_settings(place.root))
        with open_source(Path(input_path), place.workdir, strip, leave_out) as source:
            _refuse_unsettled(source, settle)
            return _make(source, place, zone, refuse, observer, progress)


def compare_archive(
    input_path: str | os.PathLike[str],
    place: Visit,
    *,
    time_zone: str = "UTC",
    strip: int = 0,
    settings: Settings | None = None,
    progress: Progress = SILENT,
) -> str | None:
    """Say how the archive of ``input_path`` would differ from the one in the store; ``None`` if it would not.

    Writes nothing to the store; a compressed tar is unpacked in the system's temporary folder (``TMPDIR``).
    Raises :class:`~icf_utils.errors.InputRefused`, :class:`~icf_utils.errors.StorageFailure`.
    """
    zone = parse_time_zone(time_zone)
    leave_out = choose_left_out(place, load_settings(place.root) if settings is None else settings)
    with open_source(Path(input_path), Path(tempfile.gettempdir()), strip, leave_out) as source:
        try:
            _compare(source, place, zone, progress)
        except DepositDiffers as error:
            return error.how
    return None


def check_archive_input(
    input_path: Path,
    place: Visit,
    *,
    strip: int = 0,
    leave_out: LeftOut | None = None,
    settle: float = 0.0,
    refuse: Collection[str] = (),
    progress: Progress = SILENT,
) -> None:
    """Make the checks of :func:`make_studyvisit_archive` that need names, sizes and headers; writes nothing.

    For a visit that is not archived yet, the headers are read unless ``refuse`` is empty. An existing archive is
    compared by names and sizes: files that differ in content only are not found. A compressed tar is unpacked in the
    system's temporary folder (``TMPDIR``). Raises the errors that the archiving would raise.
    """
    _refuse_store_in_input(place, input_path)
    if place.tombstone.exists():
        raise VisitRemoved(place.study, place.visit, place.tombstone)
    with open_source(input_path, Path(tempfile.gettempdir()), strip, leave_out or DEFAULT) as source:
        _refuse_unsettled(source, settle)
        if place.archive.exists():
            if how := explain_listing(place.archive, source):
                raise DepositDiffers(place.archive, how)
        elif refuse:
            with progress.task("reading headers", len(source.entries), "file") as task:
                _refuse_noticed(source, examine_files(source, timezone.utc, task), refuse)


def choose_left_out(place: Visit, settings: Settings, default: Sequence[str] = ()) -> LeftOut:
    """Choose what is left out of an input of a visit; :mod:`icf_utils.sources.leave_out` has the rule.

    ``default`` are patterns for a new archive, where the settings name none.
    """
    if settings.archive.leave_out is not None:
        return LeftOut(settings.archive.leave_out)
    if place.archive.exists():
        return LeftOut(list_kept=lambda: _names_in(place))
    return LeftOut(default)


def _names_in(place: Visit) -> frozenset[str]:
    """The files in a visit's archive, as paths below its folder."""
    with suppress(DepositDamaged):  # found when it is compared
        return frozenset(member.name.partition("/")[2] for member in list_members(place.archive))
    return frozenset()


def _refuse_unsettled(source: Source, settle: float) -> None:
    """Refuse an input that changed less than ``settle`` seconds ago: somebody may still be writing it."""
    age = max(0.0, time.time() - source.newest_change)
    if age < settle:
        raise NotSettled(source.label, format_duration(age), format_duration(settle))


#: Not zones: on some systems, files of these names hold the machine's own zone, which must not influence the archive.
_OF_THIS_MACHINE = ("localtime", "posixrules")


def parse_time_zone(name: str) -> tzinfo:
    """Return the time zone with an IANA name. Raises :class:`~icf_utils.errors.InvalidSetting`."""
    if name == "UTC":
        return timezone.utc
    try:
        if name in _OF_THIS_MACHINE:
            raise ValueError(name)
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError) as error:  # not found, or not the name of a zone
        advice = "use an IANA name such as Europe/Berlin"
        raise InvalidSetting("--timezone", f"'{printable(name)}' is not a time zone; {advice}") from error


def _refuse_store_in_input(place: Visit, input_path: Path) -> None:
    """Refuse an input that contains the archive's own folder."""
    inner = os.path.realpath(place.of_study.folder)
    outer = os.path.realpath(input_path)
    if os.path.isdir(outer) and (inner + "/").startswith(outer.rstrip("/") + "/"):
        reason = f"contains the folder that the archive is written to ('{inner}')"
        raise InputRefused(input_path, [(os.fspath(input_path), reason)], "Give another store with -o/--store-dir.")


def _make(
    source: Source,
    place: Visit,
    zone: tzinfo,
    refuse: Collection[str],
    observer: MemberObserver | None,
    progress: Progress,
) -> ArchiveResult:
    if place.archive.exists():
        try:
            digests, size, done = _compare(source, place, zone, progress)
        except DepositDiffers:
            if place.checksum.exists():
                refuse_damaged_archive(place)
            raise
        archive = Written(place.archive, "unchanged")
    else:
        digests, size, done = _write(source, place, zone, refuse, observer, progress)
        archive = Written(place.archive, "written")
    md5 = digests.md5
    (checksum,) = publish_with_sums(
        place, [(place.checksum, format_checksum(md5, place.archive.name))], [(archive, digests.sha256)]
    )
    if observer and archive.state == "written":
        observer.on_published(place, digests, size)
    return ArchiveResult(
        study=place.study,
        visit=place.visit,
        archive=archive,
        checksum=checksum,
        md5=md5,
        size=size,
        dicom_files=done.dicom_files,
        other_files=done.other_files,
        time=NO_TIME if done.time is None else done.time,
        notices=(*identifier_notices(place), *source.notices, *done.notices),
    )


def identifier_notices(place: Visit) -> list[Notice]:
    """Warn about a store's names that Windows cannot have: the study is a folder, both are that of all members."""
    names = dict.fromkeys(name for name in (place.study, place.visit) if not is_windows_name(name))
    return [Notice("windows-name", name, WINDOWS_NAME) for name in names]


def _write(
    source: Source,
    place: Visit,
    zone: tzinfo,
    refuse: Collection[str],
    observer: MemberObserver | None,
    progress: Progress,
) -> tuple[Digests, int, PackingResult]:
    part = part_name(place.of_study, place.archive)
    with new_part(place.of_study, place.archive) as handle:

        def fresh() -> ArchiveOutput:
            with storage_errors(part, "write"):
                handle.seek(0)
                handle.truncate()
            return NewArchive(handle, part)

        digests, size, done = _pack(source, place, zone, fresh, progress, observer)
        _refuse_noticed(source, done, refuse)
        sync_file(handle, part)
        _refuse_other_checksum(place, digests.md5)
    publish_part(place.of_study, place.archive)
    return digests, size, done


def _refuse_noticed(source: Source, done: PackingResult, refuse: Collection[str]) -> None:
    found = [notice for notice in done.notices if notice.code in refuse]
    if found:
        codes = " ".join(f"--allow {code}" for code in dict.fromkeys(notice.code for notice in found))
        advice = f"Check that this is one visit. If it is, archive it with {codes}."
        raise InputRefused(source.label, [(notice.subject, notice.message) for notice in found], advice)


def _refuse_other_checksum(place: Visit, md5: str) -> None:
    """If only the checksum of an earlier archive is left, it must match the new one."""
    with storage_errors(place.checksum, "read"):
        if place.checksum.exists() and place.checksum.read_bytes() != format_checksum(md5, place.archive.name):
            raise DepositDiffers(place.checksum, f"this input gives the MD5 {md5}")


def _compare(source: Source, place: Visit, zone: tzinfo, progress: Progress) -> tuple[Digests, int, PackingResult]:
    try:
        with storage_errors(place.archive, "read"), open(place.archive, "rb", buffering=0) as handle:
            return _pack(source, place, zone, lambda: ExistingArchive(handle, place.archive), progress)
    except DepositDiffers as error:
        raise DepositDiffers(error.path, explain_difference(place.archive, source) or error.how) from error


def _pack(
    source: Source,
    place: Visit,
    zone: tzinfo,
    fresh: Callable[[], ArchiveOutput],
    progress: Progress,
    observer: MemberObserver | None = None,
) -> tuple[Digests, int, PackingResult]:
    assumed_time = NO_TIME
    while True:
        with (
            progress.task("archive", sum(entry.size for entry in source.entries), "B") as task,
            closing(fresh()) as output,
        ):
            try:
                done = Packer(source, place.member_root, zone, assumed_time, observer).run(output, task)
            except HeaderLengthChanged as change:
                assumed_time = change.time
                if observer:
                    observer.begin()
                continue
            return output.finish(), output.position, done
