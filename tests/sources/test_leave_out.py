"""Files that systems leave in folders belong to no visit; they are left out of every input, and named."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from icf_utils import make_studyvisit_archive
from icf_utils.curation.replace import replace_visit
from icf_utils.errors import DepositDiffers, InputRefused, InvalidSetting
from icf_utils.sources.leave_out import LeftOut
from tests.archive.reference import reference_archive
from tests.cli.program import Inside
from tests.data.make_dicom import write_visit

LEFT = (
    ".DS_Store",
    "01_scout/._0001.dcm",
    "01_scout/Thumbs.db",
    "01_scout/@eaDir/0001.dcm@SynoEAStream",
    "desktop.ini",
)


def add_left_files(folder: Path) -> None:
    for name in LEFT:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"system")


def packed(folder: Path, kind: str) -> Path:
    path = folder.parent / f"visit.{kind}"
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in files:
                archive.write(file, file.relative_to(folder))
        return path
    with tarfile.open(path, "w:gz") as tar:
        for file in files:
            info = tarfile.TarInfo(str(file.relative_to(folder)))
            info.size = file.stat().st_size
            tar.addfile(info, io.BytesIO(file.read_bytes()))
    return path


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz"])
def test_the_archive_is_the_same_without_them(tmp_path: Path, kind: str) -> None:
    write_visit(tmp_path / "in", {1: ("scout", 2)})
    plain = make_studyvisit_archive(tmp_path / "in", tmp_path / "plain", "s", "v")
    add_left_files(tmp_path / "in")
    source = tmp_path / "in" if kind == "folder" else packed(tmp_path / "in", kind)
    result = make_studyvisit_archive(source, tmp_path / "store", "s", "v", leave_out=LeftOut())
    assert result.md5 == plain.md5
    left = [notice.subject for notice in result.notices if notice.code == "left-out"]
    assert len(left) == len(LEFT)
    assert not [notice for notice in result.notices if notice.code == "empty-folder"]


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz"])
def test_the_original_command_archives_them(tmp_path: Path, kind: str) -> None:
    """Its archives have the bytes of the original tool's, which leaves nothing out, unless the settings name some."""
    write_visit(tmp_path / "in", {1: ("scout", 2)})
    add_left_files(tmp_path / "in")
    source = tmp_path / "in" if kind == "folder" else packed(tmp_path / "in", kind)
    result = make_studyvisit_archive(source, tmp_path / "store", "s", "v")
    assert result.archive.path.read_bytes() == reference_archive(tmp_path / "in", "s_v")
    (tmp_path / "store" / "icf.toml").write_text('[archive]\nleave_out = [".DS_Store"]\n')
    with pytest.raises(DepositDiffers, match=r"1 file missing \('\.DS_Store'\)"):
        make_studyvisit_archive(source, tmp_path / "store", "s", "v")


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_an_archive_that_exists_decides(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The original command and ``run`` find each other's archives unchanged, whatever appears in folders later."""
    program, store = Inside(capsys), tmp_path / "store"
    write_visit(tmp_path / "in", {1: ("scout", 2)})
    (tmp_path / "in" / "01_scout" / "@eaDir").mkdir()
    (tmp_path / "in" / "01_scout" / "@eaDir" / "old").write_bytes(b"was there")
    source = tmp_path / "in" if kind == "folder" else packed(tmp_path / "in", kind)
    first = make_studyvisit_archive(source, store, "s", "v")
    assert (first.archive.state, first.other_files) == ("written", 1)
    add_left_files(tmp_path / "in")
    source = tmp_path / "in" if kind == "folder" else packed(tmp_path / "in", kind)
    again = make_studyvisit_archive(source, store, "s", "v")
    assert (again.archive.state, again.md5) == ("unchanged", first.md5)
    assert "01_scout/@eaDir/0001.dcm@SynoEAStream" in {notice.subject for notice in again.notices}
    (tmp_path / "t.csv").write_text(f"study,visit,input\ns,v,{source}\n")
    ran = program("run", "-o", store, "--table", tmp_path / "t.csv", "--until", "metadata")
    assert ran.code == 0, ran
    assert program("verify", "-o", store, "--id", "s", "v", "--rebuild", source).code == 0
    same = program("visit", "replace", "-o", store, "--id", "s", "v", source, "--reason", "again", "--yes")
    assert (same.code, "nothing was changed" in same.out) == (0, True), same


def test_a_next_version_leaves_them_out(tmp_path: Path) -> None:
    store = tmp_path / "store"
    write_visit(tmp_path / "in", {1: ("scout", 2)})
    add_left_files(tmp_path / "in")
    make_studyvisit_archive(tmp_path / "in", store, "s", "v")
    write_visit(tmp_path / "later", {1: ("scout", 3)}, companions={".DS_Store": b"system", "._x": b"new"})
    replace_visit(tmp_path / "later", store, "s", "v", reason="late images")
    with tarfile.open(store / "s" / "v_dicom.tar") as archive:
        names = [name for name in archive.getnames() if not name.endswith(".dcm")]
    assert names == ["s_v/.DS_Store"], "one that the visit has stays; what is new does not come in"
    (store / "icf.toml").write_text('[archive]\nleave_out = ["*.txt"]\n')
    write_visit(tmp_path / "third", {1: ("scout", 3)}, companions={".DS_Store": b"system", "a.txt": b"new"})
    replace_visit(tmp_path / "third", store, "s", "v", reason="the settings' names")
    with tarfile.open(store / "s" / "v_dicom.tar") as archive:
        assert [name for name in archive.getnames() if not name.endswith(".dcm")] == ["s_v/.DS_Store"]


def test_a_visit_stays_up_to_date_and_reproducible(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody looks into the folder of a visit that was archived: neither run nor verify may fail."""
    program = Inside(capsys)
    write_visit(tmp_path / "in", {1: ("scout", 2)})
    (tmp_path / "t.csv").write_text("study,visit,input\ns,v,in\n")
    run = ("run", "-o", tmp_path / "store", "--table", tmp_path / "t.csv", "--until", "metadata")
    assert program(*run, "--store-url", "https://store.example.org").code == 0
    add_left_files(tmp_path / "in")
    ran = program(*run, "--store-url", "https://store.example.org")
    assert (ran.code, "0 made, 1 up to date" in ran.out) == (0, True), ran.out


def test_the_settings_name_others(tmp_path: Path) -> None:
    write_visit(tmp_path / "in", {1: ("scout", 1)}, companions={".DS_Store": b"x", "log.tmp": b"y"})
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "icf.toml").write_text('[archive]\nleave_out = ["*.tmp"]\n')
    make_studyvisit_archive(tmp_path / "in", tmp_path / "store", "s", "v")
    with tarfile.open(tmp_path / "store" / "s" / "v_dicom.tar") as archive:
        assert archive.getnames() == ["s_v/.DS_Store", "s_v/01_scout/0001.dcm"]


def test_nothing_else_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "icf.toml").write_text('[archive]\nleave_out = [".DS_Store"]\n')
    with pytest.raises(InputRefused, match="contains no files"):
        make_studyvisit_archive(tmp_path / "in", tmp_path / "store", "s", "v")


@pytest.mark.parametrize("pattern", ["", "*", "a/b"])
def test_patterns_that_are_mistakes(pattern: str) -> None:
    with pytest.raises(InvalidSetting, match="is not a pattern of names to leave out"):
        LeftOut([pattern])
