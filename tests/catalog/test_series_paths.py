"""The real folders of a series: shown where they are harmless, and only as far as a command with them is right."""

from __future__ import annotations

import pytest

from icf_utils.catalog.privacy import NameRule, is_shown_folder
from icf_utils.catalog.series import group_series
from icf_utils.catalog.series_paths import SeriesPaths
from icf_utils.metadata.records import ImageRecord
from tests.catalog.conftest import UID_ROOT, make_image

ROOT = "proj-1_v1"


def images(number: int, *paths: str, description: str = "t1") -> list[ImageRecord]:
    uid = f"{UID_ROOT}.5.{number}"
    return [
        make_image(f"{ROOT}/{path}", uid, SeriesNumber=number, SeriesDescription=description, Modality="MR")
        for path in paths
    ]


def paths_of(*members: list[ImageRecord], names: NameRule = "plain") -> list[SeriesPaths]:
    return [series.paths for series in group_series([one for group in members for one in group], names)]


def test_a_folder_of_one_series_can_be_got_by_its_path() -> None:
    found = paths_of(images(1, "MR1/1.dcm", "MR1/2.dcm"), images(2, "MR2/1.dcm"))
    assert [(one.folders, one.alone, one.names) for one in found] == [
        ((f"{ROOT}/MR1",), True, True),
        ((f"{ROOT}/MR2",), True, True),
    ]


def test_a_folder_of_two_series_belongs_to_neither() -> None:
    found = paths_of(images(1, "MR/1.dcm"), images(2, "MR/2.dcm"))
    assert [(one.folders, one.alone) for one in found] == [((f"{ROOT}/MR",), False)] * 2


def test_a_folder_with_another_series_below_is_not_alone() -> None:
    found = paths_of(images(1, "MR/1.dcm"), images(2, "MR/2/2.dcm"))
    assert [(one.folders, one.alone) for one in found] == [((f"{ROOT}/MR",), False), ((f"{ROOT}/MR/2",), True)]


def test_several_folders_are_named_by_what_they_have_in_common() -> None:
    first = images(1, *(f"MR1/{at}/1.dcm" for at in range(6)))
    (found,) = paths_of(first)
    assert (found.folders, found.alone) == ((f"{ROOT}/MR1",), True)
    (whole,) = paths_of([*first, *images(1, "MR3/1.dcm")])
    assert (whole.folders, whole.alone) == ((ROOT,), True)
    found = paths_of(first, images(2, "MR2/1.dcm"))[0]
    assert (found.folders, found.alone) == ((f"{ROOT}/MR1",), True)


def test_many_folders_among_others_are_not_listed() -> None:
    parts = [f"MR{at}" for at in range(6)]
    found = paths_of(images(1, *(f"{part}/1.dcm" for part in parts)), images(2, *(f"{part}/2.dcm" for part in parts)))
    assert [(one.folders, one.alone) for one in found] == [((), False)] * 2


@pytest.mark.parametrize(
    "folder", ["DOE_JANE", "20200131", "12345678", "MR1/Jane", "1.2.826.0.1.3680043.8.498.5.1", "müller", "a\u202eb"]
)
def test_folders_that_may_identify_somebody_are_not_shown(folder: str) -> None:
    (found,) = paths_of(images(1, f"{folder}/1.dcm"), names="plain")
    assert found == SeriesPaths((), False, True)


def test_the_setting_for_names_applies_to_folders() -> None:
    for folder, rule, is_shown in (
        ("DOE_JANE", "all", True),
        ("20200131", "all", False),
        ("MR1", "none", False),
        ("scans/4/resources/DICOM", "plain", True),
        ("dicoms/04_t1", "plain", True),
    ):
        assert is_shown_folder(f"{ROOT}/{folder}", [], ["t1"], rule) is is_shown  # type: ignore[arg-type]


def test_names_that_were_replaced_are_not_called_real() -> None:
    found = paths_of(images(1, "MR1/JANE.dcm"), images(2, "MR2/1.dcm"))
    assert [one.names for one in found] == [False, True]
