"""``icf-utils clone``: a study or a visit, with the programs that are installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.program import icf
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


def test_what_is_not_there(store: str, tmp_path: Path) -> None:
    ran = icf("clone", f"{store}/nothing/v1", tmp_path / "clone")
    assert ran.code not in (0, 1, 70), ran
    assert "Traceback" not in ran.err
