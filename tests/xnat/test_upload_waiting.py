"""An XNAT that lists an uploaded session late: how long the upload waits for it."""

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
def test_a_session_that_is_listed_late(server: StandIn, tree: Path, way: dict[str, Any]) -> None:
    server.shows_after = 0.7
    started = time.monotonic()
    outcome = send_one(server, tree, **way)
    assert time.monotonic() - started > server.shows_after
    assert (outcome.state, outcome.held, outcome.tries, outcome.problem) == ("uploaded", 3, 1, "")
    assert len(server.imports()) == 1


@pytest.mark.parametrize("way", WAYS)
def test_a_session_that_is_listed_too_late(server: StandIn, tree: Path, way: dict[str, Any]) -> None:
    """The outcome says what XNAT claims to have. The next run finds the session and sends nothing."""
    server.shows_after = 60.0
    outcome = send_one(server, tree, wait=0.5, **way)
    (session,) = server.sessions
    assert (outcome.state, outcome.held, outcome.uris) == ("failed", None, (session.uri,))
    assert f"answered that it has {session.uri}, but has not listed it within 0.5 s (--wait)" in outcome.problem
    session.hidden_until = 0.0
    assert send_one(server, tree, **way).state == "before"
    assert send_one(server, tree, **way).state == "before"
    assert len(server.imports()) == 1


def test_a_session_that_is_archived_before_it_is_listed(server: StandIn, tree: Path) -> None:
    """A project may archive sessions automatically, right after XNAT's answer."""

    def archive(uris: list[str]) -> list[str]:
        server.archive(server.sessions[0])
        return uris

    server.answer = archive
    outcome = send_one(server, tree)
    assert (outcome.state, outcome.held) == ("uploaded", 3)
    assert outcome.uris == (server.sessions[0].prearchive_uri,)


def test_an_old_session_is_not_mistaken_for_the_new_one(server: StandIn, tree: Path) -> None:
    """The archive has an older session with this label. That the new one is not listed must be noticed."""
    send_one(server, tree, dest="archive")
    shutil.rmtree(tree.parent / "state")  # the journal is empty then
    server.shows_after = 60.0
    outcome = send_one(server, tree, overwrite="append", wait=0.3)
    assert (outcome.state, len(server.imports())) == ("failed", 2)
    assert "has not listed it within 0.3 s" in outcome.problem


def test_a_lost_answer_and_a_session_that_is_listed_late(server: StandIn, tree: Path) -> None:
    """Directly into the archive: without the wait it would be sent twice."""
    server.shows_after = 0.7
    server.fault = lambda seen: "reset-after" if seen.path.endswith("/import") else None
    outcome = send_one(server, tree, dest="archive", direct_archive=True)
    assert (outcome.state, outcome.held, len(server.imports())) == ("uploaded", 3, 1)


def test_the_message_of_the_command(server: StandIn, tree: Path) -> None:
    server.shows_after = 60.0
    options = ["--url", server.url, "--project", "PILOT", "--dest", "archive", "--direct-archive", "--wait", "0.4"]
    state = ["--state", str(tree.parent / "state")]
    login = {"XNAT_PASS": PASSWORD, "XNAT_USER": USER}
    ran = icf("xnat", "upload", tree, *options, *state, env=login)
    assert ran.code == 1
    assert "sub-1/sub-1_mr: FAILED: XNAT answered that it has /archive/projects/PILOT/" in ran.out
    assert "not listed it within 0.4 s (--wait); look for it in XNAT, then run the command again" in ran.out
