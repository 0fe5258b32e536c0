"""Whole studies and selections from a web server with a password, by the command line."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from icf_utils import deposit_visit_metadata, make_studyvisit_archive
from icf_utils.catalog.visit_list import publish_visit
from icf_utils.cli.main import main
from icf_utils.errors import InvalidSetting
from icf_utils.metadata.history import VersionRecord, encode_history
from icf_utils.progress import SILENT
from icf_utils.retrieve.selection_file import SelectedLine, parse_selection_file
from icf_utils.settings import Settings
from icf_utils.store.layout import Visit
from tests.data.make_dicom import uid, write_visit
from tests.dataset.servers import PASSWORD, USER, Server
from tests.retrieve.conftest import files

VISITS = {
    "sub-01": {1: ("T1w MPRAGE", 3), 2: ("bold", 2)},
    "sub-02": {1: ("t1_mprage_sag", 2)},
    "other": {3: ("FLAIR", 1)},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of three visits with a list, the second of which has two versions and two modalities."""
    root = tmp_path_factory.mktemp("stored")
    for number, (visit, series) in enumerate(VISITS.items()):
        folder = root / "in" / visit
        study_uid, echo_time = uid(number), 2.5 + number
        write_visit(folder, series, StudyInstanceUID=study_uid, EchoTime=echo_time)
        if visit == "sub-02":
            write_visit(folder, {9: ("scout", 1)}, Modality="CT", StudyInstanceUID=study_uid, EchoTime=echo_time)
        make_studyvisit_archive(folder, root / "store", "study-a", visit)
        made = deposit_visit_metadata(root / "store", "study-a", visit)
        place = Visit(root / "store", "study-a", visit)
        if visit == "sub-02":
            md5 = json.loads(place.tarball_json.read_text())["md5"]
            size = place.archive.stat().st_size
            place.history.write_bytes(
                encode_history([VersionRecord(1, "0" * 32, 512, ""), VersionRecord(2, md5, size, "", "late images")])
            )
        publish_visit(place, Settings(), SILENT)
        assert made
    return root / "store"


def run(server: Server, *arguments: object) -> int:
    return main(["retrieve", "--store", server.url, "--user", USER, *map(str, arguments)])


def found(folder: Path) -> set[str]:
    return {"/".join(Path(name).parts[:2]) for name in files(folder)}


T1_01, T1_02 = "study-a_sub-01/01_T1w_MPRAGE", "study-a_sub-02/01_t1_mprage_sag"
BOLD, FLAIR, SCOUT = "study-a_sub-01/02_bold", "study-a_other/03_FLAIR", "study-a_sub-02/09_scout"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), {T1_01, T1_02, BOLD, FLAIR, SCOUT}),
        (("--tag", "ProtocolName~mprage"), {T1_01, T1_02}),
        (("--tag", "ProtocolName=bold"), {BOLD}),
        (("--tag", "EchoTime=2.50"), {T1_01, BOLD}),
        (("--tag", "EchoTime>2.5", "--tag", "EchoTime<=3.5"), {T1_02, SCOUT}),
        (("--visit", "sub-0*"), {T1_01, T1_02, BOLD, SCOUT}),
        (("--visit", "sub-01", "--visit", "oth*"), {T1_01, BOLD, FLAIR}),
        (("--modality", "CT"), {SCOUT}),
        (("--since", "2"), {T1_02, SCOUT}),
    ],
)
def test_of_a_study(server: Server, tmp_path: Path, login: None, options: tuple[str, ...], expected: set[str]) -> None:
    assert run(server, "--study", "study-a", *options, "-d", tmp_path) == 0
    assert found(tmp_path) == expected


def test_a_modality_needs_the_metadata_of_visits_that_have_it_only(server: Server, tmp_path: Path, login: None) -> None:
    before = len(server.requests())
    assert run(server, "--study", "study-a", "--modality", "CT", "--dry-run", "-d", tmp_path) == 0
    asked = "".join(server.requests()[before:])
    assert "sub-02_metadata_dicoms.json" in asked
    assert "sub-01" not in asked


