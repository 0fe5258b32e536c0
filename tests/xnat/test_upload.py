"""Uploads against a server that enforces XNAT's contract."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread

from icf_utils.credentials import Login, Secret
from icf_utils.errors import InvalidSetting, RemoteFailure
from icf_utils.xnat.model import UploadTarget
from icf_utils.xnat.upload import plan_upload, upload
from icf_utils.xnat.upload_inputs import list_tree_uploads
from tests.data.make_dicom import dicom_bytes
from tests.xnat.standin import ALIAS, SECRET, StandIn, standin
from tests.xnat.standin_state import Seen
from tests.xnat.uploads import send, send_one, target, write_session


def test_a_session_arrives_and_is_counted(server: StandIn, tree: Path) -> None:
    outcome = send_one(server, tree)
    (session,) = server.sessions
    assert (outcome.state, outcome.sent, outcome.held, outcome.tries) == ("uploaded", 5, 5, 1)
    assert outcome.uris == (session.prearchive_uri,)
    assert (session.project, session.subject, session.name) == ("PILOT", "sub-1", "sub-1_mr")
    assert (session.status, session.imports, len(session.files)) == ("READY", 1, 5)


def test_the_request_follows_the_contract(server: StandIn, tree: Path) -> None:
    send(server, tree)
    (asked,) = server.imports()
    assert asked.query == {
        "import-handler": "DICOM-zip",
        "PROJECT_ID": "PILOT",
        "SUBJECT_ID": "sub-1",
        "EXPT_LABEL": "sub-1_mr",
        "dest": "/prearchive/projects/PILOT",
    }
    assert asked.headers["Content-Type"] == "application/x-tar"
    assert int(asked.headers["Content-Length"]) == asked.size
    assert "Transfer-Encoding" not in asked.headers
    assert asked.headers["User-Agent"].startswith("icf-utils/")
    assert "Authorization" not in asked.headers  # the cookie is enough


def test_one_login_serves_all_sessions(server: StandIn, tmp_path: Path) -> None:
    for number in range(6):
        write_session(tmp_path / "tree" / f"s{number}" / "mr", {"01": 1})
    send(server, tmp_path / "tree", jobs=3)
    assert len(server.seen("GET", "/data/JSESSION")) == 1
    assert len(server.seen("DELETE", "/data/JSESSION")) == 1


def test_login_by_token(server: StandIn, tree: Path) -> None:
    uploads = list_tree_uploads(tree, state=tree.parent).uploads
    assert not upload(uploads, target(server), Login(ALIAS, Secret(SECRET))).failed


def test_a_wrong_password_is_tried_once(server: StandIn, tree: Path) -> None:
    """XNAT locks accounts after some failures."""
    uploads = list_tree_uploads(tree, state=tree.parent).uploads
    with pytest.raises(RemoteFailure, match="the login was refused"):
        upload(uploads, target(server), Login("me", Secret("wrong")))
    assert len(server.requests) == 1


def test_into_the_archive(server: StandIn, tree: Path) -> None:
    outcome = send_one(server, tree, dest="archive")
    (session,) = server.sessions
    assert session.archived
    assert outcome.uris == ("/archive/projects/PILOT/subjects/sub-1/experiments/sub-1_mr",)
    assert (outcome.state, outcome.held) == ("uploaded", 5)  # XNAT's own snapshot is not counted
    assert server.imports()[0].query["dest"] == "/archive/projects/PILOT/subjects/sub-1/experiments/sub-1_mr"


def test_directly_into_the_archive(server: StandIn, tree: Path) -> None:
    outcome = send_one(server, tree, dest="archive", direct_archive=True)
    assert outcome.state == "uploaded"
    assert server.imports()[0].query["Direct-Archive"] == "true"
    assert "dest" not in server.imports()[0].query


@pytest.mark.parametrize("dest", ["prearchive", "archive"])
def test_an_unknown_project_is_reported_before_anything_is_sent(server: StandIn, tree: Path, dest: str) -> None:
    with pytest.raises(RemoteFailure, match="'PILTO' cannot be listed"):
        send(server, tree, project="PILTO", dest=dest)
    assert server.imports() == []


@pytest.mark.parametrize("fallback", ["Unassigned", "OTHER"])
def test_a_silent_fallback_to_another_project_is_reported(server: StandIn, tree: Path, fallback: str) -> None:
    """XNAT answers 200 although it put the session into another project."""
    server.projects.discard("PILOT")
    server.readonly.add("PILOT")
    server.fallback = fallback
    outcome = send_one(server, tree)
    assert outcome.state == "failed"
    assert f"project '{fallback}' instead of 'PILOT'" in outcome.problem
    assert len(server.imports()) == 1


def test_a_missing_image_is_reported(server: StandIn, tree: Path) -> None:
    def lose_one(uris: list[str]) -> list[str]:
        server.sessions[0].files.popitem()
        return uris

    server.answer = lose_one
    outcome = send_one(server, tree)
    assert (outcome.state, outcome.sent, outcome.held) == ("failed", 5, 4)
    assert "sent 5 images, but XNAT has 4" in outcome.problem


def test_a_session_that_is_not_ready_is_not_a_success(server: StandIn, tree: Path) -> None:
    def conflict(uris: list[str]) -> list[str]:
        server.sessions[0].status = "CONFLICT"
        return uris

    server.answer = conflict
    assert "found it CONFLICT" in send_one(server, tree).problem


def test_an_empty_answer_is_not_a_success(server: StandIn, tree: Path) -> None:
    server.answer = lambda _: []
    assert "names no session" in send_one(server, tree).problem


def test_an_answer_that_names_several_sessions(server: StandIn, tree: Path) -> None:
    """XNAT made two sessions of the upload, and names both, on lines that end with CRLF."""

    def split(uris: list[str]) -> list[str]:
        (session,) = server.sessions
        moved = dict([session.files.popitem()])
        server.sessions.append(replace(session, timestamp="20300101_000000000", files=moved))
        return [item.prearchive_uri for item in server.sessions]

    server.answer = split
    outcome = send_one(server, tree)
    assert (outcome.state, outcome.held, len(outcome.uris)) == ("uploaded", 5, 2)


def test_an_existing_session_is_left_alone(server: StandIn, tree: Path) -> None:
    send(server, tree, dest="archive")
    shutil.rmtree(tree.parent / "state")  # the journal is lost as well
    outcome = send_one(server, tree, dest="archive")
    assert (outcome.state, outcome.identical) == ("present", True)
    (tree / "sub-1" / "mr" / "01_t1" / "1.dcm").unlink()
    changed = send_one(server, tree, dest="archive")
    assert changed.state == "failed"
    assert "See --overwrite" in changed.problem
    assert len(server.imports()) == 1


@pytest.mark.parametrize("dest", ["prearchive", "archive"])
@pytest.mark.parametrize(("overwrite", "held"), [("append", 6), ("delete", 1)])
def test_overwriting(server: StandIn, tree: Path, dest: str, overwrite: str, held: int) -> None:
    send(server, tree, dest=dest)
    session = tree / "sub-1" / "mr"
    study = session / "01_t1" / "1.dcm"
    uid = str(dcmread(study).StudyInstanceUID)
    shutil.rmtree(session)
    (session / "09").mkdir(parents=True)
    (session / "09" / "1.dcm").write_bytes(dicom_bytes(StudyInstanceUID=uid, SeriesNumber=9))
    outcome = send_one(server, tree, dest=dest, overwrite=overwrite)
    assert (outcome.state, outcome.held) == ("uploaded", held)
    assert server.imports()[-1].query["overwrite"] == overwrite
    assert sum(len(item.files) for item in server.sessions) == held


def test_the_journal_records_what_is_done(server: StandIn, tree: Path) -> None:
    send(server, tree)
    server.requests.clear()
    outcome = send_one(server, tree)
    assert (outcome.state, outcome.held) == ("before", 5)
    assert server.imports() == []
    (journal,) = (tree.parent / "state").iterdir()
    states = [json.loads(line)["state"] for line in journal.read_text().splitlines()]
    assert states == ["sending", "done"]
    assert json.loads(journal.read_text().splitlines()[1])["answers"][0].startswith("200 /prearchive/")


def test_an_incomplete_line_in_the_journal(server: StandIn, tree: Path) -> None:
    """A power failure while 'done' was written: the session is looked for, found, and not sent again."""
    send(server, tree)
    (journal,) = (tree.parent / "state").iterdir()
    journal.write_bytes(journal.read_bytes()[:-9])
    outcome = send_one(server, tree)
    assert (outcome.state, outcome.tries, len(server.imports())) == ("uploaded", 0, 1)
    assert send_one(server, tree).state == "before"


@pytest.mark.parametrize("status", [400, 403, 404])
def test_a_refusal_is_not_repeated(server: StandIn, tree: Path, status: int) -> None:
    server.fault = lambda seen: str(status) if seen.method == "POST" else None
    outcome = send_one(server, tree)
    assert (outcome.state, outcome.tries) == ("failed", 1)
    assert outcome.answers == (f"{status} an injected fault",)
    assert "it has no part of this session" in outcome.problem


@pytest.mark.parametrize("status", [400, 404])
def test_what_arrived_despite_a_refusal_counts(server: StandIn, tree: Path, status: int) -> None:
    """The listing decides, not the status."""
    server.fault = lambda seen: f"{status}-after" if seen.method == "POST" else None
    assert send_one(server, tree).state == "uploaded"


def test_a_conflict_in_the_archive_is_reported(server: StandIn, tree: Path) -> None:
    """A session with other images has the label; XNAT refuses, and leaves the new one in the prearchive."""
    send(server, tree, dest="archive")
    server.sessions[0].name = "elsewhere"

    def occupy(seen: Seen) -> None:
        if seen.method == "POST":
            server.sessions[0].name = "sub-1_mr"

    server.fault = occupy
    shutil.rmtree(tree.parent / "state")
    outcome = send_one(server, tree, dest="archive")
    assert outcome.state == "failed"
    assert outcome.answers == ("400 Failed to archive 1 of 1 session(s)",)
    assert "(CONFLICT, 5 images)" in outcome.problem


def test_no_server(tree: Path) -> None:
    with standin() as gone:
        pass
    with pytest.raises(RemoteFailure, match=r"no connection \(Connection refused\); gave up after 5 attempts"):
        send(gone, tree)


def test_a_server_that_is_not_an_xnat(server: StandIn, tree: Path) -> None:
    server.fault = lambda seen: "302" if seen.path == "/data/JSESSION" and seen.method == "GET" else None
    with pytest.raises(RemoteFailure, match="did not open a login session"):
        send(server, tree)


@pytest.mark.parametrize("url", ["https://me:secret@host", "https://host?x=secret", "ftp://host", "host"])
def test_refused_addresses(url: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        UploadTarget(url, "PILOT")
    assert "secret" not in str(caught.value)


def test_a_plan_sends_no_request(server: StandIn, tree: Path) -> None:
    result = plan_upload(list_tree_uploads(tree).uploads, target(server))
    assert [(item.state, item.sent, item.left_out) for item in result.sessions] == [("planned", 5, ())]
    assert server.requests == []
