"""Pictures of series: only when asked for, reproducible, without text in them, kept as long as they fit."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("numpy", reason="numpy is not installed")

import numpy as np
from pydicom import Dataset, FileMetaDataset, dcmread, dcmwrite
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from icf_utils import (
    catalogify_studyvisit_from_meta,
    deposit_visit_dataset,
    deposit_visit_metadata,
    make_studyvisit_archive,
    verify_visit,
)
from icf_utils.catalog.burned_in import KIND_NAMES, check_kinds
from icf_utils.catalog.previews import SIDE, OmittedPreview, encode_png, make_thumbnail, shows_head, shrink
from icf_utils.catalog.rebuild import build_catalog
from icf_utils.errors import InvalidSetting
from icf_utils.store.layout import Visit

STUDY = "study-a"


def image(series: int = 1, **values: Any) -> Dataset:
    """A bright square on a dark ground."""
    dataset = Dataset()
    pixels = np.zeros((200, 400), np.uint16)
    pixels[50:150, 100:300] = 1000
    plain: dict[str, Any] = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4",
        "SOPInstanceUID": generate_uid(entropy_srcs=[repr((series, sorted(values)))]),
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": f"1.2.3.{series}",
        "StudyDate": "20200102",
        "StudyTime": "030405",
        "Modality": "MR",
        "SeriesNumber": series,
        "Rows": 200,
        "Columns": 400,
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "PixelData": pixels.tobytes(),
    }
    for name, value in {**plain, **values}.items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def pixels_of(png: bytes) -> Any:
    """Decoded by hand, so that nothing but the standard is trusted: grey, no filter."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, data, size = 8, b"", (0, 0)
    names = []
    while at < len(png):
        length, name = struct.unpack(">I4s", png[at : at + 8])
        body = png[at + 8 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0] == zlib.crc32(name + body)
        names.append(name)
        size = struct.unpack(">II", body[:8]) if name == b"IHDR" else size
        data += body if name == b"IDAT" else b""
        at += 12 + length
    assert names == [b"IHDR", b"IDAT", b"IEND"]  # no time, no text
    lines = np.frombuffer(zlib.decompress(data), np.uint8).reshape(size[1], -1)
    assert not lines[:, 0].any()
    return lines[:, 1:]


def thumb(**values: Any) -> Any:
    found = make_thumbnail(image(**values))
    assert isinstance(found, bytes)
    return pixels_of(found)


def test_a_picture_is_small_and_keeps_its_shape() -> None:
    pixels = thumb()
    assert pixels.shape == (SIDE // 2, SIDE)
    assert (pixels[0, 0], pixels[40, 80]) == (0, 255)


def test_inverted_images_are_shown_as_a_reader_sees_them() -> None:
    pixels = thumb(PhotometricInterpretation="MONOCHROME1")
    assert (pixels[0, 0], pixels[40, 80]) == (255, 0)


def test_the_window_of_the_image_is_used() -> None:
    pixels = thumb(WindowCenter="2000", WindowWidth="4000")
    assert len(set(np.unique(pixels))) >= 2
    narrow = thumb(WindowCenter="10", WindowWidth="2")
    assert (narrow[0, 0], narrow[40, 80]) == (0, 255)


def test_the_middle_of_several_frames_is_shown() -> None:
    frames = np.zeros((5, 200, 400), np.uint16)
    frames[2, :, 200:] = 500
    pixels = thumb(NumberOfFrames=5, PixelData=frames.tobytes())
    assert (pixels[5, 5], pixels[5, 150]) == (0, 255)


def test_an_image_of_one_value_is_black() -> None:
    assert not thumb(PixelData=np.full((200, 400), 7, np.uint16).tobytes()).any()


def test_colours_stay() -> None:
    colours = np.zeros((20, 30, 3), np.uint8)
    colours[..., 0] = 200
    more: dict[str, Any] = {
        "PhotometricInterpretation": "RGB",
        "SamplesPerPixel": 3,
        "PlanarConfiguration": 0,
        "BitsAllocated": 8,
    }
    size: dict[str, Any] = {"BitsStored": 8, "HighBit": 7, "Rows": 20, "Columns": 30, "PixelData": colours.tobytes()}
    png = make_thumbnail(image(**more, **size))
    assert isinstance(png, bytes)
    assert pixels_of(png).reshape(20, 30, 3)[3, 3].tolist() == [200, 0, 0]


def test_the_files_bytes_are_the_standards_alone() -> None:
    """Stored, not compressed: no version of zlib decides about them."""
    png = encode_png(np.arange(70_000, dtype=np.uint32).reshape(250, 280).astype(np.uint8))
    assert len(png) > 70_000
    assert (pixels_of(png) == np.arange(70_000, dtype=np.uint32).reshape(250, 280).astype(np.uint8)).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 1000), (1000, 1), (161, 160), (512, 511), (20, 4000)])
