"""To which project, subject and session XNAT's receiver would route images."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from icf_utils.dicom.constants import (
    ACCESSION_NUMBER,
    ADDITIONAL_PATIENT_HISTORY,
    PATIENT_COMMENTS,
    PATIENT_ID,
    PATIENT_NAME,
    STUDY_COMMENTS,
    STUDY_DESCRIPTION,
)
from icf_utils.errors import InputRefused
from icf_utils.sender.images import list_images
from icf_utils.sources.open import open_source
from icf_utils.xnat.receiver_routing import all_name_project, list_routes, route_image

TEXTS = {
    PATIENT_COMMENTS: "Project:A",
    STUDY_COMMENTS: "Project:B",
    ADDITIONAL_PATIENT_HISTORY: "Project:C",
    STUDY_DESCRIPTION: "D",
    ACCESSION_NUMBER: "E",
}


@pytest.mark.parametrize("at", range(len(TEXTS) + 1))
def test_sources_of_the_project(at: int) -> None:
    """In this order; the first that exists in XNAT counts."""
    texts = dict(list(TEXTS.items())[at:])
    assert [choice.label for choice in route_image(texts).projects] == ["A", "B", "C", "D", "E"][at:]


@pytest.mark.parametrize(
    ("comment", "label"),
    [
        ("Project:X", "X"),
        ("project : X", "X"),
        ("scan of today; Project: X_1-b, Session:y", "X_1-b"),
        ("Project:X\nmore", "X"),
        ("Project:A Project:B", "A"),
        ("for Project:A Project:B", "B"),
        ("MyProject:X", ""),
        ("Project X", ""),
        ("Project:", ""),
        ("", ""),
    ],
)
def test_assignments_in_comments(comment: str, label: str) -> None:
    found = route_image({PATIENT_COMMENTS: comment}).projects
    assert [choice.label for choice in found] == ([label] if label else [])


def test_subject_and_session() -> None:
    plain = route_image({PATIENT_NAME: "Doe^Jane", PATIENT_ID: "ID.7 b"})
    assert (plain.subject.label, plain.subject.source) == ("Doe_Jane", "PatientName")
    assert (plain.session.label, plain.session.source) == ("ID_7_b", "PatientID")
    assigned = route_image({PATIENT_NAME: "Doe", PATIENT_ID: "7", STUDY_COMMENTS: "Subject:s1 Session:e1"})
    assert (assigned.subject.label, assigned.session.label) == ("s1", "e1")
    assert route_image({}).session.label == "dicom_upload"
    assert all_name_project([route_image({PATIENT_COMMENTS: "Project:pilot"})], "PILOT")
    assert not all_name_project([route_image({STUDY_DESCRIPTION: "x", ACCESSION_NUMBER: "PILOT"})], "PILOT")
    assert not all_name_project([route_image({})], "PILOT")


def test_real_visits_have_a_route(open_visit: Path) -> None:
    with open_source(open_visit, open_visit.parent) as source:
        try:
            images = list_images(source).images
        except InputRefused:
            return
        routes = list_routes(source, images)
    assert sum(one.images for one in routes) == len(images)
    assert all(re.fullmatch(r"[\w-]+", one.session.label) for one in routes)
