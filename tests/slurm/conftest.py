"""A SLURM for the tests of a module, and visits for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.data.make_dicom import uid, write_visit
from tests.slurm.daemons import Cluster, cluster, missing


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    """A SLURM of one node."""
    if reason := missing():
        pytest.skip(reason)
    with cluster() as running:
        yield running


@dataclass(frozen=True)
class Program:
    """``icf-utils`` as a process of its own."""

    environment: Mapping[str, str]

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", "-m", "icf_utils.cli.main", *arguments],
            env={**os.environ, **self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )

    def result(self, *arguments: str, **environment: str) -> Any:
        """What a command that succeeds says with ``--json``."""
        done = self.run(*arguments, "--json", **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)["result"]


@pytest.fixture
def on_cluster(slurm: Cluster) -> Program:
    """The program where SLURM's commands find a cluster."""
    return Program(slurm.environment)


def wait_for(condition: Callable[[], object], problem: str, seconds: float = 60) -> None:
    """Until something is so."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, problem
        time.sleep(0.3)


def write_inputs(folder: Path, studies: tuple[str, ...], number: int) -> Path:
    """Small visits, and the table that names them."""
    rows = ["study,visit,input"]
    for study in studies:
        for at in range(number):
            place = folder / "input" / study / f"v{at:02}"
            write_visit(place, {1: ("t1", 2)}, StudyInstanceUID=uid(study, at))
            rows.append(f"{study},v{at:02},input/{study}/v{at:02}")
    table = folder / "visits.csv"
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return table
