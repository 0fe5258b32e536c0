"""A rule that names an XNAT: visits are uploaded when they are in the store, and failures are reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.make_dicom import uid, write_visit
from tests.receiver.receiving import running, storescu
from tests.xnat.standin import PASSWORD, USER, standin

pytest.importorskip("pynetdicom")


@pytest.mark.parametrize("password", [PASSWORD, "wrong"])
def test_visits_are_uploaded_to_xnat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    sent = write_visit(tmp_path / "in", {1: ("t1", 3)})
    monkeypatch.setenv("XNAT_PASS", password)
    with standin() as server:
        rule = 'called_ae = "STUDYA"\nstudy = "study-a"\nquiet = 1\nvisit = "v1"\nuntil = "metadata"\n'
        rule += f'xnat = "{server.url}"\nxnat_project = "PILOT"\nxnat_user = "{USER}"'
        with running(tmp_path, rule=rule) as receiver:
            assert storescu(receiver, tmp_path / "in").returncode == 0
            (session,) = receiver.finished(1)
            assert len(receiver.images(session)) == len(sent)
            assert password not in receiver.log + session.log.read_text(encoding="utf-8")
            if password == PASSWORD:
                assert session.state == "success", session.failure
                assert "xnat: uploaded" in session.log.read_text(encoding="utf-8")
            else:
                assert session.state == "failed"
                assert server.url in session.failure


def test_late_images_are_added_in_xnat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The visit is one session in XNAT, of a subject that the rule's templates name."""
    study = uid("late in xnat")
    write_visit(tmp_path / "in1", {1: ("t1", 3)}, StudyInstanceUID=study, PatientID="P1")
    write_visit(tmp_path / "in2", {2: ("t2", 2)}, StudyInstanceUID=study, PatientID="P1")
    monkeypatch.setenv("XNAT_PASS", PASSWORD)
    with standin() as server:
        rule = 'called_ae = "STUDYA"\nstudy = "study-a"\nquiet = 1\nuntil = "metadata"\nallow_identifying = true\n'
        rule += 'xnat_subject = "{PatientID}"\nxnat_session = "{PatientID}_{StudyDate}"\n'
        rule += f'xnat = "{server.url}"\nxnat_project = "PILOT"\nxnat_user = "{USER}"'
        with running(tmp_path, rule=rule) as receiver:
            for number, folder in enumerate(("in1", "in2"), 1):
                assert storescu(receiver, tmp_path / folder).returncode == 0
                session = receiver.finished(number)[-1]
                assert session.state == "success", session.failure
        (there,) = server.sessions
        assert (there.subject, there.name) == ("P1", "P1_20200229")
        assert len(there.files) == 5
