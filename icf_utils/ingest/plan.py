"""Which visits a folder contains, what each is made of, and the lists of files that the stages read.

A plan is made from a tree of folders, a table, or the headers of unsorted files, and writes nothing. A visit that is
not the whole of a folder is read through a list of its files, which :func:`write_input` writes below
``<store>/<study>/.icf/inputs``. Where two visits would get the same identifiers, neither is planned.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from icf_utils.errors import IcfError, InputRefused, printable, storage_errors
from icf_utils.ingest.unsorted import group_by_study
from icf_utils.pipeline.model import VisitInput
from icf_utils.pipeline.visit_table import parse_folders
from icf_utils.progress import SILENT, Progress
from icf_utils.results import Notice
from icf_utils.sources.leave_out import DEFAULT, LeftOut
from icf_utils.sources.selection import FileSelection, encode_selection, list_files, select_files, select_visit
from icf_utils.sources.study_samples import is_skipped_image
from icf_utils.sources.tree import Exclusions, TreeVisit, read_visit_folder, walk_tree
from icf_utils.store.files import make_folders, replace_file
from icf_utils.store.layout import Visit
from icf_utils.templates import EmptyField, Template


@dataclass(frozen=True)
class NameTemplates:
    """The templates of study and visit identifiers."""

    study: Template
    visit: Template


@dataclass(frozen=True)
class IngestVisit:
    """A visit to take in: its identifiers, its folder, and the scans that are excluded.

    ``selection`` lists its files if not all files of the folder belong to it. The folder of unsorted files is that of
    all visits.
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
    """The visits of a folder, sorted by study and visit. ``refused`` are ``(name, reason)`` of visits and files.

    ``skipped`` names what belongs to no visit, ``unmatched`` the exclusion patterns that excluded nothing.
    """

    visits: tuple[IngestVisit, ...]
    refused: tuple[tuple[str, str], ...] = ()
    skipped: tuple[Notice, ...] = ()
    unmatched: tuple[str, ...] = ()


def plan_tree(
    root: Path, names: NameTemplates, levels: Sequence[str], exclude: Exclusions, leave_out: LeftOut = DEFAULT
) -> IngestPlan:
    """Plan the visits of a tree of folders. Raises what :func:`~icf_utils.sources.tree.walk_tree` raises."""
    tree = walk_tree(root, levels, exclude, leave_out)
    found = _Collector(leave_out)
    for visit in tree.visits:
        label = os.path.relpath(visit.path, root)
        named = found.named(label, names, visit.values)
        if named:
            found.add_folder(label, *named, visit)
    return IngestPlan(found.sorted_visits(), tuple(found.refused), (*tree.skipped, *found.skipped), tree.unmatched)


def refuse_skipped_images(plan: IngestPlan, root: Path, leave_out: LeftOut = DEFAULT) -> IngestPlan:
    """The plan without the visits next to or below a skipped DICOM image: it may belong to one of them.

    The image, or the folder that contains it, and the visits are among the refused.
    """
    without_study = [(item.subject, item.message) for item in plan.skipped if item.code == "heap-no-study"]
    images = [
        item for item in plan.skipped if item.code in _SKIPPED and is_skipped_image(root, item.subject, leave_out)
    ]
    advice = "check --levels, or use --allow skipped-image"
    refused = [(item.subject, f"is or contains a DICOM image, and {item.message}; {advice}") for item in images]
    folders = {(root / item.subject).parent: item.subject for item in images}
    kept = []
    for visit in plan.visits:
        skipped = [name for folder, name in folders.items() if folder in visit.folder.parents]
        if skipped:
            refused.append((visit.name, f"is next to or below the skipped image '{printable(skipped[0])}'; {advice}"))
        else:
            kept.append(visit)
    return replace(plan, visits=tuple(kept), refused=(*plan.refused, *refused, *without_study))


#: Codes of notices about files and folders above the level of visits.
_SKIPPED = frozenset({"outside-visits", "hidden-folder", "link-in-tree"})


def plan_table(root: Path, table: Path, store: Path, exclude: Exclusions, leave_out: LeftOut = DEFAULT) -> IngestPlan:
    """Plan the visits of a table; folders are relative to ``root``. Raises :class:`~icf_utils.errors.TableRefused`."""
    with storage_errors(table, "read"):
        raw = table.read_bytes()
    parsed, found, scans = parse_folders(raw, table, store, root), _Collector(leave_out), list[str]()
    found.skipped += [
        Notice("extra-column", name, "is a column of the table that is ignored") for name in parsed.ignored
    ]
    for wanted in parsed.visits:
        if wanted.input is None:  # archived, and its folder is gone
            found.skipped.append(Notice("folder-gone", wanted.name, "is in the store, but its folder is gone"))
            continue
        visit = read_visit_folder(wanted.input, {}, exclude) if wanted.input.is_dir() else TreeVisit(wanted.input, {})
        scans += [scan.name for scan in visit.scans]
        found.add_folder(os.path.relpath(wanted.input, root), wanted.study, wanted.visit, visit)
    return IngestPlan(found.sorted_visits(), tuple(found.refused), tuple(found.skipped), exclude.unmatched(scans))


