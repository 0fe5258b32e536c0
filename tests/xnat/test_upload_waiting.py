"""An XNAT that shows late what it has taken: it is waited for as long as ``--patience`` says, and no longer."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import icf
from tests.xnat.standin import PASSWORD, USER, StandIn, standin
from tests.xnat.uploads import send_one, write_session

WAYS: tuple[dict[str, Any], ...] = (
    {"dest": "prearchive"},
    {"dest": "archive"},
    {"dest": "archive", "direct_archive": True},
)


@pytest.fixture
def server() -> Iterator[StandIn]:
    with standin() as running:
        yield running
        running.check()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write_session(tmp_path / "tree" / "sub-1" / "mr", {"01": 3})
    return tmp_path / "tree"


@pytest.mark.parametrize("way", WAYS)
def test_a_session_that_shows_late_is_waited_for(server: StandIn, tree: Path, way: dict[str, Any]) -> None:
    server.shows_after = 0.7
    started = time.monotonic()
    outcome = send_one(server, tree, **way)
    assert time.monotonic() - started > server.shows_after
    assert (outcome.state, outcome.held, outcome.tries, outcome.problem) == ("uploaded", 3, 1, "")
    assert len(server.imports()) == 1


@pytest.mark.parametrize("way", WAYS)
def test_patience_comes_to_an_end(server: StandIn, tree: Path, way: dict[str, Any]) -> None:
    """It is said what XNAT claims to have; when the session has come, the next run counts it and sends nothing."""
    server.shows_after = 60.0
    outcome = send_one(server, tree, patience=0.5, **way)
    (session,) = server.sessions
    assert (outcome.state, outcome.held, outcome.uris) == ("failed", None, (session.uri,))
    assert f"answered that it has {session.uri}, but has not listed it within 0.5 s (--patience)" in outcome.problem
    session.hidden_until = 0.0
    assert send_one(server, tree, **way).state == "present"
    assert len(server.imports()) == 1


def test_what_leaves_the_prearchive_meanwhile_is_found_in_the_archive(server: StandIn, tree: Path) -> None:
    """A project may archive by itself between XNAT's answer and the look at it."""

    def archive(uris: list[str]) -> list[str]:
        server.archive(server.sessions[0])
        return uris

    server.answer = archive
    outcome = send_one(server, tree)
    assert (outcome.state, outcome.held) == ("uploaded", 3)
    assert outcome.uris == (server.sessions[0].prearchive_uri,)


def test_an_old_session_is_not_taken_for_the_new_one(server: StandIn, tree: Path) -> None:
    """The archive has one of the label from before; that the new one does not show must not be missed."""
    send_one(server, tree, dest="archive")
    shutil.rmtree(tree.parent / "state")  # the journal says nothing
    server.shows_after = 60.0
    outcome = send_one(server, tree, overwrite="append", patience=0.3)
    assert (outcome.state, len(server.imports())) == ("failed", 2)
    assert "has not listed it within 0.3 s" in outcome.problem


def test_a_lost_answer_of_a_session_that_shows_late(server: StandIn, tree: Path) -> None:
    """Directly into the archive: without waiting it would be sent twice."""
    server.shows_after = 0.7
    server.fault = lambda seen: "reset-after" if seen.path.endswith("/import") else None
    outcome = send_one(server, tree, dest="archive", direct_archive=True)
    assert (outcome.state, outcome.held, len(server.imports())) == ("uploaded", 3, 1)


def test_the_command_says_so(server: StandIn, tree: Path) -> None:
    server.shows_after = 60.0
    options = ["--url", server.url, "--project", "PILOT", "--dest", "archive", "--direct-archive", "--wait", "0.4"]
    state = ["--state", str(tree.parent / "state")]
    login = {"XNAT_PASS": PASSWORD, "XNAT_USER": USER}
    ran = icf("xnat", "upload", tree, *options, *state, env=login)
    assert ran.code == 1
    assert "sub-1/sub-1_mr: FAILED: XNAT answered that it has /archive/projects/PILOT/" in ran.out
    assert "not listed it within 0.4 s (--patience); look for it in XNAT, then run the command again" in ran.out
