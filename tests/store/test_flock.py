"""Locks that end with their process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from icf_utils.store.flock import open_locked, try_flock

_HOLD = """
import sys
from pathlib import Path
from icf_utils.store.flock import open_locked, try_flock
file = open_locked(Path(sys.argv[1])) if sys.argv[2] == "own" else open(sys.argv[1], "rb")
print(file is not None and (sys.argv[2] == "own" or try_flock(file, shared=True)), flush=True)
sys.stdin.read()
"""


@contextmanager
def other_process(path: Path, kind: str = "own") -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock, if it gets it."""
    command = [sys.executable, "-c", _HOLD, str(path), kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        try:
            yield process
        finally:
            process.kill()


def test_one_process_has_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with other_process(path):
        assert open_locked(path) is None
    file = open_locked(path)
    assert file is not None
    file.close()


def test_it_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with other_process(path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        file = open_locked(path)
        assert file is not None
        file.close()


def test_a_lock_that_was_removed_meanwhile_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder removes it and lets go between another's open() and flock()."""
    path, samestat = tmp_path / "lock", os.path.samestat

    def removed_once(first: os.stat_result, second: os.stat_result) -> bool:
        monkeypatch.setattr(os.path, "samestat", samestat)
        path.unlink()
        return False

    monkeypatch.setattr(os.path, "samestat", removed_once)
    file = open_locked(path)
    assert file is not None
    with file:
        assert os.path.samestat(path.stat(), os.fstat(file.fileno()))


def test_those_who_only_look_share_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    with other_process(path, "shared"):
        with path.open("rb") as file:
            assert try_flock(file, shared=True)
        assert open_locked(path) is None


def test_the_content_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b"one\n")
    file = open_locked(path)
    assert file is not None
    with file:
        file.write(b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"
