"""``icf-utils xnat prearchive`` as a program: on a real database, and through the inbox."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from icf_utils import deposit_visit_metadata, make_studyvisit_archive
from icf_utils.credentials import Login, Secret
from icf_utils.errors import RemoteFailure
from icf_utils.xnat.database import TABLE
from icf_utils.xnat.rest import XnatClient
from icf_utils.xnat.staging import WORK_DIR
from tests.cli.program import PROGRAM, Inside, surrounding
from tests.data.make_dicom import uid, write_visit
from tests.xnat.postgres import Server
from tests.xnat.prearchiving import tree
from tests.xnat.standin import PASSWORD, USER, StandIn
from tests.xnat.standin_state import Session


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Inside:
    return Inside(capsys)


@pytest.fixture
def visit(tmp_path: Path) -> Path:
    folder = tmp_path / "visit"
    write_visit(folder, {1: ("scout", 2), 2: ("rest", 3)}, StudyInstanceUID=uid("study", "direct"))
    return folder


@pytest.fixture
def options(postgres: Server, xnat: StandIn, root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Credentials come from the environment, never from the command line."""
    monkeypatch.setenv("XNAT_USER", USER)
    monkeypatch.setenv("XNAT_PASS", PASSWORD)
    monkeypatch.setenv("PGHOST", str(postgres.folder))
    monkeypatch.setenv("PGPORT", str(postgres.port))
    monkeypatch.setenv("PGDATABASE", "xnat")
    monkeypatch.setenv("PGUSER", postgres.user)
    return ["xnat", "prearchive", "--url", xnat.url, "--prearchive", str(root), "--project", "PILOT"]


def test_from_a_folder(options: list[str], visit: Path, root: Path, postgres: Server, cli: Inside) -> None:
    ran = cli(*options, "--session", "S1", visit)
    assert ran.code == 0, ran.err
    assert "READY (5 files" in ran.out
    assert len(list(root.glob("PILOT/*/S1/SCANS/*/DICOM/*.dcm"))) == 5
    assert not (root / WORK_DIR).exists()
    assert PASSWORD not in ran.out + ran.err


