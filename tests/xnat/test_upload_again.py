"""The same upload again: the journal says what was done, XNAT what there is, and where they differ a person decides."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.xnat.standin import StandIn
from tests.xnat.uploads import send_one


def add_one(server: StandIn) -> None:
    """As if somebody had added an image to the session in XNAT."""
    (session,) = server.sessions
    session.files["1", "1.2.3.4.5"] = 100


@pytest.mark.parametrize("dest", ["prearchive", "archive"])
def test_what_is_there_is_not_sent_again_and_asked_for_cheaply(server: StandIn, tree: Path, dest: str) -> None:
    send_one(server, tree, dest=dest)
    server.requests.clear()
    outcome = send_one(server, tree, dest=dest)
    assert (outcome.state, outcome.held, server.imports()) == ("before", 5, [])
    asked = [seen.path for seen in server.requests if "JSESSION" not in seen.path]
    assert asked.pop(0) == "/data/prearchive/projects/PILOT"  # once for all sessions
    assert len(asked) <= 2


@pytest.mark.parametrize("dest", ["prearchive", "archive"])
def test_a_session_that_was_archived_since_counts(server: StandIn, tree: Path, dest: str) -> None:
    send_one(server, tree)
    server.sessions[0].archived = True
    assert send_one(server, tree).state == "before"


def test_a_session_that_xnat_is_at_work_on_is_waited_for(server: StandIn, tree: Path) -> None:
    """A person archives it in this moment."""
    send_one(server, tree)
    (session,) = server.sessions
    session.status, asked = "ARCHIVING", []

    def archived(seen: object) -> None:
        asked.append(seen)
        if len(asked) == 6:
            session.status, session.archived = "READY", True

    server.fault = archived
    assert send_one(server, tree).state == "before"
    assert session.archived


@pytest.mark.parametrize("dest", ["prearchive", "archive"])
def test_a_session_that_is_gone_is_said_every_time(server: StandIn, tree: Path, dest: str) -> None:
    """Deleted on purpose, or renamed: it does not come back by itself."""
    send_one(server, tree, dest=dest)
    server.sessions.clear()
    for _ in range(2):
        outcome = send_one(server, tree, dest=dest)
        assert (outcome.state, outcome.held, len(server.imports())) == ("failed", 0, 1)
        assert "uploaded before, with 5 images (/" in outcome.problem
        assert "XNAT has no session of this label" in outcome.problem
        assert "--overwrite" in outcome.problem


@pytest.mark.parametrize("overwrite", ["append", "delete"])
def test_a_session_that_is_gone_is_sent_if_one_says_so(server: StandIn, tree: Path, overwrite: str) -> None:
    send_one(server, tree)
    server.sessions.clear()
    outcome = send_one(server, tree, overwrite=overwrite)
    assert (outcome.state, outcome.held, len(server.sessions)) == ("uploaded", 5, 1)
    assert send_one(server, tree, overwrite=overwrite).state == "before"
    assert len(server.imports()) == 2


def test_a_session_with_other_images_than_sent_is_said(server: StandIn, tree: Path) -> None:
    send_one(server, tree)
    add_one(server)
    for _ in range(2):
        outcome = send_one(server, tree)
        assert (outcome.state, outcome.held, len(server.imports())) == ("failed", 6, 1)
        assert "(READY, 6 images)" in outcome.problem


@pytest.mark.parametrize("dest", ["prearchive", "archive"])
def test_a_session_with_more_images_than_sent_is_replaced(server: StandIn, tree: Path, dest: str) -> None:
    send_one(server, tree, dest=dest)
    add_one(server)
    outcome = send_one(server, tree, dest=dest, overwrite="delete")
    assert (outcome.state, outcome.held) == ("uploaded", 5)
    assert [len(session.files) for session in server.sessions] == [5]


@pytest.mark.parametrize("dest", ["prearchive", "archive"])
def test_a_session_with_fewer_images_is_completed(server: StandIn, tree: Path, dest: str) -> None:
    send_one(server, tree, dest=dest)
    server.sessions[0].files.popitem()
    outcome = send_one(server, tree, dest=dest, overwrite="append")
    assert (outcome.state, outcome.held) == ("uploaded", 5)
    assert [len(session.files) for session in server.sessions] == [5]


def test_what_was_appended_is_there_beside_what_was(server: StandIn, tree: Path) -> None:
    """The same images may be sent with both words, one after the other."""
    send_one(server, tree)
    shutil.rmtree(tree / "sub-1" / "mr" / "02_bold")
    assert send_one(server, tree, overwrite="append").held == 5
    assert send_one(server, tree, overwrite="append").state == "before"
    assert send_one(server, tree).state == "before"
    replaced = send_one(server, tree, overwrite="delete")
    assert (replaced.state, replaced.held) == ("uploaded", 3)
    assert [len(session.files) for session in server.sessions] == [3]
    assert len(server.imports()) == 3


def test_a_session_that_changed_to_another_state_is_said(server: StandIn, tree: Path) -> None:
    send_one(server, tree)
    server.sessions[0].status = "CONFLICT"
    assert "(CONFLICT, 5 images)" in send_one(server, tree).problem
