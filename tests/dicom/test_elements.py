"""The scan finds what pydicom finds, never a truncated value, and the same wherever its buffer ends."""

from __future__ import annotations

import random
import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pydicom
import pydicom.data
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.errors import InvalidDicomError

from icf_utils.dicom.elements import HEAD_LIMIT, Header, scan_header
from icf_utils.dicom.header import FIRST_READ, check_pixels, encapsulated_is_whole, read_head
from tests.data.make_dicom import (
    DEFLATED,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    JPEG_BASELINE,
    UNDEFINED_LENGTH,
    dicom_bytes,
    element,
    item,
)

SERIES_DESCRIPTION, SERIES_NUMBER, PROTOCOL_NAME, PIXELS = 0x0008103E, 0x00200011, 0x00181030, 0x7FE00010
CHARACTER_SET = 0x00080005
WANTED = frozenset(
    {
        *(CHARACTER_SET, 0x00080016, 0x00080018, 0x00080020, 0x00080030, 0x00080060, SERIES_DESCRIPTION, 0x00180023),
        *(PROTOCOL_NAME, 0x00189005, 0x0020000D, 0x0020000E, SERIES_NUMBER, 0x00280010, 0x00280030, 0x00400244),
    }
)


def raw_values(data: bytes) -> dict[int, bytes] | None:
    """The wanted values as pydicom finds them, undecoded; ``None`` if it does not accept the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(BytesIO(data), stop_before_pixels=True)
        except InvalidDicomError:
            return None
    found = {}
    for tag in WANTED:
        if tag in dataset:
            value = dataset.get_item(tag).value
            if tag == CHARACTER_SET and value is not None:  # read by pydicom already
                found[tag] = "\\".join([value] if isinstance(value, str) else value).encode("ascii")
            elif isinstance(value, bytes) or value in (None, ""):
                found[tag] = value or b""
    return found


def check_against_pydicom(data: bytes) -> Header:
    found = scan_header(data, len(data), WANTED)
    expected = raw_values(data)
    assert found.has_preamble == (expected is not None)
    if expected is not None:
        ours = {tag: value.raw for tag, value in found.elements.items() if value.vr != "SQ"}
        if CHARACTER_SET in ours:
            ours[CHARACTER_SET] = ours[CHARACTER_SET].rstrip(b" \0")
        assert ours == expected
    return found


def test_open_visits(open_visit: Path) -> None:
    files = [path for path in open_visit.rglob("*") if path.is_file()]
    for path in files:
        data = path.read_bytes()
        found = check_against_pydicom(data)
        if found.has_preamble:
            assert found.state == "whole", path
            assert_independent_of_the_buffer(data, found)


def package_files() -> list[Path]:
    root = Path(pydicom.data.__file__).parent / "test_files"
    return sorted(path for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize("path", package_files(), ids=lambda path: path.name)
def test_files_of_pydicom(path: Path) -> None:
    data = path.read_bytes()
    try:
        raw_values(data)
    except Exception:  # noqa: BLE001 - broken on purpose: it must not break the scan
        found = scan_header(data, len(data), WANTED)
    else:
        found = check_against_pydicom(data)
    if found.has_preamble and len(data) < 1 << 20:
        assert_independent_of_the_buffer(data, found)


def assert_independent_of_the_buffer(data: bytes, whole: Header) -> None:
    """A long enough buffer gives the same; a shorter one reports it, and its values are right."""
    sizes = {random.Random(len(data)).randrange(len(data)) for _ in range(12)}
    for size in sorted(sizes | {len(data) - 1, len(data) - 7, len(data) // 2}):
        part = scan_header(data[:size], len(data), WANTED)
        assert part.has_preamble == whole.has_preamble or size < 132
        if part.state == "more" or size < 132:
            assert all(whole.elements[tag] == value for tag, value in part.elements.items())
        else:
            assert (part.state, part.elements, part.pixels) == (whole.state, whole.elements, whole.pixels), size


SYNTAXES = [IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED, JPEG_BASELINE]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_cut_at_every_byte(syntax: str) -> None:
    """A reported value is complete; the cut is noticed."""
    data = dicom_bytes(transfer_syntax=syntax, PixelData=bytes(range(100)), SeriesDescription="x" * 40)
    whole = check_against_pydicom(data)
    assert whole.state == "whole"
    assert len(whole.elements) >= 10
    for size in range(len(data)):
        cut = scan_header(data[:size], size, WANTED)
        assert all(whole.elements[tag] == value for tag, value in cut.elements.items()), size
        if size < 132:
            assert not cut.elements
        elif syntax == JPEG_BASELINE and whole.pixels and size >= whole.pixels[0]:
            check_pixels(cut, lambda at, count, size=size: data[:size][at : at + count])  # type: ignore[misc]
            assert cut.state == "cut", size
        elif syntax == DEFLATED and size == len(data) - 1:
            assert cut.state in ("cut", "whole")  # the last byte pads to even length
        elif is_between_elements(data, size, whole):
            assert cut.state == "whole", size
        else:
            assert cut.state in ("cut", "malformed"), size


def is_between_elements(data: bytes, size: int, whole: Header) -> bool:
    """Whether the rest of a file in explicit or implicit VR is a valid file that only lacks its end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(BytesIO(data[:size]))
            buffer = BytesIO()
            dataset.save_as(buffer, enforce_file_format=False)
        except Exception:  # noqa: BLE001 - not such a place
            return False
    return len(dataset) > 0 and buffer.getvalue() == data[:size]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_buffer_that_ends_anywhere(syntax: str) -> None:
    data = dicom_bytes(
        transfer_syntax=syntax,
        raw={0x00400275: element(0x00400275, "SQ", item(b"") * 3, transfer_syntax=syntax)}
        if syntax != EXPLICIT_BIG
        else {},
    )
    whole = scan_header(data, len(data), WANTED)
    for size in range(132, len(data)):
        part = scan_header(data[:size], len(data), WANTED)
        if part.state != "more":
            assert (part.state, part.elements, part.pixels) == (whole.state, whole.elements, whole.pixels), size
            assert part.state == "whole"


