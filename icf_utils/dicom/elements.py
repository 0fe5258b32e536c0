"""Find a few elements in the head of a DICOM file (PS3.5 section 7). Pure: bytes in, values out.

This does not replace pydicom. It exists because an archive is written in one pass over its input, with bounded memory,
from files that may be hostile: it looks at top-level elements in front of the pixel data only, decodes nothing, does
not recurse into nested sequences, and never believes a declared length beyond the file's size. Where pydicom reads a
file completely, both find the same bytes (a test compares them on every test file).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from icf_utils.dicom.constants import (
    DEFLATED_TRANSFER_SYNTAXES,
    DOUBLE_FLOAT_PIXEL_DATA,
    EXPLICIT_VR_BIG_ENDIAN,
    FLOAT_PIXEL_DATA,
    ITEM,
    ITEM_DELIMITATION_ITEM,
    LONG_HEADER_VRS,
    MEDIA_STORAGE_DIRECTORY_STORAGE,
    MEDIA_STORAGE_SOP_CLASS_UID,
    PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE,
    PIXEL_DATA,
    SEQUENCE_DELIMITATION_ITEM,
    SHARED_FUNCTIONAL_GROUPS_SEQUENCE,
    SHORT_HEADER_VRS,
    TRANSFER_SYNTAX_UID,
    UNDEFINED_LENGTH,
)
from icf_utils.dicom.part10 import read_file_meta
from icf_utils.dicom.uids import is_valid_uid, uid_text

#: How much of a file is searched, in bytes; header elements that start later are not found (state ``more``).
HEAD_LIMIT = 64 << 20

_LONG_VRS = frozenset(vr.encode("ascii") for vr in LONG_HEADER_VRS)
_SHORT_VRS = frozenset(vr.encode("ascii") for vr in SHORT_HEADER_VRS)
_ALL_VRS = _LONG_VRS | _SHORT_VRS
#: The only elements of undefined length whose value is returned: the functional groups of multi-frame images.
SEQUENCES = frozenset({SHARED_FUNCTIONAL_GROUPS_SEQUENCE, PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE})
_PIXELS = frozenset({FLOAT_PIXEL_DATA, DOUBLE_FLOAT_PIXEL_DATA, PIXEL_DATA})

#: ``whole``: read up to the pixel data or the end; ``cut``: the file ends inside an element; ``malformed``: the next
#: bytes are not an element; ``more``: the buffer ends first; call again with more of the file.
State = Literal["whole", "cut", "malformed", "more"]


@dataclass(frozen=True)
class Element:
    """A top-level element: the VR that the file states (``None`` in implicit VR), and the value field."""

    vr: str | None
    raw: bytes


@dataclass
class Header:
    """What was found in the head of a file.

    ``has_preamble``: the file begins with preamble and prefix (PS3.10 section 7.1). ``meta`` and ``elements``: file
    meta information and wanted elements by tag. ``first_group``: the group of the first element of the data set.
    ``count``: how many of its elements were read. ``pixels``: position and declared length of the pixel data's value in
    the buffer, the length ``-1`` if undefined; ``None`` in deflated files. ``dataset_at``: where the data set begins.
    """

    has_preamble: bool
    meta: dict[int, bytes] = field(default_factory=dict)
    elements: dict[int, Element] = field(default_factory=dict)
    state: State = "whole"
    big_endian: bool = False
    first_group: int = -1
    count: int = 0
    pixels: tuple[int, int] | None = None
    dataset_at: int = 0

    @property
    def is_directory(self) -> bool:
        """Whether this is a DICOMDIR (PS3.10 section 8)."""
        return _stripped(self.meta.get(MEDIA_STORAGE_SOP_CLASS_UID)) == MEDIA_STORAGE_DIRECTORY_STORAGE

    @property
    def is_damaged(self) -> bool:
        """Whether the file ends inside an element or has bytes that are not an element."""
        return self.state in ("cut", "malformed")

    def uid(self, tag: int) -> str:
        """Return the UID of an element of data set or file meta information; empty if absent.

        A text that is not a valid UID is returned as well (:mod:`icf_utils.dicom.uids`).
        """
        if tag >> 16 == 2:
            return uid_text(self.meta.get(tag))
        element = self.elements.get(tag)
        return uid_text(element.raw) if element else ""

    def valid_uid(self, tag: int) -> str:
        """Return the UID as :meth:`uid` does; empty if it is not valid."""
        text = self.uid(tag)
        return text if is_valid_uid(text) else ""

    def ascii_text(self, tag: int) -> str:
        """Return the text of an element in the default character repertoire, without trailing padding."""
        element = self.elements.get(tag)
        if element is None or element.vr == "SQ":
            return ""
        return element.raw.decode("ascii", "replace").rstrip(" \0")


def scan_header(head: bytes, size: int, wanted: frozenset[int]) -> Header:
    """Scan the first bytes of a file.

    ``head`` is the file's beginning, ``size`` the length of the whole file in bytes, ``wanted`` the tags
    (``0xggggeeee``) to return. If a tag is repeated, the last element counts, as in pydicom. A value that is cut off by
    the file's end is not returned. Never raises.
    """
    meta = read_file_meta(head, size)
    result = Header(meta.has_preamble, meta.elements, state=meta.state, dataset_at=meta.end)
    if meta.state != "whole":
        return result
    syntax = _stripped(meta.elements.get(TRANSFER_SYNTAX_UID))
    if syntax in DEFLATED_TRANSFER_SYNTAXES:
        _scan_deflated(head, meta.end, size, wanted, result)
    else:
        result.big_endian = _is_big_endian(head, meta.end, syntax)
        _scan_dataset(head, meta.end, size, wanted, result)
    return result


def _stripped(raw: bytes | None) -> str:
    return (raw or b"").decode("ascii", "replace").strip(" \0")


def _is_big_endian(head: bytes, position: int, syntax: str) -> bool:
    if syntax:
        return syntax == EXPLICIT_VR_BIG_ENDIAN
    # no transfer syntax: a big endian group 0008 reads as 0x0800, and big endian is always explicit VR
    return (
        head[position + 4 : position + 6] in _ALL_VRS
        and int.from_bytes(head[position : position + 2], "little") >= 1024
    )


def _scan_deflated(head: bytes, position: int, size: int, wanted: frozenset[int], result: Header) -> None:
    """Inflate as much as the limit allows, and scan that (PS3.5 section A.5)."""
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = engine.decompress(memoryview(head)[position:], HEAD_LIMIT)
    except zlib.error:
        result.state = "malformed"
        return
    _scan_dataset(data, 0, len(data), wanted, result)
    reached_pixels, result.pixels = result.pixels is not None, None
    if engine.eof or result.state == "malformed":
        return
    if len(data) >= HEAD_LIMIT:
        result.state = "whole" if reached_pixels else "more"
    else:
        result.state = "more" if len(head) < size else "cut"


def _scan_dataset(data: bytes, position: int, size: int, wanted: frozenset[int], result: Header) -> None:
    reader = HeaderReader(data, position, result.big_endian)
    end = len(data)
    stops = _raw_tags(wanted | _PIXELS, result.big_endian)
    if position + 8 <= end:
        result.first_group = reader.header(position)[0] >> 16
    while position + 8 <= end:
        position, passed = reader.pass_over(position, stops)
        result.count += passed
        if position + 8 > end:
            continue
        tag, vr, start, length = reader.header(position)
        if start > end:
            break
        if tag in _PIXELS:
            _note_pixels(start, length, size, result)
            return
        undefined = length == UNDEFINED_LENGTH
        position = skip_undefined(reader, start, vr) if undefined else start + length
        if position < 0 or position > size:
            result.state = "malformed" if position < 0 else "cut"
            return
        if position > end and (undefined or tag in wanted):
            break
        if tag in wanted and (not undefined or tag in SEQUENCES):
            result.elements[tag] = Element(vr.decode("latin-1") if vr else None, data[start:position])
        result.count += 1
    else:
        if position == size:
            return
    result.state = "more" if end < size else "cut"


def _note_pixels(start: int, length: int, size: int, result: Header) -> None:
    result.pixels = (start, -1 if length == UNDEFINED_LENGTH else length)
    if length != UNDEFINED_LENGTH and start + length > size:
        result.state = "cut"


class _Layout:
    """Unpack the fields of an element's header in one byte order (PS3.5 section 7.1)."""

    def __init__(self, order: str) -> None:
        self.explicit: Callable[[bytes, int], tuple[int, int, bytes, int]] = struct.Struct(order + "HH2sH").unpack_from
        self.implicit: Callable[[bytes, int], tuple[int, int, int]] = struct.Struct(order + "HHL").unpack_from
        self.long: Callable[[bytes, int], tuple[int]] = struct.Struct(order + "L").unpack_from
        # with the four bytes of the tag as one number, which is faster to compare
        self.raw_explicit: Callable[[bytes, int], tuple[int, bytes, int]] = struct.Struct(order + "L2sH").unpack_from
        self.raw_implicit: Callable[[bytes, int], tuple[int, int]] = struct.Struct(order + "LL").unpack_from


