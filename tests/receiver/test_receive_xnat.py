"""A rule that names an XNAT: visits are uploaded when they are in the store, and failures are reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.make_dicom import write_visit
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
