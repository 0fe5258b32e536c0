"""AE titles: one rule for the sender, the receiver's settings and the associations that it admits. Pure.

An AE title has 1 to 16 characters of ISO 646 (ASCII), without backslash and control characters (PS3.5 section 6.2, VR
AE). ``*`` is a character like any other. Upper and lower case differ. Spaces at either end are padding and not
significant, and a title of spaces only is not allowed (PS3.8 table 9-11). In an association request the title is padded
to 16 bytes; some senders pad with NUL instead of spaces, which is accepted at the end of the title.
"""

from __future__ import annotations

from icf_utils.errors import InvalidSetting, printable

#: The rule in words, for messages.
AE_TITLE_RULE = "an AE title has 1 to 16 ASCII characters, without backslash and control characters"

_LONGEST = 16


def strip_ae_title(text: str) -> str:
    r"""The title without its padding; two titles are the same if this is.

    >>> strip_ae_title(" STUDY A \0\0")
    'STUDY A'
    """
    return text.rstrip(" \0").lstrip(" ")


def is_ae_title(text: str) -> bool:
    r"""Whether a text, without its padding, is an AE title.

    >>> is_ae_title(" A*"), is_ae_title("  "), is_ae_title("A\\B")
    (True, False, False)
    """
    title = strip_ae_title(text)
    return 0 < len(title) <= _LONGEST and title.isascii() and title.isprintable() and "\\" not in title


def parse_ae_title(source: str, text: str) -> str:
    """The title without its padding; ``source`` names the option or key in the error.

    Raises :class:`~icf_utils.errors.InvalidSetting` for what is not an AE title.
    """
    if not is_ae_title(text):
        raise InvalidSetting(source, f"'{printable(text)}' is not an AE title: {AE_TITLE_RULE}")
    return strip_ae_title(text)
