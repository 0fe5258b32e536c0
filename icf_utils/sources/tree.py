"""A tree of folders as visits: subject, session, scan, or other levels. Reads names of folders and files.

The content of files, and whether they can be archived, is examined when a visit is opened. Scans can be excluded by a
file of patterns, in the form that dicomUpload reads.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from icf_utils.errors import InputRefused, InvalidSetting, printable, storage_errors
from icf_utils.results import Notice
from icf_utils.sources.leave_out import DEFAULT, LeftOut

#: The level whose folders can be excluded; the folder above it is the visit.
SCAN = "scan"

#: The levels of the trees that dicomUpload reads.
LEVELS = ("subject", "session", SCAN)

_LEVEL = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)


@dataclass(frozen=True)
class ScanFolder:
    """A folder in a visit's folder; ``excluded_by`` are the patterns that exclude it."""

    name: str
    excluded_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class TreeVisit:
    """A visit's folder. ``values`` are the names of the folders on its path by level, such as ``subject``.

    ``scans`` are its folders, sorted by name, if the levels include scans; files next to them belong to the visit.
    """

    path: Path
    values: Mapping[str, str]
    scans: tuple[ScanFolder, ...] = ()

    @property
    def excluded(self) -> tuple[ScanFolder, ...]:
        """The excluded scans."""
        return tuple(scan for scan in self.scans if scan.excluded_by)


@dataclass(frozen=True)
class Tree:
    """The visits in a tree, sorted by the names of their folders.

    ``skipped`` names files and links above the visits, ``unmatched`` the patterns that excluded nothing.
    """

    visits: tuple[TreeVisit, ...]
    skipped: tuple[Notice, ...] = ()
    unmatched: tuple[str, ...] = ()


def parse_levels(text: str) -> tuple[str, ...]:
    """Parse levels from text such as ``subject/session/scan``; ``*`` is a level without a name.

    Raises :class:`~icf_utils.errors.InvalidSetting`.
    """
    levels = tuple(text.split("/"))
    named = [level for level in levels if level != "*"]
    if not all(_LEVEL.fullmatch(level) for level in named):
        raise InvalidSetting("levels", f"'{printable(text)}' is not a list of words such as subject/session/scan")
    if len(set(named)) != len(named):
        raise InvalidSetting("levels", f"'{printable(text)}' names a level twice")
    if SCAN in levels[:-1] or levels == (SCAN,):
        raise InvalidSetting("levels", f"'{SCAN}' is the last level, below the visit's")
    return levels


def walk_tree(
    root: Path, levels: Sequence[str] = LEVELS, exclude: Exclusions | None = None, leave_out: LeftOut = DEFAULT
) -> Tree:
    """Find the visits below ``root`` by the names of folders alone. Names in ``leave_out`` are passed over.

    Raises :class:`~icf_utils.errors.InputRefused` if ``root`` is not a folder or has no visits, and
    :class:`~icf_utils.errors.InvalidSetting` for exclusions without a level of scans.
    """
    exclude = exclude or Exclusions()
    if exclude.patterns and SCAN not in levels:
        raise InvalidSetting(
            "exclusions", f"exclusions apply to folders of the level '{SCAN}', which the levels do not include"
        )
    walk = _Walk(root, [level for level in levels if level != SCAN], leave_out)
    wanted = exclude if SCAN in levels else None
    visits = [read_visit_folder(path, values, wanted, leave_out) for path, values in walk.folders()]
    if not visits:
        found = "no folders" if len(walk.levels) == 1 else f"no folders {len(walk.levels)} levels below it"
        raise InputRefused(root, [(str(root), f"has {found}")], "Check the folder and the levels.")
    names = [scan.name for visit in visits for scan in visit.scans]
    return Tree(tuple(visits), tuple(sorted(walk.skipped, key=_subject)), exclude.unmatched(names))


