"""A store with small visits, and processings for it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from icf_utils.pipeline.model import RunConfig, VisitInput
from icf_utils.pipeline.run import run_visits
from icf_utils.processing.execute import ProcessConfig, process_visit
from icf_utils.processing.model import Processing, ProcessingResult
from icf_utils.processing.settings import make_processings
from icf_utils.settings import ProcessingSettings
from tests.data.make_dicom import uid, write_visit


def make_store(root: Path, inputs: Path, visits: tuple[str, ...] = ("v1",)) -> Path:
    """A store of one study whose visits have archive and metadata."""
    wanted = []
    for visit in visits:
        series = {3: ("t1 mprage", 2), 4: ("bold/rest", 1)}
        write_visit(inputs / visit, series, StudyInstanceUID=uid(visit), PatientName="Zq^Secret")
        wanted.append(VisitInput("study", visit, inputs / visit))
    result = run_visits(wanted, RunConfig(root, until="metadata"))
    assert not result.failed
    return root


@pytest.fixture(scope="session")
def made_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processing")
    return make_store(folder / "store", folder / "input", ("v1", "v2", "v3"))


@pytest.fixture
def store(made_store: Path, tmp_path: Path) -> Path:
    """A store with the visits v1 to v3 of the study 'study'."""
    os.system(f"cp -a '{made_store}' '{tmp_path}/store'")
    return tmp_path / "store"


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of scratch folders, in which nothing may be left."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    assert not list(folder.iterdir())


def processing(*command: str, **settings: Any) -> Processing:
    """A processing named 'test'."""
    table = ProcessingSettings(**{"name": "test", "version": "1", "command": command, **settings})
    return make_processings([table], "settings", Path("/"))[table.name]


def shell(script: str, **settings: Any) -> Processing:
    """A processing that is a shell script."""
    return processing("/bin/sh", "-c", script, **settings)


Process = Callable[..., ProcessingResult]


@pytest.fixture
def process(store: Path) -> Process:
    """Run a processing on the visit v1."""

    def run(program: Processing, visit: str = "v1", **options: Any) -> ProcessingResult:
        return process_visit(ProcessConfig(store, program, **options), "study", visit)

    return run
