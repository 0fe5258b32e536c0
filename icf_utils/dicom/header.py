"""As much of a file's beginning as its DICOM header takes, read once and in sequence by a given function.

What an archive needs to know of a file: is it DICOM, when was the study, which study. Pure.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from enum import Enum
from functools import lru_cache

from icf_utils.dicom.constants import (
    ITEM,
    SEQUENCE_DELIMITATION_ITEM,
    SOP_CLASS_UID,
    SOP_INSTANCE_UID,
    STUDY_DATE,
    STUDY_INSTANCE_UID,
    STUDY_TIME,
    UNDEFINED_LENGTH,
)
from icf_utils.dicom.elements import HEAD_LIMIT, Header, scan_header

#: What is read at first, in bytes: most images are smaller, most headers much smaller.
FIRST_READ = 1 << 20


def read_head(read: Callable[[int], bytes], size: int, wanted: frozenset[int]) -> tuple[bytes, Header]:
    """The beginning of a file of ``size`` bytes, and what is in it.

    ``read(n)`` returns up to ``n`` bytes, nothing at the end. The whole of a small file is returned; of a large one
    its first mebibyte, or more where its header goes on. What is not a DICOM file is not read on. Where the whole file
    was read, encapsulated pixel data without an end counts as ``cut``.
    """
    wanted = wanted if wanted >= IDENTITY_TAGS else wanted | IDENTITY_TAGS
    head = _read_up_to(read, min(size, FIRST_READ))
    found = scan_header(head, size, wanted)
    while found.has_preamble and found.state == "more" and len(head) < HEAD_LIMIT:
        more = _read_up_to(read, min(size, HEAD_LIMIT, 4 * len(head)) - len(head))
        if not more:
            break
        head += more
        found = scan_header(head, size, wanted)
    if len(head) == size:
        check_pixels(found, lambda at, count: head[at : at + count])
    return head, found


def check_pixels(found: Header, read_at: Callable[[int, int], bytes]) -> None:
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
        if tag == SEQUENCE_DELIMITATION_ITEM:
            return True
        if tag != ITEM or length == UNDEFINED_LENGTH:
            return False
        position += 8 + length


#: The UIDs that tell a data set from other bytes; they are among the elements of every scan by :func:`read_head`.
IDENTITY_TAGS = frozenset({SOP_CLASS_UID, SOP_INSTANCE_UID, STUDY_INSTANCE_UID})

#: The tags that :func:`file_facts` looks at.
FACT_TAGS = IDENTITY_TAGS | {STUDY_DATE, STUDY_TIME}


class FileKind(Enum):
    """What a file is, as far as its head tells."""

    #: A DICOM file that holds an instance, with or without pixels.
    IMAGE = "image"
    #: The same without preamble, which needs proof.
    BARE_IMAGE = "image without preamble"
    #: A DICOMDIR (PS3.10 section 8).
    DIRECTORY = "DICOMDIR"
    #: It begins like a DICOM file, and no data set follows.
    UNREADABLE = "unreadable"
    #: Not DICOM.
    OTHER = "other"

    @property
    def is_image(self) -> bool:
        """Whether the file is a DICOM image; the answer is the same in every command."""
        return self in (FileKind.IMAGE, FileKind.BARE_IMAGE)


def file_kind(found: Header) -> FileKind:
    """What kind of file was scanned; the scan must have asked for :data:`IDENTITY_TAGS`.

    A data set begins with an element of group 0004 or 0008, or, where somebody has not sorted the elements, has one of
    the UIDs. Without preamble, SOP class and SOP instance must both be there and well-formed.
    """
    if found.has_preamble:
        if found.is_directory:
            return FileKind.DIRECTORY
        return FileKind.IMAGE if _is_dataset(found) else FileKind.UNREADABLE
    is_proved = found.uid(SOP_CLASS_UID) and found.uid(SOP_INSTANCE_UID) and not found.is_directory
    return FileKind.BARE_IMAGE if is_proved else FileKind.OTHER


def _is_dataset(found: Header) -> bool:
    return (found.count > 0 and found.first_group in (0x0004, 0x0008)) or any(map(found.uid, IDENTITY_TAGS))


@dataclass(frozen=True)
class FileFacts:
    """What an archive needs to know of a file.

    ``time``: StudyDate and StudyTime in seconds since 1970 (POSIX), ``None`` where there is no usable one, and in files
    without preamble. ``study_uid``: empty where absent. ``is_cut``: it begins like DICOM and ends inside an element, or
    what follows is not a data set.
    """

    kind: FileKind
    time: float | None
    study_uid: str
    is_cut: bool


def file_facts(found: Header, zone: tzinfo) -> FileFacts:
    """The facts in a scan for :data:`FACT_TAGS`; ``zone`` is the time zone that study times are taken in."""
    kind = file_kind(found)
    has_time = kind in (FileKind.IMAGE, FileKind.DIRECTORY)
    return FileFacts(
        kind=kind,
        time=posix_time(found.ascii_text(STUDY_DATE), found.ascii_text(STUDY_TIME), zone) if has_time else None,
        study_uid=found.uid(STUDY_INSTANCE_UID),
        is_cut=kind is FileKind.UNREADABLE or (found.is_damaged and kind is not FileKind.OTHER),
    )


_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_TIME = re.compile(r"([01]\d|2[0-3])(?:([0-5]\d)(?:([0-5]\d|60)(?:\.(\d{0,6}))?)?)?\n?", re.ASCII)


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