def test_nothing_is_newer(server: Server, tmp_path: Path, login: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(server, "--study", "study-a", "--since", "3", "--tag", "Modality=MR", "-d", tmp_path) == 0
    assert "0 images retrieved" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--study", "study-x"), "the list of its visits (visits.json) was not found: check the study's name"),
        (("--study", "study-a", "--visit", "x*"), "no visit matches --visit 'x*'"),
        (("--study", "study-a", "--modality", "US"), "no image matches --modality US"),
    ],
)
def test_what_is_not_there(
    server: Server,
    tmp_path: Path,
    login: None,
    options: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(server, *options, "-d", tmp_path / "new") == 1
    assert said in capsys.readouterr().out
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "text",
    [
        "study\tvisit\tseries\r\nstudy-a\tsub-01\t2\r\nstudy-a\tother\t\r\n",
        'visit,comment,study,series\nsub-01,"a, b",study-a,2\nother,,study-a,3\n',
        '{"study": "study-a", "visit": "sub-01", "series": 2}\n\n{"study": "study-a", "visit": "other"}\n',
        "study;visit;path\nstudy-a;sub-01;study-a_sub-01/02_bold/0001.dcm\n"
        "study-a;sub-01;study-a_sub-01/02_bold/0002.dcm\nstudy-a;other;\n",
    ],
)
def test_from_a_selection_file(server: Server, tmp_path: Path, login: None, text: str) -> None:
    (tmp_path / "selection").write_text(text, newline="")
    assert run(server, "--from", tmp_path / "selection", "-d", tmp_path / "out") == 0
    assert set(files(tmp_path / "out")) == {f"{BOLD}/0001.dcm", f"{BOLD}/0002.dcm", f"{FLAIR}/0001.dcm"}


def test_a_line_that_matches_nothing(
    server: Server, tmp_path: Path, login: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "selection").write_text("study\tvisit\tseries\nstudy-a\tsub-01\t2\nstudy-a\tsub-01\t7\n")
    assert run(server, "--from", tmp_path / "selection", "-d", tmp_path / "out") == 1
    assert "no image matches the line of --from: study-a/sub-01 series 7" in capsys.readouterr().out
    assert found(tmp_path / "out") == {BOLD}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("visit,series\nsub-01,3\n", "s: its first line has no column 'study'"),
        ("study,visit\n", "s: it selects nothing"),
        ("study,visit\na,../b\n", "s, line 2: "),
        ("study,visit\na,b\na\n", "s, line 3: expected 2 columns, found 1"),
        ('{"study": "a", "visit": "b"}\n{"study"\n', "s, line 2: expected a JSON object"),
        ("study,visit\na,b\xff\n", "expected a selection in UTF-8"),
    ],
)
def test_selection_files_that_are_refused(text: str, said: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        parse_selection_file(text.encode("latin-1"), "s")
    assert said in str(caught.value)


def test_apostrophes_before_formulas() -> None:
    assert parse_selection_file(b"study\tvisit\tpath\na\tb\t'=1.dcm\n", "s") == (SelectedLine("a", "b", path="=1.dcm"),)


def test_a_user_with_a_password_is_refused(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["retrieve", "--store", server.url, "--user", "a:b", "study-a", "-d", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "--user: give the name alone, without ':'" in said
    assert "a:b" not in said


def test_a_refused_password_is_sent_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ICF_STORE_PASSWORD", "wrong")
    before = len(server.requests())
    assert run(server, "study-a/sub-01", "study-a/sub-02", "study-a/other", "-d", tmp_path) == 10
    assert len(server.requests()) - before == 1
    assert "rejects the user and password (401)" in capsys.readouterr().err


def test_an_error_names_the_options(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["retrieve", "--store", server.url, "study-a/sub-01", "-d", str(tmp_path)]) == 10
    said = capsys.readouterr().err
    assert "the server requires authentication (401)" in said
    assert "give --user NAME" in said


def test_the_command_of_a_catalog_asks_for_the_password(server: Server, tmp_path: Path) -> None:
    pexpect = pytest.importorskip("pexpect", reason="pexpect is not installed")
    environment = {name: text for name, text in os.environ.items() if name != "GIT_TERMINAL_PROMPT"}
    command = ["-m", "icf_utils", "retrieve", "--store", server.url, "--id", "study-a", "sub-01", "-d", "sub-01"]
    child = pexpect.spawn(sys.executable, command, env=environment, cwd=tmp_path, timeout=60)
    child.expect(f"{server.url} requires authentication")
    child.expect("User: ")
    child.sendline(USER)
    child.expect("Password: ")
    child.sendline(PASSWORD)
    child.expect("5 images retrieved")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_netrc_and_the_keyring(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keyring = pytest.importorskip("keyring", reason="keyring is not installed")
    alternative = pytest.importorskip("keyrings.alt.file", reason="keyrings.alt is not installed")
    backend = alternative.PlaintextKeyring()
    backend.file_path = str(tmp_path / "keyring")
    monkeypatch.setattr(keyring, "get_credential", backend.get_credential)
    backend.set_password(server.url, USER, PASSWORD)
    assert run(server, "study-a/other", "-d", tmp_path / "one") == 0
    backend.delete_password(server.url, USER)
    assert run(server, "study-a/other", "-d", tmp_path / "two") == 2
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {server.url.removeprefix('http://')} login {USER} password {PASSWORD}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert main(["retrieve", "--store", server.url, "study-a/other", "-d", str(tmp_path / "two")]) == 0
    assert found(tmp_path / "two") == {FLAIR}
