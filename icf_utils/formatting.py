"""Sizes, counts and tables for people: one form of each, in messages, reports, pages and catalogs. Pure.

Sizes are decimal (1 kB is 1000 bytes), with one digit after the point from 1 kB on. Counts agree with their nouns.
Catalogs hold these texts, so a change of a form changes the bytes of catalogs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def format_size(size: int) -> str:
    """Format a number of bytes in decimal units.

    >>> format_size(999), format_size(999_600), format_size(1_250_000)
    ('999 B', '999.6 kB', '1.2 MB')
    """
    if size < 1000:
        return f"{size} B"
    scaled, unit = float(size), 0
    while scaled >= 999.95 and unit < len(_UNITS) - 1:
        scaled, unit = scaled / 1000, unit + 1
    return f"{scaled:.1f} {_UNITS[unit]}"


def format_count(number: int, noun: str, plural: str = "") -> str:
    """Format a number with its noun, which is given in the singular.

    ``plural`` is needed where the noun is not the last word, or where :func:`pluralize` does not know its plural.

    >>> format_count(1, "visit"), format_count(2, "visit"), format_count(2, "series"), format_count(0, "study")
    ('1 visit', '2 visits', '2 series', '0 studies')
    """
    return f"{number} {noun if number == 1 else plural or pluralize(noun)}"


def pluralize(noun: str) -> str:
    """The plural of a noun.

    >>> pluralize("image"), pluralize("study"), pluralize("key"), pluralize("series"), pluralize("DICOM series")
    ('images', 'studies', 'keys', 'series', 'DICOM series')
    """
    if noun.endswith("series"):
        return noun
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def format_amount(number: int, unit: str) -> str:
    """Format how much of a task is done: a size where the unit is ``'B'``, else a count of the noun ``unit``.

    >>> format_amount(1500, "B"), format_amount(1, "visit"), format_amount(2, "visit")
    ('1.5 kB', '1 visit', '2 visits')
    """
    return format_size(number) if unit == "B" else format_count(number, unit)


def format_counter(number: int, total: int) -> str:
    """Format how far a sequence is: the ``number``-th (from 1) of ``total``.

    >>> format_counter(3, 50)
    '[3/50]'
    """
    return f"[{number}/{total}]"


def format_table(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Lines of a table for a terminal: columns as wide as their widest cell, two spaces apart.

    Cells must be printable (see :func:`icf_utils.errors.printable`) and all rows equally long; the columns with the
    numbers ``right`` (from 0) are aligned to the right.

    >>> format_table([("visit", "images"), ("v1", "7")], right=[1])
    ['visit  images', 'v1          7']
    """
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(_pad_cells(row, widths, right)).rstrip() for row in rows]


def _pad_cells(row: Sequence[str], widths: Sequence[int], right: Collection[int]) -> list[str]:
    cells = enumerate(zip(row, widths, strict=True))
    return [cell.rjust(width) if column in right else cell.ljust(width) for column, (cell, width) in cells]
