"""Renaming a visit: bytes as if made under the new name, history kept, and nothing of the old name but that."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import pytest

from icf_utils import make_studyvisit_archive, remove_visit, replace_visit, verify_store
from icf_utils.catalog.page import catalogued_visits, read_study_page
from icf_utils.catalog.rebuild import build_catalog
from icf_utils.curation.history import list_versions
from icf_utils.curation.rename import rename_visit
from icf_utils.dataset.reader import read_dataset
from icf_utils.errors import DepositDiffers, DepositMissing, InvalidSetting, VisitRemoved
from icf_utils.store.layout import Study, Visit
from tests.cli.program import Inside
from tests.data.make_dicom import uid, write_visit
from tests.verify.stores import STUDY, URL, contents, make_visit


def visits(place: Visit, study: str = STUDY) -> list[str]:
    return [line["visit"] for line in json.loads((place.root / study / "visits.json").read_bytes())]


@pytest.mark.parametrize("versions", [1, 2])
def test_another_identifier(place: Visit, model: Path, tmp_path: Path, versions: int) -> None:
    source = model / "in"
    if versions == 2:
        source = model / "later"
        replace_visit(source, place.root, STUDY, "v1", reason="late images", keep=True)
    before = read_dataset(place)
    assert before is not None
    result = rename_visit(place.root, STUDY, "v1", STUDY, "v7")
    new = Visit(place.root, STUDY, "v7")
    make_studyvisit_archive(source, tmp_path / "fresh", STUDY, "v7")
    assert new.archive.read_bytes() == Visit(tmp_path / "fresh", STUDY, "v7").archive.read_bytes()
    assert verify_store(place.root).findings == ()
    assert not [name for name in contents(place.root) if name.startswith(f"{STUDY}/v1_") and "/v1_b" not in name]
    assert visits(place) == ["v1_b", "v7"]
    after = read_dataset(new)
    assert after is not None
    assert after.main.parent == before.main.commit
    assert after.origin.uuids.archivist == before.origin.uuids.archivist
    assert after.origin.uuids.dataset != before.origin.uuids.dataset
    assert result.version == versions + 1
    assert [version.version for version in list_versions(place.root, STUDY, "v7").versions] == [*range(1, versions + 2)]
    rename_visit(place.root, STUDY, "v7", STUDY, "v1", reason="the first name was right")
    assert verify_store(place.root).findings == ()


def test_another_study(place: Visit, model: Path) -> None:
    rename_visit(place.root, STUDY, "v1", "study-b", "v1")
    assert verify_store(place.root).findings == ()
    assert visits(place) == ["v1_b"]
    assert Visit(place.root, "study-b", "v1").history.exists()


@pytest.mark.parametrize("study", [STUDY, "study-b"])
def test_closed_files_stay_closed(place: Visit, study: str) -> None:
    files = (place.archive, place.checksum, place.dicoms_json, place.tarball_json, place.refs, place.export)
    for path in files:
        path.chmod(0o640)
    rename_visit(place.root, STUDY, "v1", study, "v7")
    for path in files:
        new = place.root / study / path.name.replace("v1", "v7", 1)
        assert stat.S_IMODE(new.stat().st_mode) == 0o640, new


def test_an_interrupted_move_to_another_study(place: Visit, tmp_path: Path) -> None:
    shutil.copytree(place.root, tmp_path / "copy")
    rename_visit(place.root, STUDY, "v1", "study-b", "v1")
    moved = contents(place.root)
    shutil.copytree(tmp_path / "copy" / STUDY, place.root / STUDY, dirs_exist_ok=True)  # not removed yet
    rename_visit(place.root, STUDY, "v1", "study-b", "v1")
    assert contents(place.root) == moved


def test_refused(place: Visit) -> None:
    before = contents(place.root)
    with pytest.raises(DepositDiffers, match="another visit of this name"):
        rename_visit(place.root, STUDY, "v1", STUDY, "v1_b")
    with pytest.raises(InvalidSetting, match="present name"):
        rename_visit(place.root, STUDY, "v1", STUDY, "v1")
    with pytest.raises(DepositMissing):
        rename_visit(place.root, STUDY, "v9", STUDY, "v10")
    assert contents(place.root) == before


def test_the_command(place: Visit, inside: Inside) -> None:
    command = ("visit", "rename", "-o", place.root, "--id", STUDY, "v1", "--to", STUDY, "v7")
    assert inside(*command).code == 2
    assert inside(*command, "--yes").out.endswith(f"\n{STUDY}/v1: is now {STUDY}/v7, version 2\n")


def test_done_before(place: Visit, inside: Inside) -> None:
    """The history proves that the visit is the renamed one; another visit of that name is not."""
    command = ("visit", "rename", "-o", place.root, "--id", STUDY, "v1", "--yes", "--to", STUDY)
    assert inside(*command, "v7").code == 0
    before = contents(place.root)
    again = inside(*command, "v7")
    assert (again.code, "was renamed before" in again.out) == (0, True), again
    assert contents(place.root) == before
    refused = inside(*command, "v1_b")
    assert (refused.code, f"the visit was renamed to {STUDY}/v7" in refused.err) == (5, True), refused


def test_a_name_with_a_tombstone(place: Visit) -> None:
    """A visit that was removed for good does not come back under its name."""
    remove_visit(place.root, STUDY, "v1_b", tombstone=True)
    before = contents(place.root)
    with pytest.raises(VisitRemoved):
        rename_visit(place.root, STUDY, "v1", STUDY, "v1_b")
    assert contents(place.root) == before


def test_the_new_study_gets_a_page_and_the_access(place: Visit, inside: Inside) -> None:
    old = place.of_study
    for folder in (old.folder, old.catalog):
        folder.chmod(0o2750)
    (old.folder / ".htaccess").write_text("Require valid-user\n")
    command = ("visit", "rename", "-o", place.root, "--id", STUDY, "v1", "--to", "study-b", "v7")
    before = contents(place.root)
    dry = inside(*command, "-n")
    assert dry.out.splitlines() == [
        f"{STUDY}/v1: becomes study-b/v7, version 2",
        "  5 images; 20.5 kB",
        f"  '{STUDY}/.htaccess' does not apply in study-b",
        f"{STUDY}/v1: nothing was changed",
    ]
    assert (dry.code, contents(place.root)) == (0, before)
    assert inside(*command, "--yes").code == 0
    new = Study(place.root, "study-b")
    assert (catalogued_visits(old), catalogued_visits(new)) == (["v1_b"], ["v7"])
    assert [stat.S_IMODE(path.stat().st_mode) for path in (new.folder, new.catalog)] == [0o2750, 0o2750]
    assert verify_store(place.root).findings == ()
    assert (new.catalog / "index.html").exists()


def test_a_new_study_hides_dates_as_the_old_one(place: Visit) -> None:
    build_catalog(place.root, STUDY, hide_dates=True)
    rename_visit(place.root, STUDY, "v1", "study-b", "v1")
    assert read_study_page(Study(place.root, "study-b")).hides_dates
    assert "date" not in json.loads((place.root / "study-b" / "visits.json").read_bytes())[0]


def test_the_old_study_goes_with_its_last_visit(place: Visit) -> None:
    remove_visit(place.root, STUDY, "v1_b")
    rename_visit(place.root, STUDY, "v1", "study-b", "v1")
    assert not place.of_study.folder.exists()


def test_done_before_without_a_dataset(place: Visit, tmp_path: Path, model: Path, inside: Inside) -> None:
    make_studyvisit_archive(model / "in", tmp_path, STUDY, "v1")
    command = ("visit", "rename", "-o", tmp_path, "--id", STUDY, "v1", "--yes", "--to", "study-b", "v7")
    assert inside(*command).code == 0
    again = inside(*command)
    assert (again.code, "was renamed before" in again.out) == (0, True), again


def test_a_table_with_the_old_name(place: Visit, model: Path, inside: Inside) -> None:
    rename_visit(place.root, STUDY, "v1", "study-b", "v7", reason="another study")
    table = place.root.parent / "visits.csv"
    table.write_text(f"study,visit,input\n{STUDY},v1,{model / 'in'}\n")
    ran = inside("run", "-o", place.root, "--table", table, "--allow", "shared-study")
    assert (ran.code, f"'{STUDY}/v1': was renamed to study-b/v7" in ran.err + ran.out) == (1, True), ran
    assert not place.archive.exists()
    write_visit(model / "another", {1: ("localizer", 2)}, StudyInstanceUID=uid(9999))
    table.write_text(f"study,visit,input\n{STUDY},v1,{model / 'another'}\n")
    assert inside("run", "-o", place.root, "--table", table, "--store-url", URL).code == 0
    assert place.archive.exists()


def test_there_and_back_again(place: Visit, inside: Inside) -> None:
    rename_visit(place.root, STUDY, "v1", STUDY, "v7")
    rename_visit(place.root, STUDY, "v7", STUDY, "v1")
    left = remove_visit(place.root, STUDY, "v1")
    assert (left.successors, left.traces) == ((), ())


def test_the_old_name_is_anothers_now(place: Visit, model: Path, inside: Inside) -> None:
    rename_visit(place.root, STUDY, "v1", "study-b", "v7")
    make_visit(model / "other", place.root, "v1")
    ran = inside("visit", "remove", "-o", place.root, "--id", STUDY, "v1", "--yes")
    assert ran.code == 1
    assert f"{STUDY}/v1 is a former name of study-b/v7" in ran.out
    assert verify_store(place.root).findings == ()


def test_repeated_after_a_kill_just_before_its_end(place: Visit, inside: Inside) -> None:
    """What follows the transaction, such as the page of all studies, is made up for."""
    assert inside("catalog", "build", "-o", place.root, "--index").code == 0
    page = place.root / "index.html"
    before = page.read_bytes()
    command = ("visit", "rename", "-o", place.root, "--id", STUDY, "v1", "--to", "study-b", "v9", "--yes")
    assert inside(*command).code == 0
    after = page.read_bytes()
    assert after != before
    page.write_bytes(before)
    assert inside(*command).code == 0
    assert page.read_bytes() == after
