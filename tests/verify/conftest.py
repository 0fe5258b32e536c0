"""A store with one visit, to look at or to change, and one with two."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from icf_utils.store.layout import Visit
from tests.cli.program import Inside
from tests.verify.stores import (
    STUDY,
    make_visit,
    write_input,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one visit, and its input; never changed for longer than a check."""
    folder = tmp_path_factory.mktemp("model")
    make_visit(write_input(folder / "in"), folder / "store")
    return folder


@pytest.fixture
def place(model: Path) -> Visit:
    return Visit(model / "store", STUDY, "v1")


@pytest.fixture
def own(model: Path, tmp_path: Path) -> Visit:
    """A copy of the same that a test may change for good."""
    shutil.copytree(model, tmp_path / "own")
    return Visit(tmp_path / "own" / "store", STUDY, "v1")


@pytest.fixture
def two(model: Path, tmp_path: Path) -> tuple[Visit, Visit]:
    """A store with two visits of different content."""
    write_input(tmp_path / "other", StudyTime="111213", EchoTime="9.5")
    root = tmp_path / "store"
    return make_visit(model / "in", root), make_visit(tmp_path / "other", root, "v2")


@pytest.fixture
def inside(capsys: pytest.CaptureFixture[str]) -> Inside:
    """The program, run in this process."""
    return Inside(capsys)
