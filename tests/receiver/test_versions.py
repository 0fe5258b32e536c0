"""Images that arrive after their visit was archived become its next version."""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile
from pathlib import Path

import pydicom
import pytest

import icf_utils
from icf_utils.credentials import Secret
from icf_utils.curation.history import list_versions
from icf_utils.receiver.journal import Journal
from icf_utils.receiver.model import Session
from icf_utils.receiver.web.settings import WebSettings
from icf_utils.receiver.web.uploads import enqueue_upload
from tests.cli.program import icf
from tests.data.make_dicom import uid, write_visit
from tests.receiver.receiving import Receiver, data_sets, running, store, wait_until
from tests.receiver.test_quarantine import correct
from tests.receiver.test_receive_refusals import statuses

pytest.importorskip("pynetdicom")

_RULE = 'called_ae = "STUDYA"\nstudy = "study-a"\nquiet = 1\nvisit = "v"\nuntil = "metadata"'


def versions(receiver: Receiver, visit: str = "v") -> list[str]:
    """The reasons of a visit's versions."""
    found = list_versions(receiver.store, "study-a", visit)
    return [version.reason for version in found.versions]


def archives(receiver: Receiver) -> list[str]:
    return sorted(path.name for path in (receiver.store / "study-a").glob("*.tar"))


def cut_off(receiver: Receiver, paths: list[Path]) -> None:
    """Send images, and abort the association."""
    from pynetdicom import AE
    from pynetdicom.sop_class import MRImageStorage  # type: ignore[attr-defined]

    entity = AE("TESTS")
    entity.add_requested_context(MRImageStorage, "1.2.840.10008.1.2.1")
    association = entity.associate("127.0.0.1", receiver.port, ae_title="STUDYA")
    assert {store(association, path) for path in paths} == {0}
    association.abort()


def archive_of(folder: Path, session: Session, receiver: Receiver) -> bytes:
    """What the archive of all images of a visit would be, had they come at once."""
    whole = folder / "whole"
    for one in receiver.sessions():
        if one.visit == session.visit:
            shutil.copytree(one.input, whole, dirs_exist_ok=True)
    icf_utils.init_store(folder / "other", url="https://data.example.org")
    icf_utils.make_studyvisit_archive(whole, folder / "other", session.study, session.visit)
    return (folder / "other" / session.study / f"{session.visit}_dicom.tar").read_bytes()


def test_a_cut_transfer_that_is_sent_again_is_one_visit(tmp_path: Path) -> None:
    """Reproduces ../shared/cases/intake/04."""
    paths = write_visit(tmp_path / "in", {1: ("t1", 10)}, StudyInstanceUID=uid("cut"))
    with running(tmp_path, rule=_RULE) as receiver:
        cut_off(receiver, paths[:6])
        (session,) = receiver.finished(1)
        assert (session.state, session.images) == ("partial", 6)
        assert set(statuses(receiver, paths)) == {0}
        first, second = receiver.finished(2)
        assert (second.state, second.visit, second.change) == ("success", "v", "late")
        assert (second.images, first.duplicates) == (4, 6)
        assert "version 2 of the visit: 4 images added" in second.notes
        # everything was sent again, so nothing is missing any more
        assert (first.state, first.completed_by) == ("success", second.id)
        assert archives(receiver) == ["v_dicom.tar"]
        assert receiver.images(second).keys() == data_sets(paths).keys()
        assert versions(receiver) == ["", "4 images added"]
        assert (receiver.store / "study-a" / "v_dicom.tar").read_bytes() == archive_of(tmp_path, second, receiver)


def test_a_cut_transfer_of_which_nothing_is_missing(tmp_path: Path) -> None:
    """The sender aborts after the last image, and repeats the whole study."""
    paths = write_visit(tmp_path / "in", {1: ("t1", 3)}, StudyInstanceUID=uid("cut at the end"))
    with running(tmp_path, rule=_RULE) as receiver:
        cut_off(receiver, paths)
        (session,) = receiver.finished(1)
        assert session.state == "partial"
        assert set(statuses(receiver, paths)) == {0}
        wait_until(lambda: receiver.sessions()[0].state == "success", "nothing is missing")
        (session,) = receiver.sessions()
        assert session.notes[-1] == "everything was sent again; nothing was missing"


def test_series_over_hours_are_one_visit_that_clones_follow(tmp_path: Path) -> None:
    """Reproduces ../shared/cases/intake/08, in part; dataset and catalog follow."""
    pytest.importorskip("datalad_catalog")
    study = uid("hours")
    series = [
        write_visit(tmp_path / f"in{number}", {number: (f"s{number}", 2)}, StudyInstanceUID=study) for number in (1, 2)
    ]
    icf_utils.init_store(tmp_path / "store", url="https://data.example.org")
    with running(tmp_path, rule=_RULE.replace("metadata", "catalog")) as receiver:
        statuses(receiver, series[0])
        receiver.finished(1)
        statuses(receiver, series[1])
        sessions = receiver.finished(2)
        assert [item.state for item in sessions] == ["success", "success"], receiver.log
        assert archives(receiver) == ["v_dicom.tar"]
        assert versions(receiver) == ["", "2 images added"]
        commits = [version.commit for version in list_versions(receiver.store, "study-a", "v").versions]
        assert len(set(commits)) == 2
        assert all(commits)
        ran = icf("verify", "-o", receiver.store)
        assert ran.code == 0, ran.out