@pytest.mark.parametrize("syntax", [IMPLICIT_LITTLE, EXPLICIT_LITTLE])
def test_last_element_is_wanted_and_ends_the_file(syntax: str) -> None:
    """Without pixel data after it, a buffer one byte too short must not hide it."""
    last = {0x00400244: element(0x00400244, "DA", b"20200229", transfer_syntax=syntax)}
    data = dicom_bytes(transfer_syntax=syntax, raw=last, PixelData=None)
    for size in range(len(data) - 20, len(data)):
        part = scan_header(data[:size], len(data), WANTED)
        assert part.state == "more" or (part.state, 0x00400244 in part.elements) == ("whole", True), size


def test_undefined_length_up_to_the_end_of_the_file() -> None:
    content = item(element(0x00080100, "SH", b"X "), length=UNDEFINED_LENGTH) + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    last = element(0x00400275, "SQ", content + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0), length=UNDEFINED_LENGTH)
    data = dicom_bytes(raw={0x00400275: last}, PixelData=None)
    assert scan_header(data, len(data), WANTED).state == "whole"
    for size in range(len(data) - len(last) + 8, len(data)):
        assert scan_header(data[:size], len(data), WANTED).state == "more", size
        assert scan_header(data[:size], size, WANTED).state == "cut", size


# -- nested sequences

leaf = st.builds(
    lambda tag, value: (tag, value + b" " * (len(value) % 2)),
    st.sampled_from([0x00080100, 0x00080104, 0x00400400, 0x00291010]),
    st.binary(max_size=12),
)


def nested(depth: int) -> st.SearchStrategy[list[object]]:
    inner = (
        st.nothing() if depth == 0 else st.tuples(st.just("SQ"), st.booleans(), st.lists(nested(depth - 1), max_size=3))
    )
    return st.lists(leaf | inner, max_size=4)


def encode(parts: list[object], syntax: str, in_item: bool = True) -> bytes:
    encoded = b""
    for number, part in enumerate(parts):
        if isinstance(part, tuple) and part[0] == "SQ":
            _, undefined, items = part
            tag = 0x00400441 + number
            content = b"".join(encode_item(inner, undefined, syntax) for inner in items)
            if undefined:
                content += delimiter(0xE0DD, syntax)
            length = UNDEFINED_LENGTH if undefined else None
            encoded += element(tag, "SQ", content, length=length, transfer_syntax=syntax)
        elif isinstance(part, tuple):
            encoded += element(part[0], "LO", part[1], transfer_syntax=syntax)
    return encoded


def encode_item(parts: list[object], undefined: bool, syntax: str) -> bytes:
    content = encode(parts, syntax)
    order = ">" if syntax == EXPLICIT_BIG else "<"
    length = UNDEFINED_LENGTH if undefined else len(content)
    start = struct.pack(order + "HHI", 0xFFFE, 0xE000, length)
    return start + content + (delimiter(0xE00D, syntax) if undefined else b"")


def delimiter(number: int, syntax: str) -> bytes:
    return struct.pack((">" if syntax == EXPLICIT_BIG else "<") + "HHI", 0xFFFE, number, 0)


