"""What a consumer does: clone, look, get one image, get all, check. With DataLad, over file:// and a real server."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from icf_utils.dataset.stage import DatasetResult, deposit_visit_dataset
from icf_utils.store.layout import Visit
from tests.dataset.commands import attempt, run
from tests.dataset.conftest import require
from tests.dataset.servers import PASSWORD, nginx
from tests.dataset.visits import GIT_NAMES, ODD_NAMES, SMALL, Member, make_visit

pytestmark = pytest.mark.usefixtures("clone_tools")

CONTENTS = {f"study_v1/{member.name}": member.content for member in SMALL if member.tags is not None}


@dataclass(frozen=True)
class Cloned:
    """A clone of a visit's dataset, and the environment to work in it."""

    place: Visit
    deposit: DatasetResult
    folder: Path
    extra: Mapping[str, str] = field(default_factory=dict)

    def run(self, *command: str) -> bytes:
        return run(*command, cwd=self.folder, env={**os.environ, **self.extra})


def clone(place: Visit, url: str, folder: Path, extra: Mapping[str, str]) -> Cloned:
    deposit = deposit_visit_dataset(place.root, place.study, place.visit, store_url=url)
    run("datalad", "clone", deposit.clone_url, str(folder), cwd=folder.parent, env={**os.environ, **extra})
    return Cloned(place, deposit, folder, extra)


@pytest.fixture
def cloned(tmp_path: Path) -> Cloned:
    place = make_visit(tmp_path / "the store")
    return clone(place, f"file://{tmp_path}/the%20store", tmp_path / "clone", {})


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Cloned, list[str]]]:
    require("nginx")
    place = make_visit(tmp_path / "store")
    scratch = tmp_path / "nginx"
    scratch.mkdir()
    with nginx(tmp_path / "store", scratch) as server:
        cloned = clone(place, server.url, tmp_path / "clone", server.credential())
        yield cloned, server.requests()


def test_a_clone_over_file(cloned: Cloned) -> None:
    _is_complete(cloned)
    _has_history(cloned)
    _can_be_viewed(cloned)
    _gets_one(cloned)
    _gets_all(cloned)


def test_a_clone_over_http_with_a_password(served: tuple[Cloned, list[str]]) -> None:
    cloned, requests = served
    assert any(" 200 " in line and "repo-export" in line for line in requests)
    _is_complete(cloned)
    _gets_one(cloned)
    _gets_all(cloned)
    _has_no_secret(cloned)


def test_no_clone_without_the_password(tmp_path: Path) -> None:
    require("nginx")
    place = make_visit(tmp_path / "store")
    with nginx(tmp_path / "store", tmp_path) as server:
        deposit = deposit_visit_dataset(place.root, "study", "v1", store_url=server.url)
        done = attempt("datalad", "clone", deposit.clone_url, "clone", cwd=tmp_path)
    assert done.returncode != 0
    assert not (tmp_path / "clone" / "icf").exists()


def _is_complete(cloned: Cloned) -> None:
    cloned.run("git", "fsck", "--strict", "--full")
    assert cloned.run("git", "status", "--porcelain") == b""
    links = {str(path.relative_to(cloned.folder)) for path in cloned.folder.rglob("*") if path.is_symlink()}
    assert links == {*CONTENTS, "icf/v1_dicom.tar"}
    known = cloned.run("git", "config", "-f", ".datalad/config", "datalad.dataset.id").decode().strip()
    assert known == cloned.deposit.dataset_id


def _has_history(cloned: Cloned) -> None:
    """git can maintain a repository whose pack is not compressed."""
    assert cloned.run("git", "rev-parse", "main", "origin/git-annex").decode().split() == [
        cloned.deposit.main_commit,
        cloned.deposit.annex_commit,
    ]
    cloned.run("git", "gc", "-q")
    cloned.run("git", "fsck", "--strict", "--full")
    cloned.run("git", "fetch", "origin")


def _can_be_viewed(cloned: Cloned) -> None:
    output = cloned.run("git", "annex", "metadata", "--json", "study_v1/anat/1.2.840.113.dcm")
    fields = {name: values for name, values in json.loads(output)["fields"].items() if "lastchanged" not in name}
    # the same bytes, and so the same key, as func/again.113.dcm
    assert fields == {"seriesnumber": ["1", "3"], "seriesdescription": ["t1 mprage"], "modality": ["MR"]}
    cloned.run("git", "annex", "view", "seriesnumber=*")
    folders = sorted(path.name for path in cloned.folder.iterdir() if not path.name.startswith("."))
    assert folders == ["1", "2.5", "3"]
    cloned.run("git", "annex", "vpop")


def _gets_one(cloned: Cloned) -> None:
    name = "study_v1/anat/IM0002"
    cloned.run("datalad", "get", name)
    assert (cloned.folder / name).read_bytes() == CONTENTS[name]
    assert not (cloned.folder / "study_v1/func/x.IMA").exists()


def _gets_all(cloned: Cloned) -> None:
    cloned.run("datalad", "get", ".")
    for name, content in CONTENTS.items():
        assert (cloned.folder / name).read_bytes() == content
    assert (cloned.folder / "icf/v1_dicom.tar").read_bytes() == cloned.place.archive.read_bytes()
    cloned.run("git", "annex", "fsck")


def _has_no_secret(cloned: Cloned) -> None:
    for path in (cloned.folder / ".git").rglob("*"):
        if path.is_file():
            assert PASSWORD.encode() not in path.read_bytes(), path


def test_odd_names(tmp_path: Path) -> None:
    """Everything is in the tree, and archivist gets every image except those that a notice names."""
    names = [*ODD_NAMES, *(name for name in GIT_NAMES if name != ".git")]
    members = [Member(name, b"content %d" % at) for at, name in enumerate(names)]
    cloned = clone(make_visit(tmp_path / "store", members), f"file://{tmp_path}/store", tmp_path / "clone", {})
    output = {
        code: {n.subject for n in cloned.deposit.notices if n.code == code}
        for code in ("archivist-unreachable", "not-in-dataset")
    }
    attempt("git", "annex", "get", ".", cwd=cloned.folder)
    for member in members:
        name = f"study_v1/{member.name}"
        path = cloned.folder / name
        assert path.is_symlink() == (name not in output["not-in-dataset"])
        if name not in output["archivist-unreachable"] | output["not-in-dataset"]:
            assert path.read_bytes() == member.content
    cloned.run("git", "fsck", "--strict", "--full")
    cloned.run("git", "annex", "fsck")


def test_a_visit_without_images(tmp_path: Path) -> None:
    place = make_visit(tmp_path / "store", [Member("notes.txt", b"text", None)])
    cloned = clone(place, f"file://{tmp_path}/store", tmp_path / "clone", {})
    cloned.run("datalad", "get", ".")
    assert (cloned.folder / "icf/v1_dicom.tar").read_bytes() == place.archive.read_bytes()


def test_git_keeps_the_latest_time(tmp_path: Path) -> None:
    """Past 2514, git's commit-graph would contradict the commits after a ``git gc``."""
    place = make_visit(tmp_path / "store", [Member("a.dcm", b"a", {}, 253402300799.0)])
    cloned = clone(place, f"file://{tmp_path}/store", tmp_path / "clone", {})
    cloned.run("git", "gc", "-q")
    cloned.run("git", "commit-graph", "write", "--reachable")
    cloned.run("git", "fsck", "--strict", "--full")
    assert cloned.run("git", "log", "-1", "--format=%ct", "main") == b"17179869183\n"
    cloned.run("datalad", "get", "study_v1")
