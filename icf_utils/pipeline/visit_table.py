"""Which visits a run covers: those that a visit table or a folder pattern names, and those in the store.

A visit table is a CSV or TSV file with the columns ``study``, ``visit`` and ``input``. A pattern is a path such as
``/scanner/{study}/{visit}``. Every mistake in a table or pattern is found before anything starts, and all of them are
reported at once, with their line numbers. Reads the table, lists folders, and checks that inputs exist.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from icf_utils.errors import InvalidIdentifier, InvalidSetting, TableRefused, printable, storage_errors
from icf_utils.pipeline.model import VisitInput
from icf_utils.store.layout import Visit, check_identifier, list_studies
from icf_utils.templates import Template

#: The columns of a table, in any order, in upper or lower case.
COLUMNS = ("study", "visit", "input")
#: Another name of a column.
_ALIASES = {"folder": "input"}
_EXPECTED_COLUMNS = "study, visit, and input or folder"

_DELIMITERS = ("\t", ";", ",")
_FIELDS = ("study", "visit")


@dataclass(frozen=True)
class VisitTable:
    """The visits of a table, and the names of the columns that were ignored."""

    visits: tuple[VisitInput, ...]
    ignored: tuple[str, ...] = ()


def read_table(path: Path, store: Path) -> list[VisitInput]:
    """Read the visits of a CSV or TSV file that has no other columns. Relative inputs start at the file's folder.

    A visit whose archive is in ``store`` needs no input. Raises :class:`~icf_utils.errors.TableRefused` with every
    mistake, or :class:`~icf_utils.errors.StorageFailure`.
    """
    with storage_errors(path, "read"):
        raw = path.read_bytes()
    return list(parse_table(raw, path, store).visits)


def parse_table(raw: bytes, path: Path, store: Path) -> VisitTable:
    """Parse a visit table from the bytes of the file ``path``; see :func:`read_table`."""
    return _parsed(raw, path, path.parent, store, is_strict=True)


def parse_folders(raw: bytes, path: Path, store: Path, base: Path) -> VisitTable:
    """Parse a table of folders below ``base``, one visit each; other columns are ignored, shared folders refused."""
    return _parsed(raw, path, base, store, is_strict=False)


def _parsed(raw: bytes, path: Path, base: Path, store: Path, is_strict: bool) -> VisitTable:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise TableRefused(path, [f"line {line}: not valid UTF-8"]) from error
    rows, problems = _rows(text)
    header = [_column(name) for name in rows[0][1]] if rows else []
    problems += _header_problems(header)
    ignored = tuple(name for name in header if name not in COLUMNS)
    if is_strict:
        problems += [f"line 1: unknown column '{printable(name)}' (columns: {_EXPECTED_COLUMNS})" for name in ignored]
    if problems:
        raise TableRefused(path, problems)
    found = _Collector(base, store)
    for line, cells in rows[1:]:
        found.row(line, header, cells)
    if not is_strict:
        found.note_shared_inputs()
    if not found.problems and not found.visits:
        found.problems.append("it lists no visits")
    if found.problems:
        raise TableRefused(path, found.problems)
    return VisitTable(tuple(found.visits), ignored)


def _column(name: str) -> str:
    """Normalize a column's name if it is known; return any other name as written."""
    known = _ALIASES.get(name.strip().lower(), name.strip().lower())
    return known if known in COLUMNS else name.strip()


