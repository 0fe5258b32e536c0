"""A deposited visit and what arrives later, for tests that change it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from icf_utils.catalog.rebuild import build_catalog
from icf_utils.store.layout import Visit
from tests.cli.program import Inside
from tests.data.make_dicom import write_visit
from tests.verify.stores import STUDY, make_visit, write_input


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two visits, the input of the first, and two later states of it; never changed."""
    folder = tmp_path_factory.mktemp("model")
    make_visit(write_input(folder / "in"), folder / "store")
    make_visit(write_input(folder / "other", StudyTime="110000"), folder / "store", "v1_b")
    later = folder / "later"
    write_visit(later, {1: ("localizer", 2), 2: ("t1 mprage", 2), 3: ("bold", 4)}, companions={"notes.txt": b"new\n"})
    write_visit(folder / "last", {3: ("bold", 4)}, companions={})
    build_catalog(folder / "store", STUDY)
    return folder


@pytest.fixture
def place(model: Path, tmp_path: Path) -> Visit:
    """A copy of the first visit's store that a test may change."""
    shutil.copytree(model / "store", tmp_path / "store")
    return Visit(tmp_path / "store", STUDY, "v1")


@pytest.fixture
def inside(capsys: pytest.CaptureFixture[str]) -> Inside:
    """The program, run in this process."""
    return Inside(capsys)
