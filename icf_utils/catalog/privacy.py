"""What catalog pages may show of texts and file names: printable, without identifiers. Pure.

The web application shows values as text and never as markup, so nothing is escaped here. What could still mislead a
page or a reader (control characters, bidirectional marks) is replaced, and UIDs and calendar dates are removed.

File names can contain anything: scanners and export programs put names, birth dates and numbers of patients there. By
default, only names that consist of words that say nothing about a person are shown; others are replaced by a number.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Literal, cast, get_args

from icf_utils.dicom.values import Value
from icf_utils.errors import InvalidSetting, printable

#: A UID in running text (DICOM PS3.5 chapter 9): numbers joined by dots, the first one 0, 1 or 2.
_UID = re.compile(r"(?<![0-9])(?<![0-9]\.)[0-2](?:\.[0-9]+){4,}")
#: A calendar date as it occurs in names: 20200131, 2020-01-31, 2020.01.31.
_DATE = re.compile(r"(?<![0-9])(?:19|20)[0-9]{2}([._-]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12][0-9]|3[01])")
#: Replaces an identifier.
REMOVED = "\N{HORIZONTAL ELLIPSIS}"
#: File names may contain UIDs with other separators.
_SEPARATORS = str.maketrans("_-", "..")


def clean_text(text: str) -> str:
    r"""Make ``text`` one printable line: white space becomes a space, unprintable characters U+FFFD.

    >>> clean_text("a\nb\u202ec")
    'a b\ufffdc'
    """
    if not text.isprintable():
        text = "".join(char if char.isprintable() else (" " if char.isspace() else "\ufffd") for char in text)
    return text.strip()


def value_text(value: Value | None, uids: Iterable[str] = ()) -> str:
    """A recorded DICOM value as text without identifiers; the values of a list are joined by commas."""
    items = value if isinstance(value, list) else [] if value is None else [value]
    return remove_identifiers(clean_text(", ".join(str(item) for item in items)), uids)


def remove_uids(text: str) -> str:
    """Replace anything with the form of a UID by an ellipsis."""
    return _UID.sub(REMOVED, text)


def remove_identifiers(text: str, uids: Iterable[str] = ()) -> str:
    """Replace ``uids``, anything else with the form of a UID, and calendar dates by an ellipsis."""
    for uid in uids:
        if uid:
            text = text.replace(uid, REMOVED)
    return _DATE.sub(REMOVED, remove_uids(text))


def has_identifier(name: str, uids: Iterable[str]) -> bool:
    """Whether a file name contains one of ``uids``, anything else with the form of a UID, or a calendar date."""
    if _DATE.search(name):
        return True
    dotted = name.translate(_SEPARATORS)
    return any(uid and (uid in name or uid in dotted) for uid in uids) or _UID.search(dotted) is not None


#: ``plain``: names of harmless words; ``all``: all but those with a UID or a date; ``none``: numbers only.
NameRule = Literal["plain", "all", "none"]

#: The part of a file name that is kept if the name itself must not be shown.
_SUFFIX = re.compile(r"\.[A-Za-z]{1,5}\Z")
_WORD = re.compile(r"[^\W\d_]+")
_DIGITS = re.compile(r"[0-9]+")
#: A number with more digits, apart from leading zeros, may be a patient's.
_LONGEST_NUMBER = 5
#: Words that programs use in names of images, whoever is shown.
_PLAIN_WORDS = """
    a b c d dcm dicom dic echo e file fl fr frame i im ima image images img inst instance mag mr ct cr dx nm ph phase pt
    pet rt s se ser series sl slice sc seq sr us v vol volume x z
"""
#: Words of folders.
_FOLDER_WORDS = frozenset({"data", "dicoms", "raw", "resources", "scan", "scans", "session", "study", "visit"})
_PLAIN = frozenset(_PLAIN_WORDS.split())


def name_rule(setting: str) -> NameRule:
    """The rule of the setting ``[catalog] file_names``. Raises :class:`~icf_utils.errors.InvalidSetting`."""
    if setting not in get_args(NameRule):
        raise InvalidSetting("[catalog] file_names", f"must be 'plain', 'all' or 'none', found '{printable(setting)}'")
    return cast(NameRule, setting)


def image_name(name: str, at: int, uids: Collection[str], texts: Iterable[str], rule: NameRule) -> str:
    """The name of a file if ``rule`` allows showing it, else its number ``at`` in the series.

    ``texts`` are on the series' page anyway, so their words count as harmless.
    """
    allowed = rule != "none" and not has_identifier(name, uids)
    if allowed and (rule == "all" or _is_plain(name, texts)):
        return clean_text(name) or f"image_{at:04d}"
    suffix = _SUFFIX.search(name)
    return f"image_{at:04d}{suffix.group() if suffix and suffix.group()[1:].lower() in _PLAIN else ''}"


def is_shown_folder(path: str, uids: Collection[str], texts: Iterable[str], rule: NameRule) -> bool:
    """Whether a page may show the path of a folder in an archive; its first part names study and visit."""
    parts, words = path.split("/")[1:], [*texts, *_FOLDER_WORDS]
    if rule == "none" or clean_text(path) != path:
        return False
    return all(not has_identifier(part, uids) and (rule == "all" or _is_plain(part, words)) for part in parts)


def _is_plain(name: str, texts: Iterable[str]) -> bool:
    known = _PLAIN.union(*(_words(text) for text in texts))
    short = all(len(digits.lstrip("0")) <= _LONGEST_NUMBER for digits in _DIGITS.findall(name))
    return short and name.isascii() and _words(name) <= known


def _words(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}
