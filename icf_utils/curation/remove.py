"""Remove a visit from a store with all its traces, in one transaction, and search the store for what is left.

The list of visits and the catalog forget the visit first, then its files go. Reads and writes the store.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from icf_utils.catalog.change import plan_catalog_change, plan_empty_study
from icf_utils.catalog.index_page import update_index
from icf_utils.catalog.page import catalogued_visits, read_entry
from icf_utils.curation.replace import check_date, check_reason
from icf_utils.curation.successors import find_successors
from icf_utils.curation.traces import collect_traces, find_traces, study_records, work_files
from icf_utils.curation.version import is_same
from icf_utils.errors import DepositMissing, StorageFailure, printable
from icf_utils.formatting import format_count, format_size
from icf_utils.interrupts import note_leftovers
from icf_utils.progress import SILENT, Progress
from icf_utils.settings import Settings, load_settings
from icf_utils.store.elsewhere import find_elsewhere
from icf_utils.store.files import remove_study_folders
from icf_utils.store.layout import Visit
from icf_utils.store.locks import catalog_lock, remove_dead_locks, visit_lock
from icf_utils.store.transaction import Change, Step
from icf_utils.store.visit_files import list_links, visit_files

_NOT_SEARCHED = "the visit is removed, but the store was not searched for what is left of it; repeat the command"

#: Where else a visit may be, which no command of this store can reach.
ELSEWHERE = (
    "clones of its dataset and downloads of its files",
    "an XNAT, a PACS or another node that it was sent to",
    "backups and snapshots of the store",
    "the folders or files that it was archived from, and visit tables that name it",
    "logs of web servers, of the receiver and of SLURM, and reports of runs",
)


@dataclass(frozen=True)
class Trace:
    """A file of the store that still has something of a removed visit; ``what`` is of it in words."""

    path: Path
    what: str


@dataclass(frozen=True)
class RemoveResult:
    """What was removed: ``files`` of the visit, ``work_files`` about it, and ``pages`` of the catalog.

    ``removed`` is false if the question was declined. ``traces`` is what the search afterwards has found: it should be
    empty. ``shared`` counts files of other visits that have UIDs or MD5s of this one, as an image can be in several,
    and ``shared_with`` names these visits (``STUDY/VISIT``). ``successors`` says which other visits have the identifier
    among their former names: the visit was renamed to them, or merged into them, and they have its images.
    """

    study: str
    visit: str
    removed: bool
    files: int
    work_files: int
    pages: int
    tombstone: Path | None
    traces: tuple[Trace, ...]
    shared: int
    shared_with: tuple[str, ...]
    successors: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ELSEWHERE


def remove_visit(
    store_dir: str | os.PathLike[str],
    study: str,
    visit: str,
    *,
    reason: str = "",
    date: str = "",
    tombstone: bool = False,
    missing_ok: bool = False,
    accept: Callable[[list[str]], bool] | None = None,
    settings: Settings | None = None,
    progress: Progress = SILENT,
) -> RemoveResult:
    """Remove a visit: its files, earlier versions, what runs have recorded of it, its pages, its line in the list.

    With ``tombstone``, a small file with the identifier, ``date`` (``YYYY-MM-DD``) and ``reason`` stays, and the visit
    is not archived again. A visit that was removed with a tombstone before may be removed again, which repeats the
    search; with ``missing_ok``, one of which nothing is in the store. ``accept`` is called with what would be removed,
    in lines, and may decline. Other visits are not touched, also those whose identifiers begin with this one.

    Raises an :class:`~icf_utils.errors.IcfError`: ``DepositMissing`` for a visit of which nothing is in the store,
    ``InvalidSetting``, ``InvalidIdentifier``, ``StorageFailure``, ``Busy``.
    """
    place = Visit(Path(store_dir), study, visit)
    chosen = load_settings(place.root) if settings is None else settings
    if reason:
        check_reason(reason)
    check_date(date)
    with _advice_on_full_disk(place), _finish_killed_removal(place, chosen), visit_lock(place, progress):
        files, records = visit_files(place), work_files(place)
        is_gone = not files and not records and read_entry(place) is None
        found_as = find_successors(place)
        successors = tuple(str(one) if is_gone else f"is a former name of {one.name}" for one in found_as)
        if is_gone and not (missing_ok or successors or place.tombstone.exists()):
            raise DepositMissing(place.archive, "the store has nothing of this visit; check -o and --id")
        traces = collect_traces(place)
        other = find_elsewhere(place, chosen)
        linked = [f"the file '{printable(target)}', to which '{name}' was a link" for name, target in list_links(files)]
        lines = [*_lines(place, files, records), *(f"  {study}/{visit} {successor}" for successor in successors)]
        if accept is not None and not is_gone and not accept(lines):
            return RemoveResult(study, visit, False, 0, 0, 0, None, (), 0, (), successors)
        stone = _tombstone(visit, date, reason) if tombstone and not place.tombstone.exists() else None
        pages = remove_files(place, files, records, stone, settings=chosen, progress=progress)
    try:
        _update_store_pages(place, chosen)
        found = find_traces(place.root, traces, progress)
    except BaseException as error:
        note_leftovers(error, _NOT_SEARCHED)
        raise
    left = tuple(Trace(path, what) for path, what in found.traces)
    kept = place.tombstone if place.tombstone.exists() else None
    return RemoveResult(
        study=study,
        visit=visit,
        removed=True,
        files=len(files),
        work_files=len(records),
        pages=pages,
        tombstone=kept,
        traces=left,
        shared=found.shared,
        shared_with=found.shared_with,
        successors=successors,
        elsewhere=(*linked, *([f"the archive at {other}"] if other else []), *ELSEWHERE),
    )


@contextmanager
def _advice_on_full_disk(place: Visit) -> Iterator[None]:
    """Take the lock's leftovers away, and say on a full disk which file of the visit can go first.

    The change needs room for its lock, its journal and the pages without the visit. The archive is not needed for it
    where the visit's metadata has the UIDs and MD5s that are searched for afterwards.
    """
    try:
        remove_dead_locks(place.of_study)
        yield
    except StorageFailure as error:
        size = _removable_size(place)
        if not (error.is_full and size):
            raise
        advice = (
            f". To make room, you can delete '{printable(place.archive)}' ({format_size(size)}) first, "
            "which this command removes in any case"
        )
        raise StorageFailure(error.path, error.action, OSError(error.errno, ""), advice) from error


def _removable_size(place: Visit) -> int:
    """The bytes that deleting the visit's archive frees, if the visit can be removed without it."""
    try:
        status = place.archive.lstat()
    except OSError:
        return 0
    is_alone = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
    return status.st_size if is_alone and place.dicoms_json.exists() and place.tarball_json.exists() else 0


