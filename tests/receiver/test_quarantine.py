"""A corrected study that is sent again: what differs, and accepting or dropping it in one decision."""

from __future__ import annotations

import shutil
from io import BytesIO
from pathlib import Path

import pydicom
import pytest

from icf_utils.receiver.identify import image_key
from icf_utils.receiver.journal import Journal
from icf_utils.receiver.model import CONFLICTING
from icf_utils.receiver.quarantine import accept_quarantine
from icf_utils.receiver.spool import images_below
from tests.cli.program import icf
from tests.data.make_dicom import uid, write_visit
from tests.receiver.receiving import Receiver, running
from tests.receiver.test_receive_refusals import statuses

pytest.importorskip("pynetdicom")

_RULE = 'called_ae = "STUDYA"\nstudy = "study-a"\nquiet = 1\nvisit = "v"\nallow_identifying = true'


def correct(paths: list[Path], folder: Path, **values: str) -> list[Path]:
    folder.mkdir()
    for path in paths:
        image = pydicom.dcmread(path)
        for keyword, value in values.items():
            setattr(image, keyword, value)
        image.save_as(folder / path.name, enforce_file_format=True)
    return sorted(folder.iterdir())


def quarantine(receiver: Receiver, *words: str) -> object:
    ran = icf("sessions", "quarantine", *words, "--settings", receiver.folder / "receiver.toml", "--json")
    assert ran.code == 0, ran.err
    return ran.json["result"]


@pytest.mark.parametrize("has_input", [True, False], ids=["from the spool", "from the archive"])
def test_a_corrected_study_is_one_decision(tmp_path: Path, has_input: bool) -> None:
    paths = write_visit(tmp_path / "in", {1: ("t1", 5)})
    fixed = correct(paths[:4], tmp_path / "fixed", PatientID="P2")
    with running(tmp_path, rule=_RULE) as receiver:
        statuses(receiver, paths)
        (session,) = receiver.finished(1)
        before = (receiver.store / "study-a" / "v_dicom.tar").read_bytes()
        if not has_input:
            shutil.rmtree(session.input)
        assert set(statuses(receiver, fixed)) == {0xC002}
        assert receiver.sessions()[0].state == "partial"
        (listed,) = quarantine(receiver, "list")["sessions"]  # type: ignore[index]
        assert (listed["id"], listed["quarantined"]) == (session.id, 4)
        images = quarantine(receiver, "show", session.id)["images"]  # type: ignore[index]
        assert [item["differs"] for item in images] == [["PatientID"]] * 4
        assert "P2" not in str(images)
        got = quarantine(receiver, "get", session.id, "-d", str(tmp_path / "got"))
        assert len(got["downloads"]) == 1  # type: ignore[index]
        accepted = quarantine(receiver, "accept", session.id)["accepted"]  # type: ignore[index]
        old, new = receiver.finished(2)
        assert accepted == [{"session": old.id, "new": new.id}]
        assert (old.state, old.quarantined, new.state, new.visit) == ("success", 0, "success", "v")
        assert not old.quarantine.exists()
        assert [path.name for path in (receiver.store / "study-a").glob("*.tar")] == ["v_dicom.tar"]
        assert (receiver.store / "study-a" / "v_dicom.tar").read_bytes() != before
        assert "version 2 of the visit: 4 images corrected" in new.notes
        found = [str(pydicom.dcmread(BytesIO(raw)).PatientID) for raw in receiver.images(new).values()]
        assert len(found) == 5
        assert found.count("P2") == 4
        # the corrected images are those that the visit has now
        assert set(statuses(receiver, fixed)) == {0}
        assert len(receiver.sessions()) == 2


