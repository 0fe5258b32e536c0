"""The loop over an input's files: every command finds the same images in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from icf_utils.archive.stage import make_studyvisit_archive
from icf_utils.dicom.constants import SERIES_NUMBER
from icf_utils.dicom.header import FileKind
from icf_utils.errors import IcfError, InputRefused
from icf_utils.ingest.unsorted import group_by_study
from icf_utils.metadata.stage import deposit_visit_metadata
from icf_utils.metadata.study_uids import find_studies
from icf_utils.sender.images import list_images
from icf_utils.sources.images import scan_files
from icf_utils.sources.open import open_source
from icf_utils.sources.source import InputFile
from icf_utils.xnat.session_layout import lay_out_session
from icf_utils.xnat.upload_body import open_file_body
from tests.data.make_dicom import dicom_bytes

DIRECTORY = "1.2.840.10008.1.3.10"
IMAGES = ["bare.dcm", "bare_with_meta.dcm", "image.dcm", "no_extension"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images in all forms, and files that could be mistaken for images."""
    files = {
        "image.dcm": dicom_bytes(SOPInstanceUID="1.2.1"),
        "no_extension": dicom_bytes(SOPInstanceUID="1.2.2"),
        "bare.dcm": dicom_bytes(preamble=False, file_meta=False, SOPInstanceUID="1.2.3"),
        "bare_with_meta.dcm": dicom_bytes(preamble=False, SOPInstanceUID="1.2.4"),
        "DICOMDIR": dicom_bytes(SOPClassUID=DIRECTORY),
        "unreadable.dcm": bytes(128) + b"DICM" + b"text that is not a data set" * 9,
        "notes.dcm": b"text",
        "empty.dcm": b"",
    }
    place = tmp_path / "visit"
    place.mkdir()
    for name, data in files.items():
        (place / name).write_bytes(data)
    return place


def test_kinds_and_elements(folder: Path, tmp_path: Path) -> None:
    with open_source(folder, tmp_path) as source:
        found = {file.entry.name: file for file in scan_files(source, frozenset({SERIES_NUMBER}))}
    assert list(found) == sorted(found)
    assert [name for name, file in found.items() if file.is_image] == IMAGES
    kinds = {name: file.kind for name, file in found.items() if not file.is_image}
    assert kinds == {
        "DICOMDIR": FileKind.DIRECTORY,
        "empty.dcm": FileKind.OTHER,
        "notes.dcm": FileKind.OTHER,
        "unreadable.dcm": FileKind.UNREADABLE,
    }
    assert {found[name].header.ascii_text(SERIES_NUMBER).strip() for name in IMAGES} == {"1"}


def test_every_command_finds_the_same_images(folder: Path, tmp_path: Path) -> None:
    assert find_studies(folder).studies[0].files == len(IMAGES)
    (heap,) = group_by_study(folder).visits
    assert list(heap.files) == IMAGES
    with open_source(folder, tmp_path) as source:
        assert [image.entry.name for image in list_images(source).images] == IMAGES
        assert [file.entry.name for file in lay_out_session(source).files] == IMAGES
    archive = make_studyvisit_archive(folder, tmp_path / "store", "study", "visit").archive.path
    assert deposit_visit_metadata(tmp_path / "store", "study", "visit").images == len(IMAGES)
    with open_file_body(archive) as body:
        assert [entry.name.rpartition("/")[2] for entry in body.contents.images] == IMAGES


def test_some_files_of_a_source(folder: Path, tmp_path: Path) -> None:
    with open_source(folder, tmp_path) as source:
        chosen = [entry for entry in source.entries if entry.name in ("image.dcm", "notes.dcm")]
        assert [file.entry for file in scan_files(source, frozenset(), entries=chosen)] == chosen


def test_a_file_that_cannot_be_read(folder: Path, tmp_path: Path) -> None:
    """It ends the loop, or the caller gets the error and the file is skipped."""
    failures: list[tuple[str, IcfError]] = []

    def note(entry: InputFile, error: IcfError) -> None:
        failures.append((entry.name, error))

    with open_source(folder, tmp_path) as source:
        (folder / "image.dcm").write_bytes(b"changed")
        with pytest.raises(InputRefused, match=r"image\.dcm"):
            list(scan_files(source, frozenset()))
        found = [file.entry.name for file in scan_files(source, frozenset(), on_failure=note)]
    assert "image.dcm" not in found
    assert len(found) == len(source.entries) - 1
    assert [name for name, _ in failures] == ["image.dcm"]
