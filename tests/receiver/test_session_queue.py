"""Queued sessions: worker processes clean up when the queue is closed, and one that dies costs its session only."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from icf_utils.progress import SILENT
from icf_utils.receiver.journal import Journal, NewSession
from icf_utils.receiver.model import Session
from icf_utils.receiver.session_queue import SessionQueue
from icf_utils.receiver.settings import ReceiverSettings, parse_receiver_settings
from tests.data.make_dicom import write_visit
from tests.receiver.receiving import wait_until

_SETTINGS = """
store = "store"
spool = "spool"
[[rule]]
called_ae = "A"
study = "study-a"
until = "metadata"
"""


@pytest.fixture
def settings(tmp_path: Path) -> ReceiverSettings:
    return parse_receiver_settings(_SETTINGS.encode(), tmp_path / "receiver.toml")


def enqueue(journal: Journal, folder: Path, visit: str, hole: int = 0) -> Session:
    """A queued session; with ``hole``, its archive takes long enough to be interrupted."""
    write_visit(folder / visit, {1: ("t1", 2)})
    if hole:
        with open(folder / visit / "hole.bin", "wb") as file:
            file.truncate(hole)
    return journal.enqueue(NewSession("A", "study-a", visit), folder / visit)


def archive_grows(store: Path, visit: str) -> bool:
    part = store / "study-a" / ".icf" / f"{visit}_dicom.tar.part"
    return part.exists() and part.stat().st_size > 1 << 20


def state(journal: Journal, session: Session) -> str:
    found = journal.session(session.id)
    assert found is not None
    return found.state


def test_closing_ends_the_worker_and_removes_its_unfinished_files(tmp_path: Path, settings: ReceiverSettings) -> None:
    journal = Journal(settings.spool)
    session = enqueue(journal, tmp_path / "in", "v1", hole=4 << 30)
    queue = SessionQueue(settings, journal, SILENT)
    queue.start()
    wait_until(lambda: archive_grows(settings.store, "v1"), "the archive is being written")
    queue.close()
    assert multiprocessing.active_children() == []
    assert [path.name for path in settings.store.rglob("*") if path.is_file()] == []
    assert state(journal, session) == "queued"
    os.truncate(tmp_path / "in" / "v1" / "hole.bin", 10)
    queue = SessionQueue(settings, journal, SILENT)
    queue.start()
    wait_until(lambda: state(journal, session) == "success", "the session is processed")
    queue.close()
    journal.close()


def test_a_worker_that_is_killed_costs_its_session_only(tmp_path: Path, settings: ReceiverSettings) -> None:
    journal = Journal(settings.spool)
    session = enqueue(journal, tmp_path / "in", "v1", hole=4 << 30)
    other = enqueue(journal, tmp_path / "in", "v2")
    queue = SessionQueue(settings, journal, SILENT)
    queue.start()
    wait_until(lambda: archive_grows(settings.store, "v1"), "the archive is being written")
    (worker,) = multiprocessing.active_children()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    wait_until(lambda: state(journal, other) == "success", "the other session is processed")
    queue.close()
    failed = journal.session(session.id)
    assert failed is not None
    assert failed.state == "failed"
    assert "was ended by signal 9" in failed.failure
    journal.close()
