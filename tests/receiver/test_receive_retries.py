"""Failed sessions that are retried, and visits whose images may be missing."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest

from icf_utils.receiver.journal import Journal
from icf_utils.receiver.model import ASSOCIATION_LOST, CONFLICTING, FORCED, Session
from tests.data.make_dicom import uid, write_visit
from tests.receiver.receiving import Receiver, running, store, wait_until

pytest.importorskip("pynetdicom")

#: The library leaves the socket of a client that was cut off to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

_RULE = 'called_ae = "STUDYA"\nstudy = "study-a"\nuntil = "metadata"\nvisit = "v-{calling_ae}"\nquiet = 1'


@pytest.fixture(autouse=True)
def _collect() -> Iterator[None]:
    yield
    gc.collect()


def associate(receiver: Receiver, calling: str = "TESTS") -> Any:
    from pynetdicom import AE
    from pynetdicom.sop_class import MRImageStorage  # type: ignore[attr-defined]

    entity = AE(calling)
    entity.add_requested_context(MRImageStorage, "1.2.840.10008.1.2.1")
    association = entity.associate("127.0.0.1", receiver.port, ae_title="STUDYA")
    assert association.is_established
    return association


def send(receiver: Receiver, paths: list[Path], calling: str = "TESTS") -> list[int]:
    association = associate(receiver, calling)
    found = [store(association, path) for path in paths]
    association.release()
    return found


def failed(receiver: Receiver) -> Session:
    wait_until(lambda: receiver.sessions()[-1].state == "failed", "a session fails")
    return receiver.sessions()[-1]


def test_sessions_that_failed_are_retried(tmp_path: Path) -> None:
    """The store cannot be written at first. However a session is retried, it stays the first revision."""
    (tmp_path / "store").write_text("in the way")
    sent = {
        name: write_visit(tmp_path / name, {1: ("t1", 2)}, StudyInstanceUID=uid(name)) for name in ("A", "B", "C", "D")
    }
    with running(tmp_path, rule=_RULE) as receiver:
        for name, paths in sent.items():
            assert send(receiver, paths, name) == [0, 0]
            session = failed(receiver)
            assert "\\n" not in session.failure + receiver.log
        journal = Journal(tmp_path / "spool")
        journal.delete_session(session.id)
        assert send(receiver, sent["D"], "D") == [0, 0]
        assert (failed(receiver).visit, failed(receiver).revision) == ("v-D", 1)
        (tmp_path / "store").unlink()
        assert send(receiver, sent["A"], "A") == [0, 0]
        wait_until(lambda: receiver.sessions()[0].state == "success", "it is retried")
        assert "its images were sent again" in receiver.log
        journal.retry("s000002")
        wait_until(lambda: receiver.sessions()[1].state == "success", "it is retried on request")
        assert [item.state for item in receiver.sessions()] == ["success", "success", "failed", "failed"]
        journal.close()
    with running(tmp_path, rule=_RULE) as receiver:
        wait_until(lambda: all(item.state == "success" for item in receiver.sessions()), "all are retried")
        sessions = receiver.sessions()
        assert [(item.visit, item.state, item.failure) for item in sessions] == [
            (f"v-{name}", "success", "") for name in sent
        ]
        assert all(len(receiver.images(item)) == 2 for item in sessions)
        assert receiver.log.count("failed before; retrying it") == 2
        assert sessions[0].duplicates == 2


def test_a_session_is_retried_when_the_store_can_be_used_again(tmp_path: Path) -> None:
    """As a network share that was away for a while. Nobody has to do anything."""
    (tmp_path / "store").write_text("in the way")
    paths = write_visit(tmp_path / "in", {1: ("t1", 2)}, StudyInstanceUID=uid("A"))
    with running(tmp_path, rule=_RULE, listen="reserve = 0\nretry = 1") as receiver:
        assert send(receiver, paths, "A") == [0, 0]
        wait_until(lambda: receiver.log.count("could not be written; retrying it") > 1, "it is retried twice")
        (tmp_path / "store").unlink()
        wait_until(lambda: [item.state for item in receiver.sessions()] == ["success"], "it is retried by itself")
        assert receiver.sessions()[0].failure == ""


def test_conflicting_images_after_success_make_a_session_partial(tmp_path: Path) -> None:
    paths = write_visit(tmp_path / "in", {1: ("t1", 3)})
    others = []
    for path in paths[:2]:
        changed = pydicom.dcmread(path)
        changed.SeriesDescription = "other"
        changed.save_as(tmp_path / path.name, enforce_file_format=True)
        others.append(tmp_path / path.name)
    with running(tmp_path, rule=_RULE) as receiver:
        send(receiver, paths)
        (session,) = receiver.finished(1)
        assert (session.state, session.notes) == ("success", ())
        for _ in range(3):  # the sender repeats it
            assert send(receiver, others) == [0xC002, 0xC002]
        (session,) = receiver.sessions()
        assert (session.state, session.quarantined, session.notes) == ("partial", 2, (CONFLICTING,))
        assert len(list(session.quarantine.iterdir())) == 2


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_lost_association_makes_a_session_partial(tmp_path: Path, comes_back: bool) -> None:
    paths = write_visit(tmp_path / "in", {1: ("t1", 3)})
    with running(tmp_path, rule=_RULE.replace("quiet = 1", "quiet = 4")) as receiver:
        association = associate(receiver)
        assert store(association, paths[0]) == 0
        association.abort()
        if comes_back:
            wait_until(lambda: "was aborted" in receiver.log or "was lost" in receiver.log, "the loss is reported")
            assert send(receiver, paths) == [0, 0, 0]
        (session,) = receiver.finished(1)
        expected = ("success", (), 3) if comes_back else ("partial", (ASSOCIATION_LOST,), 1)
        assert (session.state, session.notes, session.images) == expected


def test_an_association_lost_after_all_expected_images(tmp_path: Path) -> None:
    paths = write_visit(tmp_path / "in", {1: ("t1", 2)})
    with running(tmp_path, rule=f"{_RULE}\nexpected = 2") as receiver:
        association = associate(receiver)
        assert [store(association, path) for path in paths] == [0, 0]
        association.abort()
        (session,) = receiver.finished(1)
        assert (session.state, session.notes) == ("success", ())


def test_a_receiver_killed_during_an_association_reports_it(tmp_path: Path) -> None:
    paths = write_visit(tmp_path / "in", {1: ("t1", 2)})
    receiver = Receiver(tmp_path, rule=_RULE.replace("quiet = 1", "quiet = 600"))
    receiver.start()
    association = associate(receiver)
    assert store(association, paths[0]) == 0
    receiver.kill()  # at once: the association's counts are not in the journal yet
    association.abort()
    with running(tmp_path, rule=_RULE) as again:
        (session,) = again.finished(1)
        assert (session.state, session.notes) == ("partial", (ASSOCIATION_LOST,))


def test_more_images_than_expected_are_one_visit(tmp_path: Path) -> None:
    paths = write_visit(tmp_path / "in", {1: ("t1", 6)})
    later = write_visit(tmp_path / "later", {2: ("t2", 1)})
    with running(tmp_path, rule=f"{_RULE}\nexpected = 2") as receiver:
        association = associate(receiver)
        for path in paths:
            assert store(association, path) == 0
            time.sleep(0.7)  # the receiver looks twice a second
        association.release()
        (session,) = receiver.finished(1)
        assert (session.images, session.state) == (6, "success")
        # nothing more is expected afterwards
        assert send(receiver, later) == [0]
        more = receiver.finished(2)[1]
        assert (more.visit, more.expected, more.state) == ("v-TESTS", 0, "success")


def test_a_visit_that_is_forced_during_an_association(tmp_path: Path) -> None:
    paths = write_visit(tmp_path / "in", {1: ("t1", 2)})
    with running(tmp_path, rule=f"{_RULE}\nforce = 3") as receiver:
        association = associate(receiver)
        assert store(association, paths[0]) == 0
        (session,) = receiver.finished(1)
        assert (session.state, session.notes) == ("partial", (FORCED,))
        association.release()
        # without an open association nothing is noted
        other = write_visit(tmp_path / "other", {1: ("t1", 2)}, StudyInstanceUID=uid("other"))
        send(receiver, other, "OTHER")
        assert receiver.finished(2)[1].state == "success"
