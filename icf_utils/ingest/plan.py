"""Many folders at once: which visits there are, what each is made of, and the lists of files that the chain reads.

The plan reads trees, tables and the heads of a heap's files. :func:`prepare` writes lists of files below
``<store>/<study>/.icf/inputs``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from icf_utils.errors import IcfError, InputRefused, printable, storage_errors
from icf_utils.ingest.unsorted import look_through_heap
from icf_utils.pipeline.model import VisitInput
from icf_utils.pipeline.visit_table import parse_folders
from icf_utils.progress import SILENT, Progress
from icf_utils.results import Notice
from icf_utils.sources.selection import FileSelection, encode_selection, list_files, select_files, select_visit
from icf_utils.sources.tree import Exclusions, TreeVisit, read_visit_folder, walk_tree
from icf_utils.store.files import make_folders, replace_file
from icf_utils.store.layout import Visit
from icf_utils.templates import EmptyField, Template


@dataclass(frozen=True)
class Names:
    """How studies and visits are called."""

    study: Template
    visit: Template


@dataclass(frozen=True)
class Item:
    """A visit to be: what it is called, its folder (for a heap: that of all), and the scans that are left out.

    ``selection`` lists its files where not all of the folder belong to it.
    """

    study: str
    visit: str
    folder: Path
    excluded: tuple[str, ...] = ()
    selection: FileSelection | None = None

    @property
    def name(self) -> str:
        return f"{self.study}/{self.visit}"


@dataclass(frozen=True)
class IngestPlan:
    """``items`` are sorted by study and visit; ``refused`` are ``(what, why)`` of visits and files with a problem.

    ``skipped`` names what is no visit's and need not be, ``unmatched`` the patterns that left out nothing.
    """

    items: tuple[Item, ...]
    refused: tuple[tuple[str, str], ...] = ()
    skipped: tuple[Notice, ...] = ()
    unmatched: tuple[str, ...] = ()


def plan_tree(root: Path, names: Names, levels: Sequence[str], exclude: Exclusions) -> IngestPlan:
    """The visits of a tree of folders. Raises what :func:`~icf_utils.sources.tree.walk_tree` does."""
    tree = walk_tree(root, levels, exclude)
    found = _Collector()
    for visit in tree.visits:
        label = os.path.relpath(visit.path, root)
        named = found.named(label, names, visit.values)
        if named:
            found.add_folder(label, *named, visit)
    return IngestPlan(found.sorted_items(), tuple(found.refused), (*tree.skipped, *found.skipped), tree.unmatched)


def plan_table(root: Path, table: Path, store: Path, exclude: Exclusions) -> IngestPlan:
    """The visits of a table; folders are relative to ``root``. Raises :class:`~icf_utils.errors.TableRefused`."""
    with storage_errors(table, "read"):
        raw = table.read_bytes()
    parsed, found, scans = parse_folders(raw, table, store, root), _Collector(), list[str]()
    found.skipped += [
        Notice("extra-column", name, "is a column of the table that says nothing here") for name in parsed.ignored
    ]
    for wanted in parsed.visits:
        if wanted.input is None:  # archived, and its folder has gone
            found.skipped.append(Notice("folder-gone", wanted.name, "is in the store, and its folder is not there"))
            continue
        visit = read_visit_folder(wanted.input, {}, exclude) if wanted.input.is_dir() else TreeVisit(wanted.input, {})
        scans += [scan.name for scan in visit.scans]
        found.add_folder(os.path.relpath(wanted.input, root), wanted.study, wanted.visit, visit)
    return IngestPlan(found.sorted_items(), tuple(found.refused), tuple(found.skipped), exclude.unmatched(scans))


def plan_heap(root: Path, names: Names, allow_identifying: bool = False, progress: Progress = SILENT) -> IngestPlan:
    """The visits of a heap of DICOM files; fields of the templates are DICOM keywords and ``study_key``."""
    heap = look_through_heap(root, {*names.study.fields, *names.visit.fields}, allow_identifying, progress)
    found = _Collector()
    for visit in heap.visits:
        label = f"{visit.files[0]} and {len(visit.files) - 1} more of its study" if visit.files[1:] else visit.files[0]
        if visit.differing:
            found.refused.append((label, f"the files of this study disagree about {', '.join(visit.differing)}"))
        elif named := found.named(label, names, visit.values):
            found.add(label, Item(*named, root, selection=select_files(root, visit.files)))
    return IngestPlan(found.sorted_items(), (*heap.unreadable, *found.refused), heap.skipped)


class _Collector:
    """Takes visits, and notes those that cannot be."""

    def __init__(self) -> None:
        self._items: dict[tuple[str, str], tuple[str, Item]] = {}
        self._twice: set[tuple[str, str]] = set()
        self.refused: list[tuple[str, str]] = []
        self.skipped: list[Notice] = []

    def named(self, label: str, names: Names, values: Mapping[str, str]) -> tuple[str, str] | None:
        """Study and visit from the templates, unless something is missing."""
        try:
            return names.study.fill(values), names.visit.fill(values)
        except EmptyField as error:
            self.refused.append((label, f"has no usable {error.field} to name it by"))
            return None

    def add_folder(self, label: str, study: str, visit: str, found: TreeVisit) -> None:
        excluded = tuple(scan.name for scan in found.excluded)
        selection = select_visit(found) if excluded else None
        if selection is not None and not selection.files:
            self.skipped.append(Notice("all-scans-excluded", label, "has no scan that is not excluded"))
        elif not excluded and found.path.is_dir() and not list_files(os.fspath(found.path)):
            self.skipped.append(Notice("empty-visit", label, "holds no file"))
        else:
            self.add(label, Item(study, visit, found.path, excluded, selection))

    def add(self, label: str, item: Item) -> None:
        """A visit; of two that would be called the same, neither is taken."""
        key = item.study, item.visit
        try:
            Visit(Path(), *key)
        except IcfError as error:
            self.refused.append((label, str(error)))
            return
        if key in self._items:
            other, _ = self._items[key]
            self.refused.append((label, f"would be called {printable(item.name)}, as '{printable(other)}'"))
            self._twice.add(key)
        else:
            self._items[key] = label, item

    def sorted_items(self) -> tuple[Item, ...]:
        for key in sorted(self._twice):
            label, item = self._items.pop(key)
            self.refused.append((label, f"would be called {printable(item.name)}, and is not the only one"))
        return tuple(self._items[key][1] for key in sorted(self._items))


def prepare(item: Item, store: Path) -> VisitInput:
    """What the chain works on: the folder, or the list of its files, which is written or brought up to date.

    Raises :class:`~icf_utils.errors.StorageFailure`.
    """
    if item.selection is None:
        return VisitInput(item.study, item.visit, Path(os.path.abspath(item.folder)))
    path, raw = list_path(item, store), encode_selection(item.selection)
    if not is_current(item, store):
        with storage_errors(path, "write"):
            make_folders(store, path.parent)
        replace_file(path, raw, root=store)
    return VisitInput(item.study, item.visit, path)


def list_path(item: Item, store: Path) -> Path:
    """Where the list of a visit's files lies."""
    return Path(os.path.abspath(Visit(store, item.study, item.visit).workdir / "inputs" / f"{item.visit}.json"))


def is_current(item: Item, store: Path) -> bool:
    """Whether the list in the store says the same already."""
    with suppress(OSError):
        return item.selection is not None and list_path(item, store).read_bytes() == encode_selection(item.selection)
    return False


def refuse_root_in_store(root: Path, store: Path) -> None:
    """Raises :class:`~icf_utils.errors.InputRefused` where one of the two lies in the other."""
    above, below = os.path.realpath(root), os.path.realpath(store)
    if os.path.commonpath([above, below]) in (above, below):
        advice = "Name the folder that the visits come from, and a store elsewhere."
        raise InputRefused(root, [(str(root), f"lies in the store '{printable(store)}', or the store in it")], advice)


def with_input(item: Item, store: Path) -> VisitInput:
    """The same as :func:`prepare`, but nothing is written: no input where its list would have to be."""
    if item.selection is None:
        return VisitInput(item.study, item.visit, Path(os.path.abspath(item.folder)))
    return VisitInput(item.study, item.visit, list_path(item, store) if is_current(item, store) else None)
