"""Folders taken for the wrong visits: found by StudyInstanceUID and PatientID before anything is in the store."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from icf_utils import make_studyvisit_archive
from tests.cli.program import Inside, Ran
from tests.data.make_dicom import dicom_bytes, uid, write_visit

URL = ("--store-url", "https://store.example.org", "--until", "metadata")


@pytest.fixture
def program(capsys: pytest.CaptureFixture[str]) -> Inside:
    return Inside(capsys)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two subjects with a session of two scans each."""
    for subject in ("sub-1", "sub-2"):
        own = {"StudyInstanceUID": uid(subject), "PatientID": subject}
        write_visit(tmp_path / "export" / subject / "mr", {1: ("scout", 1), 2: ("t1", 2)}, companions=None, **own)
    return tmp_path / "export"


def ingest(program: Inside, tree: Path, *more: str) -> Ran:
    return program("ingest", tree, "-o", tree.parent / "store", "--study", "s", *URL, *more)


def archives(tree: Path) -> list[str]:
    return sorted(path.name for path in (tree.parent / "store").rglob("*.tar"))


def test_the_right_depth(program: Inside, tree: Path) -> None:
    assert ingest(program, tree).code == 0
    assert archives(tree) == ["sub-1_mr_dicom.tar", "sub-2_mr_dicom.tar"]


def test_scans_taken_for_visits(program: Inside, tree: Path) -> None:
    """They share a StudyInstanceUID."""
    deep = ("--levels", "subject/session/scanned", "--visit", "{subject}_{session}_{scanned}")
    ran = ingest(program, tree, *deep)
    assert (ran.code, archives(tree)) == (1, [])
    assert "'s/sub-1_mr_01_scout': has images of the same StudyInstanceUID as s/sub-1_mr_02_t1" in ran.out
    assert "--allow shared-study" in ran.out
    assert ran.out.count("same StudyInstanceUID") == 4
    assert ingest(program, tree, *deep, "--allow", "shared-study").code == 0
    assert len(archives(tree)) == 4


def test_a_scan_of_a_visit_in_the_store(program: Inside, tree: Path) -> None:
    """Night by night: the first folder was archived before the second came."""
    second = tree / "sub-1" / "mr" / "02_t1"
    shutil.move(second, tree.parent / "later")
    deep = ("--levels", "subject/session/scanned", "--visit", "{subject}_{session}_{scanned}")
    shutil.rmtree(tree / "sub-2")
    assert ingest(program, tree, *deep).code == 0
    shutil.move(tree.parent / "later", second)
    ran = ingest(program, tree, *deep)
    assert (ran.code, archives(tree)) == (1, ["sub-1_mr_01_scout_dicom.tar"])
    assert "same StudyInstanceUID as s/sub-1_mr_01_scout" in ran.out


def test_subjects_taken_for_one_visit(program: Inside, tree: Path) -> None:
    """Images of several PatientIDs, which are not printed."""
    (tree.parent / "all").mkdir()
    shutil.move(tree, tree.parent / "all" / "export")
    ran = ingest(program, tree.parent / "all", "--levels", "session", "--visit", "{session}")
    assert (ran.code, archives(tree)) == (1, [])
    assert "contains images of 2 PatientIDs; the first files are 'sub-1/mr/01_scout/0001.dcm', 'sub-2/" in ran.out
    assert "--allow several-patients" in ran.out
    allowed = ("--levels", "session", "--visit", "{session}", "--allow", "several-patients")
    ran = ingest(program, tree.parent / "all", *allowed)
    assert (ran.code, archives(tree)) == (0, ["export_dicom.tar"])
    assert "[several-patients]" in ran.err


def test_an_image_above_the_level_of_visits(program: Inside, tree: Path) -> None:
    """The visits next to it are not taken, the others are."""
    (tree / "sub-1" / "stray.dcm").write_bytes(dicom_bytes(StudyInstanceUID=uid("sub-1"), PatientID="sub-1"))
    (tree / "sub-2" / "readme.txt").write_bytes(b"not an image")
    ran = ingest(program, tree)
    assert (ran.code, archives(tree)) == (1, ["sub-2_mr_dicom.tar"])
    assert "'sub-1/stray.dcm': not ingested: is or contains a DICOM image" in ran.out
    assert "'s/sub-1_mr': not ingested: is next to or below the skipped image" in ran.out
    assert ingest(program, tree, "--allow", "skipped-image").code == 0
    assert len(archives(tree)) == 2


def test_images_in_a_hidden_folder(program: Inside, tree: Path) -> None:
    shutil.copytree(tree / "sub-1" / "mr", tree / "sub-1" / ".mr-old")
    ran = ingest(program, tree)
    assert (ran.code, archives(tree)) == (1, ["sub-2_mr_dicom.tar"])
    assert "'sub-1/.mr-old': not ingested" in ran.out


