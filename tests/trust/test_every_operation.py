"""Changes of a visit, killed before each of their file operations: what is seen then, and what repeating them leaves.

Without ``ICF_TRIALS``, one operation of some changes; ``ICF_TRIALS=1`` kills at every one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from icf_utils import deposit_visit_dataset
from icf_utils.catalog.rebuild import build_catalog
from tests.cli.program import icf
from tests.data.make_dicom import uid, write_visit
from tests.trust.scene import leftovers
from tests.trust.server import Server
from tests.verify.stores import STUDY, URL, contents, make_visit, write_input

TRIALS = int(os.environ.get("ICF_TRIALS", "0"))

#: Options of each change of the visit ``v1``, and whether repeating it once it is done finds nothing of the visit.
CHANGES: dict[str, tuple[str, ...]] = {
    "replace": ("replace", "next", "--reason", "next"),
    "replace, keeping": ("replace", "next", "--reason", "next", "--keep"),
    "merge": ("merge", "--from", "late"),
    "rename": ("rename", "--to", STUDY, "v9"),
    "rename into another study": ("rename", "--to", "study-b", "v9"),
    "refresh": ("refresh",),
    "remove": ("remove", "--reason", "withdrawn"),
    "remove with a tombstone": ("remove", "--reason", "withdrawn", "--tombstone"),
    "remove the last one": ("remove", "--reason", "withdrawn"),
}

#: The operation before which a change is killed first, and how many are left out then.
_FIRST, _STEP = (1, 1) if TRIALS else (111, 1000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs, and a store for each change that needs another one."""
    folder = tmp_path_factory.mktemp("operations")
    source = write_input(folder / "in", StudyInstanceUID=uid(1))
    make_visit(source, folder / "store", "v1")
    deposit_visit_dataset(folder / "store", STUDY, "v1", store_url=URL, annex_url=True)
    (folder / "store" / "icf.toml").write_text(f'[store]\nurl = "{URL}"\n')
    shutil.copytree(folder / "store", folder / "alone")
    make_visit(write_input(folder / "other", StudyInstanceUID=uid(2)), folder / "store", "v1_b")
    for name in ("alone", "store"):
        build_catalog(folder / name, STUDY)
        assert icf("catalog", "build", "-o", folder / name, "--index").code == 0
    shutil.copytree(folder / "store", folder / "merging")
    write_visit(folder / "late", {7: ("bold", 2)}, StudyInstanceUID=uid(1))
    make_visit(folder / "late", folder / "merging", "late")
    build_catalog(folder / "merging", STUDY)
    shutil.copytree(source, folder / "next")
    write_visit(folder / "next", {7: ("bold", 2)}, StudyInstanceUID=uid(1))
    shutil.copytree(folder / "store", folder / "refreshing")
    (folder / "refreshing" / "icf.toml").write_text(f'[store]\nurl = "{URL}"\n[metadata]\ntags = ["InstanceNumber"]\n')
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


def model_of(change: str, folder: Path) -> Path:
    names = {"merge": "merging", "refresh": "refreshing", "remove the last one": "alone"}
    return folder / names.get(change, "store")


def command(change: str, folder: Path, root: Path) -> tuple[str | Path, ...]:
    name, *options = CHANGES[change]
    if name == "refresh":
        return ("visit", name, "-o", root, f"{STUDY}/v1")
    inputs = [folder / word if word == "next" and at == 0 else word for at, word in enumerate(options)]
    return ("visit", name, "-o", root, "--id", STUDY, "v1", *inputs, "--yes")


def tree(root: Path) -> dict[str, bytes]:
    """All that users see: files, and folders, which end with a slash."""
    folders = (path.relative_to(root).as_posix() + "/" for path in root.rglob("*") if path.is_dir())
    found = {**contents(root), **dict.fromkeys(folders, b"")}
    return {name: data for name, data in found.items() if "/.icf/" not in name}


def by_visit(found: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in found.items() if name.startswith(f"{STUDY}/v1_") and "v1_b_" not in name}


_ALWAYS = ("rename into another study", "remove with a tombstone", "remove the last one")


@pytest.mark.parametrize("change", CHANGES if TRIALS else _ALWAYS)
def test_killed_before_each_operation(change: str, folder: Path, server: Server, tmp_path: Path) -> None:
    model, root = model_of(change, folder), tmp_path / "store"
    shutil.copytree(model, root)
    ended = server.run(*command(change, folder, root))
    assert ended.code == 0, ended
    expected = tree(root)
    at, killed = _FIRST, 0
    while True:
        shutil.rmtree(root)
        shutil.copytree(model, root)
        ended = server.run(*command(change, folder, root), kill_at=at)
        if ended.code != -9:
            assert ended.code == 0, ended
            break
        killed += 1
        if killed % 4 == 1:  # a reader comes first
            verified = server.run("verify", "-o", root)
            assert verified.code == 0, (change, at, verified)
        again = server.run(*command(change, folder, root))
        was_over = again.code == 5 and "nothing of this visit" in again.err
        assert again.code == 0 or was_over, (change, at, again)
        found = tree(root)
        assert found.keys() ^ expected.keys() == set(), (change, at)
        assert [name for name in found if found[name] != expected[name]] == [], (change, at)
        assert leftovers(root) == [], (change, at)
        at += _STEP
    assert killed
    print(f"{change}: killed before {killed} operations")  # noqa: T201 - shown by pytest -s