def test_a_failed_session_is_corrected_itself(tmp_path: Path) -> None:
    """Its visit is not in the store, so that the corrected images take their place in the session."""
    one, other = write_visit(tmp_path / "in", {1: ("t1", 2)}, StudyInstanceUID=uid("corrected itself"))
    (fixed,) = correct([one], tmp_path / "fixed", PatientID="P2", SeriesNumber="7")
    journal = Journal(tmp_path / "spool")
    session = journal.open_session(rule="r", study="a", visit="v", study_uid=uid("corrected itself"))
    keys = [image_key(str(pydicom.dcmread(path).SOPInstanceUID)) for path in (one, other)]
    for path, key in zip((one, other), keys, strict=True):
        (session.input / "001").mkdir(exist_ok=True)
        shutil.copy(path, session.input / "001" / f"00001-{key}.dcm")
    session.quarantine.mkdir()
    shutil.copy(fixed, session.quarantine / f"{keys[0]}.000000000000.dcm")
    journal.update_session(session.id, images=2)
    journal.change_state(session.id, "failed", "archive: the store cannot be written")
    journal.set_quarantined(session.id, 1, CONFLICTING)
    queued = accept_quarantine(journal, tmp_path / "store", journal.sessions()[0])
    assert (queued.id, queued.state, queued.quarantined, queued.images) == (session.id, "queued", 0, 2)
    assert queued.notes == ("1 quarantined image accepted",)
    files = images_below(session.input)
    assert files.keys() == {*keys}
    assert (str(pydicom.dcmread(files[keys[0]]).PatientID), files[keys[0]].parent.name) == ("P2", "007")
    assert not session.quarantine.exists()
    journal.close()


def test_dropping_deletes_the_images(tmp_path: Path) -> None:
    paths = write_visit(tmp_path / "in", {1: ("t1", 2)})
    fixed = correct(paths, tmp_path / "fixed", PatientID="P2")
    with running(tmp_path, rule=_RULE) as receiver:
        statuses(receiver, paths)
        receiver.finished(1)
        statuses(receiver, fixed)
        quarantine(receiver, "drop", "s000001")
        (session,) = receiver.sessions()
        assert (session.state, session.quarantined) == ("success", 0)
        assert session.notes[-1] == "2 quarantined images were dropped"
        assert not session.quarantine.exists()
        ran = icf("sessions", "quarantine", "accept", "s000001", "--settings", tmp_path / "receiver.toml")
        assert ran.code == 2
        assert "s000001 has no images in quarantine" in ran.err


def test_no_file_outlives_the_session_that_names_it(tmp_path: Path) -> None:
    """Corrected images of a session that was deleted are in the quarantine of a new session."""
    paths = write_visit(tmp_path / "in", {1: ("t1", 3)})
    fixed = correct(paths[:2], tmp_path / "fixed", PatientID="P2")
    with running(tmp_path, rule=_RULE) as receiver:
        statuses(receiver, paths)
        receiver.finished(1)
        assert icf("sessions", "delete", "s000001", "--settings", tmp_path / "receiver.toml").code == 0
        assert set(statuses(receiver, fixed)) == {0xC002}
        (session,) = receiver.finished(1)
        assert (session.id, session.state, session.failure) == (
            "s000002",
            "failed",
            "all its images are in quarantine",
        )
        assert not (tmp_path / "spool" / "sessions" / "s000001").exists()
        quarantine(receiver, "accept", session.id)
        _, new = receiver.finished(2)
        assert len(receiver.images(new)) == 3  # the one that was not corrected comes from the archive


def test_what_a_kill_leaves_is_removed_at_the_next_start(tmp_path: Path) -> None:
    """A session that is marked as deleted, an emptied quarantine, a visit that was being put together."""
    journal = Journal(tmp_path / "spool")
    sessions = [journal.open_session(rule="r", study="a", visit=f"v{number}") for number in range(3)]
    for session in sessions:
        journal.change_state(session.id, "success")
        for name in ("input/001", "quarantine", "accepted/001"):
            (session.folder / name).mkdir(parents=True)
            (session.folder / name / "x.dcm").write_bytes(b"x")
    journal.set_quarantined(sessions[2].id, 1, "note")
    deleted, emptied, kept = sessions
    journal._database.update("session", 1, {"deleted": 1})
    assert journal.finish_deletions() == 4
    assert not deleted.folder.exists()
    assert [path.name for path in emptied.folder.iterdir()] == ["input"]
    assert sorted(path.name for path in kept.folder.iterdir()) == ["input", "quarantine"]
    assert journal.finish_deletions() == 0
    journal.close()