def test_every_shape_becomes_small(shape: tuple[int, int]) -> None:
    result = shrink(np.full(shape, 9, np.uint8))
    assert max(result.shape) <= SIDE
    assert (result == 9).all()


@pytest.mark.parametrize(
    ("values", "is_shown"),
    [
        ({"BurnedInAnnotation": "YES"}, False),
        ({"BurnedInAnnotation": "NO"}, True),
        ({"ConversionType": "WSD"}, False),
        ({"ConversionType": ""}, True),
        ({"Modality": "US"}, False),
        ({"Modality": "US", "BurnedInAnnotation": "NO"}, True),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1", "Modality": "MR"}, False),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.2"}, False),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.4"}, False),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.12.1.1"}, False),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1"}, False),
        ({"Modality": "RF", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1"}, False),
        ({"Modality": "SM", "SpecimenLabelInImage": "YES", "BurnedInAnnotation": "NO"}, False),
        ({"Modality": "SM", "ImageType": ["ORIGINAL", "PRIMARY", "LABEL", "NONE"], "BurnedInAnnotation": "NO"}, False),
        ({"ConversionType": "WSD", "BurnedInAnnotation": "NO"}, True),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, False),
        ({"PixelData": None}, False),
    ],
)
def test_images_that_may_have_text_in_them_are_left_out(values: dict[str, Any], is_shown: bool) -> None:
    assert isinstance(make_thumbnail(image(**values)), OmittedPreview) is not is_shown


def test_kinds_with_text_are_shown_if_asked_for_by_name() -> None:
    ultrasound = image(Modality="US")
    assert isinstance(make_thumbnail(ultrasound, ["ultrasound"]), bytes)
    left_out = make_thumbnail(ultrasound, ["photograph"])
    assert isinstance(left_out, OmittedPreview)
    assert left_out.reason.endswith("see --previews-of ultrasound")
    assert isinstance(make_thumbnail(image(Modality="US", BurnedInAnnotation="YES"), KIND_NAMES), OmittedPreview)
    assert isinstance(make_thumbnail(image(Modality="SM", SpecimenLabelInImage="YES"), KIND_NAMES), OmittedPreview)
    with pytest.raises(InvalidSetting, match="'xray' is not a kind of image \\(known: ultrasound, "):
        check_kinds(["ultrasound", "xray"])


def test_a_palette_gives_the_colours() -> None:
    palette: dict[str, Any] = {
        f"{colour}PaletteColorLookupTable{part}": value
        for colour, table in (("Red", [0, 255]), ("Green", [0, 128]), ("Blue", [255, 0]))
        for part, value in (("Descriptor", [256, 0, 8]), ("Data", bytes(table + [0] * 254)))
    }
    indices = np.zeros((20, 30), np.uint8)
    indices[10:] = 1
    size: dict[str, Any] = {"BitsStored": 8, "HighBit": 7, "BitsAllocated": 8, "Rows": 20, "Columns": 30}
    png = make_thumbnail(
        image(**palette, **size, PhotometricInterpretation="PALETTE COLOR", PixelData=indices.tobytes())
    )
    assert isinstance(png, bytes)
    pixels = pixels_of(png).reshape(20, 30, 3)
    assert (pixels[0, 0].tolist(), pixels[15, 0].tolist()) == ([0, 0, 255], [255, 128, 0])


