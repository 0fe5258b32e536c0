"""What is found in a store's folder: settings, rights, space, file system."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from icf_utils.doctor.folder import check_folder, clock_check
from icf_utils.doctor.model import Check
from tests.cli.test_streams import small_disk
from tests.verify.stores import contents, make_visit, write_input


def checks(store: Path) -> dict[str, Check]:
    return {check.subject: check for check in check_folder(store)}


def states(store: Path) -> dict[str, str]:
    return {name: check.state for name, check in checks(store).items()}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    make_visit(write_input(tmp_path / "in"), tmp_path / "store")
    return tmp_path / "store"


def test_a_sound_store(store: Path) -> None:
    before = contents(store)
    found = checks(store)
    assert {check.state for check in found.values()} == {"ok"}
    assert found["store"].message == f"'{store}': 1 study, 1 visit"
    assert found["settings"].message == "no icf.toml; defaults apply"
    assert list(found) == ["store", "settings", "rights", "free space", "hard links", "clock (file system)"]
    assert contents(store) == before


def test_no_store(tmp_path: Path) -> None:
    assert states(tmp_path / "nowhere") == {"store": "failed"}
    (tmp_path / "file").touch()
    assert states(tmp_path / "file") == {"store": "failed"}


def test_settings_that_are_wrong(store: Path) -> None:
    (store / "icf.toml").write_text("[store]\nadress = 'x'\n")
    found = checks(store)["settings"]
    assert found.state == "failed"
    assert "adress" in found.message


def test_rights(open_tmp_path: Path, as_nobody: Callable[[], AbstractContextManager[None]]) -> None:
    store = open_tmp_path / "store"
    make_visit(write_input(open_tmp_path / "in"), store)
    for folder in (store, store / "study-a"):
        folder.chmod(0o755)
    with as_nobody():
        found = checks(store)
    assert found["rights"].state == "warning"
    assert "not deposit" in found["rights"].message
    assert "hard links" not in found
    store.chmod(0o777)
    with as_nobody():
        found = checks(store)
    assert found["rights"].state == "warning"
    assert f"'{store}/study-a'" in found["rights"].message
    store.chmod(0o700)
    with as_nobody():
        assert states(store) == {"store": "failed"}


def test_a_shared_store(store: Path) -> None:
    (store / "icf.toml").write_text("[store]\ngroup_shared = true\n")
    for folder in (store, store / "study-a"):
        folder.chmod(0o2775)
    assert states(store)["group"] == "ok"
    (store / "study-a").chmod(0o755)
    found = checks(store)["group"]
    assert (found.state, f"'{store}/study-a'" in found.message) == ("warning", True)


def test_a_disk_that_is_nearly_full(tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    with small_disk(place, 4096):
        found = checks(place)["free space"]
    assert found.state == "failed"
    assert "free" in found.message


def test_another_clock() -> None:
    assert clock_check("clock", 0.5).state == "ok"
    found = clock_check("clock", 90.0)
    assert (found.state, found.message) == ("warning", "differs from this machine's by 90 s")


def test_the_time_of_the_probe_counts(store: Path) -> None:
    """A file system that is mounted here has this machine's clock."""
    before = time.time()
    assert checks(store)["clock (file system)"].state == "ok"
    assert os.stat(store).st_mtime >= before - 5
