"""Which files of an input can be sent, and as what. Reads the beginning of each file.

A C-STORE request names SOP class, SOP instance and, by its presentation context, the transfer syntax (PS3.7 section
9.1.1). The first two are taken from the data set, which is what is sent, the third from the file meta information.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from icf_utils.dicom.elements import DEFLATED, TRANSFER_SYNTAX, Element, Scan
from icf_utils.dicom.header import SOP_CLASS_UID, SOP_INSTANCE_UID, is_bare_dataset, is_dataset, read_head, uid_text
from icf_utils.errors import IcfError, InputRefused, shown
from icf_utils.progress import SILENT, Progress
from icf_utils.results import Notice
from icf_utils.sources.source import Entry, Source

SERIES_INSTANCE_UID, SERIES_NUMBER = 0x0020000E, 0x00200011

_WANTED = frozenset({SOP_CLASS_UID, SOP_INSTANCE_UID, SERIES_INSTANCE_UID, SERIES_NUMBER})
_IMPLICIT, _EXPLICIT, _BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"


@dataclass(frozen=True)
class Image:
    """A file that can be sent. The data set begins at byte ``dataset_at`` of the file; UIDs as in the data set."""

    entry: Entry
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
    images, damaged, skipped, others = [], [], [], 0
    with progress.task("looking", len(source.entries), "files") as task:
        for entry in source.entries:
            found, problem = _look(source, entry)
            names = _series_names(found) if found else set()
            seen |= names & wanted
            if problem:
                damaged.append((entry.name, problem))
            elif found is None:
                skipped.append(Notice("not-an-image", entry.name, "is no DICOM image and was not sent"))
            elif wanted and not names & wanted:
                others += 1
            else:
                images.append(_image(entry, found))
            task.advance(1)
    if missing := sorted(wanted - seen):
        refusals = [(name, "is the number or SeriesInstanceUID of no series here") for name in missing]
        raise InputRefused(source.label, refusals)
    if not images and not damaged:
        raise InputRefused(source.label, [(source.label, "holds no DICOM image")], "Check that this is what you mean.")
    return Listing(tuple(images), tuple(damaged), tuple(skipped), others)


def _look(source: Source, entry: Entry) -> tuple[Scan | None, str]:
    """What is in the head of a file, nothing for one that is no image, and why it cannot be sent."""
    try:
        with source.open(entry) as reader:
            _, found = read_head(reader.read, entry.size, _WANTED)
    except InputRefused as error:
        return None, error.refusals[0][1]
    except IcfError as error:
        return None, str(error)
    if found.is_directory or not ((found.magic and is_dataset(found)) or is_bare_dataset(found)):
        return None, ""
    if found.state in ("cut", "malformed"):
        return None, "is cut off or damaged"
    if (entry.size - found.dataset_at) % 2 and _text(found.meta.get(TRANSFER_SYNTAX)) not in DEFLATED:
        return None, "has a data set of an odd number of bytes, which DICOM forbids and receivers break off at"
    missing = [name for tag, name in _UIDS.items() if not uid_text(found.elements.get(tag))]
    return (None, f"has no usable {' and no '.join(missing)}") if missing else (found, "")


_UIDS = {SOP_CLASS_UID: "SOPClassUID", SOP_INSTANCE_UID: "SOPInstanceUID"}


def _image(entry: Entry, found: Scan) -> Image:
    sop_class, sop_instance = (found.elements[tag] for tag in _UIDS)
    return Image(entry, uid_text(sop_class), uid_text(sop_instance), _transfer_syntax(found), found.dataset_at)


def _transfer_syntax(found: Scan) -> str:
    """As the file says; where it says nothing, as its data set looks."""
    named = _text(found.meta.get(TRANSFER_SYNTAX))
    if named:
        return named
    if found.big_endian:
        return _BIG_ENDIAN
    return _IMPLICIT if found.elements[SOP_CLASS_UID].vr is None else _EXPLICIT


def _text(raw: bytes | None) -> str:
    return uid_text(Element(None, raw or b""))


def _series_names(found: Scan) -> set[str]:
    """What a series may be asked for by."""
    number = found.elements.get(SERIES_NUMBER)
    text = number.raw.decode("ascii", "replace").strip(" \0") if number else ""
    try:
        text = str(int(text))
    except ValueError:
        text = shown(text)
    return {name for name in (text, uid_text(found.elements.get(SERIES_INSTANCE_UID))) if name}
