"""The JSON of a visit: canonical bytes, read back unchanged, and nothing else accepted."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icf_utils.errors import DepositDamaged
from icf_utils.metadata.records import (
    STANDARD_TAGS,
    UID_TAGS,
    ImageRecord,
    TarballRecord,
    encode_images,
    encode_json,
    encode_tarball,
    parse_images,
    parse_tarball,
)

any_text = st.text(st.characters() | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=["Cs"]))
number = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
scalar = st.text(st.characters(exclude_categories=["Cs"])) | number
value = scalar | st.lists(scalar, max_size=3)
digest = st.from_regex(r"[0-9a-f]{32}", fullmatch=True)
extra_tags = st.dictionaries(st.sampled_from(["EchoTime", "Rows", "BodyPartExamined", "AcquisitionTime"]), value)
image = st.builds(
    ImageRecord,
    path=any_text,
    md5=digest,
    size=st.integers(0, 2**63),
    offset=st.integers(0, 2**63),
    tags=st.tuples(st.fixed_dictionaries(dict.fromkeys(STANDARD_TAGS, value)), extra_tags).map(
        lambda two: {**two[0], **two[1]}
    ),
    uids=st.fixed_dictionaries(dict.fromkeys(UID_TAGS, st.from_regex(r"[0-9.]{0,64}", fullmatch=True))),
)


@given(images=st.lists(image, max_size=4))
def test_images_are_read_back(images: list[ImageRecord]) -> None:
    raw = encode_images(images)
    assert parse_images(raw, "here") == tuple(images)
    assert encode_images(parse_images(raw, "here")) == raw
    assert raw.endswith(b"]\n")
    assert raw.count(b"\n") == (len(images) + 2 if images else 1)
    raw.decode("utf-8")
    assert json.loads(raw) is not None


def test_the_form_of_an_image() -> None:
    tags: dict[str, Any] = {"Rows": 2, "EchoTime": [1.5, 2], "SeriesDescription": "Sch\u00e4del", "SeriesNumber": 3}
    record = ImageRecord("s_v/\udce4\n.dcm", "0" * 32, 5, 1536, tags, {"SOPInstanceUID": "1.2"})
    assert encode_images([record]).decode() == (
        '[\n{"path": "s_v/\\udce4\\n.dcm", "md5": "00000000000000000000000000000000", "size": 5, '
        '"SeriesDescription": "Sch\u00e4del", "SeriesNumber": 3, "Modality": "", "MRAcquisitionType": "", '
        '"ProtocolName": "", "PulseSequenceName": "", "offset": 1536, "SOPInstanceUID": "1.2", '
        '"SeriesInstanceUID": "", "StudyInstanceUID": "", "EchoTime": [1.5, 2], "Rows": 2}\n]\n'
    )
    assert encode_images([]) == b"[]\n"


def test_the_form_of_the_tarball() -> None:
    record = TarballRecord(10240, "f" * 32, "icf/v_dicom.tar", "s/v_dicom.tar")
    raw = encode_tarball(record)
    assert raw == (
        b'{"size": 10240, "md5": "ffffffffffffffffffffffffffffffff", "dspath": "icf/v_dicom.tar", '
        b'"storepath": "s/v_dicom.tar"}\n'
    )
    assert parse_tarball(raw, "here") == record


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), [1, float("-inf")]])
def test_nan_and_infinity_are_never_written(odd: object) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_json({"a": odd})


GOOD_IMAGE: dict[str, Any] = {
    "path": "s_v/a",
    "md5": "0" * 32,
    "size": 1,
    "offset": 512,
    **dict.fromkeys(STANDARD_TAGS, ""),
    **dict.fromkeys(UID_TAGS, ""),
}
GOOD_TARBALL: dict[str, Any] = {"size": 1, "md5": "0" * 32, "dspath": "icf/v_dicom.tar", "storepath": "s/v_dicom.tar"}


@pytest.mark.parametrize(
    ("key", "odd"),
    [
        *(("path", None), ("path", 1), ("md5", "x"), ("md5", "0" * 31), ("md5", "A" * 32), ("md5", "0" * 33)),
        *(("size", -1), ("size", "1"), ("size", 1.0), ("size", True), ("offset", None), ("offset", -5)),
        *(("SOPInstanceUID", 5), ("Modality", None), ("Modality", {}), ("Modality", [[]]), ("Modality", [None])),
        *(("Modality", True), ("SeriesNumber", float("nan"))),
    ],
)
def test_contradictory_image_records(key: str, odd: object) -> None:
    raw = json.dumps([GOOD_IMAGE, {**GOOD_IMAGE, key: odd}]).encode()
    with pytest.raises(DepositDamaged, match="'here") as caught:
        parse_images(raw, "here")
    assert caught.value.exit_code == 5
    assert "verify --repair" in str(caught.value)


@pytest.mark.parametrize("key", ["path", "md5", "size", "offset", *UID_TAGS])
def test_images_that_lack_something(key: str) -> None:
    raw = json.dumps([{name: item for name, item in GOOD_IMAGE.items() if name != key}]).encode()
    with pytest.raises(DepositDamaged, match=f"'here, record 1'.*{key}"):
        parse_images(raw, "here")


@pytest.mark.parametrize(
    ("key", "odd"),
    [("size", -1), ("size", None), ("size", True), ("md5", "0"), ("dspath", 1), ("storepath", None), ("storepath", [])],
)
def test_malformed_tarball_records(key: str, odd: object) -> None:
    assert parse_tarball(json.dumps(GOOD_TARBALL).encode(), "here").size == 1
    with pytest.raises(DepositDamaged, match="'here'"):
        parse_tarball(json.dumps({**GOOD_TARBALL, key: odd}).encode(), "here")


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[1]", b"5", b"null", b'"x"', b"\xff", b"[NaN]", b"[" * 100_000, b"[]]", b"\xef\xbb\xbf[]"]
)
def test_other_json(raw: bytes) -> None:
    for parse in (parse_tarball, parse_images):
        with pytest.raises(DepositDamaged, match="'here"):
            parse(raw, "here")


@given(raw=st.binary(max_size=60))
def test_noise(raw: bytes) -> None:
    for parse in (parse_tarball, parse_images):
        with suppress(DepositDamaged):
            parse(raw, "here")


@given(images=st.lists(image, min_size=1, max_size=2), at=st.floats(0, 1), what=st.binary(min_size=1, max_size=3))
def test_any_damage(images: list[ImageRecord], at: float, what: bytes) -> None:
    raw = bytearray(encode_images(images))
    place = int(at * (len(raw) - 1))
    raw[place : place + len(what)] = what
    try:
        parse_images(bytes(raw), "here")
    except DepositDamaged as error:
        assert "here" in str(error)  # noqa: PT017 - either is right
