"""Ctrl-C during an import: what cannot be undone is reported, and the next command continues from there."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from icf_utils.xnat import prearchive
from icf_utils.xnat.database import TABLE
from tests.cli.program import Inside
from tests.xnat.postgres import Server
from tests.xnat.prearchiving import tree
from tests.xnat.standin import PASSWORD, USER, StandIn


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Iterator[Inside]:
    """The program in this process. Ended by an interrupt, it ignores further ones: the handler is restored."""
    before = signal.getsignal(signal.SIGINT)
    yield Inside(capsys)
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def options(postgres: Server, xnat: StandIn, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    place = {"PGHOST": str(postgres.folder), "PGPORT": str(postgres.port), "PGUSER": postgres.user}
    for name, value in {"XNAT_USER": USER, "XNAT_PASS": PASSWORD, "PGDATABASE": "xnat", **place}.items():
        monkeypatch.setenv(name, value)
    return ["xnat", "prearchive", "--url", xnat.url, "--project", "PILOT", "--session", "S1"]


def interrupt_in(*seconds: float) -> None:
    for after in seconds:
        threading.Timer(after, lambda: os.kill(os.getpid(), signal.SIGINT)).start()


def test_while_xnat_builds(
    options: list[str],
    visit: Path,
    root: Path,
    xnat: StandIn,
    postgres: Server,
    cli: Inside,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing can be removed then. A second Ctrl-C during the wait changes nothing."""
    monkeypatch.setattr(prearchive, "_LET_GO_WITHIN", 1.0)

    def build(session: object) -> str:
        interrupt_in(0.5, 1.0)
        return "BUILDING"

    xnat.outcome = build  # type: ignore[attr-defined]
    ran = cli(*options, "--prearchive", root, visit)
    (folder,) = root.glob("PILOT/*/S1")
    assert (ran.code, len(postgres.rows())) == (130, 1)
    *_, said, last = ran.err.splitlines()
    assert "waiting up to 1 s for it to finish before anything is removed" in said
    assert last.startswith("icf-utils xnat prearchive: interrupted; XNAT is still working on the session (BUILDING)")
    assert f"'{folder}' and its row were left there" in last
    assert "removes both if XNAT has ended with ERROR by then" in last
    postgres.sql(f"UPDATE {TABLE} SET status = 'ERROR'")
    del xnat.outcome  # type: ignore[attr-defined]
    again = cli(*options, "--prearchive", root, visit)
    assert "which an interrupted command had left" in again.err
    assert again.code == 0
    assert not folder.exists()


def test_while_xnat_has_not_begun(
    options: list[str], visit: Path, root: Path, xnat: StandIn, postgres: Server, cli: Inside
) -> None:
    def build(session: object) -> str:
        interrupt_in(0.5)
        return "RECEIVING"

    xnat.outcome = build  # type: ignore[attr-defined]
    ran = cli(*options, "--prearchive", root, visit)
    assert (ran.code, tree(root), postgres.rows()) == (130, [], [])
    assert ran.err.endswith("interrupted; nothing half-written was left behind\n")


def test_while_xnat_imports_from_its_inbox(
    options: list[str], visit: Path, xnat: StandIn, cli: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """XNAT may still be reading the copy: it is left, and the message names it."""
    assert xnat.inbox
    receive = xnat.receive

    def hidden(order, images, at_most=None):  # type: ignore[no-untyped-def]
        found = receive(order, images, at_most)
        xnat.sessions[0].status = "BUILDING"
        interrupt_in(0.5)
        return found

    xnat.receive = hidden  # type: ignore[method-assign]
    ran = cli(*options, "--inbox", xnat.inbox, "--subject", "sub-01", visit)
    (copy,) = xnat.inbox.glob("PILOT/*/S1")
    assert ran.code == 130
    assert f"interrupted; XNAT continues to import '{copy}'" in ran.err
    assert f"The copy '{copy}' was left: remove it once the session is complete" in ran.err
