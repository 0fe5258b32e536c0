"""Read the head of a file, and say what kind of file it is and which study it belongs to.

The head is read once and in sequence through a given function, as much of it as the DICOM header takes. Whether a file
is a DICOM image is decided here, by :func:`file_kind`, for every command. Pure.
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
    PATIENT_ID,
    SEQUENCE_DELIMITATION_ITEM,
    SERIES_INSTANCE_UID,
    SOP_CLASS_UID,
    SOP_INSTANCE_UID,
    STUDY_DATE,
    STUDY_INSTANCE_UID,
    STUDY_TIME,
    UNDEFINED_LENGTH,
)
from icf_utils.dicom.elements import HEAD_LIMIT, Header, scan_header

#: Bytes of the first read: most images are smaller, most headers much smaller.
FIRST_READ = 1 << 20


def read_head(read: Callable[[int], bytes], size: int, wanted: frozenset[int]) -> tuple[bytes, Header]:
    """Read the beginning of a file of ``size`` bytes and scan it; returns the bytes and the scan.

    ``read(n)`` returns up to ``n`` bytes, nothing at the end. A small file is read completely; of a large one the first
    mebibyte is read, and more if its DICOM header is longer. If the whole file was read, encapsulated pixel data
    without an end counts as ``cut``. :data:`IDENTITY_TAGS` are added to ``wanted``.
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
    """Set the state to ``cut`` if encapsulated pixel data lacks its end.

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
    """Whether encapsulated pixel data (PS3.5 section A.4) has all its fragments and the delimiter.

    ``read_at(position, n)`` returns up to ``n`` bytes of the file; ``position`` is the start of the value.
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


#: The UIDs that distinguish a data set from other bytes.
IDENTITY_TAGS = frozenset({SOP_CLASS_UID, SOP_INSTANCE_UID, STUDY_INSTANCE_UID})

#: The tags that :func:`file_facts` needs.
FACT_TAGS = IDENTITY_TAGS | {SERIES_INSTANCE_UID, STUDY_DATE, STUDY_TIME, PATIENT_ID}


class FileKind(Enum):
    """What a file is, judged by its head."""

    #: A DICOM file that holds an instance, with or without pixels.
    IMAGE = "image"
    #: The same without preamble; accepted only with proof (see :func:`file_kind`).
    BARE_IMAGE = "image without preamble"
    #: A DICOMDIR (PS3.10 section 8).
    DIRECTORY = "DICOMDIR"
    #: A file that begins like DICOM but has no data set.
    UNREADABLE = "unreadable"
    #: Not DICOM.
    OTHER = "other"

    @property
    def is_image(self) -> bool:
        """Whether the file counts as a DICOM image."""
        return self in (FileKind.IMAGE, FileKind.BARE_IMAGE)


def file_kind(found: Header) -> FileKind:
    """Classify a scanned file; the scan must have asked for :data:`IDENTITY_TAGS`.

    A data set begins with an element of group 0004 or 0008 or, if its elements are not sorted, has one of the UIDs, or
    consists of other elements, such as private ones, up to the end of the file. Without preamble, SOPClassUID and
    SOPInstanceUID must both be present and valid.
    """
    if found.has_preamble:
        if found.is_directory:
            return FileKind.DIRECTORY
        return FileKind.IMAGE if _is_dataset(found) else FileKind.UNREADABLE
    is_proved = found.valid_uid(SOP_CLASS_UID) and found.valid_uid(SOP_INSTANCE_UID) and not found.is_directory
    return FileKind.BARE_IMAGE if is_proved else FileKind.OTHER


def _is_dataset(found: Header) -> bool:
    if any(map(found.uid, IDENTITY_TAGS)):
        return True
    return found.count > 0 and (found.first_group in (0x0004, 0x0008) or (found.state == "whole" and bool(found.meta)))


@dataclass(frozen=True)
class FileFacts:
    """What an archive needs to know of a file.

    ``time``: StudyDate and StudyTime in seconds since 1970 (POSIX), ``None`` if unusable or in files without preamble.
    ``study_uid``, ``sop_uid`` and ``patient_id`` (as encoded, without padding): empty if absent, the latter two also in
    files that are not images. ``odd_uids``: keywords of the UIDs of an image that are not valid. ``is_cut``: the file
    begins like DICOM but ends inside an element, or has no data set.
    """

    kind: FileKind
    time: float | None
    study_uid: str
    is_cut: bool
    sop_uid: str = ""
    odd_uids: tuple[str, ...] = ()
    patient_id: bytes = b""


