from __future__ import annotations

from dataclasses import replace

import pytest

from icf_utils.catalog.privacy import name_rule
from icf_utils.catalog.series import group_series, list_modalities, make_distinct
from icf_utils.errors import InvalidSetting
from icf_utils.metadata.records import ImageRecord
from tests.catalog.conftest import UID_ROOT, make_image, make_series, typical_images


def numbers(images: list[ImageRecord]) -> list[str]:
    return [series.number for series in group_series(images)]


def test_images_belong_together_by_uid() -> None:
    two = [make_image(f"{at}.dcm", f"{UID_ROOT}.{at % 2}", SeriesNumber=4, SeriesDescription="same") for at in range(6)]
    assert [len(series.images) for series in group_series(two)] == [3, 3]


def test_images_without_a_uid_belong_together_by_number_and_description() -> None:
    images = [make_image(f"{at}", SeriesNumber=1, SeriesDescription="ab"[at % 2]) for at in range(4)]
    assert [(one.description, len(one.images)) for one in group_series(images)] == [("a", 2), ("b", 2)]


def test_series_are_ordered_by_number() -> None:
    images = [make_image(f"{at}", f"{UID_ROOT}.{at}", SeriesNumber=at) for at in ("10", 2, "", "x", "-1")]
    assert numbers(images) == ["-1", "2", "10", "", "x"]


def test_sizes_and_names_come_from_the_images() -> None:
    first = group_series(typical_images())[0]
    assert (first.number, first.description, first.protocol, first.modality) == ("1", "localizer", "AAHead_Scout", "MR")
    assert first.size == 3 * 210_000
    assert [image.name for image in first.images] == ["s01_0001.dcm", "s01_0002.dcm", "s01_0003.dcm"]


def test_names_that_identify_are_replaced_by_numbers() -> None:
    images = [make_image(f"x/MR.{UID_ROOT}.9.{at}.dcm", f"{UID_ROOT}.1", SeriesNumber=1) for at in range(2)]
    images.append(make_image("x/SCAN.2020.01.31.10.22", f"{UID_ROOT}.1", SeriesNumber=1))
    names = [image.name for image in group_series(images)[0].images]
    assert names == ["image_0001.dcm", "image_0002.dcm", "image_0003"]


@pytest.mark.parametrize(
    "name", ["DOE_JOHN.dcm", "jdoe-0001.dcm", "4711223_0001.dcm", "Müller.IMA", "IM0001.doe", "Kn1.dcm"]
)
def test_names_that_may_be_of_a_person_are_replaced_by_numbers(name: str) -> None:
    (series,) = group_series([make_image(f"x/{name}", f"{UID_ROOT}.1", SeriesNumber=1)])
    assert series.images[0].name.startswith("image_0001")
    assert "doe" not in series.images[0].name


@pytest.mark.parametrize("name", ["IM000001.dcm", "1-001.dcm", "MR_t1_mprage_12.IMA", "i1.MRDC.3", "slice_004"])
def test_plain_names_stay(name: str) -> None:
    image = make_image(f"x/{name}", f"{UID_ROOT}.1", SeriesDescription="t1 mprage", ProtocolName="MRDC")
    assert group_series([image])[0].images[0].name == name


def test_settings_say_which_names_are_shown() -> None:
    image = make_image("x/sub-kirk_0001.dcm", f"{UID_ROOT}.1")
    names = [group_series([image], rule)[0].images[0].name for rule in ("plain", "all", "none")]
    assert names == ["image_0001.dcm", "sub-kirk_0001.dcm", "image_0001.dcm"]
    with pytest.raises(InvalidSetting, match="'plain', 'all' or 'none'"):
        name_rule("some")


def test_the_middle_image_is_known_by_its_place() -> None:
    images = [replace(image, offset=at * 1000) for at, image in enumerate(make_series(1, 5, "d"))]
    assert group_series(images)[0].middle == (2000, 210_000)


def test_equal_names_in_one_series_stay_apart() -> None:
    images = [make_image(f"{folder}/1.dcm", "1.2", SeriesNumber=1) for folder in "ab"]
    assert [image.name for image in group_series(images)[0].images] == ["1.dcm", "1.dcm (2)"]


def test_folders_are_plain_names_and_stay_apart() -> None:
    texts = ["t1 mprage/sag <b>", "../../etc", "t1 mprage/sag <b>", "", "x" * 300, "頭部"]
    images = [make_image(f"{at}", f"{UID_ROOT}.{at}", SeriesDescription=text) for at, text in enumerate(texts)]
    folders = [series.folder for series in group_series(images)]
    assert folders == ["t1_mprage_sag_b", "etc", "t1_mprage_sag_b_2", "series", "x" * 100, "頭部"]


@pytest.mark.parametrize("text", ["ศีรษะ ข้าพเจ้า", "मस्तिष्क की जाँच", "დიდი ტვინი", "الدِّمَاغ"])
def test_vowel_signs_stay_in_names(text: str) -> None:
    (series,) = group_series([make_image("1.dcm", UID_ROOT, SeriesDescription=text, ProtocolName=text)])
    assert series.description == text
    assert series.folder == text.replace(" ", "_")
    assert dict(series.kind)["ProtocolName"] == text


def test_folders_begin_with_the_number() -> None:
    assert [series.folder for series in group_series(typical_images())] == [
        "01_localizer",
        "02_t1_mprage_sag",
        "03_Dose_Report",
    ]


def test_mixed_modalities_are_all_named() -> None:
    images = [make_image(f"{at}", "1.2", Modality=modality) for at, modality in enumerate(["PT", "CT", "", "PT"])]
    (series,) = group_series(images)
    assert series.modality == "CT/PT"
    assert dict(series.kind)["Modality"] == ("CT", "PT")
    assert list_modalities([series]) == ["CT", "PT"]


def test_a_value_that_only_later_images_have_counts() -> None:
    images = [make_image("1", "1.2"), make_image("2", "1.2", ProtocolName="late")]
    assert group_series(images)[0].protocol == "late"


def test_no_uid_in_descriptions() -> None:
    images = make_series(1, 2, f"derived from {UID_ROOT}.5.1")
    assert "3680043" not in repr(group_series(images))


def test_make_distinct_never_repeats_a_name() -> None:
    names = make_distinct(["a", "a (2)", "a", "a"], "{name} ({number})")
    assert names == ["a", "a (2)", "a (3)", "a (4)"]