@settings(max_examples=200, deadline=None)
@given(
    parts=nested(4), undefined=st.booleans(), syntax=st.sampled_from([IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG])
)
def test_nested_sequences(parts: list[object], undefined: bool, syntax: str) -> None:
    """In front of wanted elements: as in pydicom, whichever lengths are defined; no truncated value wherever cut."""
    content = encode_item(parts, undefined, syntax) * 2 + (delimiter(0xE0DD, syntax) if undefined else b"")
    length = UNDEFINED_LENGTH if undefined else None
    sequence = element(0x00081140, "SQ", content, length=length, transfer_syntax=syntax)
    data = dicom_bytes(transfer_syntax=syntax, raw={0x00081140: sequence}, ProtocolName="behind it")
    found = check_against_pydicom(data)
    assert found.state == "whole"
    assert found.elements[PROTOCOL_NAME].raw.rstrip() == b"behind it"
    for size in random.Random(len(data)).sample(range(132, len(data)), 20):
        part = scan_header(data[:size], len(data), WANTED)
        cut = scan_header(data[:size], size, WANTED)
        assert part.elements == cut.elements
        assert all(found.elements[tag] == value for tag, value in part.elements.items())


@settings(max_examples=300, deadline=None)
@given(
    start=st.sampled_from([dicom_bytes(transfer_syntax=syntax) for syntax in SYNTAXES]),
    changes=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=6)), max_size=5),
    length=st.integers(0, 1 << 33) | st.none(),
)
def test_arbitrary_bytes(start: bytes, changes: list[tuple[float, bytes]], length: int | None) -> None:
    data = bytearray(start)
    for where, what in changes:
        at = int(where * len(data))
        data[at : at + len(what)] = what
    size = len(data) if length is None else max(length, len(data))
    found = scan_header(bytes(data), size, WANTED)
    assert all(value.raw in data or DEFLATED.encode() in data for value in found.elements.values())
    if found.state == "more":
        assert len(data) < size


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=300))
def test_noise(data: bytes) -> None:
    for start in (b"", bytes(128) + b"DICM"):
        scan_header(start + data, len(start + data), WANTED)


def test_nesting_costs_no_recursion() -> None:
    start = element(0x00400440, "SQ", b"", length=UNDEFINED_LENGTH) + item(b"", length=UNDEFINED_LENGTH)
    deep = start * 100_000 + (delimiter(0xE00D, "") + delimiter(0xE0DD, "")) * 100_000
    data = dicom_bytes(raw={0x00081140: deep}, ProtocolName="behind it")
    found = scan_header(data, len(data), WANTED)
    assert found.state == "whole"
    assert PROTOCOL_NAME in found.elements


# -- special forms


def test_last_of_repeated_elements_counts() -> None:
    data = dicom_bytes(
        raw={SERIES_DESCRIPTION: b"".join(element(SERIES_DESCRIPTION, "LO", text) for text in (b"1 ", b"2 "))}
    )
    assert check_against_pydicom(data).elements[SERIES_DESCRIPTION].raw == b"2 "


def test_unknown_representations_are_passed() -> None:
    odd = struct.pack("<HH2sH", 0x0008, 0x1032, b"QQ", 2) + b"ab"
    data = dicom_bytes(raw={0x00081032: odd})
    assert PROTOCOL_NAME in check_against_pydicom(data).elements


def test_implicit_elements_in_an_explicit_file_are_passed() -> None:
    odd = element(0x00181030, "LO", b"implicit", transfer_syntax=IMPLICIT_LITTLE)
    data = dicom_bytes(raw={PROTOCOL_NAME: odd})
    found = check_against_pydicom(data).elements[PROTOCOL_NAME]
    assert (found.vr, found.raw) == (None, b"implicit")


def test_unknown_with_undefined_length_is_implicit() -> None:
    content = item(element(0x00080100, "SH", b"AB", transfer_syntax=IMPLICIT_LITTLE))
    odd = element(0x00091001, "UN", content + delimiter(0xE0DD, ""), length=UNDEFINED_LENGTH)
    data = dicom_bytes(raw={0x00091001: odd})
    assert PROTOCOL_NAME in check_against_pydicom(data).elements


@pytest.mark.parametrize("syntax", [IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG])
def test_without_preamble_or_file_meta(syntax: str) -> None:
    plain = scan_header(dicom_bytes(transfer_syntax=syntax), 1 << 20, WANTED)
    for preamble, meta in ((True, False), (False, True), (False, False)):
        data = dicom_bytes(transfer_syntax=syntax, preamble=preamble, file_meta=meta)
        found = scan_header(data, len(data), WANTED)
        assert found.has_preamble is preamble
        assert found.state == "whole"
        assert found.elements == plain.elements
        assert found.big_endian is (syntax == EXPLICIT_BIG)


