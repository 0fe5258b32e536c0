from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.program import Inside
from tests.verify.stores import write_input


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small visit."""
    return write_input(tmp_path / "in")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty store."""
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """What ``main`` listens to in this process ends with the test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def inside(capsys: pytest.CaptureFixture[str]) -> Inside:
    return Inside(capsys)