@contextmanager
def _finish_killed_removal(place: Visit, settings: Settings) -> Iterator[None]:
    """Finish a removal that was killed after its files were gone: repeated, it finds no visit, and fails."""
    try:
        yield
    except DepositMissing:
        _update_store_pages(place, settings)
        raise


def _update_store_pages(place: Visit, settings: Settings) -> None:
    """Remove folders of the study that are empty, and bring the page of all studies up to date."""
    remove_study_folders(place.of_study)
    update_index(place.root, settings)


def _lines(place: Visit, files: list[Path], records: list[Path]) -> list[str]:
    name = f"{place.study}/{place.visit}"
    found = [f"{name}: {format_count(len(files), 'file')} of the visit", *(f"  {path.name}" for path in files)]
    return [*found, f"  and {format_count(len(records), 'file')} about it in '{place.workdir}'"] if records else found


def _tombstone(visit: str, date: str, reason: str) -> bytes:
    fields = {"visit": visit, **({"date": date} if date else {}), **({"reason": reason} if reason else {})}
    return json.dumps(fields, ensure_ascii=False).encode("utf-8") + b"\n"


def remove_files(
    place: Visit,
    files: list[Path],
    records: list[Path],
    tombstone: bytes | None = None,
    *,
    settings: Settings,
    progress: Progress,
) -> int:
    """Remove files of a visit and about it; returns how many files of the catalog went. The caller holds its lock.

    With the last visit of a study, its catalog, its dataset and its list of visits go.
    """
    study = place.of_study
    is_last = not {*study.visits(), *catalogued_visits(study)} - {place.visit}
    with Change(study, place.visit) as change, catalog_lock(study, progress):
        if is_last:
            planned, records = plan_empty_study(study), [*records, *study_records(study)]
        else:
            planned = plan_catalog_change(study, settings, remove=[place.visit])
        changed = {name: data for name, data in planned.files.items() if not is_same(study.folder / name, data)}
        steps = [change.prepare(name, data) for name, data in reversed(changed.items())]
        if tombstone is not None:
            steps.append(change.prepare(place.tombstone.name, tombstone))
        steps += [Step(name) for name in planned.stale]
        steps += [Step(_name(place, path)) for path in (*reversed(files), *records)]
        change.commit(steps)
    return sum(name.startswith(f"{study.catalog.name}/") for name in planned.stale)


def _name(place: Visit, path: Path) -> str:
    return path.relative_to(place.of_study.folder).as_posix()
