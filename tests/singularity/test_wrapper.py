"""The script for /usr/bin/icf-utils, with a stand-in for Apptainer that prints what it is given."""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

import pytest

WRAPPER = Path(__file__).resolve().parents[2] / "singularity/icf-utils"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with an image, the wrapper next to it, and Apptainer on the PATH."""
    (tmp_path / "programs").mkdir()
    for name in ("data set", "work"):
        (tmp_path / name).mkdir()
    stand_in = tmp_path / "programs/apptainer"
    stand_in.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\nexit 23\n", encoding="utf-8")
    stand_in.chmod(0o755)
    (tmp_path / "icf.sif").touch()
    (tmp_path / "icf-utils").write_bytes(WRAPPER.read_bytes())
    (tmp_path / "icf-utils").chmod(0o755)
    return tmp_path


def call(place: Path, *arguments: str, name: str = "icf-utils", **environment: str) -> list[str]:
    """The words that Apptainer gets, without ``exec --pwd FOLDER``."""
    kept = {key: value for key, value in os.environ.items() if key != "TMPDIR"}
    done = subprocess.run(
        [str(place / name), *arguments],
        cwd=place / "work",
        env={**kept, "PATH": f"{place / 'programs'}:{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 23, done.stderr
    words = done.stdout.splitlines()
    assert words[:3] == ["exec", "--pwd", str(place / "work")]
    return words[3:]


def bound(words: list[str]) -> set[str]:
    return {after for word, after in itertools.pairwise(words) if word == "--bind"}


def test_arguments_reach_the_program_unchanged(place: Path) -> None:
    words = call(place, "verify", "a b", "*", "", "--id", "x")
    assert words == [
        "--bind",
        str(place / "work"),
        str(place / "icf.sif"),
        "icf-utils",
        "verify",
        "a b",
        "*",
        "",
        "--id",
        "x",
    ]


def test_folders_of_arguments_are_bound(place: Path) -> None:
    store, table = place / "data set/new/store", place / "programs/visits.csv"
    words = call(place, "run", "-o", str(store), f"--table={table}", "../nothing", f"file://{place}/icf.sif", "s/v")
    assert bound(words) == {str(place / name) for name in ("work", "data set", "programs")} | {str(place)}


def test_more_is_bound_on_request_and_links_are_followed(place: Path) -> None:
    (place / "link").symlink_to(place / "data set")
    words = call(place, ICF_UTILS_BIND=f"{place / 'link'}:/usr", TMPDIR=str(place / "programs"))
    assert bound(words) == {str(place / name) for name in ("work", "link", "data set", "programs")} | {"/usr"}


def test_another_name_is_another_program(place: Path) -> None:
    (place / "datalad").symlink_to(place / "icf-utils")
    assert call(place, "wtf", name="datalad")[2:] == [str(place / "icf.sif"), "datalad", "wtf"]


def test_the_image_may_lie_elsewhere(place: Path) -> None:
    (place / "icf.sif").rename(place / "other.sif")
    assert str(place / "other.sif") in call(place, ICF_UTILS_SIF=str(place / "other.sif"))
    done = subprocess.run([str(place / "icf-utils")], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 7
    assert "set ICF_UTILS_SIF" in done.stderr


def test_without_apptainer_the_message_says_so(place: Path) -> None:
    for name in ("readlink", "dirname", "basename"):
        (place / "work" / name).symlink_to(f"/usr/bin/{name}")
    done = subprocess.run(
        ["/bin/sh", str(place / "icf-utils")],
        env={"PATH": str(place / "work")},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 7
    assert "neither apptainer nor singularity" in done.stderr
