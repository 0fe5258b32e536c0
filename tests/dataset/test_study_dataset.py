"""The dataset of a study: one clone gives all visits; the same tree whatever the order; a commit for each change."""

from __future__ import annotations

import io
import os
import time
import zipfile
from pathlib import Path

import pytest

from icf_utils.dataset.git_check import check_with_git
from icf_utils.dataset.study_dataset import (
    Submodule,
    build_study_dataset,
    check_pack_entries,
    parse_study_dataset,
)
from tests.dataset.commands import run

ID = "5c4b2d1c-0000-5000-8000-000000000001"


def made(number: int, change: int = 0) -> Submodule:
    place = f"datalad-annex::?url=https://example.org/s/v{number:04}_{{{{annex_key}}}}"
    return Submodule(f"{number + 1:036x}{change:04x}", f"{ID[:-4]}{number:04x}", place, place)


def history(repository: Path) -> list[str]:
    said = run("git", "log", "--format=%s", "main", cwd=repository)
    return said.decode().splitlines()


def unpack(export: bytes, folder: Path) -> Path:
    with zipfile.ZipFile(io.BytesIO(export)) as packed:
        packed.extractall(folder)
    return folder


def test_a_commit_for_each_change(tmp_path: Path) -> None:
    steps = [{"v1": made(1)}, {"v1": made(1), "v2": made(2)}, {"v1": made(1, 1), "v2": made(2)}]
    former, commits = None, []
    for step in steps:
        built = build_study_dataset(ID, step, 1000, former)
        assert built
        check_with_git(built.export, built.refs, "x")
        former = parse_study_dataset(built.refs, built.export)
        check_pack_entries(former, built.export)
        assert former.visits == step
        commits.append(built.commit)
    assert build_study_dataset(ID, steps[-1], 2000, former) is None
    assert built
    repository = unpack(built.export, tmp_path)
    assert history(repository) == ["Change visit v1", "Add visit v2", "Dataset of a study"]
    assert run("git", "rev-list", "main", cwd=repository).decode().split() == commits[::-1]
    links = run("git", "ls-tree", "main~2", cwd=repository).decode()
    assert f"160000 commit {made(1).commit}\tv1" in links
    assert "v2" not in links


def test_a_removed_visit_leaves_nothing() -> None:
    built = build_study_dataset(ID, {"v1": made(1), "v2": made(2)}, 1000)
    assert built
    after = build_study_dataset(ID, {"v2": made(2)}, 1000, parse_study_dataset(built.refs, built.export))
    alone = build_study_dataset(ID, {"v2": made(2)}, 1000)
    assert after == alone
    assert after
    assert b"v0001" not in after.export


def test_the_tree_does_not_depend_on_the_order(tmp_path: Path) -> None:
    trees = set()
    for number, order in enumerate((range(5), reversed(range(5)))):
        former, visits = None, {}
        for at in order:
            visits[f"v{at}"] = made(at)
            built = build_study_dataset(ID, dict(visits), 1000, former)
            assert built
            former = parse_study_dataset(built.refs, built.export)
        assert built
        repository = unpack(built.export, tmp_path / str(number))
        trees.add(run("git", "rev-parse", "main^{tree}", cwd=repository))
    assert len(trees) == 1


def test_many_visits_one_after_the_other(tmp_path: Path) -> None:
    """The deposit grows linearly: each commit is a small difference."""
    former, visits, sizes = None, {}, {}
    started = time.process_time()
    whole = build_study_dataset(ID, {f"v{at:04}": made(at) for at in range(1000)}, 1000)
    assert time.process_time() - started < 2
    assert whole
    for at in range(200):
        visits[f"v{at:04}"] = made(at)
        built = build_study_dataset(ID, dict(visits), 1000, former)
        assert built
        former = parse_study_dataset(built.refs, built.export)
        sizes[at + 1] = len(built.export)
    assert sizes[200] < 2.2 * sizes[100]
    assert sizes[200] < len(whole.export) / 5 + 200 * 1200
    assert built
    repository = unpack(built.export, tmp_path / "store")
    clone = tmp_path / "clone"
    run("git", "clone", "-q", "--bare", os.fspath(repository), os.fspath(clone), cwd=tmp_path)
    assert len(history(clone)) == 200
    run("git", "fsck", "--strict", cwd=clone)


@pytest.mark.parametrize("at", [100, 400, -300])
def test_damage_is_found(at: int) -> None:
    built = build_study_dataset(ID, {"v1": made(1)}, 1000)
    assert built
    bad = bytearray(built.export)
    bad[at] ^= 1
    with pytest.raises((ValueError, LookupError)):
        check_pack_entries(parse_study_dataset(built.refs, bytes(bad)), bytes(bad))
