"""Convert the raw bytes of one DICOM element to plain JSON: text, a number, or a list of them. Pure.

Value representations are those of DICOM PS3.5 section 6.2. Nothing here reads files, warns or logs; a problem comes
back as a sentence that never quotes the value. pydicom's data dictionary (PS3.6) is loaded by the first call.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Union

from icf_utils.dicom.charsets import decode_text
from icf_utils.dicom.constants import BINARY_VRS, CHARSET_VRS, SINGLE_VALUE_VRS, TEXT_VRS

#: A value as JSON holds it: text, number, or a list of them for a DICOM multi-value.
Value = Union[str, int, float, "list[str | int | float]"]

#: Longer values (bytes) are not converted: they are documents, not descriptions.
SIZE_LIMIT = 1 << 20

#: Representations without a plain JSON form. Those with "or" are ambiguous in the dictionary.
UNCONVERTIBLE_VRS = BINARY_VRS | {"OB or OW", "US or OW", "US or SS or OW"}

_NUMBER_FORMATS = {"FD": "d", "FL": "f", "SL": "i", "SS": "h", "SV": "q", "UL": "I", "US": "H", "UV": "Q", "AT": "HH"}
_DECIDABLE_VRS = TEXT_VRS | UNCONVERTIBLE_VRS | _NUMBER_FORMATS.keys() | {"SQ", "US or SS"}

_INTEGER = re.compile(r"[+-]?[0-9]{1,300}")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_DECIMAL_LENGTH = 400

#: Values up to this length (bytes) are cached: an archive repeats the same few values in thousands of images.
_REMEMBERED_LENGTH = 256


@dataclass(frozen=True)
class Conversion:
    """A plain value, and a sentence about what was wrong with the element (``None``: nothing).

    The value is empty text if the element has no plain value, or none that may be recorded.
    """

    value: Value
    problem: str | None = None


def convert_value(
    tag: int, vr: str | None, raw: bytes, charsets: tuple[str, ...], big_endian: bool, person_names: bool = False
) -> Conversion:
    r"""Convert the value of one element.

    ``vr`` is what the file states, ``None`` in implicit VR; for text and for ``UN``, the dictionary takes precedence.
    ``raw`` is the value field, ``charsets`` the terms of SpecificCharacterSet
    (:func:`~icf_utils.dicom.charsets.parse_character_sets`).
    Person names are withheld, unless ``person_names`` is set and the dictionary also declares the element as one. Text
    keeps its inner control characters; trailing spaces and NULs are padding. NaN and infinity, which JSON lacks, become
    text. AT becomes eight hexadecimal digits, as in PS3.18 section F.2. Never raises.

    >>> convert_value(0x00200011, "IS", b"3\\4 ", (), False)
    Conversion(value=[3, 4], problem=None)
    """
    if not raw:
        return Conversion("")
    kind, refusal = _reading(tag, vr, person_names)
    if refusal:
        return Conversion("", refusal)
    if len(raw) > _REMEMBERED_LENGTH:
        return _convert(kind, raw, charsets, big_endian)
    found = _remembered(kind, raw, charsets, big_endian)
    if isinstance(found.value, list):  # the cached list must not be shared
        return Conversion(list(found.value), found.problem)
    return found


@lru_cache(maxsize=8192)
def dictionary_vr(tag: int) -> str | None:
    """Look up the representation of ``tag`` in PS3.6, such as ``LO`` or ``US or SS``; ``None`` if it has none."""
    from pydicom import datadict

    try:
        found = datadict.dictionary_VR(tag)
    except KeyError:
        return None
    return found if found in _DECIDABLE_VRS else None


@lru_cache(maxsize=8192)
def tag_for_keyword(keyword: str) -> int | None:
    """Look up the tag of a PS3.6 keyword; ``None`` for other text, and for keywords of many tags (``OverlayData``)."""
    from pydicom import datadict

    found = datadict.tag_for_keyword(keyword)
    return None if found is None else int(found)


@lru_cache(maxsize=8192)
def keyword_for_tag(tag: int) -> str | None:
    """Look up the PS3.6 keyword of ``tag``; ``None`` if it has none."""
    from pydicom import datadict

    return datadict.keyword_for_tag(tag) or None


@lru_cache(maxsize=8192)
def _reading(tag: int, vr: str | None, person_names: bool) -> tuple[str, str | None]:
    """Choose the representation to read an element by; the second value is why it is not read, or ``None``."""
    kind = _deciding_vr(tag, vr)
    if kind == "SQ":
        return kind, "a sequence has no plain value"
    if kind in UNCONVERTIBLE_VRS:
        return kind, "binary data have no plain value"
    if kind == "PN" and dictionary_vr(tag) != "PN":
        return kind, "declared as a person name"
    if kind == "PN" and not person_names:
        return kind, "a person name"
    return kind, None


def _deciding_vr(tag: int, vr: str | None) -> str:
    """Choose between the VR of the file and that of the dictionary.

    The dictionary decides between kinds of text, and if the file states no VR. Otherwise the file decides, since its
    bytes were written that way. An element declared as a person name stays one.
    """
    known = dictionary_vr(tag)
    if vr is None or vr == "UN" or vr not in _DECIDABLE_VRS:
        return known or "UN"
    if vr in TEXT_VRS and vr != "PN" and known in TEXT_VRS:
        return known
    return vr


def _convert(kind: str, raw: bytes, charsets: tuple[str, ...], big_endian: bool) -> Conversion:
    if len(raw) > SIZE_LIMIT:
        return Conversion("", f"longer than {SIZE_LIMIT} bytes")
    if kind in TEXT_VRS:
        return _text_value(kind, raw, charsets)
    return _binary_value(kind, raw, big_endian)


_remembered = lru_cache(maxsize=8192)(_convert)


def _text_value(kind: str, raw: bytes, charsets: tuple[str, ...]) -> Conversion:
    text, problem = _decoded(kind, raw, charsets)
    items = [text] if kind in SINGLE_VALUE_VRS else text.rstrip(" \0").split("\\")
    stripped = [_without_padding(kind, item) for item in items]
    if kind not in ("DS", "IS"):
        return Conversion(stripped[0] if len(stripped) == 1 else list(stripped), problem)
    numbers = [_number(item, kind) for item in stripped]
    flaw = next((number.problem for number in numbers if number.problem), problem)
    return _one_or_many([number.value for number in numbers], problem or flaw)


def _decoded(kind: str, raw: bytes, charsets: tuple[str, ...]) -> tuple[str, str | None]:
    if kind in CHARSET_VRS:
        delimiters = {"PN": b"\\^="}.get(kind, b"" if kind in SINGLE_VALUE_VRS else b"\\")
        return decode_text(raw, charsets, delimiters)
    if raw.isascii():
        return raw.decode("ascii"), None
    return raw.decode("ascii", "replace"), f"only ASCII is allowed in {kind}; other characters were replaced"


def _without_padding(kind: str, item: str) -> str:
    if kind == "AE":  # leading spaces are not significant either
        return item.strip(" \0")
    return item.rstrip(" \0\t\r\n" if kind == "UR" else " \0")


@dataclass(frozen=True)
class _Number:
    value: str | int | float
    problem: str | None = None


def _number(item: str, kind: str) -> _Number:
    """Convert a decimal or integer string (PS3.5 table 6.2-1) to a number; text that is not one stays text."""
    text = item.strip(" ")
    if not text:
        return _Number("")
    if _INTEGER.fullmatch(text):
        return _Number(int(text))
    number = float(text) if len(text) <= _DECIMAL_LENGTH and _DECIMAL.fullmatch(text) else math.nan
    if not math.isfinite(number):
        return _Number(item, "not a number")
    if kind == "IS":
        whole = number.is_integer() and abs(number) < 2**53
        return _Number(int(number)) if whole else _Number(number, "not a whole number")
    return _Number(number)


def _binary_value(kind: str, raw: bytes, big_endian: bool) -> Conversion:
    if kind == "US or SS":
        return _signed_or_not(raw, big_endian)
    code = _NUMBER_FORMATS[kind]
    order = ">" if big_endian else "<"
    size = struct.calcsize(order + code)
    if len(raw) % size:
        return Conversion("", f"its length is not a multiple of {size} bytes, as {kind} requires")
    found = list(struct.iter_unpack(order + code, raw))
    if kind == "AT":
        return _one_or_many([f"{group:04X}{element:04X}" for group, element in found], None)
    numbers = [number for (number,) in found]
    finite = all(map(math.isfinite, numbers))
    values = numbers if finite else [number if math.isfinite(number) else str(number) for number in numbers]
    return _one_or_many(values, None if finite else "not a number")


def _signed_or_not(raw: bytes, big_endian: bool) -> Conversion:
    """Read numbers whose sign the file leaves open; they are certain only if both readings agree."""
    unsigned, signed = (_binary_value(kind, raw, big_endian) for kind in ("US", "SS"))
    return unsigned if unsigned == signed else Conversion("", "the file does not say whether this number is signed")


def _one_or_many(values: list[str | int | float], problem: str | None) -> Conversion:
    return Conversion(values[0] if len(values) == 1 else values, problem)
