"""XNAT has a session: whether it is the one here is decided by StudyInstanceUID and checksums, not by label or number.

Each session is uploaded first; then the journal is lost, or the images here change.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.data.make_dicom import dicom_bytes, uid
from tests.xnat.standin import StandIn
from tests.xnat.uploads import send, send_one, write_session

DESTINATIONS = pytest.mark.parametrize("dest", ["prearchive", "archive"])


def lose_journal(tree: Path) -> None:
    shutil.rmtree(tree.parent / "state")


def rewrite(tree: Path, **keywords: object) -> None:
    """Write the same session again, with other values of the same length."""
    shutil.rmtree(tree / "sub-1")
    write_session(tree / "sub-1" / "mr", {"01_t1": 3, "02_bold": 2}, None, **keywords)


@DESTINATIONS
def test_another_study_with_as_many_images(server: StandIn, tree: Path, dest: str) -> None:
    send(server, tree, dest=dest)
    rewrite(tree, StudyInstanceUID=uid("another study"))
    outcome = send_one(server, tree, dest=dest)
    assert outcome.state == "failed"
    assert "of another StudyInstanceUID" in outcome.problem
    assert len(server.imports()) == 1


def test_a_corrected_header_in_the_archive(server: StandIn, tree: Path) -> None:
    send(server, tree, dest="archive")
    rewrite(tree, ProtocolName="t2")
    outcome = send_one(server, tree, dest="archive")
    assert outcome.state == "failed"
    assert "the checksums of 5 of 5 images differ" in outcome.problem
    assert len(server.imports()) == 1
    replaced = send_one(server, tree, dest="archive", overwrite="delete")
    assert (replaced.state, replaced.identical) == ("uploaded", True)


def test_a_corrected_header_of_the_same_length_in_the_prearchive(server: StandIn, tree: Path) -> None:
    """The prearchive shows no checksums: nothing is claimed, with or without the journal."""
    rewrite(tree, StudyID="1234")
    send(server, tree)
    rewrite(tree, StudyID="5678")
    for _ in range(2):
        outcome = send_one(server, tree)
        assert outcome.state == "unproved"
        assert "not proved: XNAT shows no checksums" in outcome.problem
        lose_journal(tree)
    assert send(server, tree).failed
    assert len(server.imports()) == 1


def test_a_corrected_header_of_another_length_in_the_prearchive(server: StandIn, tree: Path) -> None:
    send(server, tree)
    rewrite(tree, StudyID="a longer value")
    assert "the sizes of the images differ" in send_one(server, tree).problem


def test_an_archive_without_checksums(server: StandIn, tree: Path) -> None:
    server.checksums = False
    outcome = send_one(server, tree, dest="archive")
    assert (outcome.state, outcome.identical) == ("uploaded", None)
    assert send_one(server, tree, dest="archive").state == "before"
    lose_journal(tree)
    assert send_one(server, tree, dest="archive").state == "unproved"


def test_images_that_xnat_anonymises(server: StandIn, tree: Path) -> None:
    """They are uploaded and reported; without the journal, nobody knows that these are they."""

    def anonymise(uris: list[str]) -> list[str]:
        for session in server.sessions:
            session.md5 = {key: f"{number:032}" for number, key in enumerate(session.md5)}
        return uris

    server.answer = anonymise
    outcome = send_one(server, tree, dest="archive")
    assert (outcome.state, outcome.identical) == ("uploaded", False)
    assert send_one(server, tree, dest="archive").state == "before"
    server.sessions[0].md5 = {key: f"{number:032x}" for number, key in enumerate(server.sessions[0].md5, 100)}
    assert "with other checksums" in send_one(server, tree, dest="archive").problem
    lose_journal(tree)
    assert send_one(server, tree, dest="archive").state == "failed"


def test_an_upload_that_broke_off_and_a_corrected_header(server: StandIn, tree: Path) -> None:
    """The run ended amid the upload; what it sent is not what is here now."""
    rewrite(tree, StudyID="1234")
    send(server, tree, dest="archive")
    journal = next((tree.parent / "state").iterdir())
    lines = journal.read_text().splitlines(keepends=True)
    assert '"state": "sending"' in lines[0]
    journal.write_text(lines[0])
    rewrite(tree, StudyID="5678")
    assert send_one(server, tree, dest="archive").state == "failed"


def test_the_study_under_another_label(server: StandIn, tree: Path) -> None:
    send(server, tree)
    (session,) = server.sessions
    session.name = session.folder = "renamed"
    lose_journal(tree)
    outcome = send_one(server, tree)
    assert outcome.state == "failed"
    assert f"under another label: {session.prearchive_uri}. See --again" in outcome.problem
    assert send_one(server, tree, again=True).state == "uploaded"


def test_an_image_that_was_replaced_in_the_archive(server: StandIn, tree: Path) -> None:
    """The journal has the session as done, and the number of images is the same."""
    send(server, tree, dest="archive")
    (session,) = server.sessions
    session.md5[next(iter(session.md5))] = "0" * 32
    assert "with other checksums" in send_one(server, tree, dest="archive").problem


def test_dicom_bytes_of_equal_length() -> None:
    """What these tests build on."""
    assert len(dicom_bytes(StudyID="1234")) == len(dicom_bytes(StudyID="5678"))
