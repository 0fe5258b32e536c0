"""Decide which elements can identify a person: DICOM PS3.15 Table E.1-1, and everything of unknown content.

The table is a data file of the package, read once. What a configuration may allow is decided elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files

from icf_utils.dicom.values import dictionary_vr

#: How messages name the table.
TABLE = "the confidentiality profile of DICOM PS3.15 Table E.1-1"

_TABLE_FILE = "confidentiality_profile.txt"


@dataclass(frozen=True)
class ProfileEntry:
    """A line of the table. It covers every tag with ``tag & mask == number``, in most lines a single one."""

    number: int
    mask: int
    keyword: str


def is_identifying(tag: int) -> bool:
    """Whether an element can identify a person.

    True for the elements of the table, for person names, for private elements (odd groups, by a line of the table), and
    for elements that the dictionary does not have, whose content is unknown.
    """
    return is_in_profile(tag) or dictionary_vr(tag) in (None, "PN")


@lru_cache(maxsize=8192)
def is_in_profile(tag: int) -> bool:
    """Whether the table lists an element or covers it by its line about private elements."""
    if (tag >> 16) % 2:
        return True
    return tag in _single_tags() or any(tag & entry.mask == entry.number for entry in _repeating())


@cache
def profile_entries() -> tuple[ProfileEntry, ...]:
    """Read the lines of the data file, in its order."""
    text = files("icf_utils.dicom").joinpath(_TABLE_FILE).read_text(encoding="ascii")
    return tuple(_entry(line) for line in text.splitlines() if not line.startswith("#"))


@cache
def _single_tags() -> frozenset[int]:
    return frozenset(entry.number for entry in profile_entries() if entry.mask == 0xFFFFFFFF)


@cache
def _repeating() -> tuple[ProfileEntry, ...]:
    return tuple(entry for entry in profile_entries() if entry.mask != 0xFFFFFFFF)


def _entry(line: str) -> ProfileEntry:
    pattern, keyword = line.split()
    digits = pattern.replace(",", "")
    mask = "".join("0" if digit == "x" else "f" for digit in digits)
    return ProfileEntry(int(digits.replace("x", "0"), 16), int(mask, 16), keyword)
