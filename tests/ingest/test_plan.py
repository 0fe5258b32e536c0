"""Ingesting trees of folders with exclusions, tables and unsorted files by the command, and what it reports."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest

from icf_utils.errors import InputRefused, InvalidSetting
from icf_utils.sources.selection import encode_selection, open_selection, parse_selection, select_files
from icf_utils.sources.tree import parse_levels, read_exclusions, walk_tree
from tests.cli.program import Ran, icf
from tests.data.make_dicom import dicom_bytes, uid, write_visit


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two subjects with three sessions, and files that belong to no visit."""
    root = tmp_path / "export"
    for subject, session in (("sub 1", "ses-1"), ("sub 1", "ses-2"), ("sub-2", "ses-1")):
        series = {1: ("AAHead_Scout", 1), 2: ("T1w", 2), 3: ("rest", 1)}
        write_visit(root / subject / session, series, StudyInstanceUID=uid(subject, session))
    (root / "sub-2" / "ses-1" / "notes.txt").write_text("beside the scans")
    (root / "readme.txt").write_text("above the visits")
    (root / ".cache").mkdir()
    (root / "sub-2" / "empty").mkdir()
    (root / "link").symlink_to(root / "sub-2")
    return root


def ingest(tree: Path, *options: str | Path) -> Ran:
    return icf("ingest", tree, "-o", tree.parent / "store", "--study", "study-a", "-j", "1", *options)


def members(tree: Path, visit: str) -> list[str]:
    with tarfile.open(tree.parent / "store" / "study-a" / f"{visit}_dicom.tar") as archive:
        return [name.partition("/")[2] for name in archive.getnames()]


def exclude(tree: Path, *patterns: str) -> Path:
    path = tree.parent / "exclude.json"
    path.write_text(json.dumps({"Exclude": patterns}))
    return path


def test_a_tree_of_folders_becomes_a_study(tree: Path) -> None:
    before = sorted(tree.rglob("*"))
    ran = ingest(tree, "--json")
    assert ran.code == 0, ran.err
    result = ran.json["result"]
    assert [visit["visit"] for visit in result["run"]["visits"]] == ["sub-2_ses-1", "sub_1_ses-1", "sub_1_ses-2"]
    assert {(item["code"], item["subject"]) for item in result["skipped"]} == {
        ("outside-visits", "readme.txt"),
        ("hidden-folder", ".cache"),
        ("link-in-tree", "link"),
        ("empty-visit", "sub-2/empty"),
    }
    assert "notes.txt" in members(tree, "sub-2_ses-1")
    assert sorted(tree.rglob("*")) == before
    again = ingest(tree)
    assert again.out == "3 visits: 0 made, 3 up to date\n"
    assert icf("verify", "-o", tree.parent / "store").code == 0


def test_scans_are_excluded_by_parts_of_their_names(tree: Path) -> None:
    ran = ingest(tree, "--exclude", exclude(tree, "SCOUT", "phoenix"))
    assert ran.code == 0, ran.err
    assert ran.out.endswith("3 scans excluded\n")
    assert "warning [unmatched-pattern]: 'phoenix': matches no folder" in ran.err
    assert members(tree, "sub-2_ses-1") == ["02_T1w/0001.dcm", "02_T1w/0002.dcm", "03_rest/0001.dcm", "notes.txt"]
    assert ingest(tree, "--exclude", exclude(tree, "scout", "phoenix")).out.startswith("3 visits: 0 made, 3 up to date")


def test_a_list_that_changes_later_fails_the_visit(tree: Path) -> None:
    patterns = exclude(tree, "scout")
    assert ingest(tree, "--exclude", patterns).code == 0
    (tree / "sub-2" / "ses-1" / "02_T1w" / "0003.dcm").write_bytes(dicom_bytes(InstanceNumber=3))
    plan = ingest(tree, "--exclude", patterns, "--dry-run")
    assert (plan.code, "study-a/sub-2_ses-1: would fail: " in plan.out) == (1, True)
    assert "1 file added ('02_T1w/0003.dcm')" in plan.out
    ran = ingest(tree, "--exclude", patterns)
    assert ran.code == 1
    assert "study-a/sub-2_ses-1: archive failed" in ran.out
    assert "02_T1w/0003.dcm" not in members(tree, "sub-2_ses-1")


def test_a_visit_without_any_scan_left_is_reported(tree: Path) -> None:
    ran = ingest(tree, "--exclude", exclude(tree, "T1", "rest", "scout"), "--json")
    result = ran.json["result"]
    assert [visit["visit"] for visit in result["run"]["visits"]] == ["sub-2_ses-1"]  # it still has its notes
    assert [item["subject"] for item in result["skipped"] if item["code"] == "all-scans-excluded"] == [
        "sub 1/ses-1",
        "sub 1/ses-2",
    ]


