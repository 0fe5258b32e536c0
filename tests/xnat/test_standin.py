"""The stand-in for XNAT follows the contract: xnatpy, a client of real XNATs, works with it."""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.data.make_dicom import dicom_bytes, uid
from tests.xnat.standin import ALIAS, PASSWORD, SECRET, USER, StandIn, standin

xnat = pytest.importorskip("xnat")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StandIn]:
    (tmp_path / "inbox").mkdir()
    with standin(inbox=tmp_path / "inbox") as running:
        yield running


def packed(path: Path, *studies: str, images: int = 3) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for study in studies:
            for at in range(images):
                content = dicom_bytes(StudyInstanceUID=uid(study), InstanceNumber=at + 1, PatientID=study)
                archive.writestr(f"{study}/{at}.dcm", content)
    return path


def connect(server: StandIn, user: str = USER, password: str = PASSWORD) -> object:
    quiet = logging.getLogger("xnat-in-tests")
    quiet.setLevel(logging.CRITICAL)
    return xnat.connect(server.url, user=user, password=password, no_parse_model=True, logger=quiet)


def test_xnatpy_imports_and_lists(server: StandIn, tmp_path: Path) -> None:
    with connect(server) as client:  # type: ignore[attr-defined]
        archive = packed(tmp_path / "one.zip", "a")
        made = client.services.import_(archive, project="PILOT", destination="/prearchive/projects/PILOT")
        assert made.uri.startswith("/data/prearchive/projects/PILOT/")
        (listed,) = client.prearchive.sessions()
        assert (listed.status, listed.project, listed.name) == ("READY", "PILOT", "a")
        assert [scan.id for scan in listed.scans] == ["1"] or listed.scans is not None
        assert listed.rebuild().status_code == 200
    server.check()
    assert server.cookies == set()  # xnatpy has logged out
    assert [session.imports for session in server.sessions] == [1]


def test_xnatpy_logs_in_with_a_token(server: StandIn) -> None:
    with connect(server, ALIAS, SECRET) as client:  # type: ignore[attr-defined]
        assert client.prearchive.sessions() == []


def test_xnatpy_is_refused_with_a_wrong_password(server: StandIn) -> None:
    with pytest.raises(Exception, match="logging in"):
        connect(server, USER, "wrong")


def test_xnatpy_uses_the_inbox(server: StandIn, tmp_path: Path) -> None:
    folder = tmp_path / "inbox" / "visit"
    folder.mkdir()
    (folder / "1.dcm").write_bytes(dicom_bytes())
    asked = {"import-handler": "inbox", "path": str(folder), "cleanupAfterImport": "false", "PROJECT_ID": "PILOT"}
    with connect(server) as client:  # type: ignore[attr-defined]
        client.post("/data/services/import", query=asked)
        assert folder.exists()
        del asked["cleanupAfterImport"]
        client.post("/data/services/import", query={**asked, "EXPT_LABEL": "again"})
        assert not folder.exists()  # the default: the folder is deleted
    server.check()


def post(server: StandIn, data: bytes | Iterator[bytes], query: str = "", **headers: str) -> requests.Response:
    return requests.post(
        f"{server.url}/data/services/import?{query}", data=data, headers=headers, auth=(USER, PASSWORD), timeout=10
    )


@pytest.fixture
def archive(tmp_path: Path) -> bytes:
    return packed(tmp_path / "two.zip", "a", "b").read_bytes()


def test_the_answer_names_several_sessions(server: StandIn, archive: bytes) -> None:
    answer = post(server, archive, "import-handler=DICOM-zip&dest=/prearchive/projects/PILOT", **ZIP)
    assert answer.headers["Content-Type"] == "text/uri-list"
    first, second, end = answer.content.split(b"\r\n")
    assert first.startswith(b"/prearchive/projects/PILOT/")
    assert second.endswith(b"/b")
    assert end == b""


ZIP = {"Content-Type": "application/zip"}


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("import-handler=nonsense", ZIP, 404),
        ("dest=/nowhere", ZIP, 400),
        ("overwrite=sometimes", ZIP, 400),
        ("", {"Content-Type": "text/plain"}, 400),
        ("", {**ZIP, "User-Agent": "Mozilla/5.0 (X11; Linux)"}, 403),
    ],
)
def test_refused_imports(server: StandIn, archive: bytes, query: str, headers: dict[str, str], status: int) -> None:
    assert post(server, archive, query, **headers).status_code == status
    assert server.sessions == []


def test_an_upload_without_length_is_a_violation(server: StandIn, archive: bytes) -> None:
    assert post(server, iter([archive]), **ZIP).status_code == 400
    assert server.violations == ["an upload without Content-Length"]


def test_projects_fall_back_silently(server: StandIn, archive: bytes) -> None:
    assert post(server, archive, "PROJECT_ID=MISSPELT", **ZIP).status_code == 200
    assert {session.project for session in server.sessions} == {"Unassigned"}
    assert {session.status for session in server.sessions} == {"RECEIVING"}  # there was no dest


def test_a_stored_member_of_unknown_size_cannot_be_read(server: StandIn) -> None:
    class Pipe(io.BytesIO):
        def tell(self) -> int:
            raise OSError("a pipe has no places")

    out = Pipe()
    with zipfile.ZipFile(out, "w") as streamed:  # type: ignore[arg-type, unused-ignore]
        streamed.writestr("1.dcm", dicom_bytes())
    assert post(server, out.getvalue(), **ZIP).status_code == 400


def test_rescanning_the_prearchive_is_a_violation(server: StandIn) -> None:
    requests.put(f"{server.url}/data/prearchive", auth=(USER, PASSWORD), timeout=10)
    with pytest.raises(AssertionError, match="every row"):
        server.check()


def test_an_unknown_route_is_a_violation(server: StandIn) -> None:
    requests.get(f"{server.url}/data/experiment", auth=(USER, PASSWORD), timeout=10)
    with pytest.raises(AssertionError, match="no such route"):
        server.check()


@pytest.mark.parametrize(("files", "status"), [(1, 200), (2, 400)])
def test_a_form_contains_one_file(server: StandIn, archive: bytes, files: int, status: int) -> None:
    """The form of dicomUpload and of XNAT's own pages."""
    parts = [("file", (f"{at}.zip", archive, "application/zip")) for at in range(files)]
    url = f"{server.url}/data/services/import?import-handler=DICOM-zip&dest=/prearchive/projects/PILOT"
    assert requests.post(url, files=parts, auth=(USER, PASSWORD), timeout=10).status_code == status
    assert len(server.sessions) == (2 if status == 200 else 0)


@pytest.mark.parametrize(
    ("status", "own", "expected"), [("READY", False, 200), ("READY", True, 301), ("BUILDING", True, 409)]
)
def test_committing(server: StandIn, archive: bytes, status: str, own: bool, expected: int) -> None:
    post(server, archive, "PROJECT_ID=PILOT", **ZIP)
    session = server.sessions[0]
    session.status, server.auto_archive = status, own
    url = f"{server.url}/data{session.prearchive_uri}?action=commit"
    assert requests.post(url, auth=(USER, PASSWORD), timeout=10, allow_redirects=False).status_code == expected
    assert session.archived == (expected == 301)
