"""To which project, subject and session XNAT's C-STORE receiver would route images. Reads the beginnings of files.

The rules are those that XNAT 1.8 comes with (XnatDefaultDicomObjectIdentifier, Xnat15DicomProjectIdentifier); an XNAT
whose administrators have added rules asks those first. What is found is taken from patients' data: :func:`visible`
shows of it what is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from icf_utils.dicom.charsets import character_sets, decode_text
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
from icf_utils.dicom.elements import Scan
from icf_utils.progress import SILENT, Progress
from icf_utils.sender.images import Image
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

#: What XNAT calls a session whose images name none.
DEFAULT_SESSION = "dicom_upload"

#: Stands for a value that is not shown.
MASK = "***"


@dataclass(frozen=True)
class LabelChoice:
    """A label and the attribute that it is from (a DICOM keyword); ``assigned``: it stands there as ``Project:X``."""

    label: str
    source: str
    assigned: bool = False


@dataclass(frozen=True)
class Route:
    """Where some images go. XNAT takes the first of ``projects`` that it has and the receiver's user may write to.

    If it has none of them, the images become Unassigned. ``images`` counts them.
    """

    projects: tuple[LabelChoice, ...]
    subject: LabelChoice
    session: LabelChoice
    images: int = 1


def list_routes(source: Source, images: Iterable[Image], progress: Progress = SILENT) -> tuple[Route, ...]:
    """The different routes of an input's images, in the order in which they occur."""
    counts: dict[Route, int] = {}
    entries = [image.entry for image in images]
    for file in scan_files(source, _WANTED, entries=entries, progress=progress, activity="reading labels"):
        found = route_image(_texts(file.header))
        counts[found] = counts.get(found, 0) + 1
    return tuple(Route(one.projects, one.subject, one.session, count) for one, count in counts.items())


def route_image(texts: Mapping[int, str]) -> Route:
    """Where an image goes whose attributes have these values, by tag.

    >>> found = route({PATIENT_COMMENTS: "Project:P1; Session: a-1", PATIENT_NAME: "Doe^J", PATIENT_ID: "7"})
    >>> found.projects[0].label, found.subject.label, found.session.label
    ('P1', 'Doe_J', 'a-1')
    """
    projects = [*_assigned(texts, "Project"), *_whole(texts, STUDY_DESCRIPTION), *_whole(texts, ACCESSION_NUMBER)]
    subjects = [*_assigned(texts, "Subject"), *_whole(texts, PATIENT_NAME)]
    sessions = [*_assigned(texts, "Session"), *_whole(texts, PATIENT_ID)]
    return Route(tuple(projects), _label(subjects, ""), _label(sessions, DEFAULT_SESSION))


def _assigned(texts: Mapping[int, str], name: str) -> list[LabelChoice]:
    """What comments assign: ``Name: value`` at the beginning, else the last one behind a blank, comma or semicolon."""
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


def _texts(head: Scan) -> dict[int, str]:
    declared = head.elements.get(SPECIFIC_CHARACTER_SET)
    charsets = character_sets(declared.raw) if declared else ()
    return {
        tag: decode_text(head.elements[tag].raw, charsets, b"\\^=" if tag == PATIENT_NAME else b"")[0].rstrip(" \0")
        for tag in _NAMES
        if tag in head.elements
    }


def mask_routes(routes: Iterable[Route], identifying: bool) -> tuple[Route, ...]:
    """The routes as they may be shown: projects that comments assign, and where the rest comes from.

    The values themselves are identifying (PS3.15 table E.1-1 lists every one of these attributes): only with
    ``identifying``.
    """
    if identifying:
        return tuple(routes)
    return tuple(
        Route(
            tuple(choice if choice.assigned else _hidden(choice) for choice in one.projects),
            _hidden(one.subject),
            _hidden(one.session),
            one.images,
        )
        for one in routes
    )


def _hidden(choice: LabelChoice) -> LabelChoice:
    return LabelChoice(MASK, choice.source, choice.assigned) if choice.source else choice


def all_name_project(routes: Iterable[Route], project: str) -> bool:
    """Whether all images name ``project`` before any other; identifiers of projects are compared in any case."""
    return all(one.projects and one.projects[0].label.casefold() == project.casefold() for one in routes)
