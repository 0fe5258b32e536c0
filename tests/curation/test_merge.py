"""Merging two visits: the files of both, once each."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from icf_utils import catalogify_studyvisit_from_meta, make_studyvisit_archive, replace_visit, verify_store
from icf_utils.catalog.page import catalogued_visits
from icf_utils.catalog.rebuild import build_catalog
from icf_utils.curation.merge import merge_visits
from icf_utils.curation.remove import remove_visit
from icf_utils.errors import DepositMissing, InputRefused, InvalidSetting
from icf_utils.metadata.history import kept_archive
from icf_utils.store.layout import Visit
from tests.cli.program import Inside
from tests.data.make_dicom import uid, write_visit
from tests.verify.stores import STUDY, contents, make_visit, write_input


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


def test_what_is_removed_with_the_second_visit_is_said_before(
    place: Visit, late: Visit, tmp_path: Path, inside: Inside
) -> None:
    write_visit(tmp_path / "more", {3: ("bold", 5)}, companions={})
    replace_visit(tmp_path / "more", place.root, STUDY, "v1_2", reason="more", keep=True)
    late.output("count").write_bytes(b"")
    said = inside("visit", "merge", "-o", place.root, "--id", STUDY, "v1", "--from", "v1_2", "-n").out
    assert "'v1_2_dicom.v1.tar', an earlier version that was kept, is removed" in said
    assert "'v1_2_count_output.tar' is removed: it was made from the archive of v1_2" in said
    assert kept_archive(late, 1).exists()


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
        f"{STUDY}/v1_2 was merged into {STUDY}/v1; to remove its images, remove that visit as well",
    ]
    assert f"  '{place.history}': its identifier" in lines
    assert f"  '{place.export}': its identifier" in lines
    remove_visit(place.root, STUDY, "v1")
    gone = inside("visit", "remove", "-o", place.root, "--id", STUDY, "v1_2", "--yes")
    assert (gone.code, "nothing of this visit" in gone.err) == (5, True), gone


def test_the_stricter_access_applies(place: Visit, late: Visit, inside: Inside) -> None:
    late.archive.chmod(0o640)
    late.dicoms_json.chmod(0o600)
    place.archive.chmod(0o604)
    command = ("visit", "merge", "-o", place.root, "--id", STUDY, "v1", "--from", "v1_2")
    said = inside(*command, "-n").out
    owner = f"owner {os.getuid()}, group {os.getgid()}"
    remark = f"  'v1_dicom.tar' (rw----r--, {owner}) and 'v1_2_dicom.tar' (rw-r-----, {owner}) differ in access"
    assert f"{remark}; the stricter one applies" in said.splitlines()
    assert inside(*command, "--yes").code == 0
    found = (place.archive, place.dicoms_json, place.history, place.refs)
    assert [stat.S_IMODE(path.stat().st_mode) for path in found] == [0o600, 0o600, 0o600, 0o644]


def test_other_files_get_the_latest_time_of_both(place: Visit, tmp_path: Path, inside: Inside) -> None:
    write_visit(
        tmp_path / "second", {8: ("bold", 2)}, companions={"b.txt": b"b"}, StudyTime="235959", StudyInstanceUID=uid(8)
    )
    write_visit(tmp_path / "third", {9: ("bold", 1)}, companions={"a.txt": b"a"}, StudyDate="", StudyInstanceUID=uid(9))
    write_input(tmp_path / "both")
    for name in ("second", "third"):
        make_visit(tmp_path / name, place.root, name)
        said = inside("visit", "merge", "-o", place.root, "--id", STUDY, "v1", "--from", name, "--yes").out
        assert f"  {name} has another StudyInstanceUID than v1" in said.splitlines()
        shutil.copytree(tmp_path / name, tmp_path / "both", dirs_exist_ok=True)
        fresh = tmp_path / f"fresh-{name}"
        make_studyvisit_archive(tmp_path / "both", fresh, STUDY, "v1")
        assert place.archive.read_bytes() == Visit(fresh, STUDY, "v1").archive.read_bytes()


def test_a_visit_that_only_the_second_one_brings_into_the_catalog(place: Visit, late: Visit) -> None:
    shutil.rmtree(place.of_study.catalog)
    catalogify_studyvisit_from_meta(place.root, STUDY, "v1_2")
    merge_visits(place.root, STUDY, "v1", "v1_2")
    assert catalogued_visits(place.of_study) == ["v1"]
    assert verify_store(place.root).findings == ()


def test_a_visit_that_was_archived_again(place: Visit, late: Visit, model: Path, inside: Inside) -> None:
    """It has nothing new: it goes, and the version stays."""
    command = ("visit", "merge", "-o", place.root, "--id", STUDY, "v1", "--from", "v1_2", "--reason", "late")
    assert inside(*command, "--yes").code == 0
    merged = contents(place.root)
    make_visit(model / "last", place.root, "v1_2")
    shown = inside(*command, "-n")
    assert shown.out.splitlines()[:2] == [
        f"{STUDY}/v1: version 2 stays",
        "  it has the files of v1_2, which was merged before; v1_2 is removed",
    ]
    assert late.archive.exists()
    done = inside(*command, "--yes")
    assert done.out.endswith("version 2 has v1_2 already; they were merged before; v1_2 was removed again\n"), done
    assert contents(place.root) == merged
    assert verify_store(place.root).findings == ()


@pytest.mark.parametrize("dataset", [True, False])
def test_metadata_that_only_the_second_one_has(place: Visit, late: Visit, dataset: bool, inside: Inside) -> None:
    for path in (place.dicoms_json, place.tarball_json, place.export, place.refs, place.sums):
        path.unlink()
    if not dataset:
        late.export.unlink()
        late.refs.unlink()
    build_catalog(place.root, STUDY)
    done = inside("visit", "merge", "-o", place.root, "--id", STUDY, "v1", "--from", "v1_2", "--yes")
    assert (done.code, "series 3: 4 images added" in done.out) == (0, True), done
    assert ("dataset-removed" in done.err) is dataset
    assert len(json.loads(place.dicoms_json.read_bytes())) == 9
    assert verify_store(place.root).findings == ()
