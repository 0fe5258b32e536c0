"""Read and write the beginning of a DICOM file: preamble, prefix and file meta information (PS3.10 section 7.1).

Pure: bytes in, bytes out. The reader expects damage: it never raises, believes no length beyond the file's size, and
reads file meta information even if the preamble is missing. The writer produces the same bytes for the same image: they
depend on no time, machine or version of this program.
"""

from __future__ import annotations

import struct
from typing import Literal, NamedTuple

from icf_utils.dicom.constants import (
    FILE_META_INFORMATION_GROUP_LENGTH,
    FILE_META_INFORMATION_VERSION,
    IMPLEMENTATION_CLASS_UID,
    LONG_HEADER_VRS,
    MEDIA_STORAGE_SOP_CLASS_UID,
    MEDIA_STORAGE_SOP_INSTANCE_UID,
    TRANSFER_SYNTAX_UID,
)

#: 128 arbitrary bytes, then ``DICM``.
PREAMBLE_SIZE, PREFIX = 128, b"DICM"

#: Identifies this package in the files that it writes (PS3.7 section D.3.3.2): a UID from a UUID (PS3.5 section B.2).
IMPLEMENTATION_UID = "2.25.89522051466358778486548207486004645830"

_GROUP = 0x0002
_LONG_VRS = frozenset(vr.encode("ascii") for vr in LONG_HEADER_VRS)


class FileMeta(NamedTuple):
    """Preamble and file meta information of a file.

    ``has_preamble``: preamble and prefix are present. ``elements``: the values of group 0002 by tag. ``end``: byte
    position of the data set. ``state``: ``cut`` if the file ends before it, ``more`` if only the given part does.
    """

    has_preamble: bool
    elements: dict[int, bytes]
    end: int
    state: Literal["whole", "cut", "more"] = "whole"


def has_preamble(head: bytes) -> bool:
    """Whether a file that starts with ``head`` has preamble and prefix."""
    return head[PREAMBLE_SIZE : PREAMBLE_SIZE + len(PREFIX)] == PREFIX


def read_file_meta(head: bytes, size: int) -> FileMeta:
    """Read everything in front of the data set; group 0002 is explicit VR little endian in every file.

    ``head`` is the beginning of a file of ``size`` bytes. Never raises.
    """
    found = has_preamble(head)
    elements: dict[int, bytes] = {}
    position = PREAMBLE_SIZE + len(PREFIX) if found else 0
    while position + 8 <= len(head) and head[position : position + 2] == b"\2\0":
        tag = _GROUP << 16 | int.from_bytes(head[position + 2 : position + 4], "little")
        vr, start = head[position + 4 : position + 6], position + 8
        if vr in _LONG_VRS:
            start, length = position + 12, int.from_bytes(head[position + 8 : position + 12], "little")
        else:
            length = int.from_bytes(head[position + 6 : position + 8], "little")
        if start + length > len(head):
            return FileMeta(found, elements, position, "cut" if start + length > size else "more")
        elements[tag] = head[start : start + length]
        position = start + length
    if position + 8 > len(head):
        return FileMeta(found, elements, position, "more" if len(head) < size else "cut")
    return FileMeta(found, elements, position)


def write_file_meta(sop_class: str, sop_instance: str, transfer_syntax: str) -> bytes:
    """Make preamble, prefix and file meta information of an image; its data set follows them in the file."""
    elements = (
        _element(FILE_META_INFORMATION_VERSION, b"OB", b"\0\1")
        + _element(MEDIA_STORAGE_SOP_CLASS_UID, b"UI", _padded(sop_class))
        + _element(MEDIA_STORAGE_SOP_INSTANCE_UID, b"UI", _padded(sop_instance))
        + _element(TRANSFER_SYNTAX_UID, b"UI", _padded(transfer_syntax))
        + _element(IMPLEMENTATION_CLASS_UID, b"UI", _padded(IMPLEMENTATION_UID))
    )
    length = _element(FILE_META_INFORMATION_GROUP_LENGTH, b"UL", struct.pack("<L", len(elements)))
    return bytes(PREAMBLE_SIZE) + PREFIX + length + elements


def _element(tag: int, vr: bytes, value: bytes) -> bytes:
    form = "<HH2s2xL" if vr in _LONG_VRS else "<HH2sH"
    return struct.pack(form, tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def _padded(uid: str) -> bytes:
    return uid.encode("ascii") + b"\0" * (len(uid) % 2)