def test_images_of_a_visit_that_came_another_way(tmp_path: Path) -> None:
    """The store has the visit from a folder: known images are left out, and others with its UIDs are quarantined."""
    paths = write_visit(tmp_path / "in", {1: ("t1", 4)}, StudyInstanceUID=uid("other way"))
    (tmp_path / "part").mkdir()
    for path in paths[:3]:
        shutil.copy(path, tmp_path / "part")
    fixed = correct(paths[:1], tmp_path / "fixed", PatientID="P2")
    icf_utils.init_store(tmp_path / "store", url="https://data.example.org")
    icf_utils.make_studyvisit_archive(tmp_path / "part", tmp_path / "store", "study-a", "v")
    icf_utils.deposit_visit_metadata(tmp_path / "store", "study-a", "v")
    with running(tmp_path, rule=_RULE) as receiver:
        assert set(statuses(receiver, fixed + paths[2:])) == {0}
        (session,) = receiver.finished(1)
        assert (session.visit, session.change, session.state, session.quarantined) == ("v", "late", "partial", 1)
        assert archives(receiver) == ["v_dicom.tar"]
        assert (session.images, len(receiver.images(session))) == (2, 4)
        # the journal knows the images of the visit now
        assert statuses(receiver, fixed) == [0xC002]
        assert len(receiver.sessions()) == 1


def test_another_study_with_the_same_identifier_stays_apart(tmp_path: Path) -> None:
    one = write_visit(tmp_path / "one", {1: ("t1", 2)}, StudyInstanceUID=uid("apart", 1))
    other = write_visit(tmp_path / "other", {1: ("t1", 3)}, StudyInstanceUID=uid("apart", 2))
    with running(tmp_path, rule=_RULE) as receiver:
        statuses(receiver, one)
        receiver.finished(1)
        statuses(receiver, other[:1])
        receiver.finished(2)
        statuses(receiver, other)
        sessions = receiver.finished(3)
        assert [item.visit for item in sessions] == ["v", "v-r2", "v-r2"]
        assert [item.change for item in sessions] == ["new", "new", "late"]
        assert versions(receiver, "v-r2") == ["", "2 images added"]
        assert versions(receiver) == [""]


def test_late_images_can_be_held(tmp_path: Path) -> None:
    paths = write_visit(tmp_path / "in", {1: ("t1", 4)}, StudyInstanceUID=uid("held"))
    with running(tmp_path, rule=f'{_RULE}\nlate = "hold"') as receiver:
        statuses(receiver, paths[:2])
        receiver.finished(1)
        statuses(receiver, paths[2:3])
        ran = icf("sessions", "--wait", "--settings", tmp_path / "receiver.toml")
        assert (ran.code, receiver.sessions()[1].state) == (1, "held")
        assert "s000002: these images arrived after the visit was complete" in ran.out
        assert versions(receiver) == [""]
        ran = icf("sessions", "release", "s000002", "--settings", tmp_path / "receiver.toml")
        assert ran.code == 0, ran.err
        receiver.finished(2)
        assert versions(receiver) == ["", "1 image added"]
        statuses(receiver, paths[3:])
        icf("sessions", "--wait", "--settings", tmp_path / "receiver.toml")
        assert receiver.sessions()[2].state == "held"
        assert icf("sessions", "delete", "s000003", "--settings", tmp_path / "receiver.toml").code == 0
        statuses(receiver, paths[3:])  # the deleted image is not known any more
        icf("sessions", "--wait", "--settings", tmp_path / "receiver.toml")
        assert [item.id for item in receiver.sessions() if item.state == "held"] == ["s000004"]


def test_late_images_can_be_a_visit_of_their_own(tmp_path: Path) -> None:
    paths = write_visit(tmp_path / "in", {1: ("t1", 3)}, StudyInstanceUID=uid("separate"))
    with running(tmp_path, rule=f'{_RULE}\nlate = "separate"') as receiver:
        statuses(receiver, paths[:2])
        receiver.finished(1)
        statuses(receiver, paths)
        _, second = receiver.finished(2)
        assert (second.visit, second.state, second.images) == ("v-r2", "success", 1)
        assert archives(receiver) == ["v-r2_dicom.tar", "v_dicom.tar"]