def _rows(text: str) -> tuple[list[tuple[int, list[str]]], list[str]]:
    """The non-empty rows with the numbers of the lines on which they begin, and errors of the CSV format."""
    rows, at = [], 1
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = next((char for char in _DELIMITERS if char in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((at, cells))
            at = reader.line_num + 1
    except csv.Error as error:
        return rows, [f"line {at}: {error}"]
    return rows, []


def _header_problems(header: Sequence[str]) -> list[str]:
    if not header:
        return [f"it is empty; the first line must name the columns: {_EXPECTED_COLUMNS}"]
    missing = [name for name in COLUMNS if name not in header]
    twice = sorted({name for name in header if header.count(name) > 1 and name in COLUMNS})
    problems = [f"line 1: column {_named(name)} is missing (columns: {_EXPECTED_COLUMNS})" for name in missing]
    return problems + [f"line 1: column {_named(name)} appears more than once" for name in twice]


def _named(column: str) -> str:
    return " or ".join(f"'{name}'" for name in (column, *(key for key, own in _ALIASES.items() if own == column)))


class _Collector:
    """Collects visits and what is wrong with them."""

    def __init__(self, base: Path, store: Path) -> None:
        self._base, self._store = base, store
        self._lines: dict[tuple[str, str], str] = {}
        self._inputs: dict[str, list[tuple[str, str]]] = {}
        self.visits: list[VisitInput] = []
        self.problems: list[str] = []

    def row(self, line: int, header: Sequence[str], cells: Sequence[str]) -> None:
        if len(cells) != len(header):
            self.problems.append(f"line {line}: {len(cells)} values for {len(header)} columns")
            return
        values = dict(zip(header, cells, strict=True))
        source = self._base / values["input"] if values["input"] else None
        self.add(f"line {line}", values["study"], values["visit"], source)

    def add(self, where: str, study: str, visit: str, source: Path | None) -> None:
        """Add a visit; ``where`` begins the message if something is wrong with it."""
        wrong = _wrong_identifiers(study, visit)
        self.problems += [f"{where}: {error}" for error in wrong]
        place = None if wrong else Visit(self._store, study, visit)
        earlier = self._lines.setdefault((study, visit), where)
        if place and earlier != where:
            self.problems.append(f"{where}: visit {study}/{visit} is already named ({earlier})")
        absolute = self._checked_input(where, place, source)
        if place and earlier == where:
            self.visits.append(VisitInput(study, visit, absolute))
        if absolute:
            self._inputs.setdefault(os.path.realpath(absolute), []).append((where, f"{study}/{visit}"))

    def note_shared_inputs(self) -> None:
        """Refuse an input that several visits name: its images would be stored several times."""
        for path, users in self._inputs.items():
            others = ", ".join(f"{printable(name)} ({where})" for where, name in users)
            if len({name for _, name in users}) > 1:
                self.problems.append(f"'{printable(path)}' is named as the folder of several visits: {others}")

    def _checked_input(self, where: str, place: Visit | None, source: Path | None) -> Path | None:
        """The absolute input, or ``None`` if it does not exist and the archive does."""
        if source is not None and _is_there(source):
            return Path(os.path.abspath(source))
        if place is None or not place.archive.exists():
            what = "names no input" if source is None else f"input '{printable(source)}' does not exist"
            archive = f", and the store has no archive of {place.study}/{place.visit}" if place else ""
            self.problems.append(f"{where}: {what}{archive}")
        return None


def _wrong_identifiers(study: str, visit: str) -> list[InvalidIdentifier]:
    """The errors in study and visit."""
    found = (_wrong_identifier(kind, value) for kind, value in (("study", study), ("visit", visit)))
    return [error for error in found if error]


def _wrong_identifier(kind: str, value: str) -> InvalidIdentifier | None:
    try:
        check_identifier(kind, value)
    except InvalidIdentifier as error:
        return error
    return None


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except ValueError:  # a NUL character
        return False


def expand_pattern(pattern: str, store: Path) -> list[VisitInput]:
    """Find the visits in folders such as ``/scanner/{study}/{visit}``, sorted.

    A pattern that ends in a field matches folders only; any other (``{visit}.zip``) matches files as well.
    Names that begin with a dot are skipped. Raises :class:`~icf_utils.errors.TableRefused` with every mistake.
    """
    if sorted(Template(pattern).all_fields) != sorted(_FIELDS):
        raise TableRefused(pattern, ["it must contain {study} and {visit} once each, as in /scanner/{study}/{visit}"])
    found = _Collector(Path(), store)
    for path, study, visit in sorted(_matches(pattern)):
        found.add(f"'{printable(path)}'", study, visit, Path(path))
    if not found.problems and not found.visits:
        found.problems.append("no folder or file matches it")
    if found.problems:
        raise TableRefused(pattern, found.problems)
    return found.visits


def _matches(pattern: str) -> Iterator[tuple[str, str, str]]:
    """The paths that a pattern matches, with study and visit."""
    path = os.path.abspath(pattern)
    with_files = Template(path).literals[-1] != ""
    candidates: list[tuple[str, dict[str, str]]] = [("/", {})]
    for part in Path(path).parts[1:]:
        candidates = [found for base, values in candidates for found in _step(base, part, values)]
    for base, values in candidates:
        if os.path.isdir(base) or (with_files and os.path.isfile(base)):
            yield base, values["study"], values["visit"]


def _step(base: str, part: str, values: dict[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    template = Template(part)
    if not template.fields:
        yield os.path.join(base, part), values
        return
    expression = template.expression()
    for name in _names(base):
        match = re.fullmatch(expression, name, re.DOTALL)
        if match and not name.startswith("."):
            yield os.path.join(base, name), {**values, **match.groupdict()}


def _names(folder: str) -> list[str]:
    with storage_errors(folder, "read"):
        try:
            return os.listdir(folder)
        except (FileNotFoundError, NotADirectoryError):
            return []


def collect_visits(store: Path, table: Path | None = None, pattern: str = "") -> list[VisitInput]:
    """Collect the visits of a table or pattern and those in the store, sorted by study and visit.

    Visits that only the store has get no input. Raises :class:`~icf_utils.errors.TableRefused` with everything that is
    wrong with the table or pattern.
    """
    named = read_table(table, store) if table else expand_pattern(pattern, store) if pattern else []
    known = {(wanted.study, wanted.visit): wanted for wanted in named}
    for study in list_studies(store):
        for visit in study.visits():
            known.setdefault((study.study, visit), VisitInput(study.study, visit))
    return [known[key] for key in sorted(known)]


def select_visits(visits: Sequence[VisitInput], targets: Sequence[str]) -> list[VisitInput]:
    """Select the visits that targets (``STUDY`` or ``STUDY/VISIT``) name; without targets, all visits.

    Raises :class:`~icf_utils.errors.InvalidSetting` with every target that matches no visit.
    """
    if not targets:
        return list(visits)
    wanted = {target.rstrip("/") for target in targets}
    known = {visit.study for visit in visits} | {visit.name for visit in visits}
    if unknown := sorted(wanted - known):
        names = ", ".join(f"'{printable(name)}'" for name in unknown)
        raise InvalidSetting("STUDY[/VISIT]", f"no visit matches {names}, neither among the inputs nor in the store")
    return [visit for visit in visits if visit.study in wanted or visit.name in wanted]
