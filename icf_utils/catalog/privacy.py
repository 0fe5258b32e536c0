"""Text for catalog pages: one printable line, sizes and counts in words, identifiers taken out. Pure.

The web application shows values as text and never as markup, so nothing is escaped here; what could still steer a
page or a reader (control characters, bidirectional marks) is replaced.


Which names of files a file tree may show. Pure.

Nobody can vouch for a file name: scanners and export programs put names, birth dates and numbers of patients there.
By default only names are shown that consist of words that say nothing about a person; others become a number.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Literal, cast, get_args

from icf_utils.dicom.values import Value
from icf_utils.errors import InvalidSetting, printable

#: A UID in running text (DICOM PS3.5 chapter 9): numbers joined by dots, the first one 0, 1 or 2.
_UID = re.compile(r"(?<![0-9])(?<![0-9]\.)[0-2](?:\.[0-9]+){4,}")
#: A calendar date as it occurs in names: 20200131, 2020-01-31, 2020.01.31.
_DATE = re.compile(r"(?<![0-9])(?:19|20)[0-9]{2}([._-]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12][0-9]|3[01])")
#: What stands where an identifier was taken out.
REMOVED = "\N{HORIZONTAL ELLIPSIS}"
#: File names write UIDs with other separators, too.
_SEPARATORS = str.maketrans("_-", "..")


def clean_text(text: str) -> str:
    r"""``text`` as one printable line: white space becomes a space, what cannot be shown U+FFFD.

    >>> clean("a\nb\u202ec")
    'a b\ufffdc'
    """
    if not text.isprintable():
        text = "".join(char if char.isprintable() else (" " if char.isspace() else "\ufffd") for char in text)
    return text.strip()


def value_text(value: Value | None, uids: Iterable[str] = ()) -> str:
    """A recorded DICOM value as text without identifiers; the values of a list are joined by commas."""
    items = value if isinstance(value, list) else [] if value is None else [value]
    return remove_identifiers(clean_text(", ".join(str(item) for item in items)), uids)


def remove_identifiers(text: str, uids: Iterable[str] = ()) -> str:
    """``text`` with ``uids``, everything else of a UID's form and calendar dates replaced by an ellipsis."""
    for uid in uids:
        if uid:
            text = text.replace(uid, REMOVED)
    return _DATE.sub(REMOVED, _UID.sub(REMOVED, text))


def has_identifier(name: str, uids: Iterable[str]) -> bool:
    """Whether a file name holds one of ``uids``, anything else of a UID's form, or a calendar date."""
    if _DATE.search(name):
        return True
    dotted = name.translate(_SEPARATORS)
    return any(uid and (uid in name or uid in dotted) for uid in uids) or _UID.search(dotted) is not None


def make_distinct(names: Iterable[str], pattern: str) -> list[str]:
    """``names`` in their order, repeated ones numbered by ``pattern`` (with ``{name}`` and ``{number}``).

    >>> make_distinct(["a", "a", "b"], "{name} ({number})")
    ['a', 'a (2)', 'b']
    """
    names = list(names)
    taken, seen, result = set(names), Counter[str](), []
    for name in names:
        seen[name] += 1
        unique = name
        if seen[name] > 1:
            unique = pattern.format(name=name, number=seen[name])
            while unique in taken:
                seen[name] += 1
                unique = pattern.format(name=name, number=seen[name])
            taken.add(unique)
        result.append(unique)
    return result


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
        raise InvalidSetting("[catalog] file_names", f"must be 'plain', 'all' or 'none', found '{printable(setting)}'")
    return cast(NameRule, setting)


def image_name(name: str, at: int, uids: Collection[str], texts: Iterable[str], rule: NameRule) -> str:
    """A file's own name where ``rule`` allows it, else its number ``at`` in the series.

    ``texts`` of the series are on the page anyway: their words are harmless.
    """
    allowed = rule != "none" and not has_identifier(name, uids)
    if allowed and (rule == "all" or _is_plain(name, texts)):
        return clean_text(name) or f"image_{at:04d}"
    suffix = _SUFFIX.search(name)
    return f"image_{at:04d}{suffix.group() if suffix and suffix.group()[1:].lower() in _PLAIN else ''}"


def _is_plain(name: str, texts: Iterable[str]) -> bool:
    known = _PLAIN.union(*(_words(text) for text in texts))
    short = all(len(digits.lstrip("0")) <= _LONGEST_NUMBER for digits in _DIGITS.findall(name))
    return short and name.isascii() and _words(name) <= known


def _words(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}
