"""Worker processes end when asked, leave no unfinished file, and say how they ended."""

from __future__ import annotations

import os
import re
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from icf_utils import worker_process
from icf_utils.interrupts import expect_unfinished
from icf_utils.store.layout import Study
from icf_utils.worker_process import WorkerProcess


def write_and_wait(connection: Connection, path: Path, ignore_requests: bool) -> None:
    """Leave an unfinished file, as between two steps where no ``finally`` block is active."""
    if ignore_requests:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    expect_unfinished(path)
    path.write_bytes(b"half")
    connection.send(os.getpid())
    while True:
        time.sleep(0.01)


def add(connection: Connection) -> None:
    while True:
        connection.send(connection.recv() + 1)


def crash(connection: Connection, name: str) -> None:
    Study(Path(), name)


def fail(connection: Connection) -> None:
    del connection
    os._exit(3)


def test_a_worker_that_is_asked_to_end_removes_its_unfinished_file(tmp_path: Path) -> None:
    worker = WorkerProcess(write_and_wait, tmp_path / "file", False)
    worker.connection.recv()
    assert (tmp_path / "file").exists()
    worker.ask_to_end()
    worker.join()
    assert not (tmp_path / "file").exists()
    assert worker.exit_reason == "ended with exit code 143"


def test_a_worker_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "GRACE", 0.1)
    worker = WorkerProcess(write_and_wait, tmp_path / "file", True)
    worker.connection.recv()
    worker.ask_to_end()
    worker.join()
    assert worker.exit_reason == "was ended by signal 9, as the system does when memory runs out"


def test_a_worker_ignores_the_interrupt_of_the_terminal(tmp_path: Path) -> None:
    worker = WorkerProcess(write_and_wait, tmp_path / "file", False)
    process = worker.connection.recv()
    os.kill(process, signal.SIGINT)
    os.kill(process, signal.SIGHUP)
    worker.ask_to_end()
    worker.join()
    assert worker.exit_reason == "ended with exit code 143"


def test_a_worker_is_fed_by_its_connection() -> None:
    worker = WorkerProcess(add)
    worker.connection.send(1)
    assert worker.connection.recv() == 2
    worker.ask_to_end()
    worker.join()


def test_a_worker_that_fails_closes_the_connection() -> None:
    worker = WorkerProcess(fail)
    with pytest.raises(EOFError):
        worker.connection.recv()
    worker.join()
    assert worker.exit_reason == "ended with exit code 3"


def test_a_worker_that_crashes_says_where_and_no_values() -> None:
    worker = WorkerProcess(crash, "a name")
    with pytest.raises(EOFError):
        worker.connection.recv()
    worker.join()
    assert re.fullmatch(
        r"ended with exit code 1 \(a fault of icf-utils: InvalidIdentifier in icf_utils/store/layout.py, line \d+\)",
        worker.exit_reason,
    )
