"""The commands of a visit's page, run unchanged by a user with git and git-annex but without DataLad."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from icf_utils.catalog.commands import VisitAddress, clone_rows
from icf_utils.catalog.page import visit_page
from icf_utils.catalog.records import visit_node
from icf_utils.dataset.stage import deposit_visit_dataset
from icf_utils.dataset.store_address import find_store_address
from icf_utils.metadata.records import read_visit_metadata
from icf_utils.settings import CatalogSettings, Settings
from tests.dataset.commands import run
from tests.dataset.visits import SMALL, make_visit

#: What git, git-annex and the commands themselves call.
PROGRAMS = ("git", "git-annex", "git-remote-annex", "sh", "env", "uname", "cat", "rm", "cp", "ls", "sed")
TOOLS = ("mkdir", "tar", "find")


@pytest.fixture
def without_datalad(tmp_path: Path) -> dict[str, str]:
    missing = [name for name in (*PROGRAMS, *TOOLS) if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in (*PROGRAMS, *TOOLS):
        (programs / name).symlink_to(str(shutil.which(name)))
    person = {f"GIT_{role}_{what}": "x" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return {**os.environ, **person, "PATH": str(programs)}


def test_git_annex_alone_gets_all_from_a_local_store(tmp_path: Path, without_datalad: dict[str, str]) -> None:
    place = make_visit(tmp_path / "the store")
    url = f"file://{tmp_path}/the%20store"
    deposit_visit_dataset(place.root, "study", "v1", store_url=url, annex_url=True)
    where = find_store_address(place, Settings(), None, None)
    page = visit_page(place, read_visit_metadata(place), where, CatalogSettings())
    rows = visit_node(page)["additional_display"][2]["content"]
    work = tmp_path / "work"
    work.mkdir()
    for command in [command for name, command in rows.items() if name.startswith("git-annex")]:
        run("sh", "-c", command, cwd=work, env=without_datalad)
    clone = work / "v1"
    assert (clone / "icf/v1_dicom.tar").read_bytes() == place.archive.read_bytes()
    images = sorted(path.read_bytes() for path in (clone / "study_v1").rglob("*") if path.is_file())
    assert images == sorted(member.content for member in SMALL if member.tags is not None)


@pytest.mark.parametrize(("url", "expected"), [("file:///srv/store", 1), ("https://x.example.org", 0)])
def test_only_local_stores_need_a_permission(url: str, expected: int) -> None:
    rows = clone_rows(VisitAddress(url, "s", "v1"), "annex::x")
    assert sum("allowed-url-schemes" in command for command in rows.values()) == expected
    assert not [command for command in clone_rows(VisitAddress(url, "s", "v1"), "").values() if "allowed" in command]
