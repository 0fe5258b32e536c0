"""Which visits there should be: a table, or a folder pattern. Reads the table and looks whether inputs are there.

Everything that is wrong is found before anything starts, and said at once, with line numbers.


All visits that a run may work on: those that a table or pattern names, and those in the store. Reads both.
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
from icf_utils.store.layout import Visit, check_identifier, stored_studies

#: The columns of a table, in any order, in upper or lower case.
COLUMNS = ("study", "visit", "input")
#: Another name of a column.
_ALIASES = {"folder": "input"}
_EXPECTED_COLUMNS = "study, visit, and input (also called folder)"

_DELIMITERS = ("\t", ";", ",")
_PLACEHOLDERS = ("{study}", "{visit}")


@dataclass(frozen=True)
class VisitTable:
    """The visits of a table, and the names of the columns that are not for us."""

    visits: tuple[VisitInput, ...]
    ignored: tuple[str, ...] = ()


def read_table(path: Path, store: Path) -> list[VisitInput]:
    """The visits of a CSV or TSV file without other columns. Inputs are relative to the file's folder.

    A visit whose archive is in ``store`` already needs no input. Raises :class:`~icf_utils.errors.TableRefused` with
    every mistake, or :class:`~icf_utils.errors.StorageFailure`.
    """
    with storage_errors(path, "read"):
        raw = path.read_bytes()
    return list(parse_table(raw, path, store).visits)


def parse_table(raw: bytes, path: Path, store: Path) -> VisitTable:
    """The same from the file's bytes; ``path`` says where it lies."""
    return _parsed(raw, path, path.parent, store, is_strict=True)


def parse_folders(raw: bytes, path: Path, store: Path, base: Path) -> VisitTable:
    """The same of a table of folders below ``base``: each is one visit's, and other columns are ignored."""
    return _parsed(raw, path, base, store, is_strict=False)


def _parsed(raw: bytes, path: Path, base: Path, store: Path, is_strict: bool) -> VisitTable:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise TableRefused(path, [f"line {line}: this is not text in UTF-8"]) from error
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
        found.problems.append("there is no visit in it")
    if found.problems:
        raise TableRefused(path, found.problems)
    return VisitTable(tuple(found.visits), ignored)


def _column(name: str) -> str:
    """A column by our name for it, or another one as it is written."""
    known = _ALIASES.get(name.strip().lower(), name.strip().lower())
    return known if known in COLUMNS else name.strip()


def _rows(text: str) -> tuple[list[tuple[int, list[str]]], list[str]]:
    """The rows that are not empty with the lines that they begin on, and what is wrong with the form."""
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
        return [f"it is empty; the first line names the columns: {_EXPECTED_COLUMNS}"]
    missing = [name for name in COLUMNS if name not in header]
    twice = sorted({name for name in header if header.count(name) > 1 and name in COLUMNS})
    problems = [f"line 1: there is no column {_named(name)} (columns: {_EXPECTED_COLUMNS})" for name in missing]
    return problems + [f"line 1: column {_named(name)} stands there more than once" for name in twice]


def _named(column: str) -> str:
    return " or ".join(f"'{name}'" for name in (column, *(key for key, own in _ALIASES.items() if own == column)))


