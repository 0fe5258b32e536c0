"""Sessions from the command line: HTTP and local access give the same, downloads are resumed, waiting ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from icf_utils.credentials import Secret
from icf_utils.errors import InvalidSetting, RemoteFailure
from icf_utils.progress import SILENT
from icf_utils.receiver.client import HttpSessions, LocalSessions
from icf_utils.receiver.journal import Journal
from tests.cli.program import icf
from tests.fetch.flaky_proxy import flaky_proxy
from tests.receiver.pages import TOKEN, fill, served

pytest.importorskip("flask", reason="flask is not installed")


@pytest.fixture
def both(tmp_path: Path) -> Iterator[tuple[HttpSessions, LocalSessions, Journal]]:
    journal = fill(tmp_path)
    with served(tmp_path, journal) as (url, _):
        yield HttpSessions(url, Secret(TOKEN)), LocalSessions(tmp_path / "spool", tmp_path / "store"), journal
    journal.close()


def test_http_and_local_access_give_the_same(both: tuple[HttpSessions, LocalSessions, Journal], tmp_path: Path) -> None:
    far, near, _ = both
    names = ("id", "state", "study", "visit", "images", "received")
    for words in ({}, {"state": "failed,partial"}, {"sender": "SCANNER2"}):
        lists = [[{name: item[name] for name in names} for item in way.list(words)] for way in (far, near)]
        assert lists[0] == lists[1]
    assert far.log("s000001") == near.log("s000001") != b""
    for kind in ("input", "output"):
        one, two = (way.download("s000001", kind, tmp_path / name, SILENT) for way, name in ((far, "f"), (near, "n")))
        assert one.path.read_bytes() == two.path.read_bytes()
        assert one.sha256 == two.sha256


def test_an_interrupted_download_is_resumed(both: tuple[HttpSessions, LocalSessions, Journal], tmp_path: Path) -> None:
    far, _, _ = both
    whole = far.download("s000001", "output", tmp_path, SILENT).path
    raw, tag = whole.read_bytes(), tmp_path / "s000001-output.zip.tag"
    part = tmp_path / "s000001-output.zip.part"
    _, head, _ = far._describe("/sessions/s000001/output.zip")
    for begun in (1, len(raw) // 2, len(raw)):
        whole.unlink()
        part.write_bytes(raw[:begun])
        tag.write_text(head)
        got = far.download("s000001", "output", tmp_path, SILENT)
        assert (got.path.read_bytes(), got.resumed_at) == (raw, begun)
    part.write_bytes(b"of another zip" * 9)
    tag.write_text("another")
    assert far.download("s000001", "output", tmp_path, SILENT).path.read_bytes() == raw
    part.write_bytes(b"\0" * 100)  # damaged on the disk: detected, and corrected by the next attempt
    tag.write_text(head)
    with pytest.raises(RemoteFailure, match="checksum differs"):
        far.download("s000001", "output", tmp_path, SILENT)
    assert far.download("s000001", "output", tmp_path, SILENT).path.read_bytes() == raw
    assert sorted(path.name for path in tmp_path.glob("s000001*")) == ["s000001-output.zip"]


def test_failures_are_explained(both: tuple[HttpSessions, LocalSessions, Journal], tmp_path: Path) -> None:
    far, near, _ = both
    with pytest.raises(RemoteFailure, match="it is failed"):
        far.download("s000002", "output", tmp_path, SILENT)
    with pytest.raises(RemoteFailure, match="404"):
        far.log("s000099")
    with pytest.raises(InvalidSetting, match="not the ID of a session"):
        far.log("../../etc/passwd")
    with pytest.raises(InvalidSetting, match="no session"):
        near.log("../../etc/passwd")
    with pytest.raises(RemoteFailure, match="401"):
        HttpSessions(far._url, Secret("wrong")).list({})


def access_by(far: HttpSessions, folder: Path) -> tuple[str | Path, ...]:
    """The options that lead a command to these sessions."""
    token = folder / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    return ("--url", far._url, "--token-file", token)


def test_waiting_from_the_command_line(both: tuple[HttpSessions, LocalSessions, Journal], tmp_path: Path) -> None:
    far, _, journal = both
    access = access_by(far, tmp_path)

    def finish() -> None:
        time.sleep(2)
        for name in ("s000004", "s000005"):
            journal.change_state(name, "success")

    thread = threading.Thread(target=finish)
    thread.start()
    ran = icf("sessions", "--sender", "SCANNER2", "--wait", *access)
    thread.join()
    assert ran.code == 1  # one of them is partial
    assert ran.out.splitlines()[-1] == "3 sessions: 2 success, 1 partial"
    assert icf("sessions", "--sender", "SCANNER2", "--state", "success", "--wait", *access).code == 0
    timed = icf("sessions", "--sender", "SCANNER3", "--wait", "--timeout", "1", *access)
    assert (timed.code, "1 session not finished after 1 s" in timed.err) == (1, True)
    assert icf("sessions", "get", "s000001", "-d", tmp_path / "out", *access).code == 0
    assert icf("sessions", "delete", "s000001", *access).out == "s000001: deleted\n1 session deleted\n"
    nothing = icf("sessions")
    assert (nothing.code, "--url URL or --settings FILE" in nothing.err) == (2, True)


def test_each_session_is_deleted_or_named(both: tuple[HttpSessions, LocalSessions, Journal], tmp_path: Path) -> None:
    far, _, journal = both
    access = access_by(far, tmp_path)
    ran = icf("sessions", "delete", "s000099", "s000001", "s000004", "s000003", *access)
    assert ran.code == 1
    lines = ran.out.splitlines()
    assert (lines[:2], lines[-1]) == (["s000001: deleted", "s000003: deleted"], "2 sessions deleted, 2 failed")
    assert [line.partition(":")[0] for line in lines[2:-1]] == ["s000099", "s000004"]
    assert "only a finished one" in lines[3]
    assert {item.id for item in journal.sessions()} == {"s000002", "s000004", "s000005", "s000006"}


def test_options_count_on_both_sides_of_the_subcommand(
    both: tuple[HttpSessions, LocalSessions, Journal], tmp_path: Path
) -> None:
    """What is selected before ``get`` is what comes: once, results of other sessions came."""
    far, near, _ = both
    access = access_by(far, tmp_path)
    expected = sorted(
        f"{item['id']}-output.zip" for item in near.list({"sender": "SCANNER1", "state": "success,partial"})
    )
    assert 0 < len(expected) < len(near.list({"state": "success,partial"}))
    for name, words in (
        ("after", ("get", "--sender", "SCANNER1", *access)),
        ("before", ("--sender", "SCANNER1", *access, "get")),
        ("around", (*access, "get", "--sender", "SCANNER1")),
    ):
        ran = icf("sessions", *words, "-d", tmp_path / name)
        assert ran.code == 0
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == expected
    assert icf("sessions", "--wait", *access, "get", "s000001").code == 2


def test_held_sessions_are_released(both: tuple[HttpSessions, LocalSessions, Journal]) -> None:
    far, near, journal = both
    for way in (far, near):
        journal.change_state("s000001", "held")
        way.release("s000001")
        session = journal.session("s000001")
        assert session is not None
        assert session.state == "queued"
        with pytest.raises((InvalidSetting, RemoteFailure), match="only a held one"):
            way.release("s000001")


def test_retrying_from_the_command_line(both: tuple[HttpSessions, LocalSessions, Journal], tmp_path: Path) -> None:
    far, near, journal = both
    for way in (far, near):
        with pytest.raises((InvalidSetting, RemoteFailure), match="no images"):
            way.retry("s000002")
        with pytest.raises((InvalidSetting, RemoteFailure), match="only a failed one"):
            way.retry("s000001")
    failed = journal.session("s000002")
    assert failed is not None
    (failed.input / "image").write_bytes(b"x")
    settings = tmp_path / "r.toml"
    settings.write_text('store = "store"\nspool = "spool"\n[[rule]]\ncalled_ae = "ARCHIVE"\nstudy = "study-a"\n')
    assert icf("sessions", "retry", "s000002", "--settings", settings).out == "s000002: queued\n1 session queued\n"
    # no receiver is running that could process it: --wait ends
    waited = icf("sessions", "--wait", "--settings", settings)
    assert (waited.code, "no receiver is running" in waited.err) == (1, True)
    assert "4 sessions not finished" in waited.err


def test_deleting_is_repeated_only_if_nothing_was_done(
    both: tuple[HttpSessions, LocalSessions, Journal],
) -> None:
    """After 503 and 429; once it may have been done, it is not sent again."""
    far, _, journal = both
    with flaky_proxy(far._url, "^DELETE ") as proxy:
        HttpSessions(proxy.url, Secret(TOKEN)).delete("s000001")
        assert len(proxy.moments) == 3
    assert "s000001" not in {item.id for item in journal.sessions()}
