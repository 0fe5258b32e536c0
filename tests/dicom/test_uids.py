"""UIDs, valid and not: what identifies an image, and the same rule on every way in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from icf_utils import deposit_visit_metadata, make_studyvisit_archive
from icf_utils.dicom.header import FileKind, file_kind, read_head
from icf_utils.dicom.uids import is_valid_uid, uid_text
from tests.cli.program import Inside
from tests.data.make_dicom import dicom_bytes, element, write_visit

LONG = "1.2.826.0.1.3680043.10.363.5421649119139350670558684743636101576.101"
ODD = ("PHANTOM.2024.1", LONG, "1.2.3.4-5", "1.2.826.0.1.", "1.2..3")


@pytest.mark.parametrize("raw", [b"1.2", b"1.2\0", b"1.2 ", b"2.25." + b"9" * 59, b"1.02"])
def test_valid_uids(raw: bytes) -> None:
    assert uid_text(raw) == raw.decode().strip(" \0")
    assert is_valid_uid(uid_text(raw))


@pytest.mark.parametrize("text", [*ODD, "1", ".1", "1.a", "2.25." + "9" * 60, "x" * 256])
def test_opaque_identifiers(text: str) -> None:
    assert uid_text(text.encode()) == text
    assert not is_valid_uid(text)


@pytest.mark.parametrize(
    "raw", [None, b"", b"\0 ", b"1.2\n", b"1.2\\1.3", b"a b", b"\xff", "1.\u0662".encode(), b"x" * 257, b"\x1b[2J"]
)
def test_what_identifies_nothing(raw: bytes | None) -> None:
    assert uid_text(raw) == ""


@pytest.mark.parametrize("text", ODD)
@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_an_image_with_an_odd_uid(tmp_path: Path, keyword: str, text: str) -> None:
    """It is archived and named, and its UID is recorded as it is written."""
    image = dicom_bytes(**{keyword: text})  # type: ignore[arg-type]
    write_visit(tmp_path / "in", {1: ("scout", 1)}, companions={"odd.dcm": image})
    result = make_studyvisit_archive(tmp_path / "in", tmp_path / "store", "s", "v")
    assert [(item.code, item.subject) for item in result.notices if item.code == "odd-uid"] == [("odd-uid", "odd.dcm")]
    deposit_visit_metadata(tmp_path / "store", "s", "v")
    records = json.loads((tmp_path / "store" / "s" / "v_metadata_dicoms.json").read_text())
    assert [record[keyword] for record in records if record["path"].endswith("odd.dcm")] == [text]


def test_unsorted_files_with_odd_uids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are grouped by them, and named by keys."""
    for number, study in enumerate((*ODD, *ODD)):
        (tmp_path / "heap").mkdir(exist_ok=True)
        image = dicom_bytes(StudyInstanceUID=study, InstanceNumber=number)
        (tmp_path / "heap" / f"{number}").write_bytes(image)
    ran = Inside(capsys)("ingest", tmp_path / "heap", "-o", tmp_path / "store", "--study", "s", "--heap")
    assert ran.code == 0, ran.out
    assert "5 visits: 5 made" in ran.out
    assert "PHANTOM" not in "".join(path.name for path in tmp_path.rglob("*_dicom.tar"))


@pytest.mark.parametrize("command", ["ingest", "run"])
def test_folders_with_odd_uids(tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each of the three UIDs is named, whichever command takes the folder in."""
    odd = {"StudyInstanceUID": "PHANTOM.2024.1", "SeriesInstanceUID": LONG, "SOPInstanceUID": "1.2.826.0.1."}
    for number, (keyword, text) in enumerate(odd.items()):
        uids: dict[str, Any] = {"StudyInstanceUID": f"1.2.{number}", keyword: text}
        write_visit(tmp_path / "in" / "s" / f"v{number}", {1: ("scout", 1)}, **uids)
    which = {
        "ingest": (tmp_path / "in" / "s", "--study", "s", "--visit", "{session}", "--levels", "session/scan"),
        "run": ("--pattern", f"{tmp_path}/in/{{study}}/{{visit}}", "--new"),
    }
    ran = Inside(capsys)(command, *which[command], "-o", tmp_path / "store", "--until", "metadata")
    assert ran.code == 0, ran.out + ran.err
    for number, keyword in enumerate(odd):
        (line,) = [line for line in ran.err.splitlines() if f"s/v{number}" in line and "odd-uid" in line]
        assert f"has no valid {keyword} (PS3.5 section 9.1)" in line


def test_a_file_of_private_elements_is_dicom() -> None:
    """Its file meta information says so, and it is neither cut nor malformed."""
    whole = dicom_bytes()
    private = element(0x00091001, "LO", b"anything") + element(0x00091002, "LO", b"more")
    _, found = read_head(lambda size: whole[:size], len(whole), frozenset())
    raw = whole[: found.dataset_at] + private
    _, found = read_head(lambda size: raw[:size], len(raw), frozenset())
    assert file_kind(found) is FileKind.IMAGE
    cut = raw[:-3]
    _, found = read_head(lambda size: cut[:size], len(cut), frozenset())
    assert file_kind(found) is FileKind.UNREADABLE


def test_an_image_without_preamble_is_counted_alike(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    raw = dicom_bytes()
    (tmp_path / "in" / "bare.dcm").write_bytes(raw[132:])
    (tmp_path / "in" / "whole.dcm").write_bytes(raw)
    archived = make_studyvisit_archive(tmp_path / "in", tmp_path / "store", "s", "v")
    described = deposit_visit_metadata(tmp_path / "store", "s", "v")
    assert (archived.dicom_files, archived.other_files, described.images) == (2, 0, 2)
