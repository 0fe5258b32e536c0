"""Decode text by its SpecificCharacterSet (0008,0005). Pure: bytes in, text out; nothing is logged.

The rules are those of DICOM PS3.3 section C.12.1.1.2 (the terms) and PS3.5 section 6.1.2 (code extensions by ISO/IEC
2022). Nothing is guessed: bytes outside the declared sets become U+FFFD, and the caller learns of it. The graphic
characters of ISO-IR 14 are read as ASCII, as every reader does, although two of them look different.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache

_UNDECLARED = "no character set is declared; characters outside ASCII were replaced"
_UNKNOWN = "the declared character set is unknown; characters outside ASCII were replaced"
_MISSPELT = "the name of the declared character set is misspelt"
_REPLACED = "some bytes are not in the declared character set and were replaced"
_ESCAPE = "the text has an escape character that the declared character sets do not explain"
_IGNORED = "the declared character sets cannot be combined; the first one was used"

_ESC = b"\x1b"
_TOKEN = re.compile(
    rb"(?P<escape>\x1b(?:\$[()][A-Z]|\$B|[()-][A-Za-z]))|(?P<left>[\x21-\x7e]+)|(?P<right>[\xa0-\xff]+)|[\x00-\xff]"
)


@dataclass(frozen=True)
class _CodeSet:
    """A set of graphic characters: the escape sequence that designates it, and Python's codec for its bytes.

    ``right`` sets use bytes from 0xA0 (G1), the others bytes below 0x7F (G0). ``prefix`` is what the codec needs in
    front of the bytes.
    """

    escape: bytes
    codec: str
    right: bool = True
    double: bool = False
    prefix: bytes = b""


_ASCII = _CodeSet(b"\x1b(B", "ascii", right=False)
_ROMAJI = _CodeSet(b"\x1b(J", "ascii", right=False)

#: By ISO registration number, PS3.3 tables C.12-2 to C.12-4.
_SETS = {
    "13": _CodeSet(b"\x1b)I", "shift_jis"),
    "58": _CodeSet(b"\x1b$)A", "gb2312", double=True),
    "87": _CodeSet(b"\x1b$B", "iso2022_jp", right=False, double=True, prefix=b"\x1b$B"),
    "100": _CodeSet(b"\x1b-A", "latin_1"),
    "101": _CodeSet(b"\x1b-B", "iso8859_2"),
    "109": _CodeSet(b"\x1b-C", "iso8859_3"),
    "110": _CodeSet(b"\x1b-D", "iso8859_4"),
    "126": _CodeSet(b"\x1b-F", "iso8859_7"),
    "127": _CodeSet(b"\x1b-G", "iso8859_6"),
    "138": _CodeSet(b"\x1b-H", "iso8859_8"),
    "144": _CodeSet(b"\x1b-L", "iso8859_5"),
    "148": _CodeSet(b"\x1b-M", "iso8859_9"),
    "149": _CodeSet(b"\x1b$)C", "euc_kr", double=True),
    "159": _CodeSet(b"\x1b$(D", "iso2022_jp_2", right=False, double=True, prefix=b"\x1b$(D"),
    "166": _CodeSet(b"\x1b-T", "tis_620"),
    "203": _CodeSet(b"\x1b-b", "iso8859_15"),
}

#: Encodings that are used alone (PS3.3 table C.12-5), by their names, and by wrong names seen in files.
_WHOLE = {"ISOIR192": "utf-8", "GB18030": "gb18030", "GBK": "gbk"}
_WHOLE_MISSPELT = {"UTF8": "utf-8", "ISO2022IR192": "utf-8", "ISO2022GBK": "gbk", "ISO2022GB18030": "gb18030"}
_PROPER = re.compile(r"(ISO_IR|ISO 2022 IR) [0-9]+|GB18030|GBK|")
_NUMBERED = re.compile(r"ISO(?:2022)?(?:IR)?([0-9]+)")


@dataclass(frozen=True)
class _Declared:
    """What the terms mean: one codec for everything, or sets that escape sequences switch between.

    ``reason`` says why bytes outside ASCII cannot be read, ``remark`` what was wrong but understood.
    """

    whole: str = ""
    first_right: _CodeSet | None = None
    escapes: Mapping[bytes, _CodeSet] = field(default_factory=lambda: {_ASCII.escape: _ASCII})
    reason: str = _REPLACED
    remark: str = ""


def parse_character_sets(raw: bytes) -> tuple[str, ...]:
    r"""Split a value of SpecificCharacterSet into its terms; an empty first term is the default repertoire.

    >>> parse_character_sets(b"\\ISO 2022 IR 87 ")
    ('', 'ISO 2022 IR 87')
    """
    text = raw.decode("ascii", "replace").strip(" \0")
    return tuple(term.strip(" \0") for term in text.split("\\")) if text else ()


def decode_text(raw: bytes, charsets: tuple[str, ...], delimiters: bytes = b"") -> tuple[str, str | None]:
    """Decode text; the second value is a sentence about what is doubtful, or ``None``.

    ``charsets`` are the terms of SpecificCharacterSet, ``delimiters`` the bytes that end a value or a component: after
    them the first set is active again (PS3.5 section 6.1.2.5.3).
    """
    if raw.isascii() and _ESC not in raw:  # the same in every set
        return raw.decode("ascii"), None
    declared = _declared(charsets)
    if declared.whole:
        text, problem = _decode_whole(raw, declared.whole)
    else:
        text, problem = _decode_switched(raw, declared, delimiters)
    return text, "; ".join(part for part in (declared.remark, problem) if part) or None


def _decode_whole(raw: bytes, codec: str) -> tuple[str, str]:
    try:
        return raw.decode(codec), ""
    except UnicodeDecodeError:
        return raw.decode(codec, "replace"), _REPLACED


def _decode_switched(raw: bytes, declared: _Declared, delimiters: bytes) -> tuple[str, str]:
    """Decode by ISO/IEC 2022 with two halves: G0 for bytes below 0x80, G1 for bytes from 0xA0."""
    left, right = _ASCII, declared.first_right
    pieces: list[str] = []
    problem = ""
    for token in _TOKEN.finditer(raw):
        found, half = token.group(), token.lastgroup
        switch = declared.escapes.get(found) if half == "escape" else None
        if switch is not None:
            left, right = (left, switch) if switch.right else (switch, right)
            continue
        # in neither half: space, control characters, escape sequences that were not declared, 0x80 to 0x9F
        codes = {"left": left, "right": right}.get(half or "", _ASCII if found.isascii() else None)
        text, certain = _read_run(found, codes)
        pieces.append(text)
        problem = problem or ("" if certain else declared.reason)
        if found[:1] == _ESC:
            problem = problem or _ESCAPE
        elif _resets(found, left, delimiters):
            left, right = _ASCII, declared.first_right
    return "".join(pieces), problem


def _read_run(found: bytes, codes: _CodeSet | None) -> tuple[str, bool]:
    """Decode bytes of one set; the second value is whether the set has all of them."""
    if codes is None:
        return "\ufffd" * len(found), False
    if codes.right and not codes.double:
        text = "".join(map(_single_bytes(codes.codec).__getitem__, found))
        return text, "\ufffd" not in text
    try:
        return (codes.prefix + found).decode(codes.codec), True
    except UnicodeDecodeError:
        return (codes.prefix + found).decode(codes.codec, "replace"), False


@cache
def _single_bytes(codec: str) -> tuple[str, ...]:
    """Map each byte to its character; the longer characters of shift_jis are not part of ISO-IR 13."""
    return tuple(bytes([code]).decode(codec, "replace") for code in range(256))


def _resets(found: bytes, left: _CodeSet, delimiters: bytes) -> bool:
    if found[0] < 0x20:
        return True
    return not left.double and any(delimiter in found for delimiter in delimiters)


@lru_cache(maxsize=256)
def _declared(charsets: tuple[str, ...]) -> _Declared:
    if not any(charsets):
        return _Declared(reason=_UNDECLARED)
    first, *others = [_identity(term) for term in charsets]
    misspelt = any(_identity(term) and not _PROPER.fullmatch(term) for term in charsets)
    remark = _MISSPELT if misspelt else ""
    if first in _WHOLE:
        return _Declared(whole=_WHOLE[first], remark=_IGNORED if others else remark)
    sets = [_SETS[name] for name in (first, *others) if name in _SETS]
    escapes = {codes.escape: codes for codes in (_ASCII, *sets)}
    if _SETS["13"] in sets:
        escapes[_ROMAJI.escape] = _ROMAJI
    return _Declared(
        first_right=next((codes for codes in sets[:1] if codes.right and first in _SETS), None),
        escapes=escapes,
        reason=_REPLACED if first else _UNKNOWN,
        remark=_IGNORED if any(name in _WHOLE for name in others) else remark,
    )


def _identity(term: str) -> str | None:
    """Map a term to a key of :data:`_SETS` or :data:`_WHOLE`, ``6`` (the default repertoire), or ``None`` (unknown)."""
    squeezed = re.sub(r"[^A-Z0-9]", "", term.upper())
    if not squeezed:
        return "6"
    for names in (_WHOLE, _WHOLE_MISSPELT):
        if squeezed in names:
            return next(name for name, codec in _WHOLE.items() if codec == names[squeezed])
    numbered = _NUMBERED.fullmatch(squeezed)
    number = numbered.group(1) if numbered else ""
    return number if number == "6" or number in _SETS else None
