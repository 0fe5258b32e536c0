"""A folder that an export still fills: it is taken once it has settled, and what has changed is counted."""

from __future__ import annotations

import os
import tarfile
import time
from pathlib import Path

import pytest

from icf_utils import make_studyvisit_archive
from icf_utils.errors import DepositDiffers, InputRefused, NotSettled
from icf_utils.sources.directory import DirectorySource
from tests.cli.program import Inside
from tests.data.make_dicom import dicom_bytes, write_visit

URL = ("--store-url", "https://store.example.org")


@pytest.fixture
def program(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Inside:
    """The program with its own default, which other tests turn off."""
    monkeypatch.delenv("ICF_RUN_SETTLE", raising=False)
    return Inside(capsys)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write_visit(tmp_path / "export" / "sub-1" / "mr", {1: ("scout", 2)})
    return tmp_path / "export"


def test_a_growing_folder_is_left_for_the_next_run(tree: Path, tmp_path: Path, program: Inside) -> None:
    """By default; nothing of it is in the store."""
    ingest = ("ingest", tree, "-o", tmp_path / "store", "--study", "s", *URL)
    ran = program(*ingest)
    assert ran.code == NotSettled.exit_code == 11
    assert "s/sub-1_mr: not settled:" in ran.out
    assert "may still be growing; nothing was written" in ran.out
    assert "0 made, 0 up to date, 1 not settled" in ran.out
    assert not (tmp_path / "store" / "s" / "sub-1_mr_dicom.tar").exists()
    assert program(*ingest, "--settle", "0").code == 0
    assert program(*ingest).code == 0  # an archived visit does not wait


def test_a_failure_counts_more_than_a_visit_that_waits(tree: Path, tmp_path: Path, program: Inside) -> None:
    (tree / "sub-2" / "mr").mkdir(parents=True)
    os.symlink("nowhere", tree / "sub-2" / "mr" / "link.dcm")
    assert program("ingest", tree, "-o", tmp_path / "store", "--study", "s", *URL).code == 1


@pytest.mark.parametrize(("inputs", "code"), [("--pattern", 11), ("--table", 0)])
def test_run_waits_for_what_a_pattern_finds(
    tree: Path, tmp_path: Path, program: Inside, inputs: str, code: int
) -> None:
    """A table names its inputs, so whoever writes it says that they are complete."""
    (tmp_path / "t.csv").write_text(f"study,visit,input\nsub-1,mr,{tree / 'sub-1' / 'mr'}\n")
    named = str(tree / "{study}" / "{visit}") if inputs == "--pattern" else tmp_path / "t.csv"
    run = ("run", "-o", tmp_path / "store", inputs, named, "--until", "archive", *URL)
    assert program(*run).code == code
    assert program(*run, "--settle", "0").code == 0


def test_the_settings_say_how_long(tree: Path, tmp_path: Path, program: Inside) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "icf.toml").write_text('[run]\nsettle = "0"\n')
    assert program("ingest", tree, "-o", tmp_path / "store", "--study", "s", *URL).code == 0
    (tmp_path / "store" / "icf.toml").write_text('[run]\nsettle = "soon"\n')
    ran = program("ingest", tree, "-o", tmp_path / "store", "--study", "s", *URL)
    assert (ran.code, "expected a duration such as 30s, 5m, 2h or 7d, found 'soon'" in ran.err) == (2, True)


def test_the_time_of_a_change_cannot_be_set(tmp_path: Path) -> None:
    """rsync and cp give a copy the times of the original."""
    write_visit(tmp_path / "in", {1: ("scout", 1)})
    for path in tmp_path.rglob("*"):
        os.utime(path, (0, 0))
    with pytest.raises(NotSettled):
        make_studyvisit_archive(tmp_path / "in", tmp_path / "store", "s", "v", settle=60)


def test_a_removed_file_is_a_change(tmp_path: Path) -> None:
    write_visit(tmp_path / "in", {1: ("scout", 2)})
    before = DirectorySource(str(tmp_path / "in")).newest_change
    time.sleep(0.05)  # the clock of file systems is coarse
    (tmp_path / "in" / "01_scout" / "0001.dcm").unlink()
    assert DirectorySource(str(tmp_path / "in")).newest_change > before


def test_an_archived_folder_that_has_grown(tmp_path: Path) -> None:
    """The error counts; the archive stays."""
    folder = tmp_path / "in" / "01_scout"
    write_visit(tmp_path / "in", {1: ("scout", 4)})
    make_studyvisit_archive(tmp_path / "in", tmp_path / "store", "s", "v")
    (folder / "0001.dcm").unlink()
    (folder / "0002.dcm").write_bytes(dicom_bytes(InstanceNumber=2, StudyID="other"))
    for at in (5, 6, 7):
        (folder / f"000{at}.dcm").write_bytes(dicom_bytes(InstanceNumber=at))
    with pytest.raises(DepositDiffers, match=r"3 files added .*, 1 file changed .*, 1 file missing"):
        make_studyvisit_archive(tmp_path / "in", tmp_path / "store", "s", "v")
    with tarfile.open(tmp_path / "store" / "s" / "v_dicom.tar") as archive:
        assert len(archive.getmembers()) == 4


def test_what_changes_while_it_is_read_is_counted(tmp_path: Path) -> None:
    write_visit(tmp_path / "in", {1: ("scout", 3)})
    source = DirectorySource(str(tmp_path / "in"))
    (tmp_path / "in" / "01_scout" / "0001.dcm").unlink()
    (tmp_path / "in" / "new.txt").write_bytes(b"x")
    with pytest.raises(InputRefused, match="Since it was listed: 1 file added, 0 changed, 1 removed"):
        source.check_unchanged()
