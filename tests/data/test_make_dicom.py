"""The inputs of all other tests: valid where they should be, and the same everywhere."""

from __future__ import annotations

import hashlib
import io
import time
from pathlib import Path

import pydicom
import pytest

from tests.data import make_dicom
from tests.data.make_dicom import dicom_bytes, element, item, uid, write_visit

SYNTAXES = ["IMPLICIT_LITTLE", "EXPLICIT_LITTLE", "DEFLATED", "EXPLICIT_BIG", "JPEG_BASELINE"]


@pytest.mark.parametrize("name", SYNTAXES)
def test_images_are_read_by_pydicom_without_a_warning(name: str) -> None:
    syntax = getattr(make_dicom, name)
    raw = dicom_bytes(transfer_syntax=syntax, SpecificCharacterSet="ISO_IR 192", SeriesDescription="Übersicht")
    dataset = pydicom.dcmread(io.BytesIO(raw))
    assert dataset.file_meta.TransferSyntaxUID == syntax
    assert (dataset.SeriesDescription, dataset.SeriesNumber, dataset.Rows) == ("Übersicht", 1, 2)
    assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
    assert len(dataset.PixelData) >= 8


def test_bytes_are_the_same_on_every_machine() -> None:
    raw = dicom_bytes(SeriesNumber=3, SpecificCharacterSet="ISO_IR 100", ProtocolName="Schädel")
    assert hashlib.sha256(raw).hexdigest() == "8dfce79cb1f4d593133a9031ab32efa07dbd3972255ba2af1d7ee66c715b8a38"


def test_values_can_be_left_out_or_be_wrong() -> None:
    raw = dicom_bytes(
        StudyDate=b"***",
        SeriesNumber=b"abc",
        Modality=None,
        raw={0x0008103E: element(0x0008103E, "SQ", item(element(0x00080100, "SH", b"X ")))},
    )
    dataset = pydicom.dcmread(io.BytesIO(raw))
    assert "Modality" not in dataset
    assert dataset.get_item("StudyDate").value == b"*** "
    assert dataset.get_item("SeriesNumber").value == b"abc "
    assert dataset.SeriesDescription[0].CodeValue == "X"


def test_lengths_can_lie() -> None:
    assert element(0x00080060, "CS", b"MR", length=0xFFF0) == b"\x08\0\x60\0CS\xf0\xffMR"
    assert (
        element(0x00080060, "UT", b"MR", transfer_syntax=make_dicom.EXPLICIT_BIG)[:12] == b"\0\x08\0\x60UT\0\0\0\0\0\2"
    )


def test_a_visit(tmp_path: Path) -> None:
    begin = time.process_time()
    paths = write_visit(tmp_path, {1: ("localizer", 3), 12: ("bold/rest", 397)}, companions={"notes/a.txt": b"a\n"})
    assert time.process_time() - begin < 5  # half a second on an idle machine
    assert paths[0] == tmp_path / "01_localizer" / "0001.dcm"
    assert paths[-1] == tmp_path / "12_bold_rest" / "0397.dcm"
    assert len({pydicom.dcmread(path).SOPInstanceUID for path in paths}) == 400
    assert (tmp_path / "notes" / "a.txt").read_bytes() == b"a\n"
    assert paths[0].read_bytes() == dicom_bytes(
        SeriesNumber=1, InstanceNumber=1, SeriesDescription="localizer", ProtocolName="localizer"
    )
    assert uid("a") != uid("b")
