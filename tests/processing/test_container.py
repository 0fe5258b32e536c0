"""Containers: the calls hold to Apptainer's documented command line, and what a program sees is what it should see."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from icf_utils.processing.model import Processing
from icf_utils.processing.settings import make_processings
from icf_utils.settings import ProcessingSettings
from icf_utils.store.layout import Visit
from tests.processing.conftest import Process
from tests.processing.test_process import log_of, output_of

pytestmark = pytest.mark.skipif(not shutil.which("bwrap"), reason="the stand-in needs bubblewrap")


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image, and a stand-in for Apptainer that runs it."""
    programs = tmp_path / "programs"
    programs.mkdir()
    source = Path(__file__).with_name("apptainer_standin.py").read_text(encoding="utf-8")
    (programs / "apptainer").write_text(f"#!{sys.executable}\n" + source.partition("\n")[2], encoding="utf-8")
    (programs / "apptainer").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    path = tmp_path / "image.sif"
    path.write_text("sh -c 'touch'", encoding="utf-8")
    return path


def contained(image: Path, *args: str, **settings: object) -> Processing:
    values = {"name": "test", "version": "1", "container": str(image), "args": args, **settings}
    (found,) = make_processings([ProcessingSettings(**values)], "settings", Path("/")).values()  # type: ignore[arg-type]
    return found


def test_a_container_sees_its_input_and_output_alone(store: Path, process: Process, image: Path) -> None:
    script = (
        "find /input -type f | sort > list; env | sort > env; cp /task.json task; ls / > root; "
        "touch /input/x 2>/dev/null && exit 9; touch /task.json 2>/dev/null && exit 8; pwd > pwd; touch /tmp/x; exit 0"
    )
    result = process(contained(image, "sh", "-c", script, environment={"MODE": "a b"}), arguments=("x",))
    assert result.state == "success", log_of(store)
    files = output_of(store)
    assert len(files["list"].split()) == 3
    assert files["pwd"] == b"/output\n"
    assert b"ICF_INPUT=/input\n" in files["env"]
    assert b"MODE=a b\n" in files["env"]
    assert str(store.parent).encode() not in files["env"] + files["task"]
    assert {"input", "output", "task.json"} <= set(files["root"].decode().split())
    assert "work" not in files["root"].decode().split()
    program = json.loads(Visit(store, "study", "v1").provenance("test").read_bytes())["program"]
    assert program["sha256"] == {"image.sif": hashlib.sha256(image.read_bytes()).hexdigest()}
    assert process(contained(image, "sh", "-c", script, environment={"MODE": "a b"})).state == "up to date"


def test_the_images_own_program_runs_without_words(store: Path, process: Process, image: Path) -> None:
    image.write_text("cp -r /input /output/copy", encoding="utf-8")
    assert process(contained(image)).state == "success", log_of(store)
    assert len(output_of(store)) == 3


def test_a_container_has_no_network_unless_it_is_allowed(store: Path, process: Process, image: Path) -> None:
    look = ("sh", "-c", "cat /proc/net/dev > net")
    assert process(contained(image, *look)).state == "success"
    alone = output_of(store)["net"]
    assert process(contained(image, *look, network=True, version="2")).state == "success"
    assert len(alone.splitlines()) <= len(output_of(store)["net"].splitlines())
    assert len(alone.splitlines()) == 3  # two lines of headings, and the loopback


def test_an_image_that_is_not_there(process: Process, image: Path) -> None:
    result = process(contained(image.with_name("other.sif"), "true"))
    assert (result.state, result.code) == ("failed", "missing-requirement")
    assert "other.sif" in result.message


def test_no_runtime(process: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "image.sif").write_text("x")
    monkeypatch.setenv("PATH", "/nonexistent")
    result = process(contained(tmp_path / "image.sif", "true"))
    assert "apptainer or singularity is required" in result.message


def test_a_container_that_hangs_is_ended(process: Process, image: Path) -> None:
    assert process(contained(image, "sh", "-c", "sleep 60", timeout=1)).code == "timeout"
