"""To which project, subject and session XNAT's C-STORE receiver would route images. Reads headers.

The rules are XNAT 1.8's own (XnatDefaultDicomObjectIdentifier, Xnat15DicomProjectIdentifier). Rules that the
administrators of an XNAT have added come before these, and are not known here. The labels are taken from patients'
data; :func:`mask_routes` hides them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from icf_utils.dicom.charsets import decode_text, parse_character_sets
from icf_utils.dicom.constants import (
    ACCESSION_NUMBER,
    ADDITIONAL_PATIENT_HISTORY,
    PATIENT_COMMENTS,
    PATIENT_ID,
    PATIENT_NAME,
    SPECIFIC_CHARACTER_SET,
    STUDY_COMMENTS,
    STUDY_DESCRIPTION,
)
from icf_utils.dicom.elements import Header
from icf_utils.progress import SILENT, Progress
from icf_utils.sender.images import SendableImage
from icf_utils.sources.images import scan_files
from icf_utils.sources.source import Source
from icf_utils.xnat.labels import to_label

_NAMES = {
    PATIENT_COMMENTS: "PatientComments",
    STUDY_COMMENTS: "StudyComments",
    ADDITIONAL_PATIENT_HISTORY: "AdditionalPatientHistory",
    STUDY_DESCRIPTION: "StudyDescription",
    ACCESSION_NUMBER: "AccessionNumber",
    PATIENT_NAME: "PatientName",
    PATIENT_ID: "PatientID",
}
_COMMENTS = (PATIENT_COMMENTS, STUDY_COMMENTS, ADDITIONAL_PATIENT_HISTORY)
_WANTED = frozenset({SPECIFIC_CHARACTER_SET, *_NAMES})

#: The label that XNAT gives a session whose images name none.
DEFAULT_SESSION = "dicom_upload"

#: Shown instead of a value that may identify a patient.
MASK = "***"


@dataclass(frozen=True)
class LabelChoice:
    """A label, and the keyword of the DICOM attribute that it comes from.

    ``assigned`` says that the attribute, a comment, contains it in the form ``Project:X``.
    """

    label: str
    source: str
    assigned: bool = False


@dataclass(frozen=True)
class ImageRoute:
    """Where some images go; ``images`` is their number.

    XNAT takes the first of ``projects`` that exists and that the receiver's user may write to. If there is none, the
    images become Unassigned.
    """

    projects: tuple[LabelChoice, ...]
    subject: LabelChoice
    session: LabelChoice
    images: int = 1


def list_routes(source: Source, images: Iterable[SendableImage], progress: Progress = SILENT) -> tuple[ImageRoute, ...]:
    """The different routes of an input's images, in the order in which they occur."""
    counts: dict[ImageRoute, int] = {}
    entries = [image.entry for image in images]
    for file in scan_files(source, _WANTED, entries=entries, progress=progress, activity="reading labels"):
        found = route_image(_texts(file.header))
        counts[found] = counts.get(found, 0) + 1
    return tuple(ImageRoute(one.projects, one.subject, one.session, count) for one, count in counts.items())


def route_image(texts: Mapping[int, str]) -> ImageRoute:
    """Where an image goes whose attributes have these values (by tag).

    >>> found = route_image({PATIENT_COMMENTS: "Project:P1; Session: a-1", PATIENT_NAME: "Doe^J", PATIENT_ID: "7"})
    >>> found.projects[0].label, found.subject.label, found.session.label
    ('P1', 'Doe_J', 'a-1')
    """
    projects = [*_assigned(texts, "Project"), *_whole(texts, STUDY_DESCRIPTION), *_whole(texts, ACCESSION_NUMBER)]
    subjects = [*_assigned(texts, "Subject"), *_whole(texts, PATIENT_NAME)]
    sessions = [*_assigned(texts, "Session"), *_whole(texts, PATIENT_ID)]
    return ImageRoute(tuple(projects), _label(subjects, ""), _label(sessions, DEFAULT_SESSION))


def _assigned(texts: Mapping[int, str], name: str) -> list[LabelChoice]:
    """What comments assign: ``Name: value`` at the beginning, else the last one after a space, comma or semicolon."""
    pattern = rf"(?:\A|.*[\s,;]){name}\s*:\s*([\w-]*)(?:[\s,;].*)?\n?\Z"
    found = ((tag, re.search(pattern, texts.get(tag, ""), re.IGNORECASE | re.ASCII)) for tag in _COMMENTS)
    return [LabelChoice(match[1], _NAMES[tag], assigned=True) for tag, match in found if match and match[1]]


def _whole(texts: Mapping[int, str], tag: int) -> list[LabelChoice]:
    text = texts.get(tag, "").strip()
    return [LabelChoice(text, _NAMES[tag])] if text else []


def _label(choices: list[LabelChoice], otherwise: str) -> LabelChoice:
    if not choices:
        return LabelChoice(otherwise, "")
    return LabelChoice(to_label(choices[0].label), choices[0].source, choices[0].assigned)


def _texts(head: Header) -> dict[int, str]:
    declared = head.elements.get(SPECIFIC_CHARACTER_SET)
    charsets = parse_character_sets(declared.raw) if declared else ()
    return {
        tag: decode_text(head.elements[tag].raw, charsets, b"\\^=" if tag == PATIENT_NAME else b"")[0].rstrip(" \0")
        for tag in _NAMES
        if tag in head.elements
    }


def mask_routes(routes: Iterable[ImageRoute], identifying: bool) -> tuple[ImageRoute, ...]:
    """The routes with :data:`MASK` instead of each label, except projects that comments assign.

    With ``identifying``, the routes as they are. All of these attributes are listed in PS3.15, table E.1-1.
    """
    if identifying:
        return tuple(routes)
    return tuple(
        ImageRoute(
            tuple(choice if choice.assigned else _masked(choice) for choice in one.projects),
            _masked(one.subject),
            _masked(one.session),
            one.images,
        )
        for one in routes
    )


def _masked(choice: LabelChoice) -> LabelChoice:
    return LabelChoice(MASK, choice.source, choice.assigned) if choice.source else choice


def all_name_project(routes: Iterable[ImageRoute], project: str) -> bool:
    """Whether all images name ``project`` before any other; XNAT's project IDs do not depend on case."""
    return all(one.projects and one.projects[0].label.casefold() == project.casefold() for one in routes)