def test_a_dry_run_changes_nothing(tree: Path) -> None:
    ran = ingest(tree, "--dry-run", "--exclude", exclude(tree, "scout"))
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[-1] == "3 visits: 3 to do, 0 up to date"
    assert lines[1].startswith(f"study-a/sub_1_ses-1: to do; '{tree}/sub 1/ses-1', 3 files, ")
    assert lines[0].endswith(", without 01_AAHead_Scout")
    assert not (tree.parent / "store").exists()


def test_two_visits_with_the_same_identifiers_are_both_refused(tree: Path) -> None:
    (tree / "sub_1").mkdir()
    write_visit(tree / "sub_1" / "ses-1", {1: ("T1w", 1)})
    ran = ingest(tree)
    assert ran.code == 1
    assert ran.out.count("would be called study-a/sub_1_ses-1") == 2
    assert not (tree.parent / "store" / "study-a" / "sub_1_ses-1_dicom.tar").exists()
    assert "2 visits: 2 made" in ran.out


def test_other_levels_and_templates(tree: Path) -> None:
    store = tree.parent / "store"
    ran = icf(
        "ingest", tree, "-o", store, "--levels", "subject/*/scan", "--study", "mri-{subject}", "--visit", "all", "-n"
    )
    assert ran.code == 1  # two sessions of one subject would be one visit
    assert "would be called mri-sub_1/all" in ran.out
    flat = icf("ingest", tree / "sub-2", "-o", store, "--levels", "session", "--study", "s", "--visit", "{session}")
    assert flat.code == 0, flat.err
    assert (store / "s" / "ses-1_dicom.tar").exists()
    wrong = icf("ingest", tree, "-o", store, "--study", "s", "--visit", "{patient}")
    assert (wrong.code, "unknown field {patient} (fields: session, subject)" in wrong.err) == (2, True)


def test_a_table_names_the_visits(tree: Path) -> None:
    table = tree.parent / "visits.tsv"
    table.write_text("folder\tstudy\tvisit\nsub 1/ses-1\tstudy-a\tv1\nsub-2/ses-1\tstudy-b\tv1\n")
    store = tree.parent / "store"
    ran = icf("ingest", tree, "-o", store, "--table", table, "--exclude", exclude(tree, "scout"), "-j", "1")
    assert ran.code == 0, ran.err
    assert (store / "study-a" / "v1_dicom.tar").exists()
    assert (store / "study-b" / "v1_dicom.tar").exists()
    table.write_text("folder,study,visit\nnowhere,study-a,v9\n,study-a,v8\n")
    bad = icf("ingest", tree, "-o", store, "--table", table)
    assert (bad.code, bad.err.count("line ")) == (2, 2)


def test_a_table_with_other_columns_or_a_folder_twice(tree: Path) -> None:
    table, store = tree.parent / "visits.csv", tree.parent / "store"
    table.write_text("Folder,Study,Visit,Age,Sex\nsub-2/ses-1,study-a,v1,31,F\n")
    ran = icf("ingest", tree, "-o", store, "--table", table, "--dry-run")
    assert ran.code == 0, ran.err
    assert "[extra-column]: 'Age', 'Sex'" in ran.err
    table.write_text("folder,study,visit\nsub-2/ses-1,study-a,v1\nsub-2/ses-1,study-a,v2\n")
    bad = icf("ingest", tree, "-o", store, "--table", table)
    assert (bad.code, store.exists()) == (2, False)
    assert "is named as the folder of several visits: study-a/v1 (line 2), study-a/v2 (line 3)" in bad.err


@pytest.fixture
def heap(tmp_path: Path) -> Path:
    """Files of three studies at several depths, one that is not DICOM, and one without a StudyInstanceUID."""
    folder = tmp_path / "heap"
    (folder / "deep" / "er").mkdir(parents=True)
    for number in range(9):
        place = folder / "deep" / "er" if number % 2 else folder
        raw = dicom_bytes(
            StudyInstanceUID=f"1.2.3.{number % 3}", InstanceNumber=number, StudyID=f"ID {number % 3}", Modality="MR"
        )
        (place / f"IM{number:04}").write_bytes(raw)
    (folder / "NOTES.TXT").write_text("x")
    (folder / "lost").write_bytes(dicom_bytes(StudyInstanceUID=None))
    return folder


