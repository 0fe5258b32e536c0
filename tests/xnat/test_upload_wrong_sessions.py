"""Folders taken for the wrong sessions: refused before anything is sent."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from icf_utils import deposit_visit_metadata, make_studyvisit_archive
from icf_utils.settings import UPLOAD_CHECKS
from icf_utils.xnat.upload import upload
from icf_utils.xnat.upload_inputs import list_store_uploads, list_tree_uploads, refuse_shared_visits
from tests.data.make_dicom import dicom_bytes, uid, write_visit
from tests.xnat.standin import StandIn
from tests.xnat.uploads import LOGIN, send_one, target, write_session


def test_sessions_that_share_a_study(tree: Path) -> None:
    shutil.copytree(tree / "sub-1" / "mr", tree / "sub-1" / "mr-again")
    write_session(tree / "sub-2" / "mr", {"01": 1})
    found = list_tree_uploads(tree, refuse=UPLOAD_CHECKS)
    assert [item.where for item in found.uploads] == ["sub-2/mr"]
    assert [(item.code, item.subject) for item in found.refused] == [
        ("shared-study", "sub-1/mr"),
        ("shared-study", "sub-1/mr-again"),
    ]
    assert len(list_tree_uploads(tree).uploads) == 3


def test_an_image_above_the_sessions(tree: Path) -> None:
    (tree / "sub-1" / "stray.dcm").write_bytes(dicom_bytes())
    write_session(tree / "sub-2" / "mr", {"01": 1})
    found = list_tree_uploads(tree, refuse=UPLOAD_CHECKS)
    assert [item.where for item in found.uploads] == ["sub-2/mr"]
    assert [item.subject for item in found.refused] == ["sub-1/stray.dcm", "sub-1/mr"]


def test_a_session_of_two_patients(server: StandIn, tree: Path) -> None:
    other = dicom_bytes(StudyInstanceUID=uid("sub-1", "mr"), SOPInstanceUID=uid("other"), PatientID="another")
    (tree / "sub-1" / "mr" / "01_t1" / "9.dcm").write_bytes(other)
    (outcome,) = upload(list_tree_uploads(tree, refuse=UPLOAD_CHECKS).uploads, target(server), LOGIN).sessions
    assert outcome.state == "failed"
    assert "'01_t1/9.dcm': has another PatientID than the others here" in outcome.problem
    assert "another'" not in outcome.problem.replace("has another", "")
    assert server.imports() == []
    (outcome,) = upload(list_tree_uploads(tree).uploads, target(server), LOGIN).sessions
    assert outcome.state == "uploaded"


def test_visits_of_a_store_that_share_a_study(tree: Path, tmp_path: Path) -> None:
    for visit, folder in (("v1", "01_t1"), ("v2", "02_bold")):
        make_studyvisit_archive(tree / "sub-1" / "mr" / folder, tmp_path / "store", "s", visit)
        deposit_visit_metadata(tmp_path / "store", "s", visit)
    uploads = list_store_uploads(tmp_path / "store", "s")
    assert [item.subject for item in refuse_shared_visits(tmp_path / "store", uploads)] == ["s/v1", "s/v2"]


@pytest.mark.parametrize("dest", ["prearchive", "archive"])
def test_an_identical_copy_is_passed_over(server: StandIn, tree: Path, dest: str) -> None:
    folder = tree / "sub-1" / "mr"
    shutil.copy(folder / "01_t1" / "1.dcm", folder / "02_bold" / "copy.dcm")
    outcome = send_one(server, tree, dest=dest)
    assert (outcome.state, outcome.sent, outcome.held) == ("uploaded", 5, 5)
    assert outcome.copies == ("02_bold/copy.dcm",)


@pytest.mark.parametrize(
    ("keyword", "text"),
    [("StudyInstanceUID", "PHANTOM.1"), ("SeriesInstanceUID", "1.2.826."), ("SOPInstanceUID", "1." + "2" * 70)],
)
def test_odd_uids_are_uploaded_and_named(server: StandIn, tree: Path, keyword: str, text: str) -> None:
    folder = tree / "sub-1" / "mr"
    shutil.rmtree(folder)
    uids: dict[str, Any] = {"StudyInstanceUID": uid("sub-1", "mr"), keyword: text}
    write_visit(folder, {1: ("t1", 1)}, **uids)
    outcome = send_one(server, tree)
    assert (outcome.state, outcome.sent) == ("uploaded", 1), outcome
    (notice,) = outcome.notices
    assert notice.code == "odd-uid"
    assert notice.message == f"has no valid {keyword} (PS3.5 section 9.1); it is uploaded unchanged"


def test_another_image_of_the_same_uid_is_refused(server: StandIn, tree: Path) -> None:
    same = {"StudyInstanceUID": uid("sub-1", "mr"), "SOPInstanceUID": "1.2.3.4"}
    for at in (8, 9):
        content = dicom_bytes(**same, InstanceNumber=at)  # type: ignore[arg-type]
        (tree / "sub-1" / "mr" / "01_t1" / f"{at}.dcm").write_bytes(content)
    outcome = send_one(server, tree)
    assert (outcome.state, server.imports()) == ("failed", [])
    assert "has the SOPInstanceUID of another file here, and differs from it" in outcome.problem
