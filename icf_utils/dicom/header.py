"""As much of a file's beginning as its DICOM header takes, read once and in sequence by a given function.

What an archive needs to know of a file: is it DICOM, when was the study, which study. Pure.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from functools import lru_cache

from icf_utils.dicom.elements import (
    HEAD_LIMIT,
    ITEM,
    SEQUENCE_END,
    SPECIFIC_CHARACTER_SET,
    UNDEFINED,
    Element,
    Scan,
    scan,
)

#: What is read at first, in bytes: most images are smaller, most headers much smaller.
FIRST_READ = 1 << 20


def read_head(read: Callable[[int], bytes], size: int, wanted: frozenset[int]) -> tuple[bytes, Scan]:
    """The beginning of a file of ``size`` bytes, and what is in it.

    ``read(n)`` returns up to ``n`` bytes, nothing at the end. The whole of a small file is returned; of a large one
    its first mebibyte, or more where its header goes on. What is no DICOM file is not read on. Where the whole file
    was read, encapsulated pixel data without an end counts as ``cut``.
    """
    head = _read_up_to(read, min(size, FIRST_READ))
    found = scan(head, size, wanted)
    while found.magic and found.state == "more" and len(head) < HEAD_LIMIT:
        more = _read_up_to(read, min(size, HEAD_LIMIT, 4 * len(head)) - len(head))
        if not more:
            break
        head += more
        found = scan(head, size, wanted)
    if len(head) == size:
        check_pixels(found, lambda at, count: head[at : at + count])
    return head, found


def check_pixels(found: Scan, read_at: Callable[[int, int], bytes]) -> None:
    """Set the state to ``cut`` where encapsulated pixel data does not run up to its end.

    ``read_at(position, n)`` returns up to ``n`` bytes of the file.
    """
    if found.pixels and found.pixels[1] < 0 and not encapsulated_is_whole(read_at, found.pixels[0]):
        found.state = "cut"


def _read_up_to(read: Callable[[int], bytes], size: int) -> bytes:
    first = read(size)
    if len(first) == size:
        return first
    blocks, missing = [first], size - len(first)
    while missing and (block := read(missing)):
        blocks.append(block)
        missing -= len(block)
    return b"".join(blocks)


def encapsulated_is_whole(read_at: Callable[[int, int], bytes], position: int) -> bool:
    """Whether encapsulated pixel data (PS3.5 section A.4) runs up to its delimiter.

    ``read_at(position, n)`` returns up to ``n`` bytes of the file; ``position`` is where the value starts.
    """
    while True:
        block = read_at(position, 8)
        if len(block) < 8:
            return False
        group, element, length = struct.unpack("<HHL", block)
        tag = group << 16 | element
        if tag == SEQUENCE_END:
            return True
        if tag != ITEM or length == UNDEFINED:
            return False
        position += 8 + length


STUDY_DATE, STUDY_TIME = 0x00080020, 0x00080030
SOP_CLASS_UID, SOP_INSTANCE_UID, STUDY_INSTANCE_UID = 0x00080016, 0x00080018, 0x0020000D

#: The tags that :func:`file_facts` looks at.
FACT_TAGS = frozenset({STUDY_DATE, STUDY_TIME, SOP_CLASS_UID, SOP_INSTANCE_UID, STUDY_INSTANCE_UID})

#: What a scan must return so that a caller can decode text.
TEXT_TAGS = frozenset({SPECIFIC_CHARACTER_SET})

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_TIME = re.compile(r"([01]\d|2[0-3])(?:([0-5]\d)(?:([0-5]\d|60)(?:\.(\d{0,6}))?)?)?\n?", re.ASCII)
_UID = re.compile(r"[0-9]+(\.[0-9]+)+", re.ASCII)


@dataclass(frozen=True)
class FileFacts:
    """What the head of a file says.

    ``is_dicom``: it has preamble, prefix and at least the beginning of a data set. ``looks_bare``: no preamble, yet
    certainly a DICOM data set. ``time``: StudyDate and StudyTime in seconds since 1970 (POSIX), ``None`` where there
    is no usable one. ``study_uid``: empty where absent. ``is_cut``: it begins like DICOM and ends inside an element, or
    what follows is no data set.
    """

    is_dicom: bool
    looks_bare: bool
    is_directory: bool
    time: float | None
    study_uid: str
    is_cut: bool


def file_facts(found: Scan, zone: tzinfo) -> FileFacts:
    """The facts in a scan for :data:`FACT_TAGS`; ``zone`` is the time zone that study times are taken in."""
    is_dicom = found.magic and is_dataset(found)
    return FileFacts(
        is_dicom=is_dicom,
        looks_bare=is_bare_dataset(found),
        is_directory=is_dicom and found.is_directory,
        time=posix_time(_ascii(found, STUDY_DATE), _ascii(found, STUDY_TIME), zone) if is_dicom else None,
        study_uid=uid_text(found.elements.get(STUDY_INSTANCE_UID)),
        is_cut=(found.state in ("cut", "malformed") and (is_dicom or is_bare_dataset(found)))
        or (found.magic and not is_dicom),
    )


def is_dataset(found: Scan) -> bool:
    """Whether what follows the file meta information begins like a data set, or is a DICOMDIR.

    The first element is of group 0004 or 0008, or, where somebody has not sorted them, one of the UIDs is there.
    """
    if found.is_directory or (found.count > 0 and found.first_group in (0x0004, 0x0008)):
        return True
    uids = (SOP_CLASS_UID, SOP_INSTANCE_UID, STUDY_INSTANCE_UID)
    return any(uid_text(found.elements.get(tag)) for tag in uids)


def is_bare_dataset(found: Scan) -> bool:
    """Whether a file without preamble is DICOM for certain: a data set with well-formed SOP class and instance."""
    uids = (SOP_CLASS_UID, SOP_INSTANCE_UID)
    return not found.magic and is_dataset(found) and all(uid_text(found.elements.get(tag)) for tag in uids)


def uid_text(element: Element | None) -> str:
    """A UID's text (PS3.5 section 9.1), empty where there is none or it is malformed."""
    text = element.raw.decode("ascii", "replace").strip(" \0") if element else ""
    return text if len(text) <= 64 and _UID.fullmatch(text) else ""


