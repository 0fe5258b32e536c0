"""No identifying value is said or written by what brings visits in and out, but where the files themselves go.

By design the StudyInstanceUID stands in the receiver's journal, and UIDs are printed where they are asked for.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.program import PROGRAM, Ran, icf, surrounding
from tests.receiver.receiving import free_port, wait_until
from tests.trust.markers import UID_MARKERS, image, leaks, markers_in, said
from tests.verify.stores import STUDY
from tests.xnat.standin import PASSWORD, StandIn, standin

STUDY_UID = UID_MARKERS[1:2]

FORMS = pytest.mark.parametrize("form", [(), ("--json",)])


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One subject with one session of one image, and a folder that is left out."""
    folder = tmp_path_factory.mktemp("tree")
    (folder / "sub-1" / "mr1" / "01_t1").mkdir(parents=True)
    (folder / "sub-1" / "mr1" / "01_t1" / "1.dcm").write_bytes(image(1))
    (folder / "sub-1" / "mr1" / "01_t1" / "notes.txt").write_bytes(b"nothing")
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tree: Path) -> Path:
    folder = tmp_path_factory.mktemp("stored") / "store"
    table = folder.parent / "visits.csv"
    table.write_text(f"study,visit,input\n{STUDY},v1,{tree}\n")
    assert icf("run", "-o", folder, "--table", table, "--until", "catalog").code == 0
    return folder


def silent(ran: Ran, code: int = 0, *, uids: bool = False) -> Ran:
    """A command that ends as it should and says no marker; with ``uids``, the three UIDs of an image at most."""
    assert ran.code == code, ran
    said(ran, allowed=UID_MARKERS if uids else ())
    return ran


@FORMS
def test_ingest(tree: Path, tmp_path: Path, form: tuple[str, ...]) -> None:
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "2.dcm").write_bytes(image(2)[:-900])
    (tmp_path / "damaged" / "3.dcm").write_bytes(image(3))
    for number, (root, more) in enumerate([(tree, ()), (tree, ("--heap",)), (tmp_path / "damaged", ("--heap",))]):
        target = tmp_path / f"store{number}"
        for last in (("-n",), ()):
            ran = icf("ingest", root, "-o", target, "--study", STUDY, *more, *last, *form)
            assert ran.code in (0, 1), ran
            said(ran)
        assert list(target.rglob("*_dicom.tar"))
        assert leaks(target) == []


@FORMS
def test_catalogs(store: Path, tmp_path: Path, form: tuple[str, ...]) -> None:
    pytest.importorskip("PIL", reason="pillow is not installed")
    silent(icf("catalog", "build", "-o", store, STUDY, "--previews", *form))
    silent(icf("catalog", "build", "--index", "-o", store, *form))
    assert leaks(store) == []


@FORMS
def test_downloads(store: Path, tmp_path: Path, form: tuple[str, ...]) -> None:
    """UIDs are asked for, and answered."""
    one = ("retrieve", "--store", store, "--id", STUDY, "v1", "-d", tmp_path / "out")
    silent(icf(*one, "--stats", *form), uids=True)
    silent(icf(*one, "--dry-run", *form), uids=True)
    silent(icf(*one, *form), uids=True)
    silent(icf(*one, "--zip", *form), uids=True)
    silent(icf("study-uid", "-o", store, "--id", STUDY, "v1", *form), uids=True)
    texts = [path for path in (tmp_path / "out").rglob("*") if path.suffix in (".json", ".log", ".txt")]
    assert not [path for path in texts if markers_in(path.read_bytes(), UID_MARKERS)]


@FORMS
def test_xnat(tree: Path, store: Path, tmp_path: Path, form: tuple[str, ...]) -> None:
    """Also where XNAT refuses, or does not answer."""

    def upload(server: StandIn, number: int, *options: str | Path) -> Ran:
        more = ("--project", "PILOT", "--state", tmp_path / f"state{number}", "--log", tmp_path / f"log{number}")
        quick = ("--pause", "0.05", "--retries", "1", "--wait", "3")
        login = {"XNAT_USER": "uploader", "XNAT_PASS": PASSWORD}
        return icf("xnat", "upload", *options, "--url", server.url, *more, *quick, *form, env=login)

    with standin() as server:
        said(upload(server, 0, tree, "--dry-run"))
        said(silent(upload(server, 0, tree)))
        said(silent(upload(server, 1, "-o", store, "--id", STUDY, "v1", "--session", "again", "--again")))
        server.fault = lambda _: "500"
        said(upload(server, 2, tree))
    for number in range(3):
        for path in (tmp_path / f"state{number}").rglob("*"):
            assert not path.is_file() or not markers_in(path.read_bytes(), UID_MARKERS), path
        log = tmp_path / f"log{number}"
        assert not log.exists() or not markers_in(log.read_bytes())
    shown = silent(icf("xnat", "send", tree, "127.0.0.1", "--port", str(free_port()), "--dry-run", *form))
    assert "PatientName" in shown.out


