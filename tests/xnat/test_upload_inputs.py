"""Inputs of uploads: trees of folders, zips, tars and visits of a store."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from icf_utils import make_studyvisit_archive
from icf_utils.errors import InvalidSetting
from icf_utils.sources.tree import Exclusions
from icf_utils.xnat.upload import plan_upload, upload, upload_visit
from icf_utils.xnat.upload_inputs import list_store_uploads, list_tree_uploads, make_file_upload
from tests.data.make_dicom import dicom_bytes, uid, write_visit
from tests.xnat.standin import StandIn
from tests.xnat.uploads import LOGIN, send, send_one, target, write_session


def test_files_that_are_not_images_are_not_sent(server: StandIn, tmp_path: Path) -> None:
    write_session(tmp_path / "tree" / "s" / "mr", {"01": 2}, {"notes.txt": b"hello", "01/more.zip": b"PK"})
    outcome = send_one(server, tmp_path / "tree")
    assert (outcome.state, outcome.sent, outcome.left_out) == ("uploaded", 2, ("01/more.zip", "notes.txt"))
    assert "Ignore-Unparsable" not in server.imports()[0].query


def test_two_studies_in_a_folder_are_refused_before_anything_is_sent(server: StandIn, tmp_path: Path) -> None:
    """XNAT would make two sessions with one label."""
    session = write_session(tmp_path / "tree" / "s" / "mr", {"01": 2})
    (session / "02").mkdir()
    (session / "02" / "1.dcm").write_bytes(dicom_bytes(StudyInstanceUID="1.2.3", SeriesNumber=2))
    write_session(tmp_path / "tree" / "s" / "other", {"01": 1})
    mixed, other = send(server, tmp_path / "tree").sessions
    assert (mixed.label, mixed.state, other.state, len(server.imports())) == ("s_mr", "failed", "uploaded", 1)
    assert "'02/1.dcm': belongs to study 1.2.3" in mixed.problem
    assert "'01/1.dcm': belongs to study" in mixed.problem


def test_two_studies_in_a_zip_or_a_visit_are_refused(server: StandIn, tmp_path: Path) -> None:
    images = [dicom_bytes(InstanceNumber=at, StudyInstanceUID=f"1.2.{at}") for at in (1, 2)]
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as packed:
        for at, image in enumerate(images):
            packed.writestr(f"{at}.dcm", image)
            (tmp_path / "in" / f"{at}.dcm").write_bytes(image)
    make_studyvisit_archive(tmp_path / "in", tmp_path / "store", "study-a", "v1")
    uploads = [
        make_file_upload(tmp_path / "one.zip", "s1", "mr", tmp_path),
        *list_store_uploads(tmp_path / "store", "study-a"),
    ]
    result = upload(uploads, target(server), LOGIN)
    assert [item.state for item in plan_upload(uploads, target(server)).sessions] == ["failed", "failed"]
    for outcome in result.sessions:
        assert outcome.state == "failed"
        assert "belongs to study 1.2.1" in outcome.problem
        assert "belongs to study 1.2.2" in outcome.problem
    assert server.imports() == []


def test_excluded_scans(server: StandIn, tree: Path) -> None:
    found = list_tree_uploads(tree, exclude=Exclusions(("BOLD", "phoenix")), state=tree.parent)
    assert [(item.code, item.subject) for item in found.notices] == [
        ("unmatched-pattern", "phoenix"),
        ("scan-excluded", "sub-1/mr/02_bold"),
    ]
    (outcome,) = upload(found.uploads, target(server), LOGIN).sessions
    assert (outcome.state, outcome.held) == ("uploaded", 3)


def test_labels(tree: Path) -> None:
    (session,) = list_tree_uploads(tree, subject="P_{subject}", label="{session}-1", state=tree).uploads
    assert (session.subject, session.label) == ("P_sub-1", "mr-1")
    with pytest.raises(InvalidSetting, match=r"unknown field {patient}"):
        list_tree_uploads(tree, label="{patient}")


@pytest.mark.parametrize(("name", "label"), [("sub 1.a", "sub_1_a"), ("M\u00fcller", "M_ller"), ("a  b", "a__b")])
def test_each_forbidden_character_is_replaced(tree: Path, name: str, label: str) -> None:
    (tree / "sub-1").rename(tree / name)
    (session,) = list_tree_uploads(tree).uploads
    assert (session.subject, session.label) == (label, f"{label}_mr")


def test_names_without_a_label_are_refused_one_by_one(tree: Path) -> None:
    """Otherwise many of them would become one session."""
    write_session(tree / "\u00c4\u00d6" / "mr", {"01": 1})
    write_session(tree / "sub-2" / "\u00c4", {"01": 1})
    found = list_tree_uploads(tree)
    assert [session.where for session in found.uploads] == ["sub-1/mr"]
    assert [(item.code, item.subject) for item in found.refused] == [
        ("no-label", "sub-2/\u00c4"),
        ("no-label", "\u00c4\u00d6/mr"),
    ]
    assert "its session" in found.refused[0].message
    assert "its subject" in found.refused[1].message
    with pytest.raises(InvalidSetting, match="makes an empty label"):
        list_tree_uploads(tree, label="-")


def test_two_sessions_with_one_label_are_refused(server: StandIn, tree: Path) -> None:
    write_session(tree / "sub 1" / "mr", {"01": 1})
    write_session(tree / "sub.1" / "mr", {"01": 1})
    with pytest.raises(InvalidSetting, match="would both be session 'sub_1_mr'"):
        send(server, tree)
    assert server.requests == []


def zipped(path: Path, method: int = zipfile.ZIP_DEFLATED, other: str = "") -> Path:
    with zipfile.ZipFile(path, "w", method) as packed:
        for at in range(1, 4):
            packed.writestr(f"{at}.dcm", dicom_bytes(InstanceNumber=at))
        if other:
            packed.writestr(other, b"no image")
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_a_zip_is_sent_unchanged(server: StandIn, tmp_path: Path, method: int) -> None:
    path = zipped(tmp_path / "one.zip", method, "readme.txt")
    (outcome,) = upload([make_file_upload(path, "s1", "{name}", tmp_path)], target(server), LOGIN).sessions
    assert (outcome.state, outcome.label, outcome.held, outcome.left_out) == ("uploaded", "one", 3, ("readme.txt",))
    (asked,) = server.imports()
    assert (asked.headers["Content-Type"], asked.size) == ("application/zip", path.stat().st_size)
    assert asked.query["Ignore-Unparsable"] == "true"


@pytest.mark.parametrize(("method", "other"), [(zipfile.ZIP_LZMA, ""), (zipfile.ZIP_DEFLATED, "inner.zip")])
def test_a_zip_that_xnat_cannot_read_is_sent_as_a_tar(server: StandIn, tmp_path: Path, method: int, other: str) -> None:
    path = zipped(tmp_path / "one.zip", method, other)
    (outcome,) = upload([make_file_upload(path, "s1", "mr", tmp_path)], target(server), LOGIN).sessions
    assert (outcome.state, outcome.held) == ("uploaded", 3)
    assert server.imports()[0].headers["Content-Type"] == "application/x-tar"


def test_a_compressed_tar_is_unpacked(server: StandIn, tree: Path) -> None:
    path = tree.parent / "one.tar.gz"
    with tarfile.open(path, "w:gz") as packed:
        packed.add(tree, "x")
    (outcome,) = upload([make_file_upload(path, "s1", "mr", tree.parent)], target(server), LOGIN).sessions
    assert (outcome.state, outcome.held) == ("uploaded", 5)


def test_a_zip_requires_labels(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="--subject and --session"):
        make_file_upload(zipped(tmp_path / "one.zip"), "", "")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for number in (1, 2):
        study = {"StudyInstanceUID": f"1.2.3.{number}"}
        write_visit(tmp_path / f"in{number}", {1: ("t1", 2), 2: ("bold", 2)}, companions={"a.txt": b"a"}, **study)
        make_studyvisit_archive(tmp_path / f"in{number}", tmp_path / "store", "study-a", f"v{number}")
    return tmp_path / "store"


def test_the_archive_of_a_visit_is_sent_unchanged(server: StandIn, store: Path) -> None:
    archive = store / "study-a" / "v1_dicom.tar"
    outcome = upload_visit(store, "study-a", "v1", target(server), LOGIN)
    assert (outcome.state, outcome.subject, outcome.label) == ("uploaded", "v1", "study-a_v1")
    assert (outcome.sent, outcome.held, len(outcome.left_out)) == (4, 4, 1)
    (asked,) = server.imports()
    assert (asked.headers["Content-Type"], asked.size) == ("application/x-tar", archive.stat().st_size)
    assert asked.query["Ignore-Unparsable"] == "true"
    assert upload_visit(store, "study-a", "v1", target(server), LOGIN).state == "before"
    assert [path.name for path in (store / "study-a" / ".icf").iterdir()] == ["xnat"]


def test_all_visits_of_a_study(server: StandIn, store: Path) -> None:
    uploads = list_store_uploads(store, "study-a", subject="P-{visit}")
    result = upload(uploads, target(server), LOGIN, jobs=2)
    assert [(item.subject, item.state) for item in result.sessions] == [("P-v1", "uploaded"), ("P-v2", "uploaded")]


def test_a_damaged_archive_does_not_arrive(server: StandIn, store: Path) -> None:
    """The last bytes are withheld until the checksum is verified, so XNAT never gets the whole archive."""
    archive = store / "study-a" / "v1_dicom.tar"
    content = bytearray(archive.read_bytes())
    content[content.rindex(b"TEST01")] ^= 1
    archive.write_bytes(content)
    outcome = upload_visit(store, "study-a", "v1", target(server), LOGIN)
    assert outcome.state == "failed"
    assert (
        f"expected the recorded MD5 {(store / 'study-a' / 'v1_dicom.tar.md5sum').read_text()[:32]}" in outcome.problem
    )
    assert hashlib.md5(content).hexdigest() in outcome.problem
    assert all(session.status != "READY" for session in server.sessions)


def test_a_visit_without_an_archive(server: StandIn, store: Path) -> None:
    outcome = upload_visit(store, "study-a", "v9", target(server), LOGIN)
    assert outcome.state == "failed"
    assert "make_studyvisit_archive" in outcome.problem


def test_the_length_is_known_before_the_body_is_read(tree: Path) -> None:
    """The body is a TAR of the announced length, with neutral names."""
    (session,) = list_tree_uploads(tree).uploads
    with session.open() as body:
        first, second = b"".join(body), b"".join(body)
    assert len(first) == len(body)
    assert first == second
    with tarfile.open(fileobj=io.BytesIO(first)) as packed:
        assert packed.getnames() == [f"{at:08}.dcm" for at in range(1, 6)]
    assert os.path.basename(tree).encode() not in first


def test_labels_of_header_values(server: StandIn, tmp_path: Path) -> None:
    """A patient's visits become sessions of one subject. A value is never part of a message."""
    store = tmp_path / "store"
    for visit, date in (("v1", "20240101"), ("v2", "20240202")):
        own = {"StudyInstanceUID": uid(visit), "PatientID": "P-7", "StudyDate": date, "StudyID": "?!"}
        write_visit(tmp_path / visit, {1: ("scout", 1)}, companions=None, **own)
        make_studyvisit_archive(tmp_path / visit, store, "s", visit)
        labels = {"subject": "{PatientID}", "label": "{PatientID}_{StudyDate}"}
        outcome = upload_visit(store, "s", visit, target(server), LOGIN, **labels)  # type: ignore[arg-type]
        assert outcome.state == "uploaded"
    assert {(session.subject, session.name) for session in server.sessions} == {
        ("P-7", "P-7_20240101"),
        ("P-7", "P-7_20240202"),
    }
    with pytest.raises(InvalidSetting, match="can keep no character of its StudyID") as caught:
        upload_visit(store, "s", "v1", target(server), LOGIN, subject="{StudyID}")
    assert "?!" not in str(caught.value)
