"""What the tests of XNAT share: PostgreSQL with XNAT's table, the stand-in for XNAT, and sessions to give to it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.make_dicom import write_visit
from tests.xnat.postgres import Server, running_server, sharing
from tests.xnat.prearchiving import STUDY
from tests.xnat.standin import StandIn, standin
from tests.xnat.uploads import write_session


@pytest.fixture(scope="session")
def cluster() -> Iterator[Server]:
    with running_server() as server:
        yield server


@pytest.fixture
def postgres(cluster: Server) -> Server:
    """The server with an empty table."""
    cluster.create()
    return cluster


@pytest.fixture
def xnat(postgres: Server, tmp_path: Path) -> Iterator[StandIn]:
    """A stand-in whose prearchive is the table."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    with sharing(postgres, inbox) as server:
        yield server
        server.check()


@pytest.fixture
def root() -> Iterator[Path]:
    """A prearchive; in memory if possible, since every copy is synced."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="icf-prearchive-", dir=memory) as name:
        yield Path(name)


@pytest.fixture
def visit(tmp_path: Path) -> Path:
    folder = tmp_path / "visit"
    write_visit(folder, {1: ("scout", 2), 2: ("rest", 3)}, companions={"notes.txt": b"x"}, StudyInstanceUID=STUDY)
    return folder


@pytest.fixture
def server() -> Iterator[StandIn]:
    with standin() as running:
        yield running
        running.check()
        assert running.cookies == set(), "no login session is left behind"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """One session with two scans and 5 images."""
    write_session(tmp_path / "tree" / "sub-1" / "mr", {"01_t1": 3, "02_bold": 2})
    return tmp_path / "tree"