def plan_unsorted(
    root: Path,
    names: NameTemplates,
    allow_identifying: bool = False,
    leave_out: LeftOut = DEFAULT,
    progress: Progress = SILENT,
) -> IngestPlan:
    """Plan the visits of unsorted DICOM files; fields of the templates are DICOM keywords and ``study_key``."""
    wanted = {*names.study.fields, *names.visit.fields}
    grouped = group_by_study(root, wanted, allow_identifying, leave_out, progress)
    found = _Collector(leave_out)
    for visit in grouped.visits:
        more = len(visit.files) - 1
        label = f"{visit.files[0]} and {more} more of its DICOM study" if more else visit.files[0]
        if visit.differing:
            reason = f"the files of this DICOM study have different values of {', '.join(visit.differing)}"
            found.refused.append((label, reason))
        elif named := found.named(label, names, visit.values):
            found.add(label, IngestVisit(*named, root, selection=select_files(root, visit.files)))
    return IngestPlan(found.sorted_visits(), (*grouped.unreadable, *found.refused), grouped.skipped)


class _Collector:
    """Collects planned visits, and refuses those without valid or unique identifiers."""

    def __init__(self, leave_out: LeftOut) -> None:
        self._leave_out = leave_out
        self._items: dict[tuple[str, str], tuple[str, IngestVisit]] = {}
        self._twice: set[tuple[str, str]] = set()
        self.refused: list[tuple[str, str]] = []
        self.skipped: list[Notice] = []

    def named(self, label: str, names: NameTemplates, values: Mapping[str, str]) -> tuple[str, str] | None:
        """The identifiers of study and visit; ``None``, and a refusal, if a value is missing."""
        try:
            return names.study.fill(values), names.visit.fill(values)
        except EmptyField as error:
            self.refused.append((label, f"has no usable {error.field} for its identifier"))
            return None

    def add_folder(self, label: str, study: str, visit: str, found: TreeVisit) -> None:
        excluded = tuple(scan.name for scan in found.excluded)
        selection = select_visit(found, self._leave_out) if excluded else None
        if selection is not None and not selection.files:
            self.skipped.append(Notice("all-scans-excluded", label, "has only excluded scans"))
        elif not excluded and found.path.is_dir() and not self._has_files(found.path):
            self.skipped.append(Notice("empty-visit", label, "contains no files"))
        else:
            self.add(label, IngestVisit(study, visit, found.path, excluded, selection))

    def _has_files(self, folder: Path) -> bool:
        return any(not self._leave_out.path(name) for name in list_files(os.fspath(folder)))

    def add(self, label: str, item: IngestVisit) -> None:
        """Add a visit; of several with the same identifiers none is kept."""
        key = item.study, item.visit
        try:
            Visit(Path(), *key)
        except IcfError as error:
            self.refused.append((label, str(error)))
            return
        if key in self._items:
            other, _ = self._items[key]
            self.refused.append((label, f"would be called {printable(item.name)}, like '{printable(other)}'"))
            self._twice.add(key)
        else:
            self._items[key] = label, item

    def sorted_visits(self) -> tuple[IngestVisit, ...]:
        """The visits, sorted by study and visit; to be called once."""
        for key in sorted(self._twice):
            label, item = self._items.pop(key)
            self.refused.append((label, f"would be called {printable(item.name)}, like others"))
        return tuple(self._items[key][1] for key in sorted(self._items))


def write_input(item: IngestVisit, store: Path) -> VisitInput:
    """The input of the stages: the visit's folder, or the list of its files, which is written if it differs.

    Raises :class:`~icf_utils.errors.StorageFailure`.
    """
    if item.selection is None:
        return VisitInput(item.study, item.visit, Path(os.path.abspath(item.folder)))
    path, raw = list_path(item, store), encode_selection(item.selection)
    if not is_list_current(item, store):
        with storage_errors(path, "write"):
            make_folders(store, path.parent)
        replace_file(path, raw, root=store)
    return VisitInput(item.study, item.visit, path)


def list_path(item: IngestVisit, store: Path) -> Path:
    """The path of the list of a visit's files."""
    return Path(os.path.abspath(Visit(store, item.study, item.visit).workdir / "inputs" / f"{item.visit}.json"))


def is_list_current(item: IngestVisit, store: Path) -> bool:
    """Whether the list of files in the store is up to date."""
    with suppress(OSError):
        return item.selection is not None and list_path(item, store).read_bytes() == encode_selection(item.selection)
    return False


def refuse_root_in_store(root: Path, store: Path) -> None:
    """Raise :class:`~icf_utils.errors.InputRefused` if one of the two is inside the other."""
    above, below = os.path.realpath(root), os.path.realpath(store)
    if os.path.commonpath([above, below]) in (above, below):
        advice = "Give the folder that contains the visits, and a store outside it."
        raise InputRefused(root, [(str(root), f"is inside the store '{printable(store)}', or contains it")], advice)


@contextmanager
def preview_inputs(items: Sequence[IngestVisit], store: Path) -> Iterator[list[VisitInput]]:
    """The inputs as :func:`write_input` returns them; a list that the store does not have is a temporary file."""
    with tempfile.TemporaryDirectory(prefix="icf-utils-") as folder:
        inputs = []
        for number, item in enumerate(items):
            if item.selection is None or is_list_current(item, store):
                path = Path(os.path.abspath(item.folder)) if item.selection is None else list_path(item, store)
            else:
                path = Path(folder, f"{number}.json")
                with storage_errors(path, "write"):
                    path.write_bytes(encode_selection(item.selection))
            inputs.append(VisitInput(item.study, item.visit, path))
        yield inputs
