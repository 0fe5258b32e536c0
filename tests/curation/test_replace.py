"""Replacing a visit: what the next version has, what is kept, and what nobody may lose."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from icf_utils import deposit_visit_dataset, make_studyvisit_archive, replace_visit, verify_store
from icf_utils.curation.difference import Difference
from icf_utils.curation.history import list_versions
from icf_utils.curation.rename import rename_visit
from icf_utils.dataset.reader import read_dataset
from icf_utils.errors import DepositMissing, InputRefused, InvalidSetting
from icf_utils.store.layout import Visit
from icf_utils.store.visit_files import visit_files
from tests.cli.program import Inside
from tests.verify.stores import STUDY, URL, contents, renew_sums


def replaced(place: Visit, source: Path, reason: str = "late images", **options: object) -> object:
    return replace_visit(source, place.root, STUDY, place.visit, reason=reason, **options)  # type: ignore[arg-type]


def lines(place: Visit) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(place.of_study.visit_list.read_bytes())
    return found


def test_a_folder_without_images_is_refused(place: Visit, tmp_path: Path) -> None:
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "notes.txt").write_text("no image")
    before = contents(place.root)
    with pytest.raises(InputRefused, match="would have no DICOM images"):
        replaced(place, tmp_path / "wrong")
    assert contents(place.root) == before


def test_the_next_version_is_whole(place: Visit, model: Path, tmp_path: Path) -> None:
    result = replace_visit(model / "later", place.root, STUDY, "v1", reason="late images", date="2024-06-01")
    assert (result.state, result.version, result.kept) == ("replaced", 2, None)
    assert result.difference is not None
    assert result.difference.series == (Difference("2", removed=1), Difference("3", added=4))
    assert result.difference.others == Difference("", changed=1)
    make_studyvisit_archive(model / "later", tmp_path / "fresh", STUDY, "v1")
    assert place.archive.read_bytes() == Visit(tmp_path / "fresh", STUDY, "v1").archive.read_bytes()
    assert verify_store(place.root).findings == ()
    assert [(line["visit"], line["version"], line["images"]) for line in lines(place)] == [("v1", 2, 8), ("v1_b", 1, 5)]
    first, second = list_versions(place.root, STUDY, "v1").versions
    assert (first.version, first.reason, first.date) == (1, "", "")
    assert (second.version, second.reason, second.date, second.md5) == (2, "late images", "2024-06-01", result.md5)
    dataset = read_dataset(place)
    assert dataset is not None
    assert (dataset.main.parent, dataset.main.commit) == (first.commit, second.commit)
    assert not [name for name in contents(place.root) if "/.icf/" in name]


def test_a_catalog_shows_the_version(place: Visit, model: Path) -> None:
    replaced(place, model / "later")
    pages = [path.read_text() for path in place.of_study.catalog.rglob("*.json")]
    assert sum('{"name":"Version","value":2}' in page for page in pages) == 1
    assert json.loads((place.of_study.catalog / "data" / "visits" / "v1.json").read_bytes())["version"] == 2
    old = {path.name for path in (place.of_study.catalog / "metadata").glob("*/*") if path.is_dir()}
    assert list_versions(place.root, STUDY, "v1").versions[0].md5 not in old


def test_the_same_input_changes_nothing(place: Visit, model: Path) -> None:
    before = contents(place.root)
    result = replace_visit(model / "in", place.root, STUDY, "v1", reason="again")
    assert (result.state, result.version) == ("unchanged", 1)
    assert contents(place.root) == before


def test_the_same_sequence_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        shutil.copytree(model / "store", tmp_path / name)
        for source, reason in (("later", "late images"), ("last", "wrong series"), ("in", "back again")):
            replaced(Visit(tmp_path / name, STUDY, "v1"), model / source, reason)
        found.append(contents(tmp_path / name))
        assert verify_store(tmp_path / name).findings == ()
    assert found[0] == found[1]


def test_an_old_archive_is_kept(place: Visit, model: Path) -> None:
    old = place.archive.read_bytes()
    result = replace_visit(model / "later", place.root, STUDY, "v1", reason="late images", keep=True)
    assert result.kept == place.archive.with_name("v1_dicom.v1.tar")
    assert result.kept.read_bytes() == old
    assert list_versions(place.root, STUDY, "v1").versions[0].kept == "v1_dicom.v1.tar"
    assert verify_store(place.root).findings == ()
    replaced(place, model / "last", "wrong series")
    assert result.kept.read_bytes() == old
    assert verify_store(place.root).findings == ()
    result.kept.write_bytes(old[:-1])
    (finding,) = verify_store(place.root).findings
    assert finding.path == result.kept


def test_access_rights_stay(place: Visit, model: Path) -> None:
    (place.of_study.folder / ".htaccess").write_text("Require valid-user\n")
    for path in (place.archive, place.refs, place.tarball_json):
        path.chmod(0o640)
    place.of_study.folder.chmod(0o2750)
    replaced(place, model / "later")
    assert [path.stat().st_mode & 0o777 for path in (place.archive, place.refs, place.tarball_json)] == [0o640] * 3
    assert place.of_study.folder.stat().st_mode & 0o7777 == 0o2750
    assert (place.of_study.folder / ".htaccess").read_text() == "Require valid-user\n"


def test_an_input_that_is_refused_changes_nothing(place: Visit, model: Path, tmp_path: Path) -> None:
    shutil.copytree(model / "later", tmp_path / "bad")
    os.symlink("/etc/passwd", tmp_path / "bad" / "link")
    before = contents(place.root)
    with pytest.raises(InputRefused):
        replaced(place, tmp_path / "bad")
    assert contents(place.root) == before


@pytest.mark.parametrize(
    ("reason", "date"), [("", ""), (" ", ""), ("two\nlines", ""), ("x" * 501, ""), ("ok", "2024"), ("ok", "2024-02-30")]
)
def test_reasons_and_dates_are_checked(place: Visit, model: Path, reason: str, date: str) -> None:
    with pytest.raises(InvalidSetting):
        replaced(place, model / "later", reason, date=date)


def test_a_visit_that_is_not_there(place: Visit, model: Path) -> None:
    with pytest.raises(DepositMissing, match="has not been deposited"):
        replace_visit(model / "later", place.root, STUDY, "v9", reason="late images")


@pytest.mark.parametrize("what", ["archive only", "no dataset", "no catalog"])
def test_what_was_not_made_stays_so(place: Visit, model: Path, what: str) -> None:
    shutil.rmtree(place.of_study.catalog)
    place.of_study.visit_list.unlink()
    if what != "no catalog":
        place.refs.unlink()
        place.export.unlink()
    if what == "archive only":
        place.dicoms_json.unlink()
        place.tarball_json.unlink()
    renew_sums(place)
    before = {name for name in contents(place.root) if "/v1_" in name and "/v1_b_" not in name}
    replaced(place, model / "later")
    after = {name for name in contents(place.root) if "/v1_" in name and "/v1_b_" not in name}
    assert after - before == {f"{STUDY}/v1_history.json"}
    assert not before - after
    assert verify_store(place.root).findings == ()


def test_a_lost_history_is_repaired(place: Visit, model: Path, inside: Inside) -> None:
    replaced(place, model / "later", date="2024-06-01")
    before = place.history.read_bytes()
    place.history.unlink()
    assert inside("verify", "-o", place.root).code == 1
    assert inside("verify", "-o", place.root, "--repair").code == 0
    assert place.history.read_bytes() == before


def test_the_command(place: Visit, model: Path, inside: Inside) -> None:
    command = ("visit", "replace", "-o", place.root, "--id", STUDY, "v1", model / "later", "--reason", "late images")
    assert inside(*command).code == 2
    shown = inside(*command, "-n")
    assert shown.code == 0
    assert shown.out.splitlines() == [
        f"{STUDY}/v1: version 1 -> 2",
        "  series 2: 1 image removed",
        "  series 3: 4 images added",
        "  other files: 1 file changed",
        "  5 images -> 8; 20.5 kB -> 30.7 kB",
        f"{STUDY}/v1: nothing was changed",
    ]
    done = inside(*command, "--yes")
    assert done.out.endswith(f"{STUDY}/v1: replaced by version 2\n")
    assert inside(*command, "--yes").out == f"{STUDY}/v1: version 2 is what the input gives; nothing was changed\n"
    history = inside("visit", "history", "-o", place.root, "--id", STUDY, "v1").out.splitlines()
    assert [line.split()[0] for line in history] == ["version", "1", "2"]
    assert history[2].endswith("late images")


def test_a_run_replaces_on_request(place: Visit, model: Path, inside: Inside, tmp_path: Path) -> None:
    shutil.copytree(model / "in", tmp_path / "in")
    (tmp_path / "t.csv").write_text(f"study,visit,input\n{STUDY},v1,in\n")
    command = ("run", "-o", place.root, "--table", tmp_path / "t.csv", "--store-url", "https://data.example.org/store")
    assert inside(*command).code == 0
    shutil.rmtree(tmp_path / "in")
    shutil.copytree(model / "later", tmp_path / "in")
    failed = inside(*command)
    assert failed.code == 1
    assert "run --replace" in failed.out
    done = inside(*command, "--replace", "late images")
    assert done.code == 0
    assert "new-version" in done.err
    assert list_versions(place.root, STUDY, "v1").versions[-1].reason == "late images"
    assert verify_store(place.root).findings == ()
    assert "2 up to date" in inside(*command).out


def test_the_visits_own_archive_as_input(place: Visit, model: Path, inside: Inside) -> None:
    command = ("visit", "replace", "-o", place.root, "--id", STUDY, "v1", "--reason", "r", "--yes")
    same = inside(*command, place.archive)
    assert (same.code, "is what the input gives" in same.out) == (0, True), same
    first = place.archive.read_bytes()
    replace_visit(model / "later", place.root, STUDY, "v1", reason="late images", keep=True)
    assert inside(*command, place.archive.with_name("v1_dicom.v1.tar")).code == 0
    assert place.archive.read_bytes() == first
    other = inside(*command, Visit(place.root, STUDY, "v1_b").archive)
    assert (other.code, "is the archive of another visit" in other.err) == (2, True), other
    rename_visit(place.root, STUDY, "v1", STUDY, "v7")
    again = inside(*command[:-4], "v7", *command[-3:], place.archive.with_name("v7_dicom.v1.tar"), "-n")
    assert (again.code, "is what the input gives" in again.out) == (0, True), again


def test_new_files_of_a_closed_visit_are_closed(place: Visit, model: Path) -> None:
    deposit_visit_dataset(place.root, STUDY, "v1", store_url=URL, annex_url=True)
    for path in (path for path in visit_files(place) if path.is_file()):
        path.chmod(0o640)
    replace_visit(model / "later", place.root, STUDY, "v1", reason="late images", keep=True)
    files = [path for found in visit_files(place) for path in (found, *found.rglob("*")) if path.is_file()]
    assert place.history in files
    added = [
        path for path in files if stat.S_IMODE(path.stat().st_mode) & 0o007 and path.parent == place.history.parent
    ]
    assert added == []