def test_a_visit_without_an_image(program: Inside, tree: Path) -> None:
    (tree / "sub-3" / "mr").mkdir(parents=True)
    (tree / "sub-3" / "mr" / "notes.txt").write_bytes(b"x")
    ran = ingest(program, tree)
    assert (ran.code, archives(tree)) == (1, ["sub-1_mr_dicom.tar", "sub-2_mr_dicom.tar"])
    assert "contains no DICOM files" in ran.out
    assert ingest(program, tree, "--allow", "no-dicom").code == 0


def test_run_checks_the_visits_of_a_table(program: Inside, tree: Path) -> None:
    table = tree.parent / "t.csv"
    table.write_text("study,visit,input\ns,a,export/sub-1/mr/01_scout\ns,b,export/sub-1/mr/02_t1\ns,c,export/sub-2\n")
    run = ("run", "-o", tree.parent / "store", "--table", table, *URL)
    ran = program(*run)
    assert (ran.code, archives(tree)) == (1, ["c_dicom.tar"])
    assert program(*run, "--allow", "shared-study").code == 0


def test_one_instance_twice(tmp_path: Path) -> None:
    """A copy is not remarkable; another content is."""
    image = dicom_bytes(SOPInstanceUID="1.2.3.4")
    write_visit(tmp_path / "in", {1: ("scout", 1)}, companions={"a.dcm": image, "b.dcm": image})
    result = make_studyvisit_archive(tmp_path / "in", tmp_path / "store", "s", "copies")
    assert [notice.code for notice in result.notices] == []
    (tmp_path / "in" / "c.dcm").write_bytes(dicom_bytes(SOPInstanceUID="1.2.3.4", StudyID="x"))
    result = make_studyvisit_archive(tmp_path / "in", tmp_path / "store", "s", "differs")
    assert [(notice.code, notice.subject) for notice in result.notices] == [("repeated-instance", "c.dcm")]
    assert "'a.dcm'" in result.notices[0].message


DEEP: tuple[str, ...] = ("--levels", "subject/session/scanned", "--visit", "{subject}_{session}_{scanned}")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (DEEP, "s/sub-1_mr_01_scout: would fail: 's/sub-1_mr_01_scout': has images of the same StudyInstanceUID"),
        (("--levels", "session", "--visit", "{session}"), "s/all: would fail: '"),
        (("--settle", "1h"), "s/sub-1_mr: would wait: input '"),
    ],
)
def test_a_dry_run_makes_the_checks_of_the_run(
    program: Inside, tree: Path, options: tuple[str, ...], reason: str
) -> None:
    root = tree
    if "session" in options:
        root = tree.parent / "several"
        root.mkdir()
        shutil.move(tree, root / "all")
    args: tuple[str | Path, ...] = ("ingest", root, "-o", tree.parent / "store", "--study", "s", *URL, *options)
    planned, before = program(*args, "-n"), sorted(tree.parent.iterdir())
    assert f"\n{planned.out}".count(f"\n{reason}") == 1
    assert "that would fail" in planned.out or "not settled" in planned.out
    assert sorted(tree.parent.iterdir()) == before
    rows = program(*args, "-n", "--json").json["result"]["visits"]
    assert {row["state"] for row in rows} == {"refused"}
    assert planned.code == program(*args).code != 0


def write_image(path: Path, number: int) -> None:
    path.write_bytes(dicom_bytes(StudyInstanceUID=uid("h"), PatientID="p", SOPInstanceUID=uid("h", number)))


def test_a_dry_run_of_unsorted_files_makes_the_checks_of_the_run(program: Inside, tmp_path: Path) -> None:
    """The visit was archived under another name: its images are in the store."""
    heap = tmp_path / "heap"
    heap.mkdir()
    for number in range(3):
        write_image(heap / f"{number}", number)
    args = ("ingest", heap, "--heap", "-o", tmp_path / "store", "--study", "s", *URL)
    assert program(*args, "--visit", "first").code == 0
    planned = program(*args, "--visit", "second", "-n")
    assert (planned.code, program(*args, "--visit", "second").code) == (1, 1)
    assert "s/second: would fail: 's/second': has images of the same StudyInstanceUID as s/first" in planned.out
    write_image(heap / "3", 3)
    planned = program(*args, "--visit", "first", "-n")
    assert (planned.code, program(*args, "--visit", "first").code) == (1, 1)
    assert "s/first: would fail: " in planned.out
    assert "1 file added ('3')" in planned.out
    assert program(*args, "--visit", "first", "-n", "--replace", "one more").code == 0
