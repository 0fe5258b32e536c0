"""Outputs of processings, from a folder and from a real web server, by the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from icf_utils import deposit_visit_metadata, make_studyvisit_archive
from icf_utils.cli.main import main
from icf_utils.processing.execute import ProcessConfig, process_visit
from tests.data.make_dicom import uid, write_visit
from tests.dataset.servers import PASSWORD, USER, Server
from tests.processing.conftest import shell
from tests.retrieve.conftest import files


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose first visit has outputs of two processings, and whose second has one."""
    root = tmp_path_factory.mktemp("outputs")
    for visit in ("v1", "v2"):
        write_visit(root / "in" / visit, {1: ("T1w", 1)}, StudyInstanceUID=uid(visit))
        make_studyvisit_archive(root / "in" / visit, root / "store", "study-a", visit)
        deposit_visit_metadata(root / "store", "study-a", visit)
    for visit, name in (("v1", "one"), ("v1", "two"), ("v2", "one")):
        program = ProcessConfig(root / "store", shell("echo 1 > x", name=name, isolation="none"))
        assert process_visit(program, "study-a", visit).state == "success"
    return root / "store"


def of_store(store: Path, *names: str) -> dict[str, bytes]:
    found = [path for name in names for path in store.glob(f"study-a/{name}_[op]*")]
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in found}


def retrieve(capsys: pytest.CaptureFixture[str], code: int, *words: object) -> Any:
    assert main(["retrieve", *map(str, words), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_outputs_of_a_store_on_this_machine(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("-o", store, "study-a", "--processing", "one", "-d", tmp_path / "got")
    assert retrieve(capsys, 0, *words)["result"]["saved"] == 4
    got = files(tmp_path / "got")
    got.pop("log.json", None)
    assert got == of_store(store, "v1_one", "v2_one")
    (tmp_path / "got/study-a/v1_one_output.tar").write_bytes(b"damaged")
    again = retrieve(capsys, 0, *words)["result"]
    assert (again["saved"], again["unchanged"]) == (1, 3)
    lacking = retrieve(capsys, 1, *words[:3], "--processing", "two", "-d", tmp_path / "two")["result"]
    assert [one["problem"] for one in lacking["failures"]] == ["study-a/v2 has no output of 'two'"]
    assert (tmp_path / "two/study-a/v1_two_output.tar").exists()


def test_a_changed_output_is_not_kept(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(store, tmp_path / "store")
    path = tmp_path / "store/study-a/v1_one_output.tar"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    words = ("-o", tmp_path / "store", "study-a/v1", "--processing", "one", "-d", tmp_path / "got")
    (failure,) = retrieve(capsys, 1, *words)["result"]["failures"]
    assert failure["problem"].startswith("expected sha256 ")
    assert not (tmp_path / "got/study-a/v1_one_output.tar").exists()
    provenance = tmp_path / "store/study-a/v1_one_provenance.json"
    provenance.write_bytes(provenance.read_bytes().replace(b"{", b"{ ", 1))
    (failure,) = retrieve(capsys, 1, *words)["result"]["failures"]
    assert "expected SHA-256" in failure["problem"], "its own form is checked, and its bytes"


def test_outputs_of_a_web_store(
    server: Server, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ICF_STORE_PASSWORD", PASSWORD)
    words = ("-o", server.url, "--user", USER, "study-a/v1", "--processing", "one", "--processing", "two")
    assert retrieve(capsys, 0, *words, "-d", tmp_path / "got")["result"]["saved"] == 4
    got = files(tmp_path / "got")
    got.pop("log.json", None)
    assert got == of_store(store, "v1_one", "v1_two")


@pytest.mark.parametrize("words", [["--series", "1"], ["--zip"], ["--image", "x"], ["--modality", "MR"]])
def test_options_about_images_are_refused(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    command = ["retrieve", "-o", str(store), "study-a", "--processing", "one", "-d", str(tmp_path / "got"), *words]
    assert main(command) == 2
    assert "cannot be combined with --processing" in capsys.readouterr().err
