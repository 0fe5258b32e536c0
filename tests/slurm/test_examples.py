"""The workflow files of the manual give the store that ``icf-utils run`` gives."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm.conftest import Program, write_inputs
from tests.verify.stores import differing_files

EXAMPLES = Path(__file__).resolve().parents[2] / "docs/examples"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_inputs(tmp_path, ("north", "south"), 2)


def run_tool(folder: Path, *command: str) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def local_store(table: Path) -> Path:
    store = table.parent / "local"
    done = Program({}).run("run", "-o", str(store), "--table", str(table), "-j", "1")
    assert done.returncode == 0, done.stderr
    return store


def test_make(table: Path) -> None:
    if not shutil.which("make"):
        pytest.skip("GNU make is not installed")
    command = ["make", "-j2", "-f", str(EXAMPLES / "Makefile")]
    assert run_tool(table.parent, *command).count("--until dataset") == 4
    assert differing_files(table.parent / "store", local_store(table)) == []
    again = run_tool(table.parent, *command)
    assert "--until" not in again
    assert again.count("0 made, 2 up to date") == 2


def test_snakemake(table: Path) -> None:
    program = shutil.which(os.environ.get("SNAKEMAKE") or "snakemake")
    if not program:
        pytest.skip("Snakemake is not installed: pip install snakemake")
    command = [program, "-j", "2", "--snakefile", str(EXAMPLES / "Snakefile")]
    run_tool(table.parent, *command)
    assert differing_files(table.parent / "store", local_store(table)) == []
    assert "Nothing to be done" in run_tool(table.parent, *command)