def test_unsorted_files_are_grouped_by_study(heap: Path) -> None:
    """An image without a study is named, and the exit code says so, unless that is allowed."""
    ran = ingest(heap, "--heap", "--json")
    assert ran.code == 1, ran.err
    result = ran.json["result"]
    assert [item["subject"] for item in result["refused"]] == ["lost"]
    assert len(result["run"]["visits"]) == 3
    assert {(item["code"], item["subject"]) for item in result["skipped"]} == {
        ("heap-no-image", "NOTES.TXT"),
        ("heap-no-study", "lost"),
    }
    names = [name for visit in result["run"]["visits"] for name in members(heap, visit["visit"])]
    assert sorted(names) == sorted(f"deep/er/IM{at:04}" if at % 2 else f"IM{at:04}" for at in range(9))
    assert all("1.2.3" not in visit["visit"] for visit in result["run"]["visits"])
    again = ingest(heap, "--heap", "--allow", "skipped-image")
    assert (again.code, again.out.startswith("3 visits: 0 made, 3 up to date")) == (0, True)


def test_unsorted_visits_are_named_by_allowed_keywords(heap: Path) -> None:
    refused = ingest(heap, "--heap", "--visit", "{StudyID}")
    assert (refused.code, "StudyID can identify a person" in refused.err) == (2, True)
    ran = ingest(heap, "--heap", "--visit", "{StudyID}", "--allow-identifying", "-n", "--allow", "skipped-image")
    assert [line.partition(":")[0] for line in ran.out.splitlines()[:3]] == [f"study-a/ID_{at}" for at in range(3)]
    missing = ingest(heap, "--heap", "--visit", "{StudyID}-{AccessionNumber}", "--allow-identifying")
    assert (missing.code, missing.out.count("has no usable AccessionNumber")) == (1, 3)
    wrong = ingest(heap, "--heap", "--visit", "{Nonsense}")
    assert (wrong.code, "is not a DICOM keyword" in wrong.err) == (2, True)
    (heap / "other").write_bytes(dicom_bytes(StudyInstanceUID="1.2.3.0", InstanceNumber=99, StudyID="ID 9"))
    differ = ingest(heap, "--heap", "--visit", "{StudyID}", "--allow-identifying", "-n")
    assert "different values of StudyID" in differ.out
    assert "ID 9" not in differ.out + differ.err


def test_the_store_cannot_be_the_source(tree: Path) -> None:
    for store in (tree, tree / "store", tree.parent):
        ran = icf("ingest", tree, "-o", store, "--study", "s")
        assert (ran.code, "is inside the store" in ran.err) == (3, True)


FORMS = ("", "[]", '{"exclude": []}', '{"Exclude": [""]}', '{"Exclude": "x"}', '{"Exclude": [], "B": 1}')


@pytest.mark.parametrize("content", FORMS)
def test_malformed_exclusions_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "exclude.json"
    path.write_text(content)
    with pytest.raises(InvalidSetting):
        read_exclusions(path)


@pytest.mark.parametrize("text", ["", "scan", "a//b", "a/a", "a/scan/b", "1", "a b"])
def test_malformed_levels_are_refused(text: str) -> None:
    with pytest.raises(InvalidSetting):
        parse_levels(text)


def test_a_folder_without_visits(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(InputRefused, match="no folders 2 levels below"):
        walk_tree(tmp_path)
    with pytest.raises(InputRefused, match="is not a folder"):
        walk_tree(tmp_path / "nothing")


def test_a_changed_list_of_files_is_detected(tree: Path) -> None:
    root = tree / "sub-2" / "ses-1"
    chosen = select_files(root, ["notes.txt", "02_T1w/0001.dcm"])
    assert parse_selection(encode_selection(chosen), "x") == chosen
    assert [entry.name for entry in open_selection(chosen).entries] == ["02_T1w/0001.dcm", "notes.txt"]
    os.utime(root / "notes.txt", (1, 1))
    with pytest.raises(InputRefused, match=r"'notes.txt': has changed since"):
        open_selection(chosen)
    (root / "notes.txt").unlink()
    with pytest.raises(InputRefused, match=r"'notes.txt': cannot be examined"):
        open_selection(chosen)
    (root / "notes.txt").symlink_to("/etc/hostname")
    with pytest.raises(InputRefused, match=r"'notes.txt': is a symbolic link to a place outside"):
        open_selection(chosen)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "", "a/../../x", "a\0b"])
def test_a_list_of_files_cannot_leave_its_folder(name: str) -> None:
    raw = json.dumps({"icf-selection": 1, "root": "/tmp", "files": [[name, 1, 1]]}).encode()
    with pytest.raises(InvalidSetting, match="outside its folder"):
        parse_selection(raw, "x")
