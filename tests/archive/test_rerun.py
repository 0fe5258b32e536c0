"""The same command again: nothing changes, an interrupted run is completed, different content is refused."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from icf_utils.archive.checksum import format_checksum, parse_checksum
from icf_utils.archive.stage import compare_archive, make_studyvisit_archive
from icf_utils.errors import DepositDamaged, DepositDiffers
from icf_utils.store.layout import Visit
from tests.archive.reference import reference_archive
from tests.archive.test_refused import snapshot
from tests.data.make_dicom import dicom_bytes, write_visit

COMPANIONS = {"a first.txt": b"companion\n", "z last.txt": b"companion\n"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_visit(tmp_path / "in", {1: ("localizer", 2), 2: ("bold", 2)}, companions=COMPANIONS)
    return tmp_path / "in"


@pytest.fixture
def place(source: Path, tmp_path: Path) -> Visit:
    make_studyvisit_archive(source, tmp_path / "store", "study", "visit")
    return Visit(tmp_path / "store", "study", "visit")


def states(source: Path, place: Visit) -> tuple[str, str]:
    result = make_studyvisit_archive(source, place.root, place.study, place.visit)
    assert result.archive.path.read_bytes() == reference_archive(source, "study_visit")
    assert result.checksum.path.read_bytes() == format_checksum(result.md5, "visit_dicom.tar")
    assert sorted(os.listdir(place.root / "study")) == ["visit_SHA256SUMS", "visit_dicom.tar", "visit_dicom.tar.md5sum"]
    return result.archive.state, result.checksum.state


def identity(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def test_repeated(source: Path, place: Visit) -> None:
    before = identity(place.archive), identity(place.checksum)
    time.sleep(0.02)
    assert states(source, place) == ("unchanged", "unchanged")
    assert (identity(place.archive), identity(place.checksum)) == before
    assert compare_archive(source, place) is None


def test_interrupted_before_the_checksum(source: Path, place: Visit) -> None:
    place.checksum.unlink()
    before = identity(place.archive)
    assert states(source, place) == ("unchanged", "written")
    assert identity(place.archive) == before


def test_only_the_checksum_is_there(source: Path, place: Visit) -> None:
    place.archive.unlink()
    before = identity(place.checksum)
    assert states(source, place) == ("written", "unchanged")
    assert identity(place.checksum) == before


@pytest.mark.parametrize("content", [b"", b"0" * 32 + b"  visit_dicom.tar\n", b"no checksum at all"])
@pytest.mark.parametrize("archive_is_there", [True, False])
def test_another_checksum_is_there(source: Path, place: Visit, content: bytes, archive_is_there: bool) -> None:
    place.checksum.write_bytes(content)
    if not archive_is_there:
        place.archive.unlink()
    before = snapshot(place.root)
    with pytest.raises(DepositDiffers, match=r"visit_dicom\.tar\.md5sum"):
        make_studyvisit_archive(source, place.root, "study", "visit")
    assert snapshot(place.root) == before


def test_left_over_parts_are_replaced(source: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "store" / "study" / ".icf"
    workdir.mkdir(parents=True)
    for name in ("visit_dicom.tar.part", "visit_dicom.tar.md5sum.part"):
        (workdir / name).write_bytes(b"half" * 100000)
    assert states(source, Visit(tmp_path / "store", "study", "visit")) == ("written", "written")


def differs(source: Path, place: Visit) -> str:
    """The reason of a refusal; the deposit does not change."""
    before = snapshot(place.root)
    with pytest.raises(DepositDiffers) as caught:
        make_studyvisit_archive(source, place.root, "study", "visit")
    assert snapshot(place.root) == before
    assert caught.value.exit_code == 4
    assert caught.value.path == str(place.archive)
    how = compare_archive(source, place)
    assert how == caught.value.how
    assert snapshot(place.root) == before
    return caught.value.how


def test_another_content(source: Path, place: Visit) -> None:
    image = source / "02_bold" / "0001.dcm"
    image.write_bytes(image.read_bytes()[:-1] + b"\x7f")
    assert differs(source, place) == "1 file changed ('02_bold/0001.dcm')"


def test_another_time(source: Path, place: Visit) -> None:
    image = source / "02_bold" / "0001.dcm"
    image.write_bytes(dicom_bytes(SeriesNumber=2, StudyTime="101113"))
    assert differs(source, place) == "1 file changed ('02_bold/0001.dcm')"


def test_another_latest_time(source: Path, place: Visit) -> None:
    """In front of the changed image, only the companion's time differs."""
    image = source / "02_bold" / "0002.dcm"
    image.write_bytes(image.read_bytes().replace(b"101112", b"235959"))
    assert "02_bold/0002.dcm" in differs(source, place)


