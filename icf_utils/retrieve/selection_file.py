"""Selection files: which visits, series and images to retrieve, as the catalog saves them. Pure, no input or output.

A table whose first line names its columns, separated by tabs (TSV), commas or semicolons (CSV, RFC 4180), or JSON
objects, one on each line. ``study`` and ``visit`` are required. ``series`` (a SeriesNumber or SeriesInstanceUID) and
``path`` (an image's name in the archive) narrow a line down; where both are empty, the whole visit is selected. Other
columns are ignored.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from icf_utils.errors import InvalidIdentifier, InvalidSetting, printable
from icf_utils.store.layout import check_identifier

_REQUIRED, _OPTIONAL = ("study", "visit"), ("series", "path")


@dataclass(frozen=True)
class SelectedLine:
    """A visit, or a series or an image of it; ``series`` and ``path`` may be empty."""

    study: str
    visit: str
    series: str = ""
    path: str = ""

    def __str__(self) -> str:
        more = (f"series {self.series}" if self.series else "", self.path)
        return " ".join((f"{self.study}/{self.visit}", *filter(None, more)))


def parse_selection_file(raw: bytes, source: str) -> tuple[SelectedLine, ...]:
    """Parse a selection file; ``source`` names it in errors. Each line is there once, in the order of the file.

    Raises :class:`~icf_utils.errors.InvalidSetting`, which names the line.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidSetting(source, f"expected a selection in UTF-8, found byte {raw[error.start]:#04x}") from error
    rows = _json_rows(text, source) if text.lstrip()[:1] == "{" else _table_rows(text, source)
    found = dict.fromkeys(_line(row, number, source) for number, row in rows)
    if not found:
        raise InvalidSetting(source, "it selects nothing: it has no line after its header")
    return tuple(found)


def _json_rows(text: str, source: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InvalidSetting(f"{source}, line {number}", "expected a JSON object on each line") from error
        if not isinstance(item, dict) or any(isinstance(item.get(key), (dict, list, float, bool)) for key in _OPTIONAL):
            raise InvalidSetting(f"{source}, line {number}", "expected a JSON object of texts and whole numbers")
        yield number, {key: "" if value is None else str(value) for key, value in item.items()}


def _table_rows(text: str, source: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    head = text.partition("\n")[0]
    separator = next((one for one in "\t,;" if one in head), ",")
    reader = csv.reader(text.splitlines(), delimiter=separator, strict=True)
    try:
        names = [name.strip().lower() for name in next(reader, [])]
        missing = [name for name in _REQUIRED if name not in names]
        if missing:
            raise InvalidSetting(
                source,
                f"its first line has no column '{missing[0]}': expected a selection file, whose columns are study, "
                "visit and, if series or images are selected, series or path",
            )
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(names):
                found = f"expected {len(names)} columns, found {len(row)}"
                raise InvalidSetting(f"{source}, line {reader.line_num}", found)
            yield reader.line_num, dict(zip(names, map(_cell, row), strict=True))
    except csv.Error as error:
        raise InvalidSetting(f"{source}, line {reader.line_num}", f"it is not a table ({error})") from error


def _cell(text: str) -> str:
    """A cell without the apostrophe that keeps spreadsheets from running it as a formula."""
    return text[1:] if len(text) > 1 and text[0] == "'" and text[1] in "=+-@\t" else text.strip()


def _line(row: Mapping[str, str], number: int, source: str) -> SelectedLine:
    try:
        for kind in _REQUIRED:
            check_identifier(kind, row.get(kind, ""))
    except InvalidIdentifier as error:
        raise InvalidSetting(f"{source}, line {number}", printable(str(error))) from error
    return SelectedLine(row["study"], row["visit"], row.get("series", ""), row.get("path", ""))