def read_visit_folder(
    path: Path, values: Mapping[str, str], exclude: Exclusions | None, leave_out: LeftOut = DEFAULT
) -> TreeVisit:
    """Read one visit's folder with its scans; without scans if ``exclude`` is ``None``."""
    if exclude is None:
        return TreeVisit(path, values)
    names = sorted(item.name for item in _items(path, leave_out) if item.is_dir(follow_symlinks=False))
    return TreeVisit(path, values, tuple(ScanFolder(name, exclude.matching(name)) for name in names))


@dataclass
class _Walk:
    root: Path
    levels: Sequence[str]
    leave_out: LeftOut = DEFAULT
    skipped: list[Notice] = field(default_factory=list)

    def folders(self) -> Iterator[tuple[Path, dict[str, str]]]:
        """Yield the folders of the last level, sorted, with the names on their paths."""
        if not self.root.is_dir():
            raise InputRefused(self.root, [(str(self.root), "is not a folder")])
        yield from self._below(self.root, 0, {})

    def _below(self, folder: Path, depth: int, values: dict[str, str]) -> Iterator[tuple[Path, dict[str, str]]]:
        if depth == len(self.levels):
            yield folder, values
            return
        level = self.levels[depth]
        for item in sorted(_items(folder, self.leave_out), key=lambda item: item.name):
            if self._is_level(item):
                named = {} if level == "*" else {level: item.name}
                yield from self._below(folder / item.name, depth + 1, {**values, **named})

    def _is_level(self, item: os.DirEntry[str]) -> bool:
        name = os.path.relpath(item.path, self.root)
        if item.is_symlink():
            self.skipped.append(Notice("link-in-tree", name, "is a symbolic link above the level of visits"))
        elif not item.is_dir():
            self.skipped.append(
                Notice("outside-visits", name, "is a file above the level of visits and belongs to none")
            )
        elif item.name.startswith("."):
            self.skipped.append(Notice("hidden-folder", name, "is a folder whose name begins with a dot"))
        else:
            return True
        return False


def _items(folder: Path, leave_out: LeftOut) -> list[os.DirEntry[str]]:
    with storage_errors(folder, "read"), os.scandir(folder) as items:
        return [item for item in items if not leave_out.name(item.name)]


def _subject(notice: Notice) -> str:
    return notice.subject


_FORM = 'expected JSON such as {"Exclude": ["localizer", "phoenix"]}'


@dataclass(frozen=True)
class Exclusions:
    """Patterns: a scan is excluded if the name of its folder contains one of them, ignoring case."""

    patterns: tuple[str, ...] = ()

    def matching(self, name: str) -> tuple[str, ...]:
        """Return the patterns that exclude a folder of this name.

        >>> Exclusions(("LOCALIZER", "phx")).matching("01_AAHead_Localizer")
        ('LOCALIZER',)
        """
        folded = name.casefold()
        return tuple(pattern for pattern in self.patterns if pattern.casefold() in folded)

    def unmatched(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the patterns that exclude none of these folders; they may be misspelt."""
        used = {pattern for name in names for pattern in self.matching(name)}
        return tuple(pattern for pattern in self.patterns if pattern not in used)


def read_exclusions(path: Path) -> Exclusions:
    """Read the patterns of ``{"Exclude": [...]}``.

    Raises :class:`~icf_utils.errors.InvalidSetting` for anything else, including an empty pattern, which would exclude
    everything.
    """
    with storage_errors(path, "read"):
        raw = path.read_bytes()
    try:
        value = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InvalidSetting(str(path), f"not JSON; {_FORM}") from error
    if not isinstance(value, dict) or "Exclude" not in value:
        raise InvalidSetting(str(path), f"'Exclude' is missing; {_FORM}")
    if unknown := sorted(set(value) - {"Exclude"}):
        raise InvalidSetting(str(path), f"'{printable(unknown[0])}' is not a known key; {_FORM}")
    patterns = value["Exclude"]
    if not isinstance(patterns, list) or not all(isinstance(item, str) and item for item in patterns):
        raise InvalidSetting(str(path), f"'Exclude' must be a list of non-empty texts; {_FORM}")
    return Exclusions(tuple(dict.fromkeys(patterns)))
