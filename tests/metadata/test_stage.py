"""``deposit_visit_metadata``: from the archive alone, always the same bytes; refused if the archive is not right."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from icf_utils.archive.stage import make_studyvisit_archive
from icf_utils.errors import DepositDamaged, DepositDiffers, DepositMissing, InvalidSetting, StorageFailure
from icf_utils.metadata.records import read_visit_metadata
from icf_utils.metadata.stage import deposit_visit_metadata
from icf_utils.settings import MetadataSettings, Settings
from icf_utils.store.layout import Visit
from tests.archive.reference import reference_archive
from tests.archive.test_refused import snapshot
from tests.data.make_dicom import dicom_bytes, element, uid, write_visit


@pytest.fixture
def place(tmp_path: Path) -> Visit:
    write_visit(tmp_path / "in", {1: ("localizer", 2), 2: ("bold", 3)}, companions={"a.txt": b"x", "z.pdf": b"%PDF"})
    make_studyvisit_archive(tmp_path / "in", tmp_path / "store", "study", "visit")
    return Visit(tmp_path / "store", "study", "visit")


def deposit(place: Visit, **options: Any) -> list[str]:
    result = deposit_visit_metadata(place.root, place.study, place.visit, **options)
    return [file.state for file in result.files]


def records(place: Visit) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(place.dicoms_json.read_bytes())
    return found


def test_both_files(place: Visit) -> None:
    result = deposit_visit_metadata(place.root, "study", "visit")
    assert [file.path for file in result.files] == [place.dicoms_json, place.tarball_json]
    assert (result.images, result.notices) == (5, ())
    assert [(notice.code, notice.subject) for notice in result.skipped] == [
        ("not-dicom", "study_visit/a.txt"),
        ("not-dicom", "study_visit/z.pdf"),
    ]
    data = place.archive.read_bytes()
    assert json.loads(place.tarball_json.read_bytes()) == {
        "size": len(data),
        "md5": hashlib.md5(data).hexdigest(),
        "dspath": "icf/visit_dicom.tar",
        "storepath": "study/visit_dicom.tar",
    }
    for record in records(place):
        content = data[record["offset"] : record["offset"] + record["size"]]
        assert hashlib.md5(content).hexdigest() == record["md5"]
        assert content[128:132] == b"DICM"
    assert len(read_visit_metadata(place).images) == 5
    assert not place.workdir.exists()


def test_repeated(place: Visit) -> None:
    assert deposit(place) == ["written", "written"]
    before = snapshot(place.root)
    assert deposit(place) == ["unchanged", "unchanged"]
    assert snapshot(place.root) == before


@pytest.mark.parametrize("missing", ["dicoms_json", "tarball_json"])
def test_interrupted(place: Visit, missing: str) -> None:
    deposit(place)
    before = snapshot(place.root)
    getattr(place, missing).unlink()
    assert sorted(deposit(place)) == ["unchanged", "written"]
    after = snapshot(place.root)
    assert {name: entry[2] for name, entry in after.items()} == {name: entry[2] for name, entry in before.items()}


@pytest.mark.parametrize("file", ["dicoms_json", "tarball_json"])
@pytest.mark.parametrize("content", [b"", b"{}\n", b"[{]"])
def test_something_else_is_there(place: Visit, file: str, content: bytes) -> None:
    deposit(place)
    getattr(place, file).write_bytes(content)
    before = snapshot(place.root)
    with pytest.raises(DepositDiffers) as caught:
        deposit(place)
    assert caught.value.path == str(getattr(place, file))
    assert snapshot(place.root) == before


def test_metadata_of_another_archive(place: Visit, tmp_path: Path) -> None:
    deposit(place)
    place.archive.unlink()
    place.checksum.unlink()
    (tmp_path / "in" / "z.pdf").write_bytes(b"changed")
    make_studyvisit_archive(tmp_path / "in", place.root, "study", "visit")
    before = snapshot(place.root)
    with pytest.raises(DepositDiffers):
        deposit(place)
    assert snapshot(place.root) == before


def refused(place: Visit, kind: type[Exception], file: Path) -> str:
    before = snapshot(place.root)
    with pytest.raises(kind) as caught:
        deposit(place)
    assert snapshot(place.root) == before
    assert str(file) in str(caught.value)
    return str(caught.value)


def test_without_archive(place: Visit, tmp_path: Path) -> None:
    place.archive.unlink()
    assert "make_studyvisit_archive" in refused(place, DepositMissing, place.archive)
    with pytest.raises(DepositMissing):
        deposit_visit_metadata(tmp_path / "nowhere", "study", "visit")


def test_without_checksum(place: Visit) -> None:
    place.checksum.unlink()
    refused(place, DepositMissing, place.checksum)


@pytest.mark.parametrize(
    "content", [b"", b"0" * 32 + b"\n", b"0" * 32 + b"  other_dicom.tar\n", b"x" * 32 + b"  visit_dicom.tar\n"]
)
def test_a_malformed_checksum_file(place: Visit, content: bytes) -> None:
    place.checksum.write_bytes(content)
    refused(place, DepositDamaged, place.checksum)


def test_a_wrong_checksum(place: Visit) -> None:
    place.checksum.write_bytes(b"0" * 32 + b"  visit_dicom.tar\n")
    assert "0" * 32 in refused(place, DepositDamaged, place.archive)


@pytest.mark.parametrize("size", [0, 1, 512, 2000, -1, -5000, -10240])
def test_a_cut_archive(place: Visit, size: int) -> None:
    data = place.archive.read_bytes()
    place.archive.write_bytes(data[:size] if size else b"")
    refused(place, DepositDamaged, place.archive)


def test_a_damaged_archive(place: Visit) -> None:
    data = place.archive.read_bytes()
    for at in range(0, len(data), 701):
        place.archive.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        refused(place, DepositDamaged, place.archive)


def test_a_file_that_is_not_an_archive(place: Visit) -> None:
    data = b"not an archive....\n" * 1000
    place.archive.write_bytes(data)
    place.checksum.write_bytes(f"{hashlib.md5(data).hexdigest()}  visit_dicom.tar\n".encode())
    refused(place, DepositDamaged, place.archive)


def test_the_archive_of_another_visit(place: Visit) -> None:
    """Renamed by hand, with a correct checksum."""
    other = Visit(place.root, "study", "other")
    shutil.copyfile(place.archive, other.archive)
    other.checksum.write_bytes(place.checksum.read_bytes().replace(b"visit_", b"other_"))
    assert "study_other/" in refused(other, DepositDamaged, other.archive)


def test_a_folder_under_the_name_of_the_archive(place: Visit) -> None:
    place.archive.unlink()
    place.archive.mkdir()
    refused(place, StorageFailure, place.archive)


def test_an_archive_of_the_original_tool(place: Visit, tmp_path: Path) -> None:
    """Made by ``tarfile`` and ``md5sum``, and described like any other."""
    deposit(place)
    other = Visit(tmp_path / "other", "study", "visit")
    other.archive.parent.mkdir(parents=True)
    data = reference_archive(tmp_path / "in", "study_visit")
    other.archive.write_bytes(data)
    other.checksum.write_bytes(f"{hashlib.md5(data).hexdigest()}  visit_dicom.tar\n".encode())
    deposit(other)
    assert other.dicoms_json.read_bytes() == place.dicoms_json.read_bytes()
    assert other.tarball_json.read_bytes() == place.tarball_json.read_bytes()


def test_the_same_bytes_in_another_process(place: Visit, tmp_path: Path) -> None:
    deposit(place)
    copy = tmp_path / "copy"
    (copy / "study").mkdir(parents=True)
    for path in (place.archive, place.checksum):
        shutil.copyfile(path, copy / "study" / path.name)
    command = ["deposit_visit_metadata", "-o", str(copy), "--id", "study", "visit"]
    for number, settings in enumerate(
        ({"TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONUTF8": "0"}, {"PYTHONHASHSEED": "1"})
    ):
        subprocess.run(
            [sys.executable, "-W", "error", "-m", "icf_utils.cli.main", *command],
            check=True,
            capture_output=True,
            env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **settings},
        )
        for path in (place.dicoms_json, place.tarball_json):
            made = copy / "study" / path.name
            assert made.read_bytes() == path.read_bytes()
            if number == 0:
                made.unlink()


def test_names_that_are_odd(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    raw_names = [b"Sch\xe4del.dcm", "Sch\u00e4del.dcm".encode(), b"new\nline", b'quote"back\\slash', "\u2028".encode()]
    for raw in raw_names:
        with open(os.path.join(os.fsencode(folder), raw), "wb") as handle:
            handle.write(dicom_bytes())
    make_studyvisit_archive(folder, tmp_path, "study", "visit")
    place = Visit(tmp_path, "study", "visit")
    deposit(place)
    found = [record["path"].encode("utf-8", "surrogateescape") for record in records(place)]
    assert sorted(found) == sorted(b"study_visit/" + raw for raw in raw_names)
    assert [image.path for image in read_visit_metadata(place).images] == [record["path"] for record in records(place)]


@pytest.mark.parametrize(
    ("charset", "raw", "text"),
    [
        (None, b"plain", "plain"),
        (None, b"Sch\xe4del", "Sch\ufffddel"),
        ("ISO_IR 100", b"Sch\xe4del", "Sch\u00e4del"),
        ("ISO_IR 192", "Sch\u00e4del \U0001f9e0".encode(), "Sch\u00e4del \U0001f9e0"),
        ("\\ISO 2022 IR 87", "\u982d\u90e8".encode("iso2022_jp"), "\u982d\u90e8"),
        ("GB18030", "\u5934\u90e8".encode("gb18030"), "\u5934\u90e8"),
        ("ISO_IR 999", "Sch\u00e4del".encode(), "Sch\ufffd\ufffddel"),
    ],
)
def test_character_sets(tmp_path: Path, charset: str | None, raw: bytes, text: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    declared = {} if charset is None else {0x00080005: element(0x00080005, "CS", charset.encode("ascii"))}
    (folder / "a.dcm").write_bytes(dicom_bytes(raw=declared, SeriesDescription=raw))
    make_studyvisit_archive(folder, tmp_path, "study", "visit")
    result = deposit_visit_metadata(tmp_path, "study", "visit")
    (record,) = records(Visit(tmp_path, "study", "visit"))
    assert record["SeriesDescription"] == text
    assert [notice.code for notice in result.notices] == (["odd-value"] if "\ufffd" in text else [])
    assert all(text not in notice.message for notice in result.notices)


# -- what else is recorded


def test_tags_of_a_file_and_of_the_settings(place: Visit, tmp_path: Path) -> None:
    (tmp_path / "tags.txt").write_text("EchoTime\n(0028,0010)  # Rows\n", encoding="utf-8")
    deposit(place, tags=tmp_path / "tags.txt")
    assert [(record["EchoTime"], record["Rows"]) for record in records(place)] == [(2.98, 2)] * 5
    from_file = place.dicoms_json.read_bytes()
    for settings in (Settings(metadata=MetadataSettings(tags=("Rows", "EchoTime"))), None):
        place.dicoms_json.unlink()
        (place.root / "icf.toml").write_text("[metadata]\ntags = ['EchoTime', 'Rows']\n", encoding="utf-8")
        deposit(place, settings=settings)
        assert place.dicoms_json.read_bytes() == from_file


def test_nothing_identifying_unless_allowed(place: Visit, tmp_path: Path) -> None:
    tags = tmp_path / "tags.txt"
    tags.write_text("PatientID\nPatientName\nEchoTime\n", encoding="utf-8")
    before = snapshot(place.root)
    with pytest.raises(InvalidSetting, match="PatientID") as caught:
        deposit(place, tags=tags)
    assert "TEST01" not in str(caught.value)
    assert snapshot(place.root) == before
    tags.write_text("PatientID\nallow_identifying: true\n", encoding="utf-8")
    deposit(place, tags=tags)
    assert {record["PatientID"] for record in records(place)} == {"TEST01"}


def test_without_permission_no_identifying_value_is_in_the_files(place: Visit) -> None:
    deposit(place)
    written = place.dicoms_json.read_bytes() + place.tarball_json.read_bytes()
    for value in (b"TEST01", b"Test^Invented", b"Test^"):
        assert value not in written
    assert uid("study").encode() in written


def test_a_missing_list_of_tags(place: Visit, tmp_path: Path) -> None:
    with pytest.raises(StorageFailure, match=r"tags\.txt"):
        deposit(place, tags=tmp_path / "tags.txt")
    (place.root / "icf.toml").write_text("[metadata]\ntags = ['NoSuchTag']\n", encoding="utf-8")
    with pytest.raises(InvalidSetting, match="NoSuchTag"):
        deposit(place)


def test_an_archive_without_images(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_bytes(b"x")
    make_studyvisit_archive(tmp_path / "in", tmp_path, "study", "visit")
    result = deposit_visit_metadata(tmp_path, "study", "visit")
    assert [notice.code for notice in result.notices] == ["no-dicom"]
    assert Visit(tmp_path, "study", "visit").dicoms_json.read_bytes() == b"[]\n"