@pytest.mark.parametrize("width", ["0", ["0", "100"], ""])
def test_a_window_without_width_is_ignored(width: Any) -> None:
    pixels = thumb(WindowCenter="500" if isinstance(width, str) else ["500", "50"], WindowWidth=width)
    assert (pixels[0, 0], pixels[40, 80]) == (0, 255)


@pytest.mark.parametrize(("implicit", "little"), [(True, True), (False, True)])
def test_images_without_a_preamble_are_shown(implicit: bool, little: bool) -> None:
    plain = image()
    del plain.file_meta
    buffer = io.BytesIO()
    dcmwrite(buffer, plain, implicit_vr=implicit, little_endian=little)
    assert isinstance(make_thumbnail(dcmread(io.BytesIO(buffer.getvalue()), force=True)), bytes)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"BodyPartExamined": "HEAD"}, True),
        ({"BodyPartExamined": "KNEE"}, False),
        ({}, True),
        ({"Modality": "CT", "BodyPartExamined": "ABDOMEN"}, False),
        ({"Modality": "CT", "BodyPartExamined": "ABDOMEN", "StudyDescription": "Kopf und Abdomen"}, True),
        ({"Modality": "US"}, False),
        ({"RecognizableVisualFeatures": "NO", "BodyPartExamined": "HEAD"}, False),
    ],
)
def test_heads_are_distinguished_from_other_parts(values: dict[str, Any], expected: bool) -> None:
    assert shows_head(image(**values), ()) is expected


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A visit of five series: a head, one with text, one without an image, a broken one, and a knee."""
    source, root = tmp_path / "in", tmp_path / "store"
    source.mkdir()
    images = [
        image(1, SeriesDescription="t1 head"),
        image(2, BurnedInAnnotation="YES"),
        image(3, PixelData=None, Modality="SR"),
        image(4, PixelData=b"\0\0"),
        image(5, BodyPartExamined="KNEE"),
    ]
    for at, one in enumerate(images):
        buffer = io.BytesIO()
        dcmwrite(buffer, one, enforce_file_format=True)
        (source / f"{at}.dcm").write_bytes(buffer.getvalue())
    make_studyvisit_archive(source, root, STUDY, "v1")
    deposit_visit_metadata(root, STUDY, "v1")
    deposit_visit_dataset(root, STUDY, "v1")
    return root


def pictures(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.rglob("*.png") if path.parent.name == "previews"}


def test_pictures_are_made_when_asked_for(store: Path) -> None:
    assert catalogify_studyvisit_from_meta(store, STUDY, "v1").previews == 0
    assert pictures(store) == {}
    result = catalogify_studyvisit_from_meta(store, STUDY, "v1", previews=True)
    assert result.previews == 2
    assert sorted(name.rpartition("-")[0] for name in pictures(store)) == ["0000", "0000-2", "0004", "0004-2"]
    reported = [(notice.code, notice.subject) for notice in result.notices]
    reasons = {notice.subject: notice.message for notice in result.notices}
    undecodable = "its pixel data (Explicit VR Little Endian with 12 bits) are damaged or cannot be decoded here"
    assert reasons["v1, series 4"] == undecodable
    assert reported == [
        ("preview-face", "v1, series 1"),
        ("preview-left-out", "v1, series 2"),
        ("preview-left-out", "v1, series 3"),
        ("preview-left-out", "v1, series 4"),
    ]
    assert verify_visit(store, STUDY, "v1").findings == ()


def test_pictures_survive_and_are_taken_away(store: Path) -> None:
    catalogify_studyvisit_from_meta(store, STUDY, "v1", previews=True)
    made = pictures(store)
    assert catalogify_studyvisit_from_meta(store, STUDY, "v1").files_written == 0
    build_catalog(store, STUDY)
    assert pictures(store) == made
    shutil.rmtree(store / STUDY / "catalog")
    build_catalog(store, STUDY, previews=True)
    assert pictures(store) == made  # the same bytes again
    assert build_catalog(store, STUDY, previews=False).previews == 0
    assert pictures(store) == {}
    assert verify_visit(store, STUDY, "v1").findings == ()


def test_a_damaged_picture_is_found_and_dropped(store: Path) -> None:
    catalogify_studyvisit_from_meta(store, STUDY, "v1", previews=True)
    path = next(path for path in store.rglob("0000-*.png") if path.name.count("-") == 1)
    path.write_bytes(path.read_bytes()[:-1])
    (finding,) = verify_visit(store, STUDY, "v1").findings
    assert finding.path == path
    assert catalogify_studyvisit_from_meta(store, STUDY, "v1").previews == 1
    assert verify_visit(store, STUDY, "v1").findings == ()


def make_slices(tmp_path: Path, images: list[Dataset]) -> Path:
    source, root = tmp_path / "in", tmp_path / "store"
    source.mkdir()
    for at, one in enumerate(images):
        one.SeriesInstanceUID = images[0].SeriesInstanceUID
        dcmwrite(source / f"{at}.dcm", one, enforce_file_format=True)
    make_studyvisit_archive(source, root, STUDY, "v1")
    deposit_visit_metadata(root, STUDY, "v1")
    deposit_visit_dataset(root, STUDY, "v1")
    return root


@pytest.mark.parametrize(("amount", "places"), [(1, ["2"]), (2, ["1", "2"]), (5, ["1", "2", "3"])])
def test_first_middle_and_last_images(tmp_path: Path, amount: int, places: list[str]) -> None:
    images = [image(1, BodyPartExamined="KNEE") for _ in range(amount)]
    for at, one in enumerate(images):
        one.SOPInstanceUID = generate_uid(entropy_srcs=[str(at)])
        one.PixelData = bytes([at + 1]) * len(one.PixelData)
    root = make_slices(tmp_path, images)
    assert catalogify_studyvisit_from_meta(root, STUDY, "v1", previews=True).previews == 1
    assert len(pictures(root)) == 1 + len(places)
    (series,) = json.loads((root / STUDY / "catalog" / "data" / "visits" / "v1.json").read_text())["series"]
    assert list(series.get("slices", {})) == places
    assert len({(root / STUDY / "catalog" / name).read_bytes() for name in series.get("slices", {}).values()}) <= len(
        places
    )
    assert verify_visit(root, STUDY, "v1").findings == ()
    made = pictures(root)
    build_catalog(root, STUDY)
    assert pictures(root) == made


def test_a_slice_with_names_is_left_out_and_named(tmp_path: Path) -> None:
    images = [image(1, BodyPartExamined="KNEE") for _ in range(3)]
    for at, one in enumerate(images):
        one.SOPInstanceUID = generate_uid(entropy_srcs=[str(at)])
    images[2].BurnedInAnnotation = "YES"
    result = catalogify_studyvisit_from_meta(make_slices(tmp_path, images), STUDY, "v1", previews=True)
    assert [notice.subject for notice in result.notices] == ["v1, series 1, last image"]
    assert len(pictures(tmp_path)) == 3


def test_real_images_of_all_kinds(visits: Path, tmp_path: Path) -> None:
    """Every syntax of the open data: as a picture, or left out by name."""
    for folder in sorted(path for path in visits.iterdir() if path.is_dir()):
        if "-" not in folder.name:
            continue
        for path in sorted(folder.rglob("*"))[:30]:
            if path.is_file() and path.read_bytes()[128:132] == b"DICM":
                try:
                    found = make_thumbnail(dcmread(path))
                except Exception as error:  # noqa: BLE001 - the decoder is not installed
                    assert type(error).__name__ in ("RuntimeError", "NotImplementedError"), path  # noqa: PT017
                    continue
                assert isinstance(found, (bytes, OmittedPreview))
    assert Visit(tmp_path, STUDY, "v").archive.name
