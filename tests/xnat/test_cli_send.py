"""``icf-utils xnat send`` as a program: the printed routes, and real receivers with XNAT's AE title."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import cast

import pytest

from icf_utils import make_studyvisit_archive
from icf_utils.cli.parser import build_parser
from tests.cli.program import Inside, run
from tests.data.make_dicom import uid, write_visit
from tests.xnat.receivers import ask, free_port, orthanc, storescp


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Inside:
    return Inside(capsys)


@pytest.fixture
def visit(tmp_path: Path) -> Path:
    folder = tmp_path / "visit"
    write_visit(
        folder,
        {1: ("scout", 2), 2: ("rest", 3)},
        companions={"notes.txt": b"x"},
        StudyInstanceUID=uid("study", "send"),
        PatientName="Doe^Jane",
        PatientID="ID.7",
        PatientComments="Project:PILOT Subject:s-1",
        StudyDescription="Brain",
    )
    return folder


def test_default_title_and_port() -> None:
    args = build_parser().parse_args(["xnat", "send", "folder", "host"])
    assert (args.aec, args.port) == ("XNAT", 8104)


def test_identifying_labels_are_masked(visit: Path, cli: Inside) -> None:
    ran = cli("xnat", "send", visit, "localhost", "--dry-run")
    assert ran.code == 0
    assert "5 images: project 'PILOT' (PatientComments), else '***' (StudyDescription)" in ran.out
    told = cli("xnat", "send", visit, "localhost", "--dry-run", "--json")
    for text in (ran.out + ran.err, told.out + told.err):
        for value in ("Doe", "Jane", "ID.7", "ID_7", "Brain", "s-1"):
            assert value not in text
    asked = cli("xnat", "send", visit, "localhost", "--dry-run", "--show-identifying").out
    assert "subject 's-1' (PatientComments); session 'ID_7' (PatientID)" in asked
    assert "'Brain' (StudyDescription)" in asked


def test_images_with_different_routes(visit: Path, cli: Inside) -> None:
    write_visit(visit / "more", {3: ("other", 1)}, StudyInstanceUID=uid("study", "send"), PatientID="other")
    assert len(cli("xnat", "send", visit, "localhost", "--dry-run").out.splitlines()) == 2


def test_nothing_is_sent_to_an_unexpected_project(visit: Path, tmp_path: Path, cli: Inside) -> None:
    with storescp(tmp_path / "scp") as port:
        ran = cli("xnat", "send", visit, "127.0.0.1", "--port", str(port), "--expect-project", "OTHER")
        assert ran.code == 2
        assert "nothing was sent" in ran.err
        assert received(tmp_path / "scp") == []
        assert not re.search("Echo|ECHO", log(tmp_path / "scp"))
    assert cli("xnat", "send", visit, "x", "--dry-run", "--expect-project", "OTHER").code == 1
    assert cli("xnat", "send", visit, "x", "--dry-run", "--expect-project", "PILOT").code == 0


def log(folder: Path) -> str:
    return (folder / "server.log").read_text(errors="replace")


def received(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name not in ("server.log",))


def test_dcmtk_gets_every_image(visit: Path, tmp_path: Path, cli: Inside) -> None:
    """C-ECHO first, then one association for all images."""
    with storescp(tmp_path / "scp") as port:
        ran = cli("xnat", "send", visit, "127.0.0.1", "--port", str(port), "--expect-project", "PILOT", "--json")
        said = log(tmp_path / "scp")
    result = ran.json["result"]
    assert (ran.code, result["sent"]["sent"], result["sent"]["associations"]) == (0, 5, 1)
    assert {image["status"] for image in result["sent"]["images"]} == {0}
    assert [notice["subject"] for notice in result["sent"]["skipped"]] == ["notes.txt"]
    assert len(received(tmp_path / "scp")) == 5
    assert said.count("Association Received") + said.count("Association Acknowledged") >= 2
    order = re.findall(r"(?:Received (Echo|Store) Request|(C-ECHO|C-STORE)[ -]RQ)", said)
    assert order
    assert order[0][0] == "Echo" or order[0][1] == "C-ECHO"


def test_a_wrong_ae_title_is_noticed_by_the_echo(visit: Path, tmp_path: Path, cli: Inside) -> None:
    with orthanc(tmp_path / "orthanc") as (port, http):
        ran = cli("xnat", "send", visit, "127.0.0.1", "--port", str(port), "--aec", "PACS", "--retries", "0")
        assert ran.code == 10
        assert "rejected the association" in ran.err
        assert ask(f"{http}/instances") == []
        sent = cli("xnat", "send", visit, "127.0.0.1", "--port", str(port))
        assert (sent.code, "5 images sent to XNAT@127.0.0.1" in sent.out) == (0, True)
        assert len(cast("list[str]", ask(f"{http}/instances"))) == 5


def test_no_receiver(visit: Path) -> None:
    # pynetdicom leaves the socket of a connection that failed to the garbage collector
    python = (sys.executable, "-W", "error", "-W", "ignore::ResourceWarning", "-m", "icf_utils.cli.main")
    ran = run(*python, "xnat", "send", visit, "127.0.0.1", "--port", str(free_port()), "--retries", "0")
    assert ran.code == 10
    assert "no connection" in ran.err
    assert "Doe" not in ran.err


def test_a_visit_of_the_store(visit: Path, tmp_path: Path, cli: Inside) -> None:
    make_studyvisit_archive(visit, tmp_path / "store", "s", "v")
    with storescp(tmp_path / "scp") as port:
        assert (
            cli("xnat", "send", "127.0.0.1", "--port", str(port), "-o", tmp_path / "store", "--id", "s", "v").code == 0
        )
    assert len(received(tmp_path / "scp")) == 5
    assert cli("xnat", "send", "127.0.0.1", "-o", tmp_path / "store", "--id", "s", "w").code == 5


def test_a_refused_image_is_named(visit: Path, tmp_path: Path, cli: Inside) -> None:
    """Each file that does not arrive is named, and the exit code is 1."""
    (visit / "02_rest" / "0001.dcm").write_bytes((visit / "02_rest" / "0001.dcm").read_bytes()[:-6])
    with storescp(tmp_path / "scp") as port:
        ran = cli("xnat", "send", visit, "127.0.0.1", "--port", str(port))
    assert ran.code == 1
    assert "'02_rest/0001.dcm': is truncated or damaged" in ran.out
    assert "4 images sent" in ran.out
