"""Merging two visits: the files of both, once each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from icf_utils import make_studyvisit_archive, verify_store
from icf_utils.curation.merge import merge_visits
from icf_utils.curation.remove import remove_visit
from icf_utils.errors import DepositMissing, InputRefused, InvalidSetting
from icf_utils.store.layout import Visit
from tests.cli.program import Inside
from tests.verify.stores import STUDY, contents, make_visit


@pytest.fixture
def late(place: Visit, model: Path) -> Visit:
    """A second visit with images that belong to the first, and some that both have."""
    return make_visit(model / "last", place.root, "v1_2")


def test_the_files_of_both(place: Visit, late: Visit, model: Path, tmp_path: Path, inside: Inside) -> None:
    command = ("visit", "merge", "-o", place.root, "--id", STUDY, "v1", "--from", "v1_2")
    assert inside(*command, "-n").out.splitlines()[1] == "  series 3: 4 images added"
    assert late.archive.exists()
    done = inside(*command, "--yes")
    assert done.out.endswith(f"{STUDY}/v1: replaced by version 2\n")
    shutil.copytree(model / "in", tmp_path / "both")
    shutil.copytree(model / "last", tmp_path / "both", dirs_exist_ok=True)
    make_studyvisit_archive(tmp_path / "both", tmp_path / "fresh", STUDY, "v1")
    assert place.archive.read_bytes() == Visit(tmp_path / "fresh", STUDY, "v1").archive.read_bytes()
    assert verify_store(place.root).findings == ()
    assert not [name for name in contents(place.root) if "/v1_2" in name]
    lines = json.loads(place.of_study.visit_list.read_bytes())
    assert [(line["visit"], line["images"]) for line in lines] == [("v1", 9), ("v1_b", 5)]
    assert json.loads(place.history.read_bytes())[-1]["reason"] == "merged with v1_2"


def test_refused(place: Visit) -> None:
    before = contents(place.root)
    with pytest.raises(InputRefused, match="with different content"):
        merge_visits(place.root, STUDY, "v1", "v1_b")
    with pytest.raises(InvalidSetting, match="the visit itself"):
        merge_visits(place.root, STUDY, "v1", "v1")
    with pytest.raises(DepositMissing):
        merge_visits(place.root, STUDY, "v1", "v9")
    assert contents(place.root) == before


def test_done_before(place: Visit, late: Visit, inside: Inside) -> None:
    command = ("visit", "merge", "-o", place.root, "--id", STUDY, "v1", "--from", "v1_2", "--yes", "--reason", "late")
    assert inside(*command).code == 0
    assert json.loads(place.history.read_bytes())[-1]["reason"] == "late (merged with v1_2)"
    before = contents(place.root)
    again = inside(*command)
    assert (again.code, "has v1_2 already; they were merged before" in again.out) == (0, True), again
    assert contents(place.root) == before


def test_the_merged_visit_can_still_be_found(place: Visit, late: Visit, inside: Inside) -> None:
    merge_visits(place.root, STUDY, "v1", "v1_2", reason="late images")
    ran = inside("visit", "remove", "-o", place.root, "--id", STUDY, "v1_2", "--yes")
    assert ran.code == 1
    lines = ran.out.splitlines()
    assert lines[:2] == [
        f"{STUDY}/v1_2: the store has no files of it",
        f"it was merged into {STUDY}/v1: remove that visit as well",
    ]
    assert f"  '{place.history}': its identifier" in lines
    assert f"  '{place.export}': its identifier" in lines
    remove_visit(place.root, STUDY, "v1")
    gone = inside("visit", "remove", "-o", place.root, "--id", STUDY, "v1_2", "--yes")
    assert (gone.code, "nothing of this visit" in gone.err) == (5, True), gone
