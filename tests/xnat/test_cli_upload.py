"""``icf-utils xnat upload`` as a program: what it prints, its exit codes, and that no password appears."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from icf_utils import make_studyvisit_archive
from tests.cli.program import PROGRAM, Inside, icf, surrounding
from tests.data.make_dicom import write_visit
from tests.xnat.standin import ALIAS, PASSWORD, SECRET, USER, StandIn, standin
from tests.xnat.uploads import write_session


@pytest.fixture
def server() -> Iterator[StandIn]:
    with standin() as running:
        yield running
        running.check()


@pytest.fixture
def inside(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Inside:
    """The program in this process, with a password in the environment."""
    monkeypatch.setenv("XNAT_PASS", PASSWORD)
    return Inside(capsys)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for session in ("mr1", "mr2"):
        write_session(tmp_path / "tree" / "sub-1" / session, {"01_localizer": 1, "02_t1": 2}, {"notes.txt": b"x"})
    return tmp_path / "tree"


def arguments(server: StandIn, source: Path, *more: str) -> list[str]:
    state = ["--state", str(source.parent / "state"), "--pause", "0.05"]
    return ["xnat", "upload", str(source), "--url", server.url, "--project", "PILOT", *state, *more]


def of_store(server: StandIn, store: Path, *more: str) -> list[str]:
    return ["xnat", "upload", "-o", str(store), "--url", server.url, "--project", "PILOT", "--pause", "0.05", *more]


def test_a_tree(server: StandIn, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "exclude.json").write_text('{"Exclude": ["Localizer", "phoenix"]}')
    more = ("--user", USER, "--exclude", str(tmp_path / "exclude.json"), "--log", str(tmp_path / "log"), "--jobs", "2")
    ran = icf(*arguments(server, tree, *more), env={"XNAT_PASS": PASSWORD})
    first, second, summary = ran.out.splitlines()
    assert first.startswith("sub-1/sub-1_mr1: uploaded (2 images, 10.2 kB, 1 other file left out): /prearchive/")
    assert second.startswith("sub-1/sub-1_mr2: uploaded")
    assert summary == "2 sessions for PILOT (prearchive): 2 uploaded"
    assert "left out [scan-excluded]: 'sub-1/mr1/01_localizer', 'sub-1/mr2/01_localizer'" in ran.err
    assert "warning [unmatched-pattern]: 'phoenix'" in ran.err
    assert "[200 /prearchive/projects/PILOT/" in (tmp_path / "log").read_text().splitlines()[0]
    assert ran.code == 0


def test_json_contains_the_answers_of_xnat(server: StandIn, tree: Path) -> None:
    done = icf(*arguments(server, tree, "--json"), env={"XNAT_PASS": PASSWORD, "XNAT_USER": USER}).json
    assert done["ok"] is True
    for session in done["result"]["sessions"]:
        assert session["answers"] == [f"200 {session['uris'][0]}"]
        assert (session["held"], session["left_out"]) == (3, ["notes.txt"])


def test_one_of_two_sessions_fails(inside: Inside, server: StandIn, tree: Path) -> None:
    """The damaged session is named, the other one arrives, and the exit code is 1."""
    image = tree / "sub-1" / "mr1" / "02_t1" / "1.dcm"
    image.write_bytes(image.read_bytes()[:-3])
    ran = inside(*arguments(server, tree, "--user", USER))
    assert ran.code == 1
    assert "sub-1/sub-1_mr1: FAILED: input" in ran.out
    assert "'02_t1/1.dcm': is cut off or damaged" in ran.out
    assert "1 uploaded, 1 failed" in ran.out


def test_a_name_that_makes_no_label(inside: Inside, server: StandIn, tree: Path) -> None:
    """It is named and counted; the other sessions are uploaded."""
    write_session(tree / "\u00c4\u00d6" / "mr", {"01": 1})
    ran = inside(*arguments(server, tree, "--user", USER, "-q"))
    refused, summary = ran.out.splitlines()
    assert refused.startswith("\u00c4\u00d6/mr: NOT UPLOADED: an XNAT label can keep no character of its subject")
    assert summary == "3 sessions for PILOT (prearchive): 2 uploaded, 1 not uploaded"
    assert ran.code == 1
    ran = inside(*arguments(server, tree, "--dry-run", "--json"))
    told = json.loads(ran.out)
    assert (ran.code, told["ok"]) == (1, False)
    assert [item["subject"] for item in told["result"]["refused"]] == ["\u00c4\u00d6/mr"]


def test_a_dry_run_requires_no_login(inside: Inside, server: StandIn, tree: Path) -> None:
    ran = inside(*arguments(server, tree, "--dry-run"))
    assert (ran.code, server.requests) == (0, [])
    assert "sub-1/sub-1_mr1: would be uploaded (3 images, 10.2 kB, 1 other file left out)" in ran.out
    assert not (tree.parent / "state").exists()


def test_a_store(inside: Inside, server: StandIn, tmp_path: Path) -> None:
    write_visit(tmp_path / "in", {1: ("t1", 2)})
    make_studyvisit_archive(tmp_path / "in", tmp_path / "store", "study-a", "v1")
    for chosen in (("--id", "study-a", "v1"), ("study-a",), ("study-a/v1", "study-a")):
        ran = inside(*of_store(server, tmp_path / "store", *chosen, "--user", USER))
        assert ran.code == 0
    assert "v1/study-a_v1: was uploaded before, and exists (2 images" in ran.out
    assert len(server.imports()) == 1


@pytest.mark.parametrize("way", ["netrc", "password-file", "token-file", "token", "environment"])
def test_sources_of_credentials(
    inside: Inside, monkeypatch: pytest.MonkeyPatch, server: StandIn, tree: Path, tmp_path: Path, way: str
) -> None:
    monkeypatch.delenv("XNAT_PASS")
    secrets = {"password-file": PASSWORD, "token-file": f"{ALIAS}:{SECRET}"}
    secrets["netrc"] = f"machine 127.0.0.1 login {USER} password {PASSWORD}"
    file = tmp_path / "secret"
    file.write_text(secrets.get(way, "") + "\n")
    file.chmod(0o600)
    environments = {
        "netrc": {"NETRC": str(file)},
        "token": {"XNAT_TOKEN": f"{ALIAS}:{SECRET}"},
        "environment": {"XNAT_USER": USER, "XNAT_PASS": PASSWORD},
        "password-file": {"XNAT_USER": USER},
    }
    options = [f"--{way}", str(file)] if way.endswith("-file") else []
    for name, value in environments.get(way, {}).items():
        monkeypatch.setenv(name, value)
    assert inside(*arguments(server, tree, *options)).code == 0


def test_no_credentials(server: StandIn, tree: Path) -> None:
    ran = icf(*arguments(server, tree))
    assert (ran.code, server.requests) == (2, [])
    assert "XNAT_PASS" in ran.err


def test_a_password_never_appears(server: StandIn, tree: Path, tmp_path: Path) -> None:
    """Not in the list of processes, a URL, a log, the journal or the output, even if requests fail."""
    server.fault = lambda seen: "500" if seen.path == "/data/services/import" and len(server.imports()) < 3 else None
    command = [*PROGRAM, *arguments(server, tree, "--user", USER, "--log", str(tmp_path / "log"), "--json")]
    run = subprocess.Popen(command, env=surrounding(XNAT_PASS=PASSWORD), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not server.imports() and run.poll() is None:
        time.sleep(0.01)
    shown = Path(f"/proc/{run.pid}/cmdline").read_bytes() if run.poll() is None else b""
    out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    shown += out + err
    shown += b"".join(path.read_bytes() for path in [tmp_path / "log", *(tmp_path / "state").iterdir()])
    shown += json.dumps([[seen.path, dict(seen.query)] for seen in server.requests]).encode()
    cookies = {seen.headers["Cookie"].partition("=")[2] for seen in server.requests if "Cookie" in seen.headers}
    assert cookies
    for secret in (PASSWORD, *cookies):
        assert secret.encode() not in shown


def test_a_second_upload_to_the_same_project_is_refused(server: StandIn, tree: Path) -> None:
    """Both would look for the session, find nothing, and send it."""
    server.slow = 3.0
    server.fault = lambda seen: "slow" if seen.path == "/data/services/import" else None
    command = [*PROGRAM, *arguments(server, tree, "--user", USER)]
    first = subprocess.Popen(command, env=surrounding(XNAT_PASS=PASSWORD), stdout=subprocess.DEVNULL)
    while not server.imports():
        time.sleep(0.05)
    second = icf(*arguments(server, tree, "--user", USER), env={"XNAT_PASS": PASSWORD})
    assert first.wait(60) == 0
    assert second.code == 8
    assert "another upload to the same project is running" in second.err
    assert "remove" not in second.err  # the file is the journal
    assert "Keep the file: it records what was uploaded" in second.err


def test_a_password_file_that_others_can_read_is_refused(
    inside: Inside, server: StandIn, tree: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text(PASSWORD)
    os.chmod(tmp_path / "secret", 0o644)
    ran = inside(*arguments(server, tree, "--user", USER, "--password-file", str(tmp_path / "secret")))
    assert ran.code == 2
    assert "chmod 600" in ran.err
