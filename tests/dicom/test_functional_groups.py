"""Attributes of enhanced multi-frame images: shared, per frame, in every encoding, and in hostile bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, FileMetaDataset, dcmread, dcmwrite
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from icf_utils.dicom.elements import SEQUENCES, Header, scan_header
from icf_utils.dicom.functional_groups import find_elements
from icf_utils.dicom.values import convert_value, tag_for_keyword

ENCODINGS = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]


def group(**values: Any) -> Dataset:
    """A functional group with attributes, or an item with groups."""
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def enhanced(shared: dict[str, Any], frames: Sequence[dict[str, Any]]) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4.1", "1.2.3"
    dataset.StudyInstanceUID = "1.2"
    dataset.SharedFunctionalGroupsSequence = [group(**{name: [value] for name, value in shared.items()})]
    dataset.PerFrameFunctionalGroupsSequence = [
        group(**{name: [value] for name, value in frame.items()}) for frame in frames
    ]
    return dataset


def scanned(dataset: Dataset, syntax: UID = ExplicitVRLittleEndian, undefined: bool = False) -> Header:
    for sequence in (dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence):
        for item in sequence if undefined else ():
            item.is_undefined_length_sequence_item = True
            for inner in item:
                inner.is_undefined_length = True
                for deepest in inner.value:
                    deepest.is_undefined_length_sequence_item = True
    for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        dataset[name].is_undefined_length = undefined
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    data = buffer.getvalue()
    return scan_header(data, len(data), SEQUENCES)


def values(found: Header, *keywords: str) -> dict[str, Any]:
    tags = {keyword: tag_for_keyword(keyword) for keyword in keywords}
    elements = find_elements(found, [tag for tag in tags.values() if tag])
    return {
        keyword: convert_value(tag, elements[tag].vr, elements[tag].raw, (), found.big_endian).value
        for keyword, tag in tags.items()
        if tag in elements
    }


SHARED = {
    "MRTimingAndRelatedParametersSequence": group(RepetitionTime=500.5, FlipAngle=52, EchoTrainLength=56),
    "PixelMeasuresSequence": group(SliceThickness="2.4", PixelSpacing=["3.4", "3.5"]),
}
ALL = ("EchoTime", "RepetitionTime", "FlipAngle", "EchoTrainLength", "SliceThickness", "PixelSpacing", "InversionTime")


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", ENCODINGS)
def test_shared_and_equal_attributes_are_found(syntax: UID, undefined: bool) -> None:
    frame = {"MREchoSequence": group(EffectiveEchoTime=30.0), "MRModifierSequence": group(InversionTimes=[900.0])}
    found = scanned(enhanced(SHARED, [frame] * 3), syntax, undefined)
    assert values(found, *ALL) == {
        "EchoTime": 30.0,
        "RepetitionTime": 500.5,
        "FlipAngle": 52,
        "EchoTrainLength": 56,
        "SliceThickness": 2.4,
        "PixelSpacing": [3.4, 3.5],
        "InversionTime": 900.0,
    }


@pytest.mark.parametrize("undefined", [False, True])
def test_frames_that_differ_give_nothing(undefined: bool) -> None:
    frames = [
        {"MREchoSequence": group(EffectiveEchoTime=time), "PixelMeasuresSequence": group(SliceThickness="3")}
        for time in (1.5, 4.0)
    ]
    found = scanned(enhanced({}, frames), undefined=undefined)
    assert values(found, *ALL) == {"SliceThickness": 3}
    some = [frames[0], {"PixelMeasuresSequence": group(SliceThickness="3")}]
    assert values(scanned(enhanced({}, some)), "EchoTime") == {}


def test_nested_and_private_sequences_do_not_count() -> None:
    source = group(ReferencedImageSequence=[group(EchoTime="9")], FlipAngle=52)
    item = {"MRTimingAndRelatedParametersSequence": source}
    dataset = enhanced(item, [])
    block = dataset.SharedFunctionalGroupsSequence[0].private_block(0x2005, "Somebody", create=True)
    block.add_new(0x01, "SQ", [group(RepetitionTime="7")])
    assert values(scanned(dataset), *ALL) == {"FlipAngle": 52}


def test_images_of_one_frame_have_no_groups() -> None:
    assert find_elements(Header(True), [0x00180081]) == {}


@given(st.binary(max_size=200), st.sampled_from([None, "SQ", "UN"]), st.booleans())
def test_hostile_bytes_end(data: bytes, vr: str | None, big_endian: bool) -> None:
    from icf_utils.dicom.elements import Element

    elements = {tag: Element(vr, data) for tag in SEQUENCES}
    find_elements(Header(True, elements=elements, big_endian=big_endian), [0x00180081, 0x00180080])


def test_real_enhanced_images_agree_with_pydicom(visits: Path) -> None:
    count = 0
    for path in sorted((visits / "siemens-vida-enhanced").rglob("*.dcm")):
        data, dataset = path.read_bytes(), dcmread(path, stop_before_pixels=True)
        frames = dataset.PerFrameFunctionalGroupsSequence
        timing = dataset.SharedFunctionalGroupsSequence[0].MRTimingAndRelatedParametersSequence[0]
        (echo_time,) = {frame.MREchoSequence[0].EffectiveEchoTime for frame in frames}
        expected = {"EchoTime": echo_time, "RepetitionTime": timing.RepetitionTime, "FlipAngle": timing.FlipAngle}
        assert values(scan_header(data, len(data), SEQUENCES), *expected) == expected
        count += 1
    assert count
