"""Disturbances, a bounded part; the long trial: ``python -m tests.trust.trials --kills 500 --faults 500``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trust.disturb import ERRORS, Trial, faults_anywhere, kill_anywhere, signals_anywhere, small_disks
from tests.trust.powercut import PowerCuts, can_mount, cut_anywhere
from tests.trust.scene import CURATION, OPERATIONS, Scene
from tests.trust.server import Server

TRIALS = int(os.environ.get("ICF_TRIALS", "0"))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("trust") / "scene", curation=True)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def trial(scene: Scene, server: Server, tmp_path: Path) -> Trial:
    return Trial(scene, server, tmp_path)


def test_killed_anywhere(trial: Trial) -> None:
    count = TRIALS or 2 * len(OPERATIONS)
    kill_anywhere(trial, count, "0")
    assert trial.figures.tried.total() == count
    assert trial.figures.ended[-9], "none was killed before it ended"


def test_changes_of_a_visit_killed_anywhere(trial: Trial) -> None:
    kill_anywhere(trial, TRIALS or 2 * len(CURATION), "1", CURATION)
    assert trial.figures.ended[-9], "none was killed before it ended"


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_faults_in_changes_of_a_visit(trial: Trial, scene: Scene, server: Server, tmp_path: Path) -> None:
    faults_anywhere(trial, scene, server, tmp_path, TRIALS or 12, "1", CURATION)


def test_interrupted_anywhere(trial: Trial) -> None:
    signals_anywhere(trial, TRIALS or 2 * len(OPERATIONS), "0")
    assert {130, 143} & set(trial.figures.ended)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_every_fault(trial: Trial, scene: Scene, server: Server, tmp_path: Path) -> None:
    count = TRIALS or 24
    faults_anywhere(trial, scene, server, tmp_path, count, "0", OPERATIONS[:5])
    whats = {kind.partition(" ")[0] for kind in trial.figures.tried}
    assert whats == {*ERRORS, "KILL"}


def test_power_cuts(scene: Scene, server: Server, tmp_path: Path) -> None:
    if not can_mount(tmp_path / "try"):
        pytest.skip("no file system in a file can be mounted here")
    cuts = PowerCuts(scene, server, tmp_path / "disk")
    cut_anywhere(cuts, TRIALS or 4, "0", ("run", "visit replace"))
    assert cuts.tried.total()


def test_full_disks_and_inode_tables(trial: Trial) -> None:
    small_disks(trial, TRIALS or 6, "0")
    if not trial.figures.tried:
        pytest.skip("no file system of a given size can be mounted here")
