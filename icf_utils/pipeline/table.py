"""Which visits there should be: a table, or a folder pattern. Reads the table and looks whether inputs are there.

Everything that is wrong is found before anything starts, and said at once, with line numbers.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from icf_utils.errors import InvalidIdentifier, TableRefused, shown, storage_errors
from icf_utils.pipeline.values import VisitInput
from icf_utils.store import Visit

#: The columns of a table, in any order.
COLUMNS = ("study", "visit", "input")
#: Another name of a column.
_ALIASES = {"folder": "input"}

_DELIMITERS = ("\t", ";", ",")
_PLACES = ("{study}", "{visit}")


def read_table(path: Path, store: Path) -> list[VisitInput]:
    """The visits of a CSV or TSV file. Inputs are relative to the file's folder.

    A visit whose archive is in ``store`` already needs no input. Raises :class:`~icf_utils.errors.TableRefused` with
    every mistake, or :class:`~icf_utils.errors.StorageFailure`.
    """
    with storage_errors(path, "read"):
        raw = path.read_bytes()
    return parse_table(raw, path, store)


def parse_table(raw: bytes, path: Path, store: Path, base: Path | None = None) -> list[VisitInput]:
    """The same from the file's bytes; ``path`` says where it lies, ``base`` what inputs are relative to instead."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise TableRefused(path, [f"line {line}: this is not text in UTF-8"]) from error
    rows, problems = _rows(text)
    header = [_ALIASES.get(name.strip(), name.strip()) for name in rows[0][1]] if rows else []
    problems += _header_problems(header)
    if problems:
        raise TableRefused(path, problems)
    found = _Collector(path.parent if base is None else base, store)
    for line, cells in rows[1:]:
        found.row(line, header, cells)
    if not found.problems and not found.visits:
        found.problems.append("there is no visit in it")
    if found.problems:
        raise TableRefused(path, found.problems)
    return found.visits


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
    wanted = ", ".join(COLUMNS)
    if not header:
        return [f"it is empty; the first line names the columns: {wanted}"]
    missing = [name for name in COLUMNS if name not in header]
    unknown = [name for name in header if name not in COLUMNS]
    twice = sorted({name for name in header if header.count(name) > 1 and name in COLUMNS})
    problems = [f"line 1: there is no column '{name}' (columns: {wanted})" for name in missing]
    problems += [f"line 1: unknown column '{shown(name)}' (columns: {wanted})" for name in unknown]
    return problems + [f"line 1: column '{name}' stands there more than once" for name in twice]


class _Collector:
    """Takes visits and notes what is wrong with them."""

    def __init__(self, base: Path, store: Path) -> None:
        self._base, self._store = base, store
        self._lines: dict[tuple[str, str], str] = {}
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
        before = len(self.problems)
        self._check_identity(where, study, visit)
        if len(self.problems) == before:
            source = self._checked_input(where, Visit(self._store, study, visit), source)
        if len(self.problems) == before:
            self.visits.append(VisitInput(study, visit, source))

    def _check_identity(self, where: str, study: str, visit: str) -> None:
        try:
            Visit(self._store, study, visit)
        except InvalidIdentifier as error:
            self.problems.append(f"{where}: {error}")
            return
        earlier = self._lines.setdefault((study, visit), where)
        if earlier != where:
            self.problems.append(f"{where}: visit {study}/{visit} was named before ({earlier})")

    def _checked_input(self, where: str, place: Visit, source: Path | None) -> Path | None:
        """The input, absolute; none where it has gone and the archive is there."""
        if source is not None and _is_there(source):
            return Path(os.path.abspath(source))
        if not place.archive.exists():
            what = "names no input" if source is None else f"there is no input '{shown(source)}'"
            self.problems.append(f"{where}: {what}, and the store has no archive of {place.study}/{place.visit}")
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
    if any(pattern.count(place) != 1 for place in _PLACES):
        raise TableRefused(pattern, ["a pattern names {study} and {visit} once each, as in /scanner/{study}/{visit}"])
    found = _Collector(Path(), store)
    for path, study, visit in sorted(_matches(pattern)):
        found.add(f"'{shown(path)}'", study, visit, Path(path))
    if not found.problems and not found.visits:
        found.problems.append("there is no such folder")
    if found.problems:
        raise TableRefused(pattern, found.problems)
    return found.visits


def _matches(pattern: str) -> Iterator[tuple[str, str, str]]:
    """Paths that a pattern matches, with study and visit."""
    path = os.path.abspath(pattern)
    with_files = not path.endswith(_PLACES)
    candidates: list[tuple[str, dict[str, str]]] = [("/", {})]
    for part in Path(path).parts[1:]:
        candidates = [found for base, values in candidates for found in _step(base, part, values)]
    for base, values in candidates:
        if os.path.isdir(base) or (with_files and os.path.isfile(base)):
            yield base, values["study"], values["visit"]


def _step(base: str, part: str, values: dict[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    if not any(place in part for place in _PLACES):
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