class _Collector:
    """Takes visits and notes what is wrong with them."""

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
        """A visit; ``where`` begins the message if something is wrong with it."""
        wrong = _wrong_identifiers(study, visit)
        self.problems += [f"{where}: {error}" for error in wrong]
        place = None if wrong else Visit(self._store, study, visit)
        earlier = self._lines.setdefault((study, visit), where)
        if place and earlier != where:
            self.problems.append(f"{where}: visit {study}/{visit} was named before ({earlier})")
        absolute = self._checked_input(where, place, source)
        if place and earlier == where:
            self.visits.append(VisitInput(study, visit, absolute))
        if absolute:
            self._inputs.setdefault(os.path.realpath(absolute), []).append((where, f"{study}/{visit}"))

    def note_shared_inputs(self) -> None:
        """One input is one visit: of an input that several have, the images would be in the store several times."""
        for path, users in self._inputs.items():
            others = ", ".join(f"{printable(name)} ({where})" for where, name in users)
            if len({name for _, name in users}) > 1:
                self.problems.append(f"'{printable(path)}' is the folder of several visits: {others}")

    def _checked_input(self, where: str, place: Visit | None, source: Path | None) -> Path | None:
        """The input, absolute; none where it has gone and the archive is there."""
        if source is not None and _is_there(source):
            return Path(os.path.abspath(source))
        if place is None or not place.archive.exists():
            what = "names no input" if source is None else f"there is no input '{printable(source)}'"
            archive = f", and the store has no archive of {place.study}/{place.visit}" if place else ""
            self.problems.append(f"{where}: {what}{archive}")
        return None


def _wrong_identifiers(study: str, visit: str) -> list[InvalidIdentifier]:
    """What is wrong with either of them."""
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
    """The visits in folders such as ``/scanner/{study}/{visit}``, sorted.

    A pattern that ends in a placeholder matches folders; one that goes on (``{visit}.zip``) files, too. Names that
    begin with a dot are passed over. Raises :class:`~icf_utils.errors.TableRefused` with every mistake.
    """
    if any(pattern.count(place) != 1 for place in _PLACEHOLDERS):
        raise TableRefused(pattern, ["a pattern names {study} and {visit} once each, as in /scanner/{study}/{visit}"])
    found = _Collector(Path(), store)
    for path, study, visit in sorted(_matches(pattern)):
        found.add(f"'{printable(path)}'", study, visit, Path(path))
    if not found.problems and not found.visits:
        found.problems.append("there is no such folder")
    if found.problems:
        raise TableRefused(pattern, found.problems)
    return found.visits


def _matches(pattern: str) -> Iterator[tuple[str, str, str]]:
    """Paths that a pattern matches, with study and visit."""
    path = os.path.abspath(pattern)
    with_files = not path.endswith(_PLACEHOLDERS)
    candidates: list[tuple[str, dict[str, str]]] = [("/", {})]
    for part in Path(path).parts[1:]:
        candidates = [found for base, values in candidates for found in _step(base, part, values)]
    for base, values in candidates:
        if os.path.isdir(base) or (with_files and os.path.isfile(base)):
            yield base, values["study"], values["visit"]


def _step(base: str, part: str, values: dict[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    if not any(place in part for place in _PLACEHOLDERS):
        yield os.path.join(base, part), values
        return
    expression = re.escape(part)
    for name in ("study", "visit"):
        expression = expression.replace(re.escape(f"{{{name}}}"), f"(?P<{name}>.+?)")
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
    """The visits, sorted by study and visit; those of the store that nothing else names have no input.

    Raises :class:`~icf_utils.errors.TableRefused` with everything that is wrong with the table or pattern.
    """
    named = read_table(table, store) if table else expand_pattern(pattern, store) if pattern else []
    known = {(wanted.study, wanted.visit): wanted for wanted in named}
    for study in stored_studies(store):
        for visit in study.visits():
            known.setdefault((study.study, visit), VisitInput(study.study, visit))
    return [known[key] for key in sorted(known)]


def select_visits(visits: Sequence[VisitInput], targets: Sequence[str]) -> list[VisitInput]:
    """The visits that targets (``STUDY`` or ``STUDY/VISIT``) name; all where there are none.

    Raises :class:`~icf_utils.errors.InvalidSetting` with every target that names nothing.
    """
    if not targets:
        return list(visits)
    wanted = {target.rstrip("/") for target in targets}
    known = {visit.study for visit in visits} | {visit.name for visit in visits}
    if unknown := sorted(wanted - known):
        names = ", ".join(f"'{printable(name)}'" for name in unknown)
        raise InvalidSetting("TARGET", f"no visit is named {names}, neither by an input nor in the store")
    return [visit for visit in visits if visit.study in wanted or visit.name in wanted]
