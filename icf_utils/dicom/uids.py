"""What a UID is, and how one that breaks the rule is used. Pure.

PS3.5 section 9.1 allows digits and dots, at most 64 characters. Scanners and converters write others: with letters,
with a final dot, longer. No command refuses an image because of it. The UID is used as an opaque identifier,
compared as text, and a notice names the file. Leading zeros, which the standard does not allow either, are
too common for a notice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

#: The most characters of a UID by PS3.5, and of a text that is used as one.
LONGEST_UID, LONGEST_OPAQUE = 64, 256

_UID = re.compile(r"[0-9]+(?:\.[0-9]+)+", re.ASCII)
_OPAQUE = re.compile(r"[!-\[\]-~]+", re.ASCII)


def uid_text(raw: bytes | None) -> str:
    """The text of a UID's value field without its padding, valid or not; empty if it cannot identify anything.

    Spaces, control characters, bytes outside ASCII and the backslash, which separates values, are not part of one.

    >>> uid_text(b"1.2.840.10008.1.2" + bytes(1)), uid_text(b"PHANTOM.1."), uid_text(b"1.2 3"), uid_text(None)
    ('1.2.840.10008.1.2', 'PHANTOM.1.', '', '')
    """
    text = (raw or b"").decode("ascii", "replace").strip(" \0")
    return text if len(text) <= LONGEST_OPAQUE and _OPAQUE.fullmatch(text) else ""


def describe_odd_uids(keywords: Sequence[str]) -> str:
    """What a notice says of the UIDs of an image that are not valid, by their keywords.

    >>> describe_odd_uids(["StudyInstanceUID", "SOPInstanceUID"])
    'has no valid StudyInstanceUID and SOPInstanceUID (PS3.5 section 9.1)'
    """
    return f"has no valid {' and '.join(keywords)} (PS3.5 section 9.1)"


def is_valid_uid(text: str) -> bool:
    """Whether a text is a UID by PS3.5 section 9.1, leading zeros aside.

    >>> is_valid_uid("1.2.840.10008.1.2"), is_valid_uid("1.2.x"), is_valid_uid("1.2."), is_valid_uid("1.02")
    (True, False, False, True)
    """
    return len(text) <= LONGEST_UID and _UID.fullmatch(text) is not None
