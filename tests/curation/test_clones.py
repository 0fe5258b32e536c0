"""Clones of a visit that gets its next version: updated with DataLad, and with git-annex alone, from a web server."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from icf_utils import refresh_visit, replace_visit
from icf_utils.catalog.commands import VisitAddress, clone_url
from icf_utils.store.layout import Visit
from tests.data.make_dicom import write_visit
from tests.dataset.commands import run
from tests.dataset.conftest import _own_settings, clone_tools, require  # noqa: F401 - fixtures
from tests.dataset.servers import Server, nginx
from tests.verify.stores import STUDY, make_derived, make_visit, write_input

pytestmark = pytest.mark.usefixtures("clone_tools")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    require("nginx")
    (tmp_path / "nginx").mkdir()
    (tmp_path / "store").mkdir()
    with nginx(
        tmp_path / "store", tmp_path / "nginx", 'auth_basic off; add_header Cache-Control "no-cache";'
    ) as running:
        yield running


@pytest.fixture
def place(server: Server, tmp_path: Path) -> Visit:
    (tmp_path / "store" / "icf.toml").write_text(f'[store]\nurl = "{server.url}"\n[dataset]\nannex_url = true\n')
    made = make_visit(write_input(tmp_path / "in"), tmp_path / "store", store_url=None)
    make_derived(made.root, store_url=None)
    return made


@pytest.fixture
def later(tmp_path: Path) -> Path:
    """The first series is gone, the second has an image less, and a third one has arrived."""
    write_visit(tmp_path / "later", {2: ("t1 mprage", 2), 3: ("bold", 4)}, companions={})
    return tmp_path / "later"


def git(clone: Path, *command: str) -> str:
    """Run git in a clone that may use loopback addresses."""
    allow = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "annex.security.allowed-ip-addresses",
        "GIT_CONFIG_VALUE_0": "all",
    }
    return run(*command, cwd=clone, env={**os.environ, **allow}).decode()


def images(clone: Path) -> set[str]:
    return {path.relative_to(clone / f"{STUDY}_v1").as_posix() for path in (clone / f"{STUDY}_v1").rglob("*.dcm")}


NEW = {f"02_t1_mprage/000{n}.dcm" for n in (1, 2)} | {f"03_bold/000{n}.dcm" for n in (1, 2, 3, 4)}


@pytest.mark.parametrize("keep", [False, True])
def test_a_clone_with_datalad(place: Visit, server: Server, later: Path, tmp_path: Path, keep: bool) -> None:
    clone = tmp_path / "clone"
    run("datalad", "clone", clone_url(VisitAddress(server.url, STUDY, "v1")), str(clone), cwd=tmp_path)
    git(clone, "datalad", "get", ".")
    (clone / "mine.txt").write_text("a local commit\n")
    git(clone, "datalad", "save", "-m", "mine")
    first = git(clone, "git", "rev-list", "--max-parents=0", "main").strip()
    replace_visit(later, place.root, STUDY, "v1", reason="late images", keep=keep)
    git(clone, "datalad", "update", "--how", "merge")
    assert images(clone) == NEW
    git(clone, "datalad", "get", ".")
    git(clone, "git", "annex", "fsck", "--quiet")
    git(clone, "git", "annex", "fsck", "--all", "--quiet")
    assert not git(clone, "git", "status", "--short")
    assert (clone / "mine.txt").exists()
    assert first == git(clone, "git", "rev-list", "--max-parents=0", "main").strip()
    view = git(clone, "git", "annex", "find", "--metadata", "seriesnumber=3").splitlines()
    assert len(view) == 4
    fresh = tmp_path / "fresh"
    run("datalad", "clone", clone_url(VisitAddress(server.url, STUDY, "v1")), str(fresh), cwd=tmp_path)
    git(fresh, "datalad", "get", ".")
    git(fresh, "git", "annex", "fsck", "--quiet")
    git(fresh, "git", "checkout", "-q", first)
    former = run("git", "annex", "find", "--not", "--in", "here", "--in", "archivist", cwd=fresh).decode().splitlines()
    assert bool(former) == keep  # images of a kept archive can still be got
    if keep:
        git(fresh, "git", "annex", "get", *former)


def test_a_clone_with_git_annex_alone(place: Visit, server: Server, later: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "git", "clone", "-q", f"annex::{server.url}/{STUDY}/v1.annex", str(clone))
    git(clone, "git", "annex", "get", ".")
    replace_visit(later, place.root, STUDY, "v1", reason="late images")
    assert len(list(place.annex_folder.rglob("GITBUNDLE*"))) == 2  # a folder and the file in it
    git(clone, "git", "pull", "-q")
    git(clone, "git", "annex", "merge")
    assert images(clone) == NEW
    git(clone, "git", "annex", "get", ".")
    git(clone, "git", "annex", "fsck", "--quiet")
    git(clone, "git", "annex", "fsck", "--all", "--quiet")


def test_a_store_that_moved(place: Visit, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "git-annex-remote-icf"
    call = "import sys\nfrom icf_utils.dataset.special_remote.program import main\nsys.exit(main())\n"
    program.write_text(f"#!{sys.executable}\n{call}")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    clone = tmp_path / "clone"
    run("datalad", "clone", clone_url(VisitAddress(server.url, STUDY, "v1")), str(clone), cwd=tmp_path)
    with_icf = tmp_path / "with-icf"
    run("datalad", "clone", clone_url(VisitAddress(server.url, STUDY, "v1")), str(with_icf), cwd=tmp_path)
    git(with_icf, sys.executable, "-m", "icf_utils", "configure-clone", ".")
    (tmp_path / "store").rename(tmp_path / "moved")
    (tmp_path / "nginx2").mkdir()
    more = 'auth_basic off; add_header Cache-Control "no-cache";'
    with nginx(tmp_path / "moved", tmp_path / "nginx2", more) as new:
        (tmp_path / "moved" / "icf.toml").write_text(f'[store]\nurl = "{new.url}"\n')
        refresh_visit(tmp_path / "moved", STUDY, "v1")
        for one in (clone, with_icf):
            git(one, "git", "remote", "set-url", "origin", clone_url(VisitAddress(new.url, STUDY, "v1")))
            git(one, "datalad", "update", "--how", "merge")
            git(one, "datalad", "get", f"{STUDY}_v1/01_localizer")
        git(clone, "git", "annex", "get", ".")
        git(clone, "git", "annex", "fsck", "--quiet")
