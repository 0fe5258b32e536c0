"""The checks of what the visits of a study share: the list of visits, and the dataset of the study.

Reads the study's files; changes nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType

from icf_utils.catalog.check import UUID_NAME, find_junk
from icf_utils.catalog.page import catalogued_visits, read_entries
from icf_utils.catalog.study import study_id
from icf_utils.catalog.visit_list import hides_dates, line_from_files, read_visit_list
from icf_utils.catalog.writer import list_names
from icf_utils.dataset.study_dataset import check_pack_entries
from icf_utils.dataset.study_stage import read_study_dataset, read_visit_commit
from icf_utils.errors import IcfError, StorageFailure, printable
from icf_utils.metadata.visit_list import VisitLine, encode_visit_list, parse_visit_list
from icf_utils.regular_files import kind_of_special
from icf_utils.results import Notice
from icf_utils.settings import STAGE_NAMES, CatalogSettings
from icf_utils.store.layout import (
    HISTORY_SUFFIX,
    SIGNATURE_SUFFIX,
    SUMS_SUFFIX,
    Study,
    Visit,
    is_identifier,
    read_deposit,
)
from icf_utils.verify.checks import Finding, finding_from_error

_NO_LIST = "has no list of visits (visits.json) yet; 'icf-utils catalog build' and 'icf-utils verify --repair' make it"
_NO_DATASET = "has no dataset of the study yet; 'icf-utils catalog build' and 'icf-utils verify --repair' make it"
_OTHER_BYTES = "has the right content, but not in the bytes that icf-utils writes"


def check_shared(
    study: Study,
    settings: CatalogSettings,
    visits: Sequence[str] | None = None,
    known: Mapping[str, VisitLine] = MappingProxyType({}),
) -> tuple[list[Finding], tuple[Notice, ...]]:
    """Check the list of visits and the dataset of a study, for all visits or for those in ``visits``.

    ``known`` are the lines, with dates, of visits whose metadata was read before; the files of the others are read.
    """
    findings, notices = check_visit_list(study, settings, visits, known)
    others, more = check_study_dataset(study, visits)
    return [*findings, *others], (*notices, *more)


def check_visit_list(
    study: Study,
    settings: CatalogSettings,
    visits: Sequence[str] | None = None,
    known: Mapping[str, VisitLine] = MappingProxyType({}),
) -> tuple[list[Finding], tuple[Notice, ...]]:
    """Compare ``visits.json`` with the files of the study's visits, or of those in ``visits``.

    A visit may be missing from the list while its catalog stage has not been run. What somebody writes just now may not
    fit together: it is read once more, from the files. ``known``: see :func:`check_shared`.
    """
    try:
        found = _compare(study, settings, visits, known) and _compare(study, settings, visits, {})
        shown = catalogued_visits(study)
        notices = (*_junk_notices(study), *_rights_notices(study)) if visits is None else ()
        foreign = [*_special_files(study), *_foreign_pages(study), *_abandoned(study)] if visits is None else []
    except IcfError as error:
        return [finding_from_error(study.visit_list, error), *_special_files(study)], ()
    if found is None:
        return foreign, (*notices, *((Notice("no-visit-list", study.study, _NO_LIST),) if shown else ()))
    return [*(Finding(study.visit_list, subject, problem) for subject, problem in found), *foreign], notices


def _special_files(study: Study) -> Iterator[Finding]:
    """Find pipes, sockets and devices among the study's files, of which reading would wait or never end."""
    places = [study.folder / name for name in sorted(os.listdir(study.folder))] if study.folder.is_dir() else []
    for folder, folders, names in os.walk(study.catalog):
        folders.sort()
        places += [Path(folder, name) for name in sorted((*folders, *names))]
    for path in places:
        if kind := kind_of_special(path):
            yield Finding(path, "", f"is {kind}, not a file or folder; remove it")


def _foreign_pages(study: Study) -> Iterator[Finding]:
    """Find folders of pages in the catalog that no visit has and the study's page does not show."""
    entries = read_entries(study)
    if entries is None:
        return
    known = {entry.dataset_id for entry in entries} | {study_id(study.study)}
    for name in list_names(study, "metadata"):
        if UUID_NAME.fullmatch(name) and name not in known and (study.catalog / "metadata" / name).is_dir():
            path = study.catalog / "metadata" / name
            problem = "belongs to no visit that the study's page shows; 'icf-utils catalog build' removes it"
            yield Finding(path, "", problem)


def _abandoned(study: Study) -> Iterator[Finding]:
    """Find files about visits that are not in the store any more: somebody removed the others by hand."""
    known = {*study.visits(), *catalogued_visits(study)}
    left: dict[str, Path] = {}
    for path in _listed(study.folder):
        for suffix in (SUMS_SUFFIX, SIGNATURE_SUFFIX, HISTORY_SUFFIX):
            if path.name.endswith(suffix):
                left.setdefault(path.name.removesuffix(suffix), path)
    for path in _listed(study.workdir / "state"):
        visit, _, stage = path.name.removesuffix(".json").rpartition(".")
        if path.name.endswith(".json") and stage in STAGE_NAMES:
            left.setdefault(visit, path)
    for visit, path in left.items():
        if visit not in known and is_identifier("visit", visit):
            problem = f"is left of the visit {visit}, which is not in the store; 'icf-utils visit remove' removes it"
            yield Finding(path, "", problem)


