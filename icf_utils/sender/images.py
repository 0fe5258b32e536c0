"""Which files of an input can be sent, and as what. Reads the beginning of each file.

A C-STORE request names SOP class, SOP instance and, by its presentation context, the transfer syntax (PS3.7 section
9.1.1). The first two are taken from the data set, which is what is sent, the third from the file meta information.
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
    TRANSFER_SYNTAX_UID,
)
from icf_utils.dicom.elements import Header
from icf_utils.errors import IcfError, InputRefused, printable
from icf_utils.progress import SILENT, Progress
from icf_utils.results import Notice
from icf_utils.sources.images import ScannedFile, scan_files
from icf_utils.sources.source import InputFile, Source

_WANTED = frozenset({SOP_CLASS_UID, SOP_INSTANCE_UID, SERIES_INSTANCE_UID, SERIES_NUMBER})


@dataclass(frozen=True)
class Image:
    """A file that can be sent. The data set begins at byte ``dataset_at`` of the file; UIDs as in the data set."""

    entry: InputFile
    sop_class: str
    sop_instance: str
    transfer_syntax: str
    dataset_at: int


@dataclass(frozen=True)
class Listing:
    """What an input holds. ``damaged`` are ``(name, reason)`` of DICOM files that cannot be sent as they are.

    ``skipped`` names the files that are no images, ``other_series`` counts those of series that were not asked for.
    """

    images: tuple[Image, ...]
    damaged: tuple[tuple[str, str], ...] = ()
    skipped: tuple[Notice, ...] = ()
    other_series: int = 0


def list_images(source: Source, series: Iterable[str] = (), progress: Progress = SILENT) -> Listing:
    """The images of an input in its order, of some ``series`` (SeriesNumber or SeriesInstanceUID) if any are named.

    Raises :class:`~icf_utils.errors.InputRefused` for a series that no image is of, and where there is no image.
    """
    wanted, seen = {name.strip() for name in series}, set[str]()
    images: list[Image] = []
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
            images.append(_image(file))
    if missing := sorted(wanted - seen):
        refusals = [(name, "is the number or SeriesInstanceUID of no series here") for name in missing]
        raise InputRefused(source.label, refusals)
    if not images and not damaged:
        raise InputRefused(source.label, [(source.label, "holds no DICOM image")], "Check that this is what you mean.")
    return Listing(tuple(images), tuple(damaged), tuple(skipped), others)


def _problem(file: ScannedFile) -> str:
    """Why an image cannot be sent; empty if it can."""
    found = file.header
    if found.is_damaged:
        return "is cut off or damaged"
    if (file.entry.size - found.dataset_at) % 2 and found.uid(TRANSFER_SYNTAX_UID) not in DEFLATED_TRANSFER_SYNTAXES:
        return "has a data set of an odd number of bytes, which DICOM forbids and receivers break off at"
    missing = [name for tag, name in _UIDS.items() if not found.uid(tag)]
    return f"has no usable {' and no '.join(missing)}" if missing else ""


_UIDS = {SOP_CLASS_UID: "SOPClassUID", SOP_INSTANCE_UID: "SOPInstanceUID"}


def _image(file: ScannedFile) -> Image:
    found = file.header
    sop_class, sop_instance = (found.uid(tag) for tag in _UIDS)
    return Image(file.entry, sop_class, sop_instance, _transfer_syntax(found), found.dataset_at)


def _transfer_syntax(found: Header) -> str:
    """As the file says; where it says nothing, as its data set looks."""
    named = found.uid(TRANSFER_SYNTAX_UID)
    if named:
        return named
    if found.big_endian:
        return EXPLICIT_VR_BIG_ENDIAN
    return IMPLICIT_VR_LITTLE_ENDIAN if found.elements[SOP_CLASS_UID].vr is None else EXPLICIT_VR_LITTLE_ENDIAN


def _series_names(found: Header) -> set[str]:
    """What a series may be asked for by."""
    text = found.ascii_text(SERIES_NUMBER).strip(" ")
    try:
        text = str(int(text))
    except ValueError:
        text = printable(text)
    return {name for name in (text, found.uid(SERIES_INSTANCE_UID)) if name}
