"""The names of an input's files."""

from __future__ import annotations

from icf_utils.metadata.records import ImageRecord
from icf_utils.processing.arrange import arrange_images


def image(path: str, series: str, sop: str, number: object = 1, description: str = "") -> ImageRecord:
    tags = {"SeriesNumber": number, "SeriesDescription": description}
    uids = {"SeriesInstanceUID": series, "SOPInstanceUID": sop, "StudyInstanceUID": "1"}
    return ImageRecord(path, "0" * 32, 1, 0, tags, uids)  # type: ignore[arg-type]


def test_a_folder_for_each_series() -> None:
    images = [
        image("s_v/x/IM1", "1.1", "1", 2, "t1 (mprage)/../x"),
        image("s_v/y/IM1", "1.1", "2", 2, "t1 (mprage)/../x"),
        image("s_v/x/IM3", "1.2", "3", 2, "T1 (mprage)/../x"),
        image("s_v/x/IM4", "1.3", "4", "", ""),
    ]
    assert [file.path for file in arrange_images(images, "series")] == [
        *("0002_t1_mprage_.._x/IM1", "0002_t1_mprage_.._x/IM1-2", "0002_T1_mprage_.._x-2/IM3", "0000/IM4")
    ]


def test_names_as_mercure_has_them() -> None:
    images = [image("s_v/a.dcm", "1.1", "9"), image("s_v/b.dcm", "", "")]
    assert [file.path for file in arrange_images(images, "mercure")] == ["1.1#9.dcm", "none#b.dcm.dcm"]


def test_names_of_the_archive() -> None:
    assert arrange_images([image("s_v/a/b.dcm", "1", "2")], "archive")[0].path == "a/b.dcm"


def test_a_number_gives_no_name_that_is_taken() -> None:
    images = [
        image("s_v/x/IM.dcm", "1.1", "1", 3, "scan"),
        image("s_v/y/IM.dcm", "1.1", "2", 3, "scan"),
        image("s_v/z/IM-2.dcm", "1.1", "3", 3, "scan"),
        image("s_v/w/IM.dcm", "1.1", "4", 3, "scan"),
        image("s_v/p/1", "1.2", "5", 3, "Scan"),
        image("s_v/q/1", "1.3", "6", 3, "scan-2"),
    ]
    assert [file.path for file in arrange_images(images, "series")] == [
        *("0003_scan/IM.dcm", "0003_scan/IM-2.dcm", "0003_scan/IM-2-2.dcm", "0003_scan/IM-3.dcm"),
        *("0003_Scan-2/1", "0003_scan-2-2/1"),
    ]
