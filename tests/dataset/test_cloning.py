"""``icf-utils clone``: a study or a visit, with the programs that are installed."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from urllib.parse import quote

import pytest

from icf_utils import deposit_visit_dataset
from tests.cli.program import icf
from tests.data.make_dicom import uid
from tests.dataset.commands import run
from tests.verify.stores import STUDY, make_visit, write_input

pytestmark = pytest.mark.usefixtures("clone_tools")


@pytest.fixture
def store(tmp_path: Path) -> str:
    """The address of a store with one visit."""
    url = f"file://{tmp_path}/store"
    make_visit(write_input(tmp_path / "in"), tmp_path / "store", store_url=url)
    return url


def test_a_visit(store: str, tmp_path: Path) -> None:
    ran = icf("clone", f"{store}/{STUDY}/v1", tmp_path / "clone")
    assert ran.code == 0, ran
    assert ran.out.startswith(f"cloned into '{tmp_path}/clone' with DataLad")
    assert (tmp_path / "clone" / f"{STUDY}_v1").is_dir()


def test_a_study(store: str, tmp_path: Path) -> None:
    ran = icf("clone", f"{store}/{STUDY}", tmp_path / "clone", "--json")
    assert ran.code == 0, ran
    result = ran.json["result"]
    assert (result["study"], result["visit"], result["tool"]) == (STUDY, "", "DataLad")
    assert len(result["commands"]) == 1
    assert (tmp_path / "clone" / "v1").is_dir()
    # where a visit cannot be cloned, DataLad clones the study in its place, which is not taken for the visit
    (tmp_path / "store" / STUDY / "v1_XDLRA--refs").unlink()
    ran = icf("get", "-r", tmp_path / "clone")
    assert (ran.code, "the subdataset could not be installed" in ran.out + ran.err) == (1, True), ran
    assert list((tmp_path / "clone/v1").iterdir()) == []


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    """A store with a web address, which no server is at; its folder is here."""
    root = tmp_path / "the store"
    images = write_input(tmp_path / "in", StudyInstanceUID=uid(81))
    make_visit(images, root, store_url="https://data.example.invalid")
    return root


def test_a_mounted_store(mounted: Path, tmp_path: Path) -> None:
    """Images, the archive and updates come from the store's folder, by all programs."""
    ran = icf("clone", mounted / STUDY / "v1", tmp_path / "clone", "--json")
    assert ran.code == 0, ran
    options = [f"--local-store={mounted}", f"--store-url={mounted.as_uri()}"]
    done = shlex.join(["icf-utils", "configure-clone", *options, str(tmp_path / "clone")])
    assert ran.json["result"]["commands"][1] == done
    names = sorted(str(path.relative_to(tmp_path / "clone")) for path in (tmp_path / "clone").glob(f"{STUDY}_v1/*/*"))
    run("git", "annex", "get", names[0], cwd=tmp_path / "clone")
    run("datalad", "get", names[1], "icf", cwd=tmp_path / "clone")
    run("git", "annex", "drop", "icf", cwd=tmp_path / "clone")
    ran = icf("get", tmp_path / "clone")
    assert (ran.code, ran.out.startswith("got 3 images")) == (0, True), ran
    run("icf-utils", "configure-clone", "--undo", cwd=tmp_path / "clone")
    settings = run("git", "config", "--local", "--list", cwd=tmp_path / "clone").decode()
    assert [line.partition("=")[0] for line in settings.splitlines() if "file:" in line] == ["remote.origin.url"]


def test_a_mounted_store_with_git_annex_alone(mounted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deposit_visit_dataset(mounted, STUDY, "v1", annex_url=True, store_url="https://data.example.invalid")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("git", "git-annex", "git-remote-annex", "git-annex-remote-icf", "sh", "uname"):
        (programs / name).symlink_to(shutil.which(name) or "")
    monkeypatch.setenv("PATH", str(programs))
    ran = icf("clone", mounted / STUDY / "v1", tmp_path / "clone", "--json")
    assert ran.code == 0, ran
    assert ran.json["result"]["tool"] == "git-annex"
    assert f"directory={quote(str(mounted))}/{STUDY}/v1_annex" in ran.json["result"]["commands"][0]
    ran = icf("get", tmp_path / "clone")
    assert (ran.code, ran.out.startswith("got 5 images")) == (0, True), ran
    (mounted / STUDY / "v1.annex").write_text("annex::nothing")
    ran = icf("clone", mounted / STUDY / "v1", tmp_path / "other")
    assert "expected an annex:: address with a UUID" in ran.err, ran


def test_the_study_of_a_mounted_store(mounted: Path, tmp_path: Path) -> None:
    ran = icf("clone", mounted / STUDY, tmp_path / "clone")
    assert ran.code == 0, ran
    ran = icf("get", "-r", tmp_path / "clone")
    assert (ran.code, ran.out.startswith("got 5 images")) == (0, True), ran


def test_what_is_not_there(store: str, tmp_path: Path) -> None:
    ran = icf("clone", f"{store}/nothing/v1", tmp_path / "clone")
    assert ran.code not in (0, 1, 70), ran
    assert "Traceback" not in ran.err
