"""Which files of a source can be sent. Reads the header of each file.

A C-STORE request names the SOP class, the SOP instance and, through its presentation context, the transfer syntax
(PS3.7 section 9.1.1). The first two are taken from the data set, because only that is sent, the third from the file
meta information.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from icf_utils.dicom.constants import (
    DEFLATED_TRANSFER_SYNTAXES,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    SERIES_INSTANCE_UID,
    SERIES_NUMBER,
    SOP_CLASS_UID,
    SOP_INSTANCE_UID,
    STUDY_INSTANCE_UID,
    TRANSFER_SYNTAX_UID,
)
from icf_utils.dicom.elements import Header
from icf_utils.errors import IcfError, InputRefused, printable
from icf_utils.progress import SILENT, Progress
from icf_utils.results import Notice
from icf_utils.sources.images import ScannedFile, scan_files
from icf_utils.sources.source import InputFile, Source

_WANTED = frozenset({SOP_CLASS_UID, SOP_INSTANCE_UID, SERIES_INSTANCE_UID, SERIES_NUMBER, STUDY_INSTANCE_UID})


@dataclass(frozen=True)
class SendableImage:
    """A file that can be sent. The UIDs are those of the data set, which begins at byte ``dataset_at`` of the file."""

    entry: InputFile
    sop_class: str
    sop_instance: str
    transfer_syntax: str
    dataset_at: int
    study_uid: str = ""


@dataclass(frozen=True)
class SendPlan:
    """What is sent of a source. ``damaged`` are ``(name, reason)`` of DICOM files that cannot be sent.

    ``skipped`` names the files that are not images, ``other_series`` counts the images of series that were not
    selected.
    """

    images: tuple[SendableImage, ...]
    damaged: tuple[tuple[str, str], ...] = ()
    skipped: tuple[Notice, ...] = ()
    other_series: int = 0


def list_images(source: Source, series: Iterable[str] = (), progress: Progress = SILENT) -> SendPlan:
    """List the images of a source in its order; ``series`` selects some by SeriesNumber or SeriesInstanceUID.

    Raises :class:`~icf_utils.errors.InputRefused` if a selected series has no image, or if the source has none.
    """
    wanted, seen = {name.strip() for name in series}, set[str]()
    images: list[SendableImage] = []
    damaged: list[tuple[str, str]] = []
    skipped: list[Notice] = []
    others = 0

    def unreadable(entry: InputFile, error: IcfError) -> None:
        reason = error.refusals[0][1] if isinstance(error, InputRefused) else str(error)
        damaged.append((entry.name, reason))

    for file in scan_files(source, _WANTED, progress=progress, on_failure=unreadable):
        name = file.entry.name
        if not file.is_image:
            skipped.append(Notice("not-an-image", name, "is not a DICOM image and was not sent"))
            continue
        if problem := _problem(file):
            damaged.append((name, problem))
            continue
        names = _series_names(file.header)
        seen |= names & wanted
        if wanted and not names & wanted:
            others += 1
        else:
            images.append(_sendable_image(file))
    if missing := sorted(wanted - seen):
        refusals = [
            (name, "is neither the SeriesNumber nor the SeriesInstanceUID of a series in this source")
            for name in missing
        ]
        raise InputRefused(source.label, refusals)
    if not images and not damaged:
        raise InputRefused(source.label, [(source.label, "contains no DICOM images")], "Check the path.")
    return SendPlan(tuple(images), tuple(damaged), tuple(skipped), others)


def _problem(file: ScannedFile) -> str:
    """Why an image cannot be sent; empty if it can."""
    found = file.header
    if found.is_damaged:
        return "is truncated or damaged"
    if (file.entry.size - found.dataset_at) % 2 and found.uid(TRANSFER_SYNTAX_UID) not in DEFLATED_TRANSFER_SYNTAXES:
        return "has a data set with an odd number of bytes, which DICOM does not allow and at which receivers abort"
    missing = [name for tag, name in _UIDS.items() if not found.valid_uid(tag)]
    return f"has no valid {' and no '.join(missing)}" if missing else ""


_UIDS = {SOP_CLASS_UID: "SOPClassUID", SOP_INSTANCE_UID: "SOPInstanceUID"}


def _sendable_image(file: ScannedFile) -> SendableImage:
    found = file.header
    sop_class, sop_instance = (found.uid(tag) for tag in _UIDS)
    study_uid = found.uid(STUDY_INSTANCE_UID)
    return SendableImage(file.entry, sop_class, sop_instance, _transfer_syntax(found), found.dataset_at, study_uid)


def _transfer_syntax(found: Header) -> str:
    """The transfer syntax of the file meta information; without any, that in which the data set was parsed."""
    named = found.uid(TRANSFER_SYNTAX_UID)
    if named:
        return named
    if found.big_endian:
        return EXPLICIT_VR_BIG_ENDIAN
    return IMPLICIT_VR_LITTLE_ENDIAN if found.elements[SOP_CLASS_UID].vr is None else EXPLICIT_VR_LITTLE_ENDIAN


def _series_names(found: Header) -> set[str]:
    """The texts that select the series of an image."""
    text = found.ascii_text(SERIES_NUMBER).strip(" ")
    try:
        text = str(int(text))
    except ValueError:
        text = printable(text)
    return {name for name in (text, found.uid(SERIES_INSTANCE_UID)) if name}
