"""File meta information: pydicom reads what is written, which is the same bytes each time; damage is noticed."""

from __future__ import annotations

from io import BytesIO

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icf_utils.dicom.constants import (
    IMPLICIT_VR_LITTLE_ENDIAN,
    MEDIA_STORAGE_SOP_CLASS_UID,
    MEDIA_STORAGE_SOP_INSTANCE_UID,
    TRANSFER_SYNTAX_UID,
)
from icf_utils.dicom.part10 import IMPLEMENTATION_UID, read_file_meta, write_file_meta
from icf_utils.dicom.uids import uid_text
from tests.data.make_dicom import CT_IMAGE, JPEG_BASELINE, dicom_bytes

UIDS = st.lists(st.integers(0, 10**9), min_size=2, max_size=6).map(lambda parts: ".".join(map(str, parts)))


@given(sop_class=UIDS, sop_instance=UIDS, syntax=UIDS)
def test_what_is_written_is_read_back(sop_class: str, sop_instance: str, syntax: str) -> None:
    raw = write_file_meta(sop_class, sop_instance, syntax)
    found = read_file_meta(raw + bytes(8), len(raw) + 8)
    assert (found.has_preamble, found.end, found.state) == (True, len(raw), "whole")
    tags = (MEDIA_STORAGE_SOP_CLASS_UID, MEDIA_STORAGE_SOP_INSTANCE_UID, TRANSFER_SYNTAX_UID)
    assert [uid_text(found.elements[tag]) for tag in tags] == [sop_class, sop_instance, syntax]
    assert write_file_meta(sop_class, sop_instance, syntax) == raw


@pytest.mark.parametrize("syntax", [IMPLICIT_VR_LITTLE_ENDIAN, JPEG_BASELINE])
def test_pydicom_reads_it(syntax: str) -> None:
    meta = pydicom.dcmread(BytesIO(write_file_meta(CT_IMAGE, "1.2.34", syntax))).file_meta
    assert (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID) == (CT_IMAGE, "1.2.34")
    assert (meta.TransferSyntaxUID, meta.ImplementationClassUID) == (syntax, IMPLEMENTATION_UID)
    assert meta.FileMetaInformationVersion == b"\0\1"
    assert meta.FileMetaInformationGroupLength == len(write_file_meta(CT_IMAGE, "1.2.34", syntax)) - 144


def test_a_file_that_ends_early_and_a_part_of_a_file() -> None:
    """A value beyond the end of the file is damage; a value beyond the part that was read is not."""
    raw = dicom_bytes()
    whole = read_file_meta(raw, len(raw))
    assert whole.state == "whole"
    for length in range(132, whole.end, 5):
        assert read_file_meta(raw[:length], length).state == "cut"
        found = read_file_meta(raw[:length], len(raw))
        assert found.state == "more"
        assert found.elements.items() <= whole.elements.items()