def test_from_the_store(
    options: list[str], visit: Path, root: Path, tmp_path: Path, postgres: Server, cli: Inside
) -> None:
    """The session has the visit's name; each file is compared with the MD5 in the metadata."""
    make_studyvisit_archive(visit, tmp_path / "store", "s", "v.1")
    deposit_visit_metadata(tmp_path / "store", "s", "v.1")
    ran = cli(*options, "-o", tmp_path / "store", "--id", "s", "v.1", "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["result"]["session"], ran.json["result"]["status"]) == ("v_1", "READY")
    metadata = tmp_path / "store" / "s" / "v.1_metadata_dicoms.json"
    first = ran.json["result"]["files"][0]["md5"]
    metadata.write_text(metadata.read_text().replace(first, "0" * 32), encoding="utf-8")
    again = cli(*options, "-o", tmp_path / "store", "--id", "s", "v.1", "--again")
    assert again.code == 3
    assert "does not have the MD5 recorded" in again.err
    assert len(postgres.rows()) == 1


def test_a_conflict_is_not_a_success(
    options: list[str], visit: Path, xnat: StandIn, postgres: Server, cli: Inside
) -> None:
    xnat.outcome = lambda session: "CONFLICT"  # type: ignore[attr-defined]
    ran = cli(*options, "--session", "S1", visit)
    assert ran.code == 1
    assert "CONFLICT" in ran.out
    assert "built: CONFLICT" in ran.out
    assert cli(*options, "--session", "S1", visit, "--again", "--wait", "0").code == 0


@pytest.mark.parametrize("project", ["PILTO", "pilot"])
def test_an_unknown_project_is_reported_before_anything_is_copied(
    options: list[str], visit: Path, root: Path, xnat: StandIn, postgres: Server, cli: Inside, project: str
) -> None:
    ran = cli(*options[:-1], project, "--session", "S1", visit)
    assert (ran.code, tree(root), postgres.rows()) == (10, [], [])
    assert f"project '{project}' cannot be listed" in ran.err
    assert "copied" not in ran.err


def test_a_project_that_xnat_knows_by_another_spelling(xnat: StandIn) -> None:
    """XNAT may accept another spelling of a project's ID in listings."""
    row = Session("PILOT", "20240101_000000000", "a", "s", "a", "1.2.3", "READY")
    xnat.projects.add("pilot")
    xnat.prearchived = lambda project=None: [row]  # type: ignore[method-assign]
    with XnatClient(xnat.url, Login(USER, Secret(PASSWORD))) as client:
        client.check_project("PILOT")
        with pytest.raises(RemoteFailure, match=r"'pilot' contains sessions of project 'PILOT'"):
            client.check_project("pilot")


def test_options_that_contradict_each_other(options: list[str], visit: Path, root: Path, cli: Inside) -> None:
    assert cli(*options, visit).code == 2  # no session
    assert cli(*options, "--session", "S1").code == 2  # no input
    assert cli(*options, "--session", "S1", visit, "--inbox", root).code == 2
    assert cli("xnat", "prearchive", visit, "--session", "S1", "--prearchive", root).code == 2  # no address
    assert cli(*options, "--session", "S1", visit, "--owner", "no-such-user-here").code == 2
    assert cli(*options, "--session", "S1", visit, "--db-name", "host=x password=y").code == 2
    assert cli(*options, "--session", "S1", visit, "--umask", "9").code == 2
    assert tree(root) == []


def test_a_dry_run_prints_folder_sql_and_requests(
    options: list[str], visit: Path, root: Path, xnat: StandIn, postgres: Server, cli: Inside
) -> None:
    ran = cli(*options, "--session", "S1", visit, "--dry-run")
    assert ran.code == 0
    assert f"folder: {root}/PILOT/" in ran.out
    assert "01_scout/0001.dcm -> SCANS/1/DICOM/0001.dcm" in ran.out
    assert f"INSERT INTO {TABLE} (" in ran.out
    assert "  prevent_auto_commit = False" in ran.out
    assert "POST /data/services/prearchive/rebuild src=/prearchive/projects/PILOT/" in ran.out
    assert (tree(root), postgres.rows(), xnat.requests) == ([], [], [])


def test_a_wrong_login_leaves_nothing(
    options: list[str], visit: Path, root: Path, postgres: Server, cli: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XNAT_PASS", "wrong")
    ran = cli(*options, "--session", "S1", visit)
    assert ran.code == 10
    assert "the login was refused" in ran.err
    assert (tree(root), postgres.rows()) == ([], [])


@pytest.mark.parametrize("status", ["403", "400", "404"])
def test_a_refused_rebuild_is_undone(
    options: list[str], visit: Path, root: Path, xnat: StandIn, postgres: Server, cli: Inside, status: str
) -> None:
    xnat.fault = lambda seen: status if seen.path.endswith("/rebuild") else None
    ran = cli(*options, "--session", "S1", visit)
    assert ran.code == 10
    assert f"was refused ({status}" in ran.err
    assert (tree(root), postgres.rows()) == ([], [])


@pytest.mark.parametrize("fault", ["503", "reset", "reset-after", "401"])
def test_a_rebuild_request_is_repeated_after_a_transient_failure(
    options: list[str], visit: Path, xnat: StandIn, cli: Inside, fault: str
) -> None:
    left = [fault]
    xnat.fault = lambda seen: left.pop() if seen.path.endswith("/rebuild") and left else None
    assert cli(*options, "--session", "S1", visit).code == 0
    assert len(xnat.seen("POST", "/data/services/prearchive/rebuild")) == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_undoes_everything(
    options: list[str], visit: Path, root: Path, xnat: StandIn, postgres: Server, number: int, code: int
) -> None:
    """During the wait for the rebuild: the row exists, and is removed again."""
    xnat.outcome = lambda session: "RECEIVING"  # type: ignore[attr-defined]
    command = [*PROGRAM, *options, "--session", "S1", str(visit)]
    process = subprocess.Popen(command, env=surrounding(), stdout=-3, stderr=subprocess.PIPE)
    try:
        for _ in range(300):
            if xnat.seen("POST", "/data/services/prearchive/rebuild"):
                break
            time.sleep(0.05)
        assert len(postgres.rows()) == 1
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == code, said
    assert (tree(root), postgres.rows()) == ([], [])


# -- the requests themselves -------------------------------------------------------------------------------------------


def test_requests_of_the_client(postgres: Server, xnat: StandIn) -> None:
    with XnatClient(xnat.url, Login(USER, Secret(PASSWORD))) as client:
        assert client.prearchive_status("PILOT", "x", "y") is None
        with pytest.raises(RemoteFailure, match="cannot be listed"):
            client.list_prearchive("FORBIDDEN")
        with pytest.raises(RemoteFailure, match="was refused"):
            client.rebuild("/prearchive/projects/PILOT/x/y")
        xnat.fault = lambda seen: "409" if seen.path.endswith("/rebuild") else None
        client.rebuild("/prearchive/projects/PILOT/x/y")  # XNAT is rebuilding it already
    assert all(request.method != "PUT" for request in xnat.requests)


# -- the inbox ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def inbox(options: list[str], xnat: StandIn) -> list[str]:
    assert xnat.inbox
    named = ["--project", "PILOT", "--subject", "sub-01", "--session", "S1"]
    return ["xnat", "prearchive", "--url", xnat.url, "--inbox", str(xnat.inbox), *named]


def test_through_the_inbox(inbox: list[str], visit: Path, xnat: StandIn, cli: Inside) -> None:
    """A copy is made for XNAT, and removed once XNAT has read it; the input stays."""
    ran = cli(*inbox, visit, "--json")
    assert ran.code == 0, ran.err
    result = ran.json["result"]
    assert (result["status"], result["files"], result["counted"], result["copied"]) == ("READY", 5, 5, True)
    (asked,) = xnat.imports()
    assert asked.query["cleanupAfterImport"] == "false"
    assert asked.query["import-handler"] == "inbox"
    assert (asked.query["PROJECT_ID"], asked.query["SUBJECT_ID"], asked.query["EXPT_LABEL"]) == (
        "PILOT",
        "sub-01",
        "S1",
    )
    assert asked.query["path"].startswith(f"{xnat.inbox}/PILOT/")
    assert xnat.inbox
    assert tree(xnat.inbox) == []
    assert len(list(visit.rglob("*.dcm"))) == 5


def test_the_inbox_of_a_project_that_archives_by_itself(
    inbox: list[str], visit: Path, xnat: StandIn, cli: Inside
) -> None:
    xnat.auto_archive = True
    ran = cli(*inbox, visit, "--json")
    assert ran.code == 0, ran.err
    result = ran.json["result"]
    assert (result["status"], result["files"], result["counted"]) == ("ARCHIVED", 5, 5)
    assert xnat.inbox
    assert tree(xnat.inbox) == []


def test_a_folder_in_the_inbox_is_read_in_place(inbox: list[str], visit: Path, xnat: StandIn, cli: Inside) -> None:
    """It exists afterwards: XNAT must not delete the only copy."""
    assert xnat.inbox
    os.rename(visit, xnat.inbox / "mine")
    before = tree(xnat.inbox)
    ran = cli(*inbox, xnat.inbox / "mine", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["result"]["copied"] is False
    assert tree(xnat.inbox) == before


@pytest.mark.parametrize("fault", ["400", "reset"])
def test_a_refused_import_leaves_no_copy(inbox: list[str], visit: Path, xnat: StandIn, cli: Inside, fault: str) -> None:
    xnat.fault = lambda seen: fault if seen.path.endswith("/import") else None
    assert cli(*inbox, visit).code == 10
    assert xnat.inbox
    assert tree(xnat.inbox) == []


def test_a_missing_file_is_not_a_success(inbox: list[str], visit: Path, xnat: StandIn, cli: Inside) -> None:
    """The session is READY, but a file is missing."""
    receive = xnat.receive

    def forgetful(order, images, at_most=None):  # type: ignore[no-untyped-def]
        return receive(order, iter(list(images)[1:]), at_most)

    xnat.receive = forgetful  # type: ignore[method-assign]
    ran = cli(*inbox, visit)
    assert ran.code == 10
    assert "expected 5 files in the session, XNAT counts 4" in ran.err


def test_the_inbox_requires_labels(inbox: list[str], visit: Path, xnat: StandIn, cli: Inside) -> None:
    assert cli(*inbox[:6], visit).code == 2
    shown = cli(*inbox, visit, "--dry-run", "--server-path", "/data/xnat/inbox")
    assert shown.code == 0
    assert "path=/data/xnat/inbox/PILOT/" in shown.out
    assert shown.out.rstrip().endswith("cleanupAfterImport=false")
    assert xnat.requests == []