def test_lengths_beyond_the_file_cost_nothing() -> None:
    data = dicom_bytes()[:300] + element(0x00204000, "UT", b"abc", length=0x7FFFFFF0)
    tracemalloc.start()
    try:
        scan_header(data, len(data), WANTED)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


# -- how much of a file is read


def reading(data: bytes) -> tuple[list[int], Callable[[int], bytes]]:
    sizes: list[int] = []
    stream = BytesIO(data)

    def read(size: int) -> bytes:
        part = stream.read(min(size, 700_001))  # less than asked for, as readers may
        sizes.append(len(part))
        return part

    return sizes, read


@pytest.mark.parametrize("header", [0, 10, FIRST_READ - 900, FIRST_READ, 3 * FIRST_READ])
def test_read_head(header: int) -> None:
    extra = {0x00080300: element(0x00080300, "UT", b"x" * header)}
    data = dicom_bytes(raw=extra, PixelData=bytes(range(256)) * 20_000)
    sizes, read = reading(data)
    head, found = read_head(read, len(data), WANTED)
    assert data.startswith(head)
    assert sum(sizes) == len(head) <= max(FIRST_READ, 4 * header)
    assert (found.state, found.elements) == ("whole", scan_header(data, len(data), WANTED).elements)
    assert found.elements[PROTOCOL_NAME].raw.rstrip() == b"t1_mprage_sag"


def test_files_that_are_not_dicom_are_not_read_further() -> None:
    data = bytes(5 << 20)
    sizes, read = reading(data)
    head, found = read_head(read, len(data), WANTED)
    assert not found.has_preamble
    assert sum(sizes) == len(head) == FIRST_READ


def test_a_file_that_shrinks_is_no_surprise() -> None:
    data = dicom_bytes()
    head, found = read_head(reading(data)[1], 10 << 20, WANTED)
    assert head == data
    assert found.elements == scan_header(data, len(data), WANTED).elements


@pytest.mark.parametrize("size", [0, 1, 7, 8, 127, 128, 131, 132, 133, 140])
def test_tiny_files(size: int) -> None:
    for data in (bytes(size), (bytes(128) + b"DICM" + b"\2\0" * 9)[:size]):
        head, found = read_head(reading(data)[1], len(data), WANTED)
        assert head == data
        assert not found.elements


def deflated(pixels: bytes, level: int) -> bytes:
    whole = dicom_bytes(transfer_syntax=EXPLICIT_LITTLE, PixelData=pixels)
    start = dicom_bytes(transfer_syntax=DEFLATED)
    packer = zlib.compressobj(level=level, wbits=-zlib.MAX_WBITS)
    return start[: dataset_start(start)] + packer.compress(whole[dataset_start(whole) :]) + packer.flush()


def dataset_start(data: bytes) -> int:
    length: int = struct.unpack("<I", data[140:144])[0]
    return 144 + length


def test_a_large_deflated_image_is_not_cut() -> None:
    """It inflates to more than is ever searched."""
    data = deflated(bytes(HEAD_LIMIT + (1 << 20)), 9)
    assert len(data) < 1 << 20
    _, found = read_head(reading(data)[1], len(data), WANTED)
    assert found.state == "whole"
    assert PROTOCOL_NAME in found.elements


def test_a_deflated_image_with_a_broken_end() -> None:
    data = deflated(random.Random(1).randbytes(3 << 20), 1)
    _, found = read_head(reading(data)[1], len(data), WANTED)
    assert found.state == "whole"
    _, found = read_head(reading(data[:-1000])[1], len(data) - 1000, WANTED)
    assert found.state == "cut"
    assert PROTOCOL_NAME in found.elements


def test_encapsulated_pixels() -> None:
    end = delimiter(0xE0DD, "")
    frames = item(b"") + item(b"frame one ") + item(b"2 ")

    def is_whole(data: bytes) -> bool:
        return encapsulated_is_whole(lambda at, count: data[at : at + count], 3)

    assert is_whole(b"xyz" + frames + end)
    assert is_whole(b"xyz" + end + b"trailing")
    for size in range(len(frames + end)):
        assert not is_whole(b"xyz" + (frames + end)[:size])
    assert not is_whole(b"xyz" + frames + delimiter(0xE00D, ""))
    assert not is_whole(b"xyz" + item(b"", length=UNDEFINED_LENGTH) + end)
