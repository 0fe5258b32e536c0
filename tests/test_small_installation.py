"""The small installation of docs/install.md, for those who only read: what it has, and what it can do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.cli.program import ROOT
from tests.verify.stores import STUDY, make_visit, write_input

REQUIREMENTS = ROOT / "docs" / "examples" / "readers-requirements.txt"
LARGEST = 25_000_000  # bytes


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has nothing else."""
    if find_spec("uv") is None:
        pytest.skip("uv, which makes the environment, is not installed")
    place = tmp_path_factory.mktemp("small")
    uv = [sys.executable, "-m", "uv", "--quiet"]
    install = [*uv, "pip", "install", "--python", str(place / "bin/python"), "--link-mode", "copy"]
    steps = [
        [*uv, "venv", "--python", sys.executable, "--allow-existing", str(place)],
        [sys.executable, "-W", "ignore", "-m", "hatchling", "build", "-t", "wheel", "-d", str(place / "dist")],
        [*install, "--requirements", str(REQUIREMENTS)],
    ]
    for step in steps:
        done = subprocess.run(step, cwd=ROOT, check=False, capture_output=True, text=True)
        if "Failed to fetch" in done.stderr or "error sending request" in done.stderr:
            pytest.skip("no package index can be reached")
        assert done.returncode == 0, done.stderr
    (wheel,) = (place / "dist").glob("*.whl")
    subprocess.run([*install, "--no-deps", str(wheel)], check=True, capture_output=True)
    return place / "bin"


def program(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(folder / "python"), "-W", "error", str(folder / arguments[0]), *map(str, arguments[1:])]
    environment = {"PATH": f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin", "HOME": str(folder), "LC_ALL": "C.UTF-8"}
    return subprocess.run(command, env=environment, cwd=folder, check=False, capture_output=True, text=True, input="")


def test_the_bounds_are_those_of_the_package() -> None:
    lines = REQUIREMENTS.read_text(encoding="utf-8").replace('"', "'").splitlines()
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = re.search(r"(?ms)^dependencies = \[$(.*?)^\]$", project)
    assert declared
    assert {line for line in lines if not line.startswith("#")} <= set(re.findall(r'"(.*)"', declared[1]))


def test_it_is_small(small: Path) -> None:
    files = (path for path in (small.parent / "lib").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert sum(path.stat().st_size for path in files) < LARGEST


def test_it_reads_a_store(small: Path, tmp_path: Path) -> None:
    make_visit(write_input(tmp_path / "in"), tmp_path / "store")
    done = program(small, "icf-utils", "verify", "-o", tmp_path / "store")
    assert done.returncode == 0, done.stderr
    assert "[catalog-not-checked]" in done.stderr
    done = program(small, "icf-utils", "retrieve", "-o", tmp_path / "store", "-d", tmp_path / "out", STUDY)
    assert done.returncode == 0, done.stderr
    images = {path.read_bytes() for path in (tmp_path / "in").rglob("*.dcm")}
    assert images <= {path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert program(small, "icf-utils", "status", "-o", tmp_path / "store").returncode == 0
    assert program(small, "git-annex-remote-icf").stdout.startswith("VERSION 1")


@pytest.mark.parametrize(
    ("command", "package"),
    [
        (("catalogify_studyvisit_from_meta", "-o", "STORE", "--id", STUDY, "v1"), "datalad-catalog"),
        (("xnat", "send", "IN", "127.0.0.1"), "pynetdicom"),
        (("retrieve", "--bucket", "s3://bucket", "-d", "OUT", "1.2"), "obstore"),
    ],
)
def test_what_is_missing_is_named(small: Path, tmp_path: Path, command: tuple[str, ...], package: str) -> None:
    make_visit(write_input(tmp_path / "in"), tmp_path / "store")
    places = {"STORE": tmp_path / "store", "IN": tmp_path / "in", "OUT": tmp_path / "out"}
    done = program(small, "icf-utils", *(places.get(word, word) for word in command))
    assert done.returncode == 7, done.stderr
    assert f"the Python package {package} is required" in done.stderr
    assert "pip install" in done.stderr


def test_the_sessions_of_a_receiver_can_be_used(small: Path) -> None:
    """The pages need flask; asking them does not."""
    command = [str(small / "python"), "-c", "import icf_utils.receiver.client"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