_LITTLE, _BIG = _Layout("<"), _Layout(">")


@lru_cache(maxsize=16)
def _raw_tags(tags: frozenset[int], big_endian: bool) -> frozenset[int]:
    """Convert tags to the form in which :class:`_Layout`'s raw functions return them."""
    return tags if big_endian else frozenset((tag & 0xFFFF) << 16 | tag >> 16 for tag in tags)


class HeaderReader:
    """Read element headers of one data set; its first element shows whether it is explicit or implicit VR."""

    def __init__(self, data: bytes, position: int, big_endian: bool) -> None:
        self.data = data
        self._layout = _BIG if big_endian else _LITTLE
        first = data[position + 4 : position + 6]
        # as pydicom does: two capital letters cannot be the length of a plausible first element
        self.is_implicit = not (len(first) == 2 and all(0x40 < byte < 0x5B for byte in first))

    def pass_over(self, position: int, stops: frozenset[int]) -> tuple[int, int]:
        """Skip ordinary elements in a tight loop; each image has hundreds of them in front of its pixels.

        Returns the position of the first element that is in ``stops`` (raw tags), has a long header or undefined
        length, or exceeds the data; and how many elements were skipped.
        """
        data, end, count = self.data, len(self.data), 0
        if self.is_implicit:
            unpack_implicit = self._layout.raw_implicit
            while position + 8 <= end:
                raw_tag, length = unpack_implicit(data, position)
                after = position + 8 + length
                if raw_tag in stops or after > end or length == UNDEFINED_LENGTH:
                    break
                position, count = after, count + 1
            return position, count
        unpack_explicit = self._layout.raw_explicit
        while position + 8 <= end:
            raw_tag, vr, length = unpack_explicit(data, position)
            after = position + 8 + length
            if raw_tag in stops or after > end or vr not in _SHORT_VRS:
                break
            position, count = after, count + 1
        return position, count

    def header(self, position: int, implicit: bool | None = None) -> tuple[int, bytes | None, int, int]:
        """Return ``(tag, VR or None, start of the value, length)`` of the element at ``position``.

        At least 8 bytes must follow ``position``. ``start`` is beyond the data if a long header is cut off.
        """
        if not (self.is_implicit if implicit is None else implicit):
            group, element, vr, length = self._layout.explicit(self.data, position)
            if vr in _LONG_VRS:
                if position + 12 > len(self.data):
                    return group << 16 | element, vr, len(self.data) + 1, 0
                return group << 16 | element, vr, position + 12, self._layout.long(self.data, position + 8)[0]
            if b"AA" <= vr <= b"ZZ":
                return group << 16 | element, vr, position + 8, length
        # not a VR: some writers switch to implicit VR within an explicit VR file
        group, element, length = self._layout.implicit(self.data, position)
        return group << 16 | element, None, position + 8, length


