"""Each line of XNAT's contract that an upload meets, against a server that enforces it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from icf_utils import make_studyvisit_archive
from icf_utils.credentials import Login, Secret
from icf_utils.errors import InvalidSetting, RemoteFailure
from icf_utils.sources.exclude import Exclusions
from icf_utils.xnat.inputs import file_parcel, store_parcels, tree_parcels
from icf_utils.xnat.upload import plan, upload, upload_visit
from icf_utils.xnat.values import Target
from tests.data.make_dicom import dicom_bytes, write_visit
from tests.xnat.standin import ALIAS, SECRET, StandIn, standin
from tests.xnat.standin_state import Seen
from tests.xnat.uploads import LOGIN, send, send_one, target, write_session


@pytest.fixture
def server() -> Iterator[StandIn]:
    with standin() as running:
        yield running
        running.check()
        assert running.cookies == set(), "no login session is left behind"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """One session of two scans, 5 images."""
    write_session(tmp_path / "tree" / "sub-1" / "mr", {"01_t1": 3, "02_bold": 2})
    return tmp_path / "tree"


def test_a_session_arrives_and_is_counted(server: StandIn, tree: Path) -> None:
    outcome = send_one(server, tree)
    (session,) = server.sessions
    assert (outcome.state, outcome.sent, outcome.held, outcome.tries) == ("uploaded", 5, 5, 1)
    assert outcome.uris == (session.prearchive_uri,)
    assert (session.project, session.subject, session.name) == ("PILOT", "sub-1", "sub-1_mr")
    assert (session.status, session.imports, len(session.files)) == ("READY", 1, 5)


def test_the_request_is_as_the_contract_says(server: StandIn, tree: Path) -> None:
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


def test_one_login_for_all(server: StandIn, tmp_path: Path) -> None:
    for number in range(6):
        write_session(tmp_path / "tree" / f"s{number}" / "mr", {"01": 1})
    send(server, tmp_path / "tree", jobs=3)
    assert len(server.seen("GET", "/data/JSESSION")) == 1
    assert len(server.seen("DELETE", "/data/JSESSION")) == 1


def test_a_token_logs_in(server: StandIn, tree: Path) -> None:
    parcels = tree_parcels(tree, state=tree.parent).parcels
    assert not upload(parcels, target(server), Login(ALIAS, Secret(SECRET))).failed


def test_a_wrong_password_is_tried_once(server: StandIn, tree: Path) -> None:
    """XNAT locks accounts after some failures."""
    parcels = tree_parcels(tree, state=tree.parent).parcels
    with pytest.raises(RemoteFailure, match="login is refused"):
        upload(parcels, target(server), Login("me", Secret("wrong")))
    assert len(server.requests) == 1


def test_into_the_archive(server: StandIn, tree: Path) -> None:
    outcome = send_one(server, tree, dest="archive")
    (session,) = server.sessions
    assert session.archived
    assert outcome.uris == ("/archive/projects/PILOT/subjects/sub-1/experiments/sub-1_mr",)
    assert (outcome.state, outcome.held) == ("uploaded", 5)  # XNAT's own snapshot is not counted
    assert server.imports()[0].query["dest"] == "/archive/projects/PILOT/subjects/sub-1/experiments/sub-1_mr"


def test_past_the_prearchive(server: StandIn, tree: Path) -> None:
    outcome = send_one(server, tree, dest="archive", direct_archive=True)
    assert outcome.state == "uploaded"
    assert server.imports()[0].query["Direct-Archive"] == "true"
    assert "dest" not in server.imports()[0].query


@pytest.mark.parametrize("dest", ["prearchive", "archive"])
def test_an_unknown_project_is_found_before_anything_is_sent(server: StandIn, tree: Path, dest: str) -> None:
    with pytest.raises(RemoteFailure, match="'PILTO' cannot be listed"):
        send(server, tree, project="PILTO", dest=dest)
    assert server.imports() == []


@pytest.mark.parametrize("fallback", ["Unassigned", "OTHER"])
def test_the_silent_fallback_is_found_out(server: StandIn, tree: Path, fallback: str) -> None:
    """XNAT answers 200, and has put the session into another project."""
    server.projects.discard("PILOT")
    server.readonly.add("PILOT")
    server.fallback = fallback
    outcome = send_one(server, tree)
    assert outcome.state == "failed"
    assert f"project '{fallback}' instead of 'PILOT'" in outcome.problem
    assert len(server.imports()) == 1


def test_a_missing_file_is_found_out(server: StandIn, tree: Path) -> None:
    def lose_one(uris: list[str]) -> list[str]:
        server.sessions[0].files.popitem()
        return uris

    server.answer = lose_one
    outcome = send_one(server, tree)
    assert (outcome.state, outcome.sent, outcome.held) == ("failed", 5, 4)
    assert "5 images were sent, and XNAT has 4" in outcome.problem


def test_a_session_that_is_not_ready_is_no_success(server: StandIn, tree: Path) -> None:
    def conflict(uris: list[str]) -> list[str]:
        server.sessions[0].status = "CONFLICT"
        return uris

    server.answer = conflict
    assert "found it CONFLICT" in send_one(server, tree).problem


def test_an_empty_answer_is_no_success(server: StandIn, tree: Path) -> None:
    server.answer = lambda _: []
    assert "names no session" in send_one(server, tree).problem


def test_an_answer_of_several_sessions(server: StandIn, tmp_path: Path) -> None:
    """Two studies in one folder: XNAT makes two sessions, and names both on lines ended by CRLF."""
    session = write_session(tmp_path / "tree" / "s" / "mr", {"01": 2})
    (session / "02").mkdir()
    (session / "02" / "1.dcm").write_bytes(dicom_bytes(StudyInstanceUID="1.2.3", SeriesNumber=2))
    outcome = send_one(server, tmp_path / "tree")
    assert (outcome.state, outcome.held, len(outcome.uris)) == ("uploaded", 3, 2)


def test_what_is_there_is_left_alone(server: StandIn, tree: Path) -> None:
    send(server, tree)
    shutil.rmtree(tree.parent / "state")  # the ledger is lost, too
    assert send_one(server, tree).state == "present"
    (tree / "sub-1" / "mr" / "01_t1" / "1.dcm").unlink()
    changed = send_one(server, tree)
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


def test_the_ledger_remembers(server: StandIn, tree: Path) -> None:
    send(server, tree)
    server.requests.clear()
    outcome = send_one(server, tree)
    assert (outcome.state, outcome.held) == ("before", 5)
    assert server.imports() == []
    (ledger,) = (tree.parent / "state").iterdir()
    states = [json.loads(line)["state"] for line in ledger.read_text().splitlines()]
    assert states == ["sending", "done"]
    assert json.loads(ledger.read_text().splitlines()[1])["answers"][0].startswith("200 /prearchive/")


def test_a_torn_line_in_the_ledger(server: StandIn, tree: Path) -> None:
    """The power went while 'done' was written: the session is looked for, found, and not sent again."""
    send(server, tree)
    (ledger,) = (tree.parent / "state").iterdir()
    ledger.write_bytes(ledger.read_bytes()[:-9])
    outcome = send_one(server, tree)
    assert (outcome.state, outcome.tries, len(server.imports())) == ("uploaded", 0, 1)
    assert send_one(server, tree).state == "before"


def test_files_that_are_no_images_stay_here(server: StandIn, tmp_path: Path) -> None:
    write_session(tmp_path / "tree" / "s" / "mr", {"01": 2}, {"notes.txt": b"hello", "01/more.zip": b"PK"})
    outcome = send_one(server, tmp_path / "tree")
    assert (outcome.state, outcome.sent, outcome.left_out) == ("uploaded", 2, ("01/more.zip", "notes.txt"))
    assert "Ignore-Unparsable" not in server.imports()[0].query


def test_one_image_twice_is_refused(server: StandIn, tree: Path) -> None:
    scan = tree / "sub-1" / "mr" / "01_t1"
    shutil.copy(scan / "1.dcm", scan / "copy.dcm")
    outcome = send_one(server, tree)
    assert outcome.state == "failed"
    assert "would keep only one of them" in outcome.problem


def test_scans_are_left_out_by_their_names(server: StandIn, tree: Path) -> None:
    found = tree_parcels(tree, exclude=Exclusions(("BOLD", "phoenix")), state=tree.parent)
    assert [(item.code, item.subject) for item in found.notices] == [
        ("unmatched-pattern", "phoenix"),
        ("scan-excluded", "sub-1/mr/02_bold"),
    ]
    (outcome,) = upload(found.parcels, target(server), LOGIN).sessions
    assert (outcome.state, outcome.held) == ("uploaded", 3)


def test_labels(tree: Path) -> None:
    (parcel,) = tree_parcels(tree, subject="P {subject}", label="{session}-1", state=tree).parcels
    assert (parcel.subject, parcel.label) == ("P_sub-1", "mr-1")
    with pytest.raises(InvalidSetting, match=r"no field '{patient}' here"):
        tree_parcels(tree, label="{patient}")


def test_two_sessions_of_one_label_are_refused(server: StandIn, tree: Path) -> None:
    write_session(tree / "sub 1" / "mr", {"01": 1})
    write_session(tree / "sub.1" / "mr", {"01": 1})
    with pytest.raises(InvalidSetting, match="would both be session 'sub_1_mr'"):
        send(server, tree)
    assert server.requests == []


# -- a zip, a tar ---------------------------------------------------------------------------------------------------


def zipped(path: Path, method: int = zipfile.ZIP_DEFLATED, other: str = "") -> Path:
    with zipfile.ZipFile(path, "w", method) as packed:
        for at in range(1, 4):
            packed.writestr(f"{at}.dcm", dicom_bytes(InstanceNumber=at))
        if other:
            packed.writestr(other, b"no image")
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_a_zip_goes_as_it_is(server: StandIn, tmp_path: Path, method: int) -> None:
    path = zipped(tmp_path / "one.zip", method, "readme.txt")
    (outcome,) = upload([file_parcel(path, "s1", "{name}", tmp_path)], target(server), LOGIN).sessions
    assert (outcome.state, outcome.label, outcome.held, outcome.left_out) == ("uploaded", "one", 3, ("readme.txt",))
    (asked,) = server.imports()
    assert (asked.headers["Content-Type"], asked.size) == ("application/zip", path.stat().st_size)
    assert asked.query["Ignore-Unparsable"] == "true"


@pytest.mark.parametrize(("method", "other"), [(zipfile.ZIP_LZMA, ""), (zipfile.ZIP_DEFLATED, "inner.zip")])
def test_a_zip_that_xnat_would_stumble_over_goes_as_a_tar(
    server: StandIn, tmp_path: Path, method: int, other: str
) -> None:
    path = zipped(tmp_path / "one.zip", method, other)
    (outcome,) = upload([file_parcel(path, "s1", "mr", tmp_path)], target(server), LOGIN).sessions
    assert (outcome.state, outcome.held) == ("uploaded", 3)
    assert server.imports()[0].headers["Content-Type"] == "application/x-tar"


def test_a_compressed_tar_is_unpacked(server: StandIn, tree: Path) -> None:
    path = tree.parent / "one.tar.gz"
    with tarfile.open(path, "w:gz") as packed:
        packed.add(tree, "x")
    (outcome,) = upload([file_parcel(path, "s1", "mr", tree.parent)], target(server), LOGIN).sessions
    assert (outcome.state, outcome.held) == ("uploaded", 5)


def test_a_zip_needs_labels(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="--subject and --label"):
        file_parcel(zipped(tmp_path / "one.zip"), "", "")


# -- the store ------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for number in (1, 2):
        study = {"StudyInstanceUID": f"1.2.3.{number}"}
        write_visit(tmp_path / f"in{number}", {1: ("t1", 2), 2: ("bold", 2)}, companions={"a.txt": b"a"}, **study)
        make_studyvisit_archive(tmp_path / f"in{number}", tmp_path / "store", "study-a", f"v{number}")
    return tmp_path / "store"


def test_the_archive_of_a_visit_goes_as_it_is(server: StandIn, store: Path) -> None:
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
    parcels = store_parcels(store, "study-a", subject="P-{visit}")
    result = upload(parcels, target(server), LOGIN, jobs=2)
    assert [(item.subject, item.state) for item in result.sessions] == [("P-v1", "uploaded"), ("P-v2", "uploaded")]


def test_a_damaged_archive_does_not_arrive(server: StandIn, store: Path) -> None:
    """The last bytes are kept back until the checksum has proved right: XNAT never gets the whole."""
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


def test_a_visit_that_is_not_there(server: StandIn, store: Path) -> None:
    outcome = upload_visit(store, "study-a", "v9", target(server), LOGIN)
    assert outcome.state == "failed"
    assert "make_studyvisit_archive" in outcome.problem


# -- what else can be wrong -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 403, 404])
def test_a_refusal_is_not_repeated(server: StandIn, tree: Path, status: int) -> None:
    server.fault = lambda seen: str(status) if seen.method == "POST" else None
    outcome = send_one(server, tree)
    assert (outcome.state, outcome.tries) == ("failed", 1)
    assert outcome.answers == (f"{status} an injected fault",)
    assert "it has nothing of this session" in outcome.problem


@pytest.mark.parametrize("status", [400, 404])
def test_what_came_in_spite_of_a_refusal_counts(server: StandIn, tree: Path, status: int) -> None:
    """The listing decides, not the status."""
    server.fault = lambda seen: f"{status}-after" if seen.method == "POST" else None
    assert send_one(server, tree).state == "uploaded"


def test_a_conflict_in_the_archive_is_told(server: StandIn, tree: Path) -> None:
    """A session of other data has the label; XNAT refuses, and leaves the new one in the prearchive."""
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


def test_tls_is_verified(tree: Path, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if not openssl:
        pytest.skip("there is no openssl to make a certificate with")
    made = tmp_path / "server.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += [
        "-addext",
        "subjectAltName=DNS:localhost",
        "-keyout",
        str(tmp_path / "key"),
        "-out",
        str(tmp_path / "cert"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    made.write_bytes((tmp_path / "key").read_bytes() + (tmp_path / "cert").read_bytes())
    with standin(certificate=made) as server:
        with pytest.raises(RemoteFailure, match="not trusted"):
            send(server, tree)
        assert server.requests == []
        assert send_one(server, tree, ca=tmp_path / "cert").state == "uploaded"


def test_nobody_answers(tree: Path) -> None:
    with standin() as gone:
        pass
    with pytest.raises(RemoteFailure, match="connection was lost"):
        send(gone, tree)


def test_another_server_than_an_xnat(server: StandIn, tree: Path) -> None:
    server.fault = lambda seen: "302" if seen.path == "/data/JSESSION" and seen.method == "GET" else None
    with pytest.raises(RemoteFailure, match="expected 200 for the login, found 302"):
        send(server, tree)


@pytest.mark.parametrize("url", ["https://me:secret@host", "https://host?x=secret", "ftp://host", "host"])
def test_addresses_that_are_refused(url: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        Target(url, "PILOT")
    assert "secret" not in str(caught.value)


def test_a_plan_asks_nobody(server: StandIn, tree: Path) -> None:
    result = plan(tree_parcels(tree).parcels, target(server))
    assert [(item.state, item.sent, item.left_out) for item in result.sessions] == [("planned", 5, ())]
    assert server.requests == []


def test_the_length_is_known_before(tree: Path) -> None:
    """What is made on the way is a TAR, as long as was said, with names that say nothing."""
    (parcel,) = tree_parcels(tree).parcels
    with parcel.open() as body:
        first, second = b"".join(body), b"".join(body)
    assert len(first) == len(body)
    assert first == second
    with tarfile.open(fileobj=io.BytesIO(first)) as packed:
        assert packed.getnames() == [f"{at:08}.dcm" for at in range(1, 6)]
    assert os.path.basename(tree).encode() not in first
