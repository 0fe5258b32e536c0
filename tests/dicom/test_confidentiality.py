"""The table of identifying attributes: complete, well-formed, and strict about unknown elements."""

from __future__ import annotations

import pytest
from pydicom._dicom_dict import DicomDictionary

from icf_utils.dicom.confidentiality import is_identifying, is_in_profile, profile_entries
from icf_utils.dicom.values import dictionary_vr, keyword_for_tag, tag_for_keyword
from icf_utils.metadata.records import UID_TAGS

SINGLE = 0xFFFFFFFF


def test_the_table_has_all_its_lines_in_order() -> None:
    """Edition 2026c: 654 lines, and one about private attributes."""
    numbers = [entry.number for entry in profile_entries()]
    assert len(numbers) == len(set(numbers)) == 654
    assert numbers == sorted(numbers)
    repeating = [(entry.number, entry.mask) for entry in profile_entries() if entry.mask != SINGLE]
    assert repeating == [(0x50000000, 0xFF000000), (0x60003000, 0xFF00FFFF), (0x60004000, 0xFF00FFFF)]


def test_every_keyword_is_in_the_dictionary() -> None:
    newer = []
    for entry in profile_entries():
        if entry.keyword == "CurveData":  # covers a whole range
            continue
        known = keyword_for_tag(entry.number)
        if known is None:
            newer.append(entry)
        else:
            assert entry.keyword == known
    # attributes that joined the standard after the dictionary was made; nothing else has their keywords
    assert len(newer) <= 25
    assert all(tag_for_keyword(entry.keyword) is None for entry in newer)


def test_all_person_names_are_identifying() -> None:
    names = [tag for tag, entry in DicomDictionary.items() if entry[0] == "PN"]
    assert len(names) > 20
    assert all(map(is_identifying, names))


@pytest.mark.parametrize(
    "keyword",
    [
        "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientWeight", "StudyDate",
        "AcquisitionDateTime", "InstitutionName", "StationName", "DeviceSerialNumber", "OperatorsName",
        "AccessionNumber", "ImageComments", "StudyDescription", "SeriesDescription", "ProtocolName",
        "FrameOfReferenceUID", "RequestAttributesSequence", *UID_TAGS,
    ],
)  # fmt: skip
def test_listed(keyword: str) -> None:
    tag = tag_for_keyword(keyword)
    assert tag is not None
    assert is_in_profile(tag)
    assert is_identifying(tag)


@pytest.mark.parametrize(
    "keyword",
    ["EchoTime", "RepetitionTime", "Modality", "SeriesNumber", "Manufacturer", "Rows", "MagneticFieldStrength"],
)
def test_not_listed(keyword: str) -> None:
    tag = tag_for_keyword(keyword)
    assert tag is not None
    assert not is_identifying(tag)


@pytest.mark.parametrize(
    "tag",
    [
        0x00290010, 0x00091001,  # private
        0x50000005, 0x50EE3000, 0x50FFFFFF, 0x60003000, 0x60024000, 0x601E3000,  # curves and overlays
        0x00100099, 0x7FFE0001,  # unknown
    ],
)  # fmt: skip
def test_private_repeating_and_unknown_elements_are_identifying(tag: int) -> None:
    assert is_identifying(tag)


def test_overlay_geometry_is_not() -> None:
    assert not is_identifying(0x60000010)
    assert dictionary_vr(0x60000010) == "US"
