"""Which names of files a file tree may show. Pure.

Nobody can vouch for a file name: scanners and export programs put names, birth dates and numbers of patients there.
By default only names are shown that consist of words that say nothing about a person; others become a number.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Literal, cast, get_args

from icf_utils.catalog.text import clean, identifies
from icf_utils.errors import InvalidSetting, shown

#: ``plain``: names of harmless words; ``all``: all but those with a UID or a date; ``none``: numbers only.
NameRule = Literal["plain", "all", "none"]

#: The end of a file name that is kept when the name itself must not be shown.
_SUFFIX = re.compile(r"\.[A-Za-z]{1,5}\Z")
_WORD = re.compile(r"[^\W\d_]+")
_DIGITS = re.compile(r"[0-9]+")
#: More digits than these, leading zeros aside, may be the number of a patient.
_LONGEST_NUMBER = 5
#: What programs call an image, whoever it shows.
_PLAIN_WORDS = """
    a b c d dcm dicom dic echo e file fl fr frame i im ima image images img inst instance mag mr ct cr dx nm ph phase pt
    pet rt s se ser series sl slice sc seq sr us v vol volume x z
"""
_PLAIN = frozenset(_PLAIN_WORDS.split())


def name_rule(setting: str) -> NameRule:
    """The rule of the setting ``[catalog] file_names``. Raises :class:`~icf_utils.errors.InvalidSetting`."""
    if setting not in get_args(NameRule):
        raise InvalidSetting("[catalog] file_names", f"must be 'plain', 'all' or 'none', found '{shown(setting)}'")
    return cast(NameRule, setting)


def image_name(name: str, at: int, uids: Collection[str], texts: Iterable[str], rule: NameRule) -> str:
    """A file's own name where ``rule`` allows it, else its number ``at`` in the series.

    ``texts`` of the series are on the page anyway: their words are harmless.
    """
    allowed = rule != "none" and not identifies(name, uids)
    if allowed and (rule == "all" or _is_plain(name, texts)):
        return clean(name) or f"image_{at:04d}"
    suffix = _SUFFIX.search(name)
    return f"image_{at:04d}{suffix.group() if suffix and suffix.group()[1:].lower() in _PLAIN else ''}"


def _is_plain(name: str, texts: Iterable[str]) -> bool:
    known = _PLAIN.union(*(_words(text) for text in texts))
    short = all(len(digits.lstrip("0")) <= _LONGEST_NUMBER for digits in _DIGITS.findall(name))
    return short and name.isascii() and _words(name) <= known


def _words(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}
