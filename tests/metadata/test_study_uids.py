"""``study-uid``: which study files, folders, archives and visits belong to, compared with dcmtk if it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from icf_utils import deposit_visit_metadata, make_studyvisit_archive
from icf_utils.errors import DepositMissing, InputRefused
from icf_utils.metadata.study_uids import find_studies, find_visit_studies
from icf_utils.store.layout import Visit
from tests.cli.program import Inside, icf
from tests.data.make_dicom import dicom_bytes, uid, write_visit

ONE, OTHER = uid("study", 1), uid("study", 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A visit of one study, with a file that is not an image."""
    path = tmp_path / "visit"
    write_visit(path, {1: ("scout", 2), 2: ("rest", 3)}, companions={"notes.txt": b"x"}, StudyInstanceUID=ONE)
    return path


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Inside:
    return Inside(capsys)


def packed(folder: Path, kind: str) -> Path:
    path = folder.parent / f"visit.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(folder.rglob("*.*")):
                archive.write(file, file.relative_to(folder))
    else:
        with tarfile.open(path, "w:gz" if kind == "tgz" else "w") as archive:
            archive.add(folder, "visit")
    return path


@pytest.mark.parametrize("kind", ["folder", "file", "zip", "tar", "tgz"])
def test_only_the_uid_is_printed(folder: Path, kind: str, cli: Inside) -> None:
    path = {"folder": folder, "file": folder / "01_scout" / "0001.dcm"}.get(kind) or packed(folder, kind)
    ran = cli("study-uid", path)
    assert (ran.code, ran.out) == (0, f"{ONE}\n")


def test_files_are_counted(folder: Path) -> None:
    finding = find_studies(folder)
    assert [(study.uid, study.files, study.first) for study in finding.studies] == [(ONE, 5, "01_scout/0001.dcm")]
    assert (finding.is_one, finding.skipped, finding.notices) == (True, 1, ())


def test_several_studies_are_reported(folder: Path, cli: Inside) -> None:
    (folder / "02_rest" / "stray.dcm").write_bytes(dicom_bytes(StudyInstanceUID=OTHER))
    ran = cli("study-uid", folder)
    assert (ran.code, ran.out) == (1, f"{ONE}\n{OTHER}\n")
    assert "[several-studies]" in ran.err
    assert "02_rest/stray.dcm" in ran.err
    output = cli("study-uid", folder, "--json")
    assert (output.code, output.json["ok"]) == (1, False)
    (notice,) = output.json["result"]["notices"]
    assert notice["code"] == "several-studies"
    assert OTHER in cli("study-uid", folder, "--quiet").err


@pytest.mark.parametrize("value", [None, b"", b"1.\x1b2"])
def test_an_image_without_a_study_is_named(folder: Path, cli: Inside, value: bytes | None) -> None:
    (folder / "lost.dcm").write_bytes(dicom_bytes(StudyInstanceUID=value))
    ran = cli("study-uid", folder)
    assert (ran.code, ran.out) == (1, f"{ONE}\n")
    assert "[no-study-uid]: 'lost.dcm'" in ran.err
    with pytest.raises(InputRefused, match="without a usable StudyInstanceUID"):
        find_studies(folder / "lost.dcm")


def test_several_paths_are_printed_on_lines(folder: Path, tmp_path: Path, cli: Inside) -> None:
    other = tmp_path / "other"
    write_visit(other, {1: ("scout", 1)}, StudyInstanceUID=OTHER)
    ran = cli("study-uid", folder, other)
    assert (ran.code, ran.out) == (0, f"{ONE}  {folder}\n{OTHER}  {other}\n")
    assert cli("study-uid", "--same", folder, other).code == 1
    assert cli("study-uid", "--same", folder, folder / "01_scout").code == 0


def test_a_path_without_dicom_is_refused(folder: Path, tmp_path: Path, cli: Inside) -> None:
    with pytest.raises(InputRefused, match="is not a DICOM file, and not a readable zip or tar"):
        find_studies(folder / "notes.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputRefused, match="contains no files"):
        find_studies(tmp_path / "empty")
    with pytest.raises(InputRefused, match="does not exist"):
        find_studies(tmp_path / "nowhere")
    (tmp_path / "texts").mkdir()
    shutil.copy(folder / "notes.txt", tmp_path / "texts")
    with pytest.raises(InputRefused, match="contains no DICOM image"):
        find_studies(tmp_path / "texts")
    assert cli("study-uid", folder / "notes.txt").code == 3
    ran = cli("study-uid", folder, folder / "notes.txt", tmp_path / "nowhere")
    assert (ran.code, ran.out) == (1, f"{ONE}  {folder}\n")
    assert ran.err.count("[no-study]") == 2
    assert cli("study-uid").code == cli("study-uid", folder, "--id", "a", "b").code == 2


def test_a_visit_of_the_store(folder: Path, tmp_path: Path, cli: Inside) -> None:
    """From the JSON if it exists, else from the archive."""
    store = tmp_path / "store"
    place = Visit(store, "s", "v")
    with pytest.raises(DepositMissing, match="check the store and the identifiers"):
        find_visit_studies(place)
    make_studyvisit_archive(folder, store, "s", "v")
    from_archive = find_visit_studies(place)
    deposit_visit_metadata(store, "s", "v")
    from_json = find_visit_studies(place)
    assert [study.uid for study in from_archive.studies] == [study.uid for study in from_json.studies] == [ONE]
    assert from_archive.studies[0].files == from_json.studies[0].files == 5
    assert cli("study-uid", "-o", store, "--id", "s", "v").out == f"{ONE}\n"


def test_as_a_program(folder: Path) -> None:
    assert icf("study-uid", "-q", folder, "--json").json["result"]["same"] is True


def test_as_dcmdump_says(open_visit: Path) -> None:
    """Every file of the open visits: the same UID as dcmtk's program prints."""
    if not shutil.which("dcmdump"):
        pytest.skip("dcmdump is not installed")
    files = [str(path) for path in sorted(open_visit.rglob("*")) if path.is_file()]
    done = subprocess.run(["dcmdump", "+F", "+P", "0020,000d", *files], capture_output=True, text=True, check=False)
    theirs = set(re.findall(r"\(0020,000d\) UI \[([0-9.]+)\]", done.stdout))
    try:
        ours = {study.uid for study in find_studies(open_visit).studies}
    except InputRefused:
        ours = set()
    assert ours == theirs
