"""Images with names in their pixels: every kind that is left out, on the real images that come with pydicom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("numpy", reason="numpy is not installed")
pytest.importorskip("libjpeg", reason="pylibjpeg-libjpeg is not installed")

import pydicom
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.multival import MultiValue
from pydicom.uid import UID

from icf_utils import catalogify_studyvisit_from_meta, deposit_visit_metadata, make_studyvisit_archive
from icf_utils.catalog.burned_in import KIND_NAMES, KINDS, burned_in_reason, image_kind
from icf_utils.catalog.previews import OmittedPreview, make_thumbnail
from tests.catalog.test_previews import STUDY, image

FILES = Path(pydicom.__file__).parent / "data" / "test_files"
STORAGE = "1.2.840.10008.5.1.4.1.1."


def find_file(name: str) -> Path:
    path = FILES / name
    if not path.is_file():
        pytest.skip(f"this pydicom has no {name}")
    return path


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("examples_palette.dcm", "ultrasound"),
        ("examples_rgb_color.dcm", "ultrasound"),
        ("examples_ybr_color.dcm", "ultrasound"),
        ("SC_rgb_rle.dcm", "screen-capture"),
        ("GDCMJ2K_TextGBR.dcm", "screen-capture"),
        ("JPGExtended.dcm", "screen-capture"),
        ("image_dfl.dcm", "screen-capture"),
    ],
)
def test_real_images_are_left_out_until_their_kind_is_asked_for(name: str, kind: str) -> None:
    left_out = make_thumbnail(dcmread(find_file(name)))
    assert isinstance(left_out, OmittedPreview)
    assert left_out.reason.endswith(f"and BurnedInAnnotation does not say NO; see --previews-of {kind}")
    others = [other for other in KIND_NAMES if other != kind]
    assert isinstance(make_thumbnail(dcmread(find_file(name)), others), OmittedPreview)
    assert isinstance(make_thumbnail(dcmread(find_file(name)), [kind]), bytes)


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "MR_small_bigendian.dcm", "693_J2KI.dcm"])
def test_real_images_of_other_kinds_are_shown(name: str) -> None:
    assert isinstance(make_thumbnail(dcmread(find_file(name))), bytes)


@pytest.mark.parametrize(
    ("kind", "sop_class"),
    [
        ("ultrasound", "3.1"),
        ("ultrasound", "6.1"),
        ("ultrasound", "6.2"),
        ("ultrasound", "6.3"),
        ("document", "104.1"),
        ("document", "104.3"),
        ("screen-capture", "7"),
        ("screen-capture", "7.4"),
        ("photograph", "77.1.1"),
        ("photograph", "77.1.1.1"),
        ("photograph", "77.1.4"),
        ("photograph", "77.1.5.1"),
        ("photograph", "77.1.5.4"),
        ("photograph", "77.1.7"),
        ("fluoroscopy", "12.1"),
        ("fluoroscopy", "12.1.1"),
        ("fluoroscopy", "12.2"),
        ("slide", "77.1.2"),
        ("slide", "77.1.3"),
        ("slide", "77.1.6"),
    ],
)
def test_each_storage_class_of_a_kind(kind: str, sop_class: str) -> None:
    by_class = image(Modality="MR", SOPClassUID=STORAGE + sop_class)
    assert isinstance(make_thumbnail(by_class), OmittedPreview)
    assert getattr(image_kind(by_class), "name", "") == kind
    assert isinstance(make_thumbnail(by_class, [kind]), bytes)
    by_class.BurnedInAnnotation = "NO"
    assert isinstance(make_thumbnail(by_class), bytes)
    del by_class.SOPClassUID, by_class.BurnedInAnnotation
    by_class.file_meta.MediaStorageSOPClassUID = UID(STORAGE + sop_class)
    assert isinstance(make_thumbnail(by_class), OmittedPreview)


def test_each_modality_of_a_kind() -> None:
    for kind in KINDS:
        for modality in kind.modalities:
            reason = burned_in_reason(image(Modality=modality))
            assert reason.endswith(f"--previews-of {kind.name}")


@pytest.mark.parametrize("sop_class", ["2", "4", "128", "1.1", "20", "77.10", "60", "71"])
def test_storage_classes_with_similar_numbers_are_shown(sop_class: str) -> None:
    assert burned_in_reason(image(SOPClassUID=STORAGE + sop_class)) == ""


@pytest.mark.parametrize(
    "values",
    [
        {"BurnedInAnnotation": MultiValue(str, ["NO", "YES"])},
        {"Modality": MultiValue(str, ["MR", "US"])},
        {"Modality": MultiValue(str, ["US", "MR"]), "BurnedInAnnotation": MultiValue(str, ["NO", "N"])},
        {"Modality": " us "},
        {"Modality": "US", "BurnedInAnnotation": ""},
        {"Modality": "US", "BurnedInAnnotation": "N"},
    ],
)
def test_malformed_values_hide_nothing(values: dict[str, Any]) -> None:
    with_values = image()
    for keyword, value in values.items():
        with pydicom.config.disable_value_validation():
            with_values[keyword] = pydicom.DataElement(keyword, "CS", value)
    assert isinstance(make_thumbnail(with_values), OmittedPreview)


@pytest.mark.parametrize(
    ("types", "label", "is_shown"),
    [
        (["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], "NO", True),
        (["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], None, True),
        (["ORIGINAL", "PRIMARY", "OVERVIEW", "NONE"], "NO", True),
        (["ORIGINAL", "PRIMARY", "OVERVIEW", "NONE"], None, False),
        (["ORIGINAL", "PRIMARY", "LABEL", "NONE"], "NO", False),
        (["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], "YES", False),
    ],
)
def test_labels_of_slides_are_never_shown(types: list[str], label: str | None, is_shown: bool) -> None:
    slide = image(Modality="SM", SOPClassUID=f"{STORAGE}77.1.6", ImageType=types, SpecimenLabelInImage=label)
    assert isinstance(make_thumbnail(slide, KIND_NAMES), OmittedPreview) is not is_shown
    slide.BurnedInAnnotation = "NO"
    assert isinstance(make_thumbnail(slide, KIND_NAMES), OmittedPreview) is not is_shown


def test_a_visit_names_each_series_that_is_left_out(tmp_path: Path) -> None:
    names = ("CT_small.dcm", "examples_palette.dcm", "SC_rgb_rle.dcm", "JPGExtended.dcm", "MR_truncated.dcm")
    source, root = tmp_path / "in", tmp_path / "store"
    source.mkdir()
    for at, name in enumerate(names, 1):
        one: Dataset = dcmread(find_file(name))
        one.StudyInstanceUID, one.SeriesInstanceUID, one.SeriesNumber = "1.2.3", f"1.2.3.{at}", at
        one.StudyDate, one.StudyTime = "20200102", "030405"
        dcmwrite(source / f"{at}.dcm", one)
    make_studyvisit_archive(source, root, STUDY, "v1")
    deposit_visit_metadata(root, STUDY, "v1")
    result = catalogify_studyvisit_from_meta(root, STUDY, "v1", previews=True, store_url="https://data.example.org")
    assert result.previews == 1
    left_out = {notice.subject: notice.message for notice in result.notices if notice.code == "preview-left-out"}
    assert list(left_out) == [f"v1, series {at}" for at in range(2, 6)]
    assert "ultrasound" in left_out["v1, series 2"]
    assert left_out["v1, series 5"].startswith("its pixel data (Explicit VR Little Endian with 16 bits) are damaged")
    asked = catalogify_studyvisit_from_meta(
        root, STUDY, "v1", previews_of=["ultrasound", "screen-capture"], store_url="https://data.example.org"
    )
    assert asked.previews == 4
