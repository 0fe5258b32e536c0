"""How XNAT lays out a session on its disk: ``SCANS/<scan>/DICOM/<file>``. Reads headers; writes nothing.

The names are those that XNAT's own importer gives (XNAT 1.8: Files, Labels, Restructurer). A scan is named by its
SeriesNumber, or where that cannot be a name, by its SeriesInstanceUID. A file keeps its name, in which ``_`` replaces
each character other than letters, digits, ``_``, ``.`` and ``-``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone

from icf_utils.dicom.constants import (
    SERIES_INSTANCE_UID,
    SERIES_NUMBER,
    SOP_INSTANCE_UID,
    STUDY_DATE,
    STUDY_INSTANCE_UID,
    STUDY_TIME,
)
from icf_utils.dicom.elements import Header
from icf_utils.dicom.header import FACT_TAGS, odd_uids, posix_time
from icf_utils.dicom.uids import describe_odd_uids
from icf_utils.errors import InputRefused
from icf_utils.progress import SILENT, Progress
from icf_utils.results import Notice
from icf_utils.sources.images import scan_files
from icf_utils.sources.source import InputFile, Source
from icf_utils.xnat.labels import to_label

_WANTED = FACT_TAGS | {SERIES_NUMBER}
_FILE_NAME = re.compile(r"[A-Za-z0-9_.-]+")

#: Characters of the longest file name.
_LONGEST = 200


@dataclass(frozen=True)
class PlacedFile:
    """A file of the input and its place below the session's folder, ``SCANS/<scan>/DICOM/<name>``."""

    entry: InputFile
    scan: str
    name: str

    @property
    def place(self) -> str:
        return f"SCANS/{self.scan}/DICOM/{self.name}"


@dataclass(frozen=True)
class SessionLayout:
    """A session: its study, the study's date and time according to the files, and the place of each file.

    ``notices`` name what is left out and what is unusual.
    """

    study_uid: str
    study_time: datetime | None
    files: tuple[PlacedFile, ...]
    notices: tuple[Notice, ...]

    @property
    def size(self) -> int:
        """The size of all files, in bytes."""
        return sum(file.entry.size for file in self.files)

    @property
    def scans(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(file.scan for file in self.files))


@dataclass(frozen=True)
class _Image:
    entry: InputFile
    study: str
    series: str
    number: str
    instance: str
    time: datetime | None


def lay_out_session(source: Source, progress: Progress = SILENT) -> SessionLayout:
    """The place of each image of an input in XNAT's prearchive.

    Raises :class:`~icf_utils.errors.InputRefused` for an input without images, of several studies, or with an image
    that is damaged or belongs to no study or series.
    """
    images, refused, skipped, odd = [], [], [], []
    for file in scan_files(source, _WANTED, progress=progress):
        name = file.entry.name
        if not file.is_image:
            skipped.append(Notice("not-an-image", name, "is not a DICOM image and is left out"))
        elif problem := _problem(file.header):
            refused.append((name, problem))
        else:
            images.append(_image(file.entry, file.header))
            if keywords := odd_uids(file.header):
                odd.append(Notice("odd-uid", name, f"{describe_odd_uids(keywords)}; it is imported unchanged"))
    if refused:
        raise InputRefused(source.label, refused, "Repair or remove these files first.")
    _refuse_mixture(source.label, images)
    scans = scan_names((image.series, image.number) for image in images)
    time = next((image.time for image in images if image.time), None)
    notices = (*skipped, *odd, *_shared_numbers(images, scans), *_repeated(images))
    return SessionLayout(images[0].study, time, tuple(_place(images, scans)), notices)


def scan_names(series: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The name of each scan, by SeriesInstanceUID.

    ``series`` contains SeriesInstanceUID and SeriesNumber of each image. A number that two series share is the name of
    neither, so that each series has a folder of its own.

    >>> scan_names([("1.5", "3"), ("1.6", "4"), ("1.7", "4")])
    {'1.5': '3', '1.6': '1_6', '1.7': '1_7'}
    """
    numbers: dict[str, str] = {}
    for uid, number in series:
        numbers.setdefault(uid, f"_{number[1:]}" if number.startswith("+") else number)
    uses = Counter(name.casefold() for name in numbers.values())
    return {
        uid: name if _is_file_name(name) and uses[name.casefold()] == 1 else to_label(uid)
        for uid, name in numbers.items()
    }


def _is_file_name(name: str) -> bool:
    return _FILE_NAME.fullmatch(name) is not None and not name.startswith(".")


def _problem(head: Header) -> str:
    if head.is_damaged:
        return "is cut off or damaged"
    for tag, keyword in ((STUDY_INSTANCE_UID, "StudyInstanceUID"), (SERIES_INSTANCE_UID, "SeriesInstanceUID")):
        if not head.uid(tag):
            return f"has no usable {keyword}"
    return ""


def _image(entry: InputFile, head: Header) -> _Image:
    study, series, instance = (head.uid(tag) for tag in (STUDY_INSTANCE_UID, SERIES_INSTANCE_UID, SOP_INSTANCE_UID))
    seconds = posix_time(head.ascii_text(STUDY_DATE), head.ascii_text(STUDY_TIME) or "000000", timezone.utc)
    time = None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc).replace(tzinfo=None)
    return _Image(entry, study, series, head.ascii_text(SERIES_NUMBER).strip(), instance, time)


def _refuse_mixture(label: str, images: list[_Image]) -> None:
    if not images:
        raise InputRefused(label, [(label, "contains no DICOM image")], "Check that this is the right folder.")
    first: dict[str, str] = {}
    for image in images:
        first.setdefault(image.study, image.entry.name)
    if len(first) > 1:
        found = [(name, f"belongs to study {uid}") for uid, name in first.items()]
        raise InputRefused(label, found, "An XNAT session is one study: put each study into its own folder.")


def _place(images: list[_Image], scans: dict[str, str]) -> Iterable[PlacedFile]:
    """Place the files under their names; where a scan has several of one name, the later ones get a number."""
    taken: dict[str, set[str]] = {}
    for image in images:
        scan = scans[image.series]
        names = taken.setdefault(scan, set())
        name = _unused(_file_name(image), names)
        names.add(name.casefold())
        yield PlacedFile(image.entry, scan, name)


def _file_name(image: _Image) -> str:
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", image.entry.name.rpartition("/")[2]).lstrip(".")
    return name if name and len(name) <= _LONGEST else f"{image.instance}.dcm"


def _unused(name: str, taken: set[str]) -> str:
    stem, dot, suffix = name.rpartition(".")
    found, count = name, 1
    while found.casefold() in taken:
        count += 1
        found = f"{stem}-{count}{dot}{suffix}" if stem else f"{name}-{count}"
    return found


def _shared_numbers(images: list[_Image], scans: dict[str, str]) -> list[Notice]:
    numbers = {image.series: image.number for image in images}
    uses = Counter(number.casefold() for number in numbers.values())
    why = "is a series with the SeriesNumber of another series; its folder is named by its UID"
    return [Notice("shared-number", uid, why) for uid in scans if numbers[uid] and uses[numbers[uid].casefold()] > 1]


def _repeated(images: list[_Image]) -> list[Notice]:
    seen = set[str]()
    notices = []
    for image in images:
        if image.instance and image.instance in seen:
            notices.append(Notice("same-instance", image.entry.name, "has the SOPInstanceUID of an earlier file"))
        seen.add(image.instance)
    return notices