def file_facts(found: Header, zone: tzinfo) -> FileFacts:
    """Collect the facts from a scan for :data:`FACT_TAGS`; ``zone`` is the time zone of study times."""
    kind = file_kind(found)
    has_time = kind in (FileKind.IMAGE, FileKind.DIRECTORY)
    return FileFacts(
        kind=kind,
        time=posix_time(found.ascii_text(STUDY_DATE), found.ascii_text(STUDY_TIME), zone) if has_time else None,
        study_uid=found.uid(STUDY_INSTANCE_UID),
        sop_uid=found.uid(SOP_INSTANCE_UID) if kind.is_image else "",
        odd_uids=odd_uids(found) if kind.is_image else (),
        patient_id=patient_id(found) if kind.is_image else b"",
        is_cut=kind is FileKind.UNREADABLE or (found.is_damaged and kind is not FileKind.OTHER),
    )


def patient_id(found: Header) -> bytes:
    """The PatientID (0010,0020) as encoded, without padding; empty if absent."""
    patient = found.elements.get(PATIENT_ID)
    return patient.raw.strip(b" \0") if patient else b""


_UID_NAMES = {
    SOP_CLASS_UID: "SOPClassUID",
    STUDY_INSTANCE_UID: "StudyInstanceUID",
    SERIES_INSTANCE_UID: "SeriesInstanceUID",
    SOP_INSTANCE_UID: "SOPInstanceUID",
}

#: The UIDs of an image; the tags that :func:`odd_uids` looks at.
IMAGE_UIDS = frozenset(_UID_NAMES)


def odd_uids(found: Header) -> tuple[str, ...]:
    """The keywords of an image's UIDs that are present and not valid; the scan asked for :data:`IMAGE_UIDS`."""
    return tuple(name for tag, name in _UID_NAMES.items() if _is_odd(found, tag))


def _is_odd(found: Header, tag: int) -> bool:
    """Whether a UID is present and not valid."""
    element = found.elements.get(tag)
    return element is not None and element.raw.strip(b" \0") != b"" and not found.valid_uid(tag)


_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_TIME = re.compile(r"([01]\d|2[0-3])(?:([0-5]\d)(?:([0-5]\d|60)(?:\.(\d{0,6}))?)?)?\n?", re.ASCII)


@lru_cache(maxsize=1024)
def posix_time(date: str, time: str, zone: tzinfo) -> float | None:
    """Convert a DA and a TM value (PS3.5 table 6.2-1) in ``zone`` to seconds since 1970; ``None`` if unusable.

    The fraction is kept. Second 60 counts as 59; the retired date form ``YYYY.MM.DD`` is accepted, the retired time
    form is not; a space may replace a leading zero of a date. This determines bytes of archives, and is what pydicom,
    and so the facility's original tool, does.

    >>> posix_time("20200229", "101112.5", timezone.utc)
    1582971072.5
    """
    clock = _TIME.fullmatch(time)
    if not clock:
        return None
    hour, minute, second = (int(part or 0) for part in clock.groups()[:3])
    try:
        moment = datetime(*_date(date), hour, minute, min(second, 59))  # noqa: DTZ001 - the zone is applied below
        offset = zone.utcoffset(moment.replace(tzinfo=zone)) or timedelta(0)
    except (ValueError, OverflowError):
        return None
    seconds = (moment.replace(tzinfo=timezone.utc) - _EPOCH - offset).total_seconds()
    # a sum of two floats, as in datetime.timestamp(): near 1970 this is not the float nearest to the exact sum
    return seconds + int((clock[4] or "").ljust(6, "0")) / 1e6


def _date(text: str) -> tuple[int, int, int]:
    """Split a date into year, month and day. Raises ``ValueError``."""
    if len(text) == 10 and text[4] == text[7] == ".":
        text = text[:4] + text[5:7] + text[8:]
    if len(text) != 8:
        raise ValueError("a date has eight characters")
    return int(text[:4]), int(text[4:6]), int(text[6:])