def _listed(folder: Path) -> list[Path]:
    try:
        return [folder / name for name in sorted(os.listdir(folder))]
    except (FileNotFoundError, NotADirectoryError):
        return []


def check_study_dataset(study: Study, visits: Sequence[str] | None = None) -> tuple[list[Finding], tuple[Notice, ...]]:
    """Compare the dataset of a study with those of its visits, or of those in ``visits``.

    A visit may be missing from it while its catalog stage has not been run. Earlier commits are checked with all visits
    only.
    """
    try:
        found = _dataset_problems(study, visits) and _dataset_problems(study, visits)
    except IcfError as error:
        return [finding_from_error(study.export, error)], ()
    if found is None:
        shown = any(_commit_of(Visit(study.root, study.study, name)) for name in catalogued_visits(study))
        return [], (Notice("no-study-dataset", study.study, _NO_DATASET),) if shown else ()
    return [Finding(study.refs, subject, problem) for subject, problem in found], ()


def _dataset_problems(study: Study, visits: Sequence[str] | None) -> list[tuple[str, str]] | None:
    """What is wrong with each visit's subdataset; ``None`` without a dataset of the study."""
    dataset = read_study_dataset(study)
    if dataset is None:
        return None
    found, known = [], set(study.visits())
    if visits is None:
        try:
            check_pack_entries(dataset, read_deposit(study.export, ""))
        except ValueError as error:
            found.append(("", f"is damaged: {error}"))
    for visit in sorted(dataset.visits.keys() | known if visits is None else visits):
        commit, there = _commit_of(Visit(study.root, study.study, visit)), dataset.visits.get(visit)
        if there and visit not in known and visit not in catalogued_visits(study):
            found.append((visit, "is in the dataset of the study, but the store has no such visit"))
        elif there and commit and there.commit != commit:
            found.append((visit, "has another commit in the dataset of the study than in its own dataset"))
        elif commit and not there and visit in catalogued_visits(study):
            found.append((visit, "is missing from the dataset of the study"))
    return found


def _commit_of(place: Visit) -> str:
    """The commit of a visit's dataset; empty if it cannot be read, which is reported with the visit."""
    try:
        return read_visit_commit(place)
    except StorageFailure:
        return ""


def _junk_notices(study: Study) -> tuple[Notice, ...]:
    names = find_junk(study)
    message = f"contains files that file browsers have left: {', '.join(map(printable, names))}"
    return (Notice("catalog-junk", study.catalog.name, message),) if names else ()


def _rights_notices(study: Study) -> Iterator[Notice]:
    """Folders that look as if they were lost and made anew with this system's default rights.

    Their files have the group that the lost folder passed on (setgid); the folder has that of this user, and is open
    to all.
    """
    for folder in (study.folder, study.catalog):
        with suppress(OSError):
            status = folder.stat()
            groups = {item.stat().st_gid for item in os.scandir(folder) if item.is_file(follow_symlinks=False)}
            is_open = status.st_mode & stat.S_IROTH and not status.st_mode & stat.S_ISGID
            if is_open and len(groups) == 1 and status.st_gid not in groups and status.st_gid == os.getegid():
                message = (
                    f"belongs to the group {status.st_gid} and is open to all, its files to the group {groups.pop()}"
                )
                yield Notice("folder-rights", folder.name, f"{message}: it may have been lost and made anew")


def _compare(
    study: Study, settings: CatalogSettings, visits: Sequence[str] | None, known: Mapping[str, VisitLine]
) -> list[tuple[str, str]] | None:
    """What is wrong with each visit's line; ``None`` without a list."""
    raw = read_visit_list(study)
    if raw is None:
        return None
    lines = parse_visit_list(raw, str(study.visit_list))
    problems = list(_line_problems(study, settings, lines, visits, known))
    if not problems and raw != encode_visit_list(lines):
        problems.append(("", _OTHER_BYTES))
    return problems


def _line_problems(
    study: Study,
    settings: CatalogSettings,
    lines: tuple[VisitLine, ...],
    visits: Sequence[str] | None,
    given: Mapping[str, VisitLine],
) -> Iterator[tuple[str, str]]:
    there = {line.visit: line for line in lines}
    if len(there) < len(lines):
        yield "", "lists a visit more than once"
    known, shown, hidden = set(study.visits()), set(catalogued_visits(study)), hides_dates(study, settings)
    for visit in sorted(there.keys() | known if visits is None else visits):
        if visit not in known:
            if visit in there and visit not in shown:  # else it is reported with the visit
                yield visit, "is listed, but the store has no such visit"
            continue
        expected = given.get(visit) or _expected_line(Visit(study.root, study.study, visit), settings)
        if expected is None:
            continue  # its files cannot be read, which is reported with the visit
        if visit not in there:
            if visit in shown:
                yield visit, "is not listed, although the catalog shows it"
        elif names := _different_fields(there[visit], replace(expected, date="") if hidden else expected, hidden):
            yield visit, f"is not listed as its metadata describes it: {', '.join(names)}"


def _expected_line(place: Visit, settings: CatalogSettings) -> VisitLine | None:
    try:
        return line_from_files(place, settings)
    except StorageFailure:
        return None


def _different_fields(found: VisitLine, expected: VisitLine, hidden: bool) -> list[str]:
    """The fields that differ. A date may be missing on either side: only a dataset may know it."""
    names = [field.name for field in fields(VisitLine)]
    if not hidden and "" in (found.date, expected.date):
        names.remove("date")
    return [name for name in names if getattr(found, name) != getattr(expected, name)]
