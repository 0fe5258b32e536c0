"""The files of a visit's next version, made next to the present ones, and the steps that give them their names.

Replacing, merging, renaming and refreshing differ in where the archive comes from; what follows from it is made here.
Reads the visit, writes to the folder of a :class:`~icf_utils.store.transaction.Change`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from icf_utils.archive.checksum import RESTORE_ADVICE, read_checksum
from icf_utils.archive.reader import latest_time
from icf_utils.catalog.change import plan_catalog_change
from icf_utils.catalog.content import ContentOptions, visit_content
from icf_utils.catalog.page import read_entry
from icf_utils.catalog.visit_list import hides_dates, line_from_files
from icf_utils.curation.successors import find_successors
from icf_utils.dataset.annex_url import create_folder, deposit_paths, has_annex_deposit, list_stored_files
from icf_utils.dataset.build import build_annex_deposit, build_dataset
from icf_utils.dataset.git_check import check_with_git
from icf_utils.dataset.lineage import Lineage, version_message
from icf_utils.dataset.origin import LATEST_TIME, DatasetOrigin, limit_time
from icf_utils.dataset.reader import DepositedDataset, kept_keys, read_dataset
from icf_utils.errors import DepositMissing, InvalidSetting, VisitRemoved, storage_errors
from icf_utils.metadata.allowlist import AllowList, recorded_tags
from icf_utils.metadata.describe import ArchiveDescription
from icf_utils.metadata.history import VersionRecord, current_version, encode_history, kept_archive, read_history
from icf_utils.metadata.records import VisitMetadata, read_visit_metadata
from icf_utils.metadata.stage import build_visit_metadata, choose_allow_list, encode_metadata_files
from icf_utils.progress import Progress
from icf_utils.results import Notice
from icf_utils.settings import Settings
from icf_utils.store.files import link_or_copy, publish_bytes, replace_file
from icf_utils.store.layout import OUTPUT_SUFFIX, WORK_DIR_NAME, Study, Visit, is_output_file
from icf_utils.store.locks import catalog_lock
from icf_utils.store.sums import format_sums, list_summed, read_sums, sum_files
from icf_utils.store.transaction import Change, Step
from icf_utils.store.visit_files import visit_files

_NO_ARCHIVE = "the visit to change has not been deposited; 'icf-utils make_studyvisit_archive' and 'run' make new ones"
_OUTPUT_REMOVED = "was made from the previous archive and was removed; run 'icf-utils process' to make it again"
_RESTORE = "run 'icf-utils verify --repair' for this visit first"


@dataclass(frozen=True)
class ChangeNote:
    """Why a visit gets its next version, as its history says it, and whether the old archive is kept."""

    reason: str
    date: str = ""
    keep: bool = False


@dataclass(frozen=True)
class CurrentVisit:
    """A visit in the store: what of it exists, and the facts that its next version follows.

    ``md5`` and ``size`` (bytes) are the archive's. ``metadata`` and ``dataset`` are ``None`` if those stages were not
    made. ``history`` is never empty: a visit that was not changed yet has its first version.
    """

    place: Visit
    md5: str
    size: int
    metadata: VisitMetadata | None
    dataset: DepositedDataset | None
    has_annex: bool
    history: tuple[VersionRecord, ...]
    is_catalogued: bool
    has_previews: bool

    @property
    def version(self) -> int:
        return len(self.history)


def read_current(
    place: Visit, metadata: VisitMetadata | None = None, has_own_dataset: bool = True, is_elsewhere: bool = False
) -> CurrentVisit:
    """Read a visit that is to be changed.

    ``metadata`` takes the place of what cannot be read, and so does no dataset unless ``has_own_dataset``: deposits of
    other tools have other forms. With ``is_elsewhere``, the archive is in another store, and ``metadata`` says what it
    is. Raises :class:`~icf_utils.errors.DepositMissing` without an archive, or
    :class:`~icf_utils.errors.VisitRemoved` if a tombstone says why, and :class:`~icf_utils.errors.DepositDamaged` for
    files that cannot be read.
    """
    if is_elsewhere and metadata is not None:
        md5, size = metadata.tarball.md5, metadata.tarball.size
    else:
        if not place.archive.exists():
            if place.tombstone.exists() and not visit_files(place):
                raise VisitRemoved(place.study, place.visit, place.tombstone)
            raise DepositMissing(place.archive, _why_missing(place))
        md5 = read_checksum(place, _RESTORE)
        with storage_errors(place.archive, "examine"):
            size = place.archive.stat().st_size
    if metadata is None and (place.tarball_json.exists() or place.dicoms_json.exists()):
        metadata = read_visit_metadata(place)
    dataset = read_dataset(place) if has_own_dataset else None
    entry = read_entry(place)
    first = VersionRecord(1, md5, size, dataset.main.commit if dataset else "")
    return CurrentVisit(
        place=place,
        md5=md5,
        size=size,
        metadata=metadata,
        dataset=dataset,
        has_annex=dataset is not None and has_annex_deposit(place),
        history=read_history(place) or (first,),
        is_catalogued=entry is not None,
        has_previews=entry is not None and _has_previews(place, entry.dataset_id),
    )


def _why_missing(place: Visit) -> str:
    names = [str(successor) for successor in find_successors(place)]
    if names:
        return f"the visit {' and '.join(names)}"
    return f"other files of the visit are there: {RESTORE_ADVICE}" if visit_files(place) else _NO_ARCHIVE


def _has_previews(place: Visit, dataset_id: str) -> bool:
    folder = place.of_study.catalog / "metadata" / dataset_id
    return any(folder.glob("*/previews/*"))


def output_notices(files: Sequence[Path]) -> tuple[Notice, ...]:
    """Notices about outputs of processings that go with the archive that they were made of."""
    names = [path.name for path in files if path.name.endswith(OUTPUT_SUFFIX)]
    return tuple(Notice("output-removed", name, _OUTPUT_REMOVED) for name in names)


def tags_of(current: CurrentVisit, settings: Settings) -> AllowList:
    """The tags to record of the next version: those of the present metadata, else those that the settings name."""
    if current.metadata is None:
        return choose_allow_list(current.place, None, settings)
    return recorded_tags(current.metadata)


def put_version(
    change: Change,
    current: CurrentVisit,
    staged: Visit,
    found: ArchiveDescription,
    *,
    note: ChangeNote,
    settings: Settings,
    progress: Progress,
    remove: Sequence[Path] = (),
    merged: Sequence[str] = (),
) -> tuple[Notice, ...]:
    """Make the next version of a visit from its prepared archive, which was described, and put it into its place.

    ``remove`` are files that go with it, ``merged`` visits whose files these are.
    """
    history = next_history(current, found.md5, found.size, note)
    if note.keep:
        kept = kept_archive(current.place, current.version)
        keep_archive_as(staged.of_study.folder / kept.name, current.place.archive)
    metadata, commit = build_visit_metadata(staged, found), ""
    notices: tuple[Notice, ...] = ()
    if current.metadata is not None:
        publish_bytes(staged.of_study, encode_metadata_files(staged, metadata))
    if current.dataset is not None:
        message = version_message(len(history), note.reason, note.date)
        origin = replace(current.dataset.origin, time=next_time(current, staged.archive, found.size))
        commit, notices = write_dataset(current, staged, metadata, origin, message, kept_keys(current.place, history))
    write_history(staged, history, commit)
    outputs = [path for path in visit_files(current.place) if is_output_file(path.name)]
    notices += output_notices(outputs)
    gone = [*state_files(current.place), *outputs, *remove]
    return (
        *notices,
        *commit_version(change, current, staged, settings=settings, progress=progress, remove=gone, merged=merged),
    )


def write_dataset(
    current: CurrentVisit,
    staged: Visit,
    metadata: VisitMetadata,
    origin: DatasetOrigin,
    message: str,
    kept: Mapping[bytes, str],
) -> tuple[str, tuple[Notice, ...]]:
    """Write the dataset whose commits follow the present ones; returns its commit on ``main``, and notices."""
    assert current.dataset is not None
    lineage = Lineage(current.dataset.as_earlier(), message, kept)
    built = build_dataset(metadata, staged, origin, lineage)
    check_with_git(built.export, built.refs, str(current.place.dicoms_json))
    publish_bytes(staged.of_study, [(staged.export, built.export), (staged.refs, built.refs)])
    if current.has_annex:
        annex = build_annex_deposit(metadata, staged, origin, lineage)
        check_with_git(annex.export, annex.refs, str(current.place.dicoms_json))
        paths = deposit_paths(staged, annex.files)
        for path, _ in paths:
            create_folder(staged, path.parent)
        publish_bytes(staged.of_study, paths)
    return built.main_commit, built.notices


def next_time(current: CurrentVisit, archive: Path, size: int) -> int:
    """The time of the next commits, in seconds since 1970: the visit's, but later than that of the commits before.

    git-annex uses the record with the latest time. Raises :class:`~icf_utils.errors.InvalidSetting` past the year 2514.
    """
    return max(limit_time(latest_time(archive, size)), later_time(current))


def later_time(current: CurrentVisit) -> int:
    """The earliest time that the next commits can have. Raises :class:`~icf_utils.errors.InvalidSetting`."""
    assert current.dataset is not None
    time = current.dataset.origin.time + 1
    if time > LATEST_TIME:
        raise InvalidSetting("commit date", "the dataset has the latest time that git can represent: it cannot change")
    return time


def next_history(current: CurrentVisit, md5: str, size: int, note: ChangeNote) -> tuple[VersionRecord, ...]:
    """The history with the next version, whose commit is not known yet."""
    *before, last = current.history
    if note.keep:
        last = replace(last, kept=kept_archive(current.place, last.version).name)
    return (*before, last, VersionRecord(last.version + 1, md5, size, "", note.reason, note.date))


def write_history(staged: Visit, history: tuple[VersionRecord, ...], commit: str) -> None:
    """Write the history next to the other files, unless the visit has one version.

    ``commit`` is that of the last version.
    """
    if len(history) < 2:
        return
    records = (*history[:-1], replace(history[-1], commit=commit))
    publish_bytes(staged.of_study, [(staged.history, encode_history(records))])


def keep_archive_as(path: Path, archive: Path) -> None:
    """Give an archive that is kept its name among the files that are being prepared; the old name stays."""
    with storage_errors(path, "keep the archive as"):
        link_or_copy(archive, path)


#: The order in which the files of a visit take their names: a clone that is made meanwhile reads the refs first, and
#: the export has the commits before and after.
_ORDER = ("_XDLRA--repo-export", "_dicom.tar", "_dicom.tar.md5sum", "_metadata_dicoms.json", "_metadata_tarball.json")
_LAST = (".annex", "_XDLRA--refs", "_history.json", "_SHA256SUMS")


def steps_for(change: Change, staged: Visit, study: Study) -> list[Step]:
    """The steps that put all prepared files of a visit into their places, except those that are there already."""
    folder = staged.of_study.folder
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and WORK_DIR_NAME not in path.relative_to(folder).parts
    )
    ordered = sorted(names, key=lambda name: (_rank(name, staged.visit), name))
    changed = [name for name in ordered if name.endswith(".tar") or not _is_there(study.folder / name, folder / name)]
    return [Step(name, change.path_of(folder / name)) for name in changed]


def _is_there(path: Path, prepared: Path) -> bool:
    with storage_errors(prepared, "read"):
        return is_same(path, prepared.read_bytes())


def _rank(name: str, visit: str) -> int:
    suffix = name.removeprefix(visit)
    if suffix in _ORDER:
        return 2 + _ORDER.index(suffix)
    if suffix in _LAST:
        return 20 + _LAST.index(suffix)
    return 10 if "/" in name and "GITMANIFEST" in name else 1


def stale_steps(current: CurrentVisit, staged: Visit) -> Iterator[Step]:
    """The steps that remove files of the present version that the next one does not have."""
    folder = current.place.of_study.folder
    if has_annex_deposit(staged):
        for path in list_stored_files(current.place):
            name = path.relative_to(folder).as_posix()
            if not (staged.of_study.folder / name).exists():
                yield Step(name)


def commit_version(
    change: Change,
    current: CurrentVisit,
    staged: Visit,
    *,
    settings: Settings,
    progress: Progress,
    pictures: Literal["make", "keep"] = "make",
    remove: Sequence[Path] = (),
    merged: Sequence[str] = (),
    study: Study | None = None,
    application: Mapping[str, bytes] = MappingProxyType({}),
) -> tuple[Notice, ...]:
    """Put what was prepared of a visit into its place, with the catalog and the list of visits, at once.

    ``pictures`` of the series are made anew or kept, if the catalog has any. ``remove`` are files that go, ``merged``
    other visits that go, and ``study`` is where the visit goes to, if that is another study than its own.
    ``application`` are files of the catalog's pages themselves to bring up to date.
    """
    gone = [current.place.visit, *merged] if study is None else []
    study = study or current.place.of_study
    content = None
    if current.is_catalogued and staged.tarball_json.exists():
        previews = pictures if current.has_previews else "none"
        content = visit_content(staged, ContentOptions(settings, previews=previews, pictures_in=study), progress)
    with catalog_lock(study, progress):
        line = None if content else line_from_files(staged, settings.catalog)
        version = current_version(staged)
        outputs_gone = [current.place.visit] if any(is_output_file(path.name) for path in remove) else []
        planned = plan_catalog_change(
            study,
            settings,
            remove=gone,
            changed=staged,
            content=content,
            line=line,
            version=version,
            without_outputs=outputs_gone,
            hides_dates=hides_dates(current.place.of_study, settings.catalog),
            application=application,
        )
        stale = [*stale_steps(current, staged)]
        stale += [Step(path.relative_to(study.folder).as_posix()) for path in remove]
        unsigned = _prepare_sums(current, staged, {step.target for step in stale})
        steps = [*unsigned, *steps_for(change, staged, study), *stale]
        steps += _catalog_steps(change, study, planned.files, planned.stale)
        change.commit(steps)
    return content.notices if content else ()


def _prepare_sums(current: CurrentVisit, staged: Visit, gone: Collection[str]) -> list[Step]:
    """Prepare the SHA-256 sums: the lines of files that stay, and of those that were prepared.

    A visit without a list gets one if its archive was prepared, and so read. Returns the step that removes a signature
    of the list as it was before.
    """
    place, folder = current.place, staged.of_study.folder
    before, archive = read_sums(place), read_sums(staged) or {}
    if before is None and not staged.archive.exists():
        return []
    prepared = {name: folder / name for name in list_summed(staged)}
    stays = place == replace(staged, root=place.root)
    kept = {} if not stays else before if before is not None else _sums_of(place, {*gone, *prepared})
    old = {name: digest for name, digest in kept.items() if name not in gone}
    if before and (name := kept_archive(staged, current.version).name) in prepared:
        archive[name] = before.get(place.archive.name, "")
    data = format_sums(old | sum_files(prepared, archive))
    if is_same(place.sums, data):
        staged.sums.unlink(missing_ok=True)
        return []
    replace_file(staged.sums, data)
    return [Step(place.signature.name)] if stays else []


def _sums_of(place: Visit, without: Collection[str]) -> dict[str, str]:
    names = [name for name in list_summed(place) if name not in without]
    return sum_files({name: place.of_study.folder / name for name in names}, {})


def _catalog_steps(change: Change, study: Study, files: Mapping[str, bytes], stale: tuple[str, ...]) -> Iterator[Step]:
    """Pages first, then what is stale, and the list of visits, which is the last of ``files``, at the end."""
    *pages, last = [*files] or [""]
    for name in pages:
        if not is_same(study.folder / name, files[name]):
            yield change.prepare(name, files[name])
    yield from (Step(name) for name in stale)
    if last and not is_same(study.folder / last, files[last]):
        yield change.prepare(last, files[last])


def is_same(path: Path, data: bytes) -> bool:
    """Whether a file has these bytes already."""
    try:
        return path.read_bytes() == data
    except OSError:
        return False


def state_files(place: Visit) -> list[Path]:
    """What runs have recorded of a visit."""
    folder, found = place.workdir / "state", []
    with suppress(OSError):
        for name in sorted(os.listdir(folder)):
            record = name.removesuffix(".json").removesuffix(".error")
            if name.endswith(".json") and record.rpartition(".")[0] == place.visit:
                found.append(folder / name)
    return [*found, *([place.handover] if place.handover.exists() else [])]