def _ascii(found: Scan, tag: int) -> str:
    element = found.elements.get(tag)
    if element is None or element.vr == "SQ":
        return ""
    return element.raw.decode("ascii", "replace").rstrip(" \0")


@lru_cache(maxsize=1024)
def posix_time(date: str, time: str, zone: tzinfo) -> float | None:
    """Seconds since 1970 of a DA and a TM value (PS3.5 table 6.2-1) in ``zone``, with fractions; ``None`` if unusable.

    Second 60 counts as 59, the retired date form ``YYYY.MM.DD`` is understood, the retired time form is not, a blank
    may stand for a leading zero of a date: this decides about bytes, and is what pydicom and thus the facility's
    original tool does.

    >>> posix_time("20200229", "101112.5", timezone.utc)
    1582971072.5
    """
    clock = _TIME.fullmatch(time)
    if not clock:
        return None
    hour, minute, second = (int(part or 0) for part in clock.groups()[:3])
    try:
        moment = datetime(*_date(date), hour, minute, min(second, 59))  # noqa: DTZ001 - the zone follows
        offset = zone.utcoffset(moment.replace(tzinfo=zone)) or timedelta(0)
    except (ValueError, OverflowError):
        return None
    seconds = (moment.replace(tzinfo=timezone.utc) - _EPOCH - offset).total_seconds()
    # a sum of two floats, as in datetime.timestamp(): near 1970 it is not the float nearest to the true sum
    return seconds + int((clock[4] or "").ljust(6, "0")) / 1e6


def _date(text: str) -> tuple[int, int, int]:
    """Year, month and day; ``ValueError`` where there is something else."""
    if len(text) == 10 and text[4] == text[7] == ".":
        text = text[:4] + text[5:7] + text[8:]
    if len(text) != 8:
        raise ValueError("a date has eight characters")
    return int(text[:4]), int(text[4:6]), int(text[6:])