def test_another_companion(source: Path, place: Visit) -> None:
    (source / "z last.txt").write_bytes(b"Companion\n")
    assert differs(source, place) == "1 file changed ('z last.txt')"


def test_one_file_more_or_less(source: Path, place: Visit) -> None:
    (source / "m.txt").write_bytes(b"new")
    assert differs(source, place) == "1 file added ('m.txt')"
    (source / "m.txt").unlink()
    (source / "z last.txt").unlink()
    assert differs(source, place) == "1 file missing ('z last.txt')"
    for number in range(5):
        (source / f"more{number}").write_bytes(b"new")
    added = "5 files added ('more0', 'more1', 'more2' and 2 more)"
    assert differs(source, place) == f"{added}, 1 file missing ('z last.txt')"
    for number in range(5):
        (source / f"more{number}").unlink()
    (source / "z last.txt").write_bytes(COMPANIONS["z last.txt"])
    assert states(source, place) == ("unchanged", "unchanged")


def test_an_archive_that_is_cut_off_or_too_long(source: Path, place: Visit) -> None:
    whole = place.archive.read_bytes()
    for at in (0, 1, 511, 512, 2000, len(whole) - 10240, len(whole) - 1):
        place.archive.write_bytes(whole[:at])
        how = compare_archive(source, place)
        assert how is not None
        assert how.startswith(f"it ends at byte {at}, within "), (at, how)
        with pytest.raises(DepositDamaged, match="restore it from a copy"):
            make_studyvisit_archive(source, place.root, place.study, place.visit)
    place.archive.write_bytes(whole + b"\0")
    assert compare_archive(source, place) == f"it has {len(whole) + 1} bytes, this input gives {len(whole)}"


def test_every_damaged_byte_is_noticed(tmp_path: Path) -> None:
    """Some bytes of each block of a small archive, inverted."""
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.txt").write_bytes(b"companion")
    (source / "b.dcm").write_bytes(dicom_bytes())
    place = Visit(tmp_path / "store", "study", "visit")
    make_studyvisit_archive(source, place.root, "study", "visit")
    whole = place.archive.read_bytes()
    for at in range(0, len(whole), 97):
        place.archive.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert compare_archive(source, place) is not None, at


def test_the_zone_changes_the_bytes(source: Path, place: Visit) -> None:
    with pytest.raises(DepositDiffers, match="header"):
        make_studyvisit_archive(source, place.root, "study", "visit", time_zone="Europe/Berlin")
    assert compare_archive(source, place, time_zone="Europe/Berlin") is not None


def test_checksum_file_is_what_md5sum_reads(place: Visit) -> None:
    import shutil
    import subprocess

    if not shutil.which("md5sum"):
        pytest.skip("md5sum is not installed")
    done = subprocess.run(
        ["md5sum", "-c", "--strict", place.checksum.name],
        cwd=place.checksum.parent,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
    )
    assert (done.returncode, done.stdout) == (0, "visit_dicom.tar: OK\n")


def test_checksum_lines() -> None:
    line = format_checksum("0" * 31 + "f", "x_dicom.tar")
    assert parse_checksum(line, "x_dicom.tar", "here") == "0" * 31 + "f"
    for raw in (b"", line[:-1], line + b"\n", line * 2, line.upper(), line.replace(b"  ", b" *"), b"\xff" + line[1:]):
        with pytest.raises(DepositDamaged, match="'here'"):
            parse_checksum(raw, "x_dicom.tar", "here")
    with pytest.raises(DepositDamaged, match="another file"):
        parse_checksum(line, "y_dicom.tar", "here")
