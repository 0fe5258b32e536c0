"""The same upload again. Where the journal and XNAT differ, a person decides."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.xnat.standin import StandIn
from tests.xnat.uploads import send_one


def add_one(server: StandIn) -> None:
    """Add an image to the session, as a person may do in XNAT."""
    (session,) = server.sessions
    session.files["1", "1.2.3.4.5"] = 100


@pytest.mark.parametrize("dest", ["prearchive", "archive"])
def test_an_unchanged_session_costs_few_requests(server: StandIn, tree: Path, dest: str) -> None:
    send_one(server, tree, dest=dest)
    server.requests.clear()
    outcome = send_one(server, tree, dest=dest)
    assert (outcome.state, outcome.held, server.imports()) == ("before", 5, [])
    asked = [seen.path for seen in server.requests if "JSESSION" not in seen.path]
    assert asked.pop(0) == "/data/prearchive/projects/PILOT"  # once for all sessions
    assert len(asked) <= 2


@pytest.mark.parametrize("dest", ["prearchive", "archive"])
def test_a_session_that_was_archived_since(server: StandIn, tree: Path, dest: str) -> None:
    send_one(server, tree)
    server.sessions[0].archived = True
    assert send_one(server, tree).state == "before"


def test_a_session_that_xnat_is_working_on(server: StandIn, tree: Path) -> None:
    """A person is archiving it; the upload waits."""
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
def test_a_session_that_was_deleted_is_reported_each_time(server: StandIn, tree: Path, dest: str) -> None:
    """It may have been deleted on purpose, or renamed: it is not sent again without being asked for."""
    send_one(server, tree, dest=dest)
    server.sessions.clear()
    for _ in range(2):
        outcome = send_one(server, tree, dest=dest)
        assert (outcome.state, outcome.held, len(server.imports())) == ("failed", 0, 1)
        assert "uploaded before, with 5 images (/" in outcome.problem
        assert "XNAT has no session of this label" in outcome.problem
        assert "--overwrite" in outcome.problem


@pytest.mark.parametrize("overwrite", ["append", "delete"])
def test_a_session_that_was_deleted_is_sent_again_on_request(server: StandIn, tree: Path, overwrite: str) -> None:
    send_one(server, tree)
    server.sessions.clear()
    outcome = send_one(server, tree, overwrite=overwrite)
    assert (outcome.state, outcome.held, len(server.sessions)) == ("uploaded", 5, 1)
    assert send_one(server, tree, overwrite=overwrite).state == "before"
    assert len(server.imports()) == 2


def test_a_session_with_an_added_image_is_reported(server: StandIn, tree: Path) -> None:
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


def test_appended_images_are_kept_with_the_others(server: StandIn, tree: Path) -> None:
    """The same images, sent with append and then with delete."""
    send_one(server, tree)
    shutil.rmtree(tree / "sub-1" / "mr" / "02_bold")
    assert send_one(server, tree, overwrite="append").held == 5
    assert send_one(server, tree, overwrite="append").state == "before"
    assert send_one(server, tree).state == "before"
    replaced = send_one(server, tree, overwrite="delete")
    assert (replaced.state, replaced.held) == ("uploaded", 3)
    assert [len(session.files) for session in server.sessions] == [3]
    assert len(server.imports()) == 3


def test_a_session_of_another_status_is_reported(server: StandIn, tree: Path) -> None:
    send_one(server, tree)
    server.sessions[0].status = "CONFLICT"
    assert "(CONFLICT, 5 images)" in send_one(server, tree).problem