# -- a receiver


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[tuple[int, str]]:
    """The ports of a receiver and its pages, whose log is in ``tmp_path``."""
    pytest.importorskip("pynetdicom", reason="pynetdicom is not installed")
    pytest.importorskip("flask", reason="flask is not installed")
    port, web = free_port(), free_port()
    (tmp_path / "token").write_text("hidden-token-zq-8841\n")
    (tmp_path / "token").chmod(0o600)
    (tmp_path / "receiver.toml").write_text(
        f'store = "store"\nspool = "spool"\n[listen]\nport = {port}\nreserve = 0\n'
        f'[[rule]]\ncalled_ae = "STUDYA"\nstudy = "{STUDY}"\nquiet = 1\n'
    )
    command = [*PROGRAM, "receive", str(tmp_path / "receiver.toml"), "--http", f"127.0.0.1:{web}"]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            [*command, "--token-file", str(tmp_path / "token")], env=surrounding(), stdout=log, stderr=log
        )
    address = f"http://127.0.0.1:{web}"
    wait_until(lambda: process.poll() is not None or bool(_answers(address)), "the receiver's pages")
    assert process.poll() is None, (tmp_path / "log").read_text()
    try:
        yield port, address
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _answers(address: str, path: str = "/", token: str = "") -> bytes:
    request = urllib.request.Request(address + path, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return bytes(error.read())
    except OSError:
        return b""


def test_a_receiver(receiver: tuple[int, str], tree: Path, tmp_path: Path) -> None:
    port, address = receiver
    silent(icf("send", tree, "127.0.0.1", str(port), "--aec", "STUDYA"))
    silent(icf("send", tree, "127.0.0.1", str(port), "--aec", "NOBODY", "--json"), 10)
    access = ("--url", address, "--token-file", tmp_path / "token")
    silent(icf("sessions", *access, "--wait", "--timeout", "60"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "1.dcm").write_bytes(image(7))  # the same UIDs with other content
    again = ("127.0.0.1", str(port), "--aec", "STUDYA", "--retries", "0")
    silent(icf("send", tmp_path / "other", *again, "--json"), 1, uids=True)
    time.sleep(1.5)
    found = json.loads(silent(icf("sessions", *access, "--json"), uids=True).out)
    (session,) = found["result"]["sessions"]
    assert session["quarantined"] == 1
    silent(icf("sessions", "log", *access, session["id"]), uids=True)
    for path in ("/", f"/sessions/{session['id']}", "/sessions", f"/sessions/{session['id']}/log"):
        page = _answers(address, path, "hidden-token-zq-8841")
        assert page
        assert not markers_in(page, STUDY_UID), path
    assert not markers_in((tmp_path / "log").read_bytes(), STUDY_UID)
    assert b"hidden-token-zq-8841" not in (tmp_path / "log").read_bytes()
    for kept in (tmp_path / "spool").rglob("*"):
        assert not markers_in(os.fsencode(kept.name)), kept
        if kept.is_file() and kept.suffix != ".dcm":
            assert not markers_in(kept.read_bytes(), STUDY_UID), kept
    assert leaks(tmp_path / "store") == []


def test_a_removed_visit_leaves_nothing(receiver: tuple[int, str], tree: Path, tmp_path: Path) -> None:
    """Store, catalog, spool, quarantine, journal, logs, temporary folders: no marker, not even a UID, is anywhere."""
    port, address = receiver
    (tmp_path / "tmp").mkdir()
    place = {"TMPDIR": str(tmp_path / "tmp")}
    silent(icf("send", tree, "127.0.0.1", str(port), "--aec", "STUDYA"))
    access = ("--url", address, "--token-file", tmp_path / "token")
    silent(icf("sessions", *access, "--wait", "--timeout", "60"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "1.dcm").write_bytes(image(7))  # the same UIDs with other content
    again = ("127.0.0.1", str(port), "--aec", "STUDYA", "--retries", "0")
    silent(icf("send", tmp_path / "other", *again, "--json"), 1, uids=True)
    shutil.rmtree(tmp_path / "other")
    (visit,) = {path.name.removesuffix("_dicom.tar") for path in (tmp_path / "store" / STUDY).glob("*_dicom.tar")}
    wait_until(lambda: "in progress" not in icf("sessions", *access).out, "the second association")
    silent(icf("run", "-o", tmp_path / "store", env=place))
    one = ("-o", tmp_path / "store", "--id", STUDY, visit)
    ran = silent(icf("visit", "remove", *one, "--receiver", tmp_path / "receiver.toml", "--yes", env=place))
    assert "found nothing" in ran.out
    assert "removed 1 session of the receiver" in ran.out
    silent(icf("visit", "remove", *one, "--receiver", tmp_path / "receiver.toml", "--yes", env=place))
    found = {path: markers_in(path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file()}
    assert {path: markers for path, markers in found.items() if markers} == {}
    assert not [path for path in tmp_path.rglob("*") if markers_in(os.fsencode(path.name)) or path.suffix == ".dcm"]