def test_a_visit_whose_first_session_failed(tmp_path: Path) -> None:
    """What came later is in the store, but the visit is not whole until the first images are."""
    paths = write_visit(tmp_path / "in", {1: ("t1", 5)}, StudyInstanceUID=uid("failed"))
    icf_utils.init_store(tmp_path / "store", url="https://data.example.org")
    blocked = tmp_path / "store" / "study-a"
    blocked.write_bytes(b"")  # a file where the study's folder would be
    with running(tmp_path, rule=_RULE) as receiver:
        statuses(receiver, paths[:2])
        receiver.finished(1)
        blocked.unlink()
        statuses(receiver, paths[2:])
        first, second = receiver.finished(2)
        assert (first.state, second.state) == ("failed", "partial")
        assert "the visit lacks images: another session with images of it has failed" in second.notes
        assert icf("sessions", "retry", first.id, "--settings", tmp_path / "receiver.toml").code == 0
        first, second = receiver.finished(2)
        assert (first.state, second.state, second.completed_by) == ("success", "success", first.id)
        assert receiver.images(first).keys() == data_sets(paths).keys()
        assert versions(receiver) == ["", "2 images added"]


def test_expected_images_that_come_later(tmp_path: Path) -> None:
    paths = write_visit(tmp_path / "in", {1: ("t1", 5)}, StudyInstanceUID=uid("expected"))
    with running(tmp_path, rule=f"{_RULE}\nexpected = 5") as receiver:
        statuses(receiver, paths[:2])
        (first,) = receiver.finished(1)
        assert first.state == "partial"
        statuses(receiver, paths[2:])
        first, second = receiver.finished(2)
        assert (first.state, second.state, second.expected) == ("success", "success", 3)


def test_refused_images_that_come_later(tmp_path: Path) -> None:
    """A refusal no longer counts when the image is in the visit's next version."""
    paths = write_visit(tmp_path / "in", {1: ("t1", 3)}, StudyInstanceUID=uid("refused later"))
    bad = pydicom.dcmread(paths[2])
    cut = tmp_path / "cut.dcm"
    bad.save_as(cut, enforce_file_format=True)
    with running(tmp_path, rule=_RULE) as receiver:
        statuses(receiver, paths[:2])
        (session,) = receiver.finished(1)
        from icf_utils.receiver.identify import image_key
        from icf_utils.receiver.journal import Journal

        journal = Journal(tmp_path / "spool")
        journal.record_refusals(session.id, {image_key(str(bad.SOPInstanceUID)): "the disk is full (0xA700)"})
        assert receiver.sessions()[0].state == "partial"
        statuses(receiver, paths[2:])
        first, second = receiver.finished(2)
        assert (first.state, first.refused, second.state) == ("success", 0, "success")
        journal.close()


def post(receiver: Receiver, folder: Path, paths: list[Path], late: str = "version") -> Session:
    """Upload images as a zip, as a program does that posts it to the pages."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number, path in enumerate(paths):
            archive.write(path, f"{number}.dcm")
        archive.writestr(f"notes-{len(paths)}.txt", "not an image")
    packed.seek(0)
    settings = WebSettings(receiver.store, Secret("unused"), {"STUDYA": "study-a"}, late={"STUDYA": late}, reserve=0)
    journal = Journal(receiver.folder / "spool")
    try:
        return enqueue_upload(packed, None, "STUDYA", "v", "", "", journal=journal, settings=settings).session
    finally:
        journal.close()


def test_zips_of_one_study_are_one_visit(tmp_path: Path) -> None:
    """The StudyInstanceUID decides, whether images come as a zip or by C-STORE."""
    paths = write_visit(tmp_path / "in", {1: ("t1", 5)}, StudyInstanceUID=uid("zips"))
    fixed = correct(paths[:1], tmp_path / "fixed", PatientID="P2")
    with running(tmp_path, rule=_RULE) as receiver:
        post(receiver, tmp_path, paths[:2])
        receiver.finished(1)
        post(receiver, tmp_path, [*fixed, *paths[1:3]])
        first, second = receiver.finished(2)
        assert (first.state, second.state, second.visit, second.quarantined) == ("success", "partial", "v", 1)
        assert versions(receiver) == ["", "1 image added"]
        assert set(statuses(receiver, paths[:4])) == {0}
        (*_, third) = receiver.finished(3)
        assert (third.visit, third.change, third.images) == ("v", "late", 4)
        assert versions(receiver)[2:] == ["1 image added"]
        assert statuses(receiver, paths[:4]) == [0, 0, 0, 0]  # they are known now
        assert len(receiver.finished(3)) == 3
        assert icf("sessions", "quarantine", "accept", second.id, "--settings", tmp_path / "receiver.toml").code == 0
        receiver.finished(4)
        assert versions(receiver)[2:] == ["1 image added", "1 image corrected"]
        held = post(receiver, tmp_path, paths[4:], late="hold")
        assert (held.state, held.visit, held.change) == ("held", "v", "late")
        assert archives(receiver) == ["v_dicom.tar"]
        assert not list((receiver.folder / "spool" / "sessions").glob("*/unpacked"))
        with tarfile.open(receiver.store / "study-a" / "v_dicom.tar") as archive:
            members = {member.name: archive.extractfile(member) for member in archive}
        assert len([name for name in members if name.endswith(".dcm")]) == 4
        assert {"study-a_v/notes-2.txt", "study-a_v/notes-3.txt"} < members.keys()
        assert icf("verify", "-o", receiver.store, "study-a").code == 0