_ITEM_LEVEL, _IMPLICIT_LEVEL = 1, 2


def skip_undefined(reader: HeaderReader, position: int, vr: bytes | None) -> int:
    """Return where an element of undefined length ends: beyond the data if not within it, -1 if it is malformed.

    Open levels (PS3.5 section 7.5) take a byte each instead of a call: millions of them must not fill the memory.
    """
    beyond = len(reader.data) + 1
    # PS3.5 section 6.2.2: UN of undefined length is implicit VR
    levels = bytearray([_IMPLICIT_LEVEL if reader.is_implicit or vr == b"UN" else 0])
    while levels:
        if position + 8 > len(reader.data):
            return beyond
        step = _step_in_item if levels[-1] & _ITEM_LEVEL else _step_in_sequence
        position = step(reader, position, levels)
        if position < 0:
            return -1
    return position


def _step_in_sequence(reader: HeaderReader, position: int, levels: bytearray) -> int:
    tag, _, start, length = reader.header(position, implicit=True)
    if tag == SEQUENCE_DELIMITATION_ITEM:
        levels.pop()
        return start
    if tag != ITEM:
        return -1
    if length != UNDEFINED_LENGTH:
        return start + length
    levels.append(levels[-1] | _ITEM_LEVEL)
    return start


def _step_in_item(reader: HeaderReader, position: int, levels: bytearray) -> int:
    implicit = levels[-1] & _IMPLICIT_LEVEL
    tag, vr, start, length = reader.header(position, implicit=bool(implicit))
    if tag >> 16 == 0xFFFE:
        if tag != ITEM_DELIMITATION_ITEM:
            return -1
        levels.pop()
        return position + 8
    if length != UNDEFINED_LENGTH:
        return start + length
    levels.append(_IMPLICIT_LEVEL if vr == b"UN" else implicit)
    return start
