"""One element becomes plain JSON: as in pydicom if it is valid, and never wrong if it is not."""

from __future__ import annotations

import json
import math
import string
import struct
import subprocess
import sys
import time
import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icf_utils.dicom.charsets import parse_character_sets
from icf_utils.dicom.values import (
    SIZE_LIMIT,
    Conversion,
    Value,
    convert_value,
    dictionary_vr,
    keyword_for_tag,
    tag_for_keyword,
)

SERIES_DESCRIPTION, SERIES_NUMBER, MODALITY = 0x0008103E, 0x00200011, 0x00080060
ECHO_TIME, ROWS, PATIENT_NAME, IMAGE_COMMENTS = 0x00180081, 0x00280010, 0x00100010, 0x00204000
SMALLEST_PIXEL, REFERENCED_IMAGES, PIXEL_DATA = 0x00280106, 0x00081140, 0x7FE00010
PRIVATE = 0x00291010

# one tag of each representation, so that the dictionary and the element agree
TAG_OF_VR = {
    "AE": 0x00080054, "AS": 0x00101010, "AT": 0x00280009, "CS": MODALITY, "DA": 0x00080020, "DS": ECHO_TIME,
    "DT": 0x0008002A, "FD": 0x00189073, "FL": 0x00189219, "IS": SERIES_NUMBER, "LO": SERIES_DESCRIPTION,
    "LT": IMAGE_COMMENTS, "SH": 0x00080050, "SL": 0x00186020, "SS": 0x00189219, "ST": 0x00080081, "SV": 0x00080010,
    "TM": 0x00080030, "UC": 0x00080119, "UI": 0x0020000D, "UL": 0x00280121, "UR": 0x00080120, "US": ROWS,
    "UT": 0x0040A160, "UV": 0x00080010,
}  # fmt: skip


def read(tag: int, vr: str | None, raw: bytes, declared: str = "", **kwargs: Any) -> Conversion:
    return convert_value(
        tag, vr, raw, parse_character_sets(declared.encode()), kwargs.pop("big_endian", False), **kwargs
    )


def value(tag: int, vr: str | None, raw: bytes, declared: str = "", **kwargs: Any) -> Value:
    """The value of a valid element."""
    found = read(tag, vr, raw, declared, **kwargs)
    assert found.problem is None
    return found.value


# ---------------------------------------------------------------- what pydicom does with valid values


def pydicom_value(vr: str, raw: bytes, encodings: str | None = None, big_endian: bool = False) -> Any:
    from pydicom.charset import convert_encodings
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag
    from pydicom.values import convert_value

    tag = Tag(TAG_OF_VR.get(vr, PRIVATE))
    element = RawDataElement(tag, vr, len(raw), raw, 0, False, not big_endian)
    names: Any = encodings.split("\\") if encodings else None
    found = convert_value(vr, element, convert_encodings(names))
    if vr == "AT":
        return [f"{int(one):08X}" for one in found] if not isinstance(found, int) else f"{int(found):08X}"
    if isinstance(found, (bytes, str, int, float)):
        return found
    return list(found)


def padded(text: str, vr: str, codec: str = "ascii") -> bytes:
    raw = text.encode(codec)
    return raw + (b"\0" if vr == "UI" else b" ") * (len(raw) % 2)


WORD = st.text(string.ascii_letters + string.digits + "_*.,:;()[]/+-^=#&%$@!?<>'\"", min_size=1, max_size=15)
TEXTS = {
    "AE": st.from_regex(r"[A-Z0-9_]{1,16}", fullmatch=True),
    "AS": st.from_regex(r"[0-9]{3}[DWMY]", fullmatch=True),
    "CS": st.from_regex(r"[A-Z0-9_]{1,16}", fullmatch=True),
    "DA": st.dates().map(lambda day: day.strftime("%Y%m%d").zfill(8)),
    "DS": st.floats(allow_nan=False, allow_infinity=False).map(lambda number: f"{number:.9g}"),
    "DT": st.datetimes().map(lambda when: when.strftime("%Y%m%d%H%M%S.%f").zfill(21)),
    "IS": st.integers(-(2**31), 2**31 - 1).map(str),
    "LO": WORD,
    "SH": WORD,
    "TM": st.times().map(lambda when: when.strftime("%H%M%S.%f")),
    "UC": WORD,
    "UI": st.from_regex(r"[1-9]{1,4}(\.[1-9][0-9]{0,5}){1,8}", fullmatch=True),
}
LONG_TEXTS = {"LT": WORD, "ST": WORD, "UT": WORD, "UR": st.just("https://example.org/a?b=c")}


@pytest.mark.parametrize("vr", sorted(TEXTS))
@settings(deadline=None)  # the first example loads pydicom
@given(data=st.data())
def test_valid_text_is_what_pydicom_reads(vr: str, data: st.DataObject) -> None:
    raw = padded("\\".join(data.draw(st.lists(TEXTS[vr], min_size=1, max_size=4))), vr)
    assert value(TAG_OF_VR[vr], vr, raw) == pydicom_value(vr, raw)


@pytest.mark.parametrize("vr", sorted(LONG_TEXTS))
@settings(deadline=None)  # the first example loads pydicom
@given(data=st.data())
def test_valid_long_text_is_what_pydicom_reads(vr: str, data: st.DataObject) -> None:
    joint = "" if vr == "UR" else data.draw(st.sampled_from(["\\", "\r\n", " "]))
    raw = padded(joint.join(data.draw(st.lists(LONG_TEXTS[vr], min_size=1, max_size=4))), vr)
    assert value(TAG_OF_VR[vr], vr, raw) == pydicom_value(vr, raw)


FORMATS = {"FD": "d", "FL": "f", "SL": "i", "SS": "h", "SV": "q", "UL": "I", "US": "H", "UV": "Q", "AT": "I"}


@pytest.mark.parametrize("vr", sorted(FORMATS))
@settings(deadline=None)  # the first example loads pydicom
@given(data=st.data(), big_endian=st.booleans())
def test_binary_numbers_are_what_pydicom_reads(vr: str, data: st.DataObject, big_endian: bool) -> None:
    size = struct.calcsize("=" + FORMATS[vr])
    raw = data.draw(st.integers(1, 4).flatmap(lambda count: st.binary(min_size=count * size, max_size=count * size)))
    if vr in ("FD", "FL"):
        numbers = struct.unpack(f"{'>' if big_endian else '<'}{len(raw) // size}{FORMATS[vr]}", raw)
        if not all(map(math.isfinite, numbers)):
            return
    assert value(PRIVATE, vr, raw, big_endian=big_endian) == pydicom_value(vr, raw, big_endian=big_endian)


CODECS = {
    "ISO_IR 100": "latin_1", "ISO_IR 101": "iso8859_2", "ISO_IR 109": "iso8859_3", "ISO_IR 110": "iso8859_4",
    "ISO_IR 126": "iso8859_7", "ISO_IR 127": "iso8859_6", "ISO_IR 138": "iso8859_8", "ISO_IR 144": "iso8859_5",
    "ISO_IR 148": "iso8859_9", "ISO_IR 166": "tis_620", "ISO_IR 192": "utf-8", "GB18030": "gb18030", "GBK": "gbk",
    "ISO 2022 IR 100": "latin_1", "ISO 2022 IR 149": "euc_kr",
}  # fmt: skip


def alphabet(codec: str) -> st.SearchStrategy[str]:
    """Graphic characters, without the delimiter, and one that EUC-KR reads as the start of a longer sequence."""
    return st.characters(codec=codec, categories=("L", "N", "P", "S"), exclude_characters="\\\u3164")


@pytest.mark.parametrize("declared", sorted(CODECS))
@settings(deadline=None)  # the first example loads pydicom
@given(data=st.data())
def test_declared_character_sets_are_read_as_pydicom_does(declared: str, data: st.DataObject) -> None:
    text = "\\".join(
        data.draw(st.lists(st.text(alphabet(CODECS[declared]), min_size=1, max_size=30), min_size=1, max_size=3))
    )
    raw = padded(text, "LO", CODECS[declared])
    assert value(SERIES_DESCRIPTION, "LO", raw, declared) == pydicom_value("LO", raw, declared)


@pytest.mark.parametrize(
    ("declared", "raw", "expected"),
    [
        ("ISO_IR 100", "Schädel-Übersicht ß".encode("latin-1"), "Schädel-Übersicht ß"),
        ("\\ISO 2022 IR 87", "頭部 CT".encode("iso2022_jp"), "頭部 CT"),
        ("\\ISO 2022 IR 159", b"\x1b$(D0!\x1b(B x", "丂 x"),
        ("ISO_IR 13", b"\xd4\xcf\xc0\xde a", "ﾔﾏﾀﾞ a"),
        ("ISO 2022 IR 13\\ISO 2022 IR 87", b"\xd4\xcf\\=\x1b$B;3ED\x1b(J\\\xd4", ["ﾔﾏ", "=山田", "ﾔ"]),
        ("GB18030", "头部扫描".encode("gb18030"), "头部扫描"),
        ("GB18030", "羆\\誠".encode("gb18030"), ["羆", "誠"]),
        ("\\ISO 2022 IR 149", b"\x1b$)C" + "머리 1".encode("euc_kr"), "머리 1"),
        ("\\ISO 2022 IR 58", b"\x1b$)A" + "张 x".encode("gb2312"), "张 x"),
        ("\\ISO 2022 IR 144\\ISO 2022 IR 100", b"\x1b-L\xbf\x1b-A\xe4", "Пä"),
        ("ISO_IR 126", "Κεφάλι".encode("iso8859_7"), "Κεφάλι"),
        ("ISO_IR 203", b"\xa4 \xbc", "€ Œ"),
        ("ISO_IR 192", "Kopf – 頭 🧠".encode(), "Kopf – 頭 🧠"),
        ("ISO_IR 192", "\ufffd".encode(), "\ufffd"),
        # behind a delimiter, the first set is active again
        ("ISO 2022 IR 100\\ISO 2022 IR 126", b"\x1b-F\xe4\\\xe4\r\n", ["δ", "ä\r\n"]),
        # the second byte of a Japanese character may be a backslash's
        ("\\ISO 2022 IR 87", b"\x1b$B<\\\x1b(B\\x", ["尺", "x"]),
    ],
)
def test_text_is_decoded_by_its_character_set(declared: str, raw: bytes, expected: Value) -> None:
    assert value(SERIES_DESCRIPTION, "LO", raw, declared) == expected


@pytest.mark.parametrize(
    ("declared", "raw", "expected", "problem"),
    [
        ("", b"Sch\xe4del", "Sch\ufffddel", "no character set"),
        ("ISO_IR 6", b"Sch\xe4del", "Sch\ufffddel", "not in the declared"),
        ("ISO_IR 192", b"Sch\xe4del", "Sch\ufffddel", "not in the declared"),
        ("ISO_IR 100", b"\x80 5", "\ufffd 5", "not in the declared"),
        ("ISO_IR 13", b"\xe0\xd4", "\ufffdﾔ", "not in the declared"),
        ("ISO_IR 999", b"Sch\xe4del", "Sch\ufffddel", "unknown"),
        ("latin1", b"Sch\xe4del", "Sch\ufffddel", "unknown"),
        ("ISO-IR 100", b"Sch\xe4del", "Schädel", "misspelt"),
        ("iso_ir_100", b"Sch\xe4del", "Schädel", "misspelt"),
        ("UTF-8", "ä".encode(), "ä", "misspelt"),
        ("ISO_IR 100\\ISO_IR 192", b"\xe4", "ä", "combined"),
        ("ISO_IR 192\\ISO 2022 IR 87", "ä".encode(), "ä", "combined"),
        ("\\ISO 2022 IR 87", b"\x1b$B\xff\x1b", "\ufffd\x1b", "not in the declared"),
        ("ISO 2022 IR 100", b"\x1b$B;3\x1b(B", "\x1b$B;3", "escape"),
        ("", b"tab\there\x1bnul\x00end", "tab\there\x1bnul\x00end", "escape"),
    ],
)
def test_undecodable_text_is_replaced_and_reported(declared: str, raw: bytes, expected: str, problem: str) -> None:
    found = read(SERIES_DESCRIPTION, "LO", raw, declared)
    assert found.value == expected
    assert problem in str(found.problem)


def test_plain_text_needs_no_character_set() -> None:
    assert value(SERIES_DESCRIPTION, "LO", b"t1_mprage ", "ISO_IR 999") == "t1_mprage"


# ---------------------------------------------------------------- rules beyond pydicom's


@pytest.mark.parametrize(
    ("vr", "raw", "expected"),
    [
        ("IS", b"12 ", 12),
        ("IS", b" +7", 7),
        ("IS", b"1\\2 ", [1, 2]),
        ("IS", b"1\\\\2", [1, "", 2]),
        ("IS", b"99999999999 ", 99999999999),
        ("IS", b"1.0 ", 1),
        ("IS", b"", ""),
        ("IS", b"  ", ""),
        ("DS", b"1.50", 1.5),
        ("DS", b"12", 12),
        ("DS", b"-.5e3 ", -500.0),
    ],
)
def test_numbers_stay_numbers(vr: str, raw: bytes, expected: Value) -> None:
    found = value(TAG_OF_VR[vr], vr, raw)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("vr", "raw", "expected"),
    [
        ("IS", b"abc ", "abc"),
        ("IS", b"1.5 ", 1.5),
        ("IS", b"1_0", "1_0"),
        ("IS", b"nan ", "nan"),
        ("IS", b"1\\x ", [1, "x"]),
        ("IS", b"9" * 400, "9" * 400),
        ("DS", b"nan ", "nan"),
        ("DS", b"-inf", "-inf"),
        ("DS", b"1e999 ", "1e999"),
        ("DS", b"0x10", "0x10"),
        ("DS", b"1,5 ", "1,5"),
    ],
)
def test_text_that_is_not_a_number_is_kept_and_reported(vr: str, raw: bytes, expected: Value) -> None:
    found = read(TAG_OF_VR[vr], vr, raw)
    assert found.value == expected
    assert "number" in str(found.problem)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_binary_floats_outside_json_become_text(number: float) -> None:
    found = read(PRIVATE, "FD", struct.pack("<2d", number, 1.5))
    assert found == Conversion([str(number), 1.5], "not a number")


@pytest.mark.parametrize(
    ("tag", "vr", "raw", "expected"),
    [
        (SERIES_DESCRIPTION, None, b"t1", "t1"),  # implicit: the dictionary alone
        (SERIES_DESCRIPTION, "UN", b"a\\b ", ["a", "b"]),
        (SERIES_DESCRIPTION, "DS", b"1.50", "1.50"),  # text is what the dictionary says
        (SERIES_NUMBER, "LO", b"3 ", 3),
        (SERIES_NUMBER, "US", b"\3\0", 3),  # binary is what the file says
        (ROWS, None, b"\1\2", 0x0201),
        (ROWS, "UN", b"\1\2\3\4", [0x0201, 0x0403]),
        (ROWS, "IS", b"16", 16),
        (IMAGE_COMMENTS, "LT", b"a\\b \0", "a\\b"),
        (IMAGE_COMMENTS, "LO", b"a\\b ", "a\\b"),
        (SERIES_DESCRIPTION, "QQ", b"ab", "ab"),
        (PRIVATE, "LO", b"a\\b ", ["a", "b"]),
        (0x00280009, "AT", b"\x18\x00\x63\x10", "00181063"),
        (SMALLEST_PIXEL, "SS", b"\xff\xff", -1),
        (SMALLEST_PIXEL, None, b"\x05\x00", 5),
        (0x00080054, "AE", b" SCANNER ", "SCANNER"),
        (0x00080054, "AE", b" A \\ B  ", ["A", "B"]),
        (MODALITY, "CS", b"PT \\CT ", ["PT", "CT"]),
        (0x0020000D, "UI", b"1.2.3\0", "1.2.3"),
    ],
)
def test_the_representation_that_decides(tag: int, vr: str | None, raw: bytes, expected: Value) -> None:
    assert value(tag, vr, raw) == expected


@pytest.mark.parametrize(
    ("tag", "vr", "raw", "problem"),
    [
        (SERIES_DESCRIPTION, "SQ", b"\xfe\xff\x00\xe0\0\0\0\0", "sequence"),
        (REFERENCED_IMAGES, None, b"\xfe\xff\x00\xe0\0\0\0\0", "sequence"),
        (REFERENCED_IMAGES, "UN", b"\xfe\xff\x00\xe0\0\0\0\0", "sequence"),
        (SERIES_DESCRIPTION, "OB", b"\xff\x00\x01\x02", "binary"),
        (PIXEL_DATA, None, b"\0\0", "binary"),
        (PRIVATE, "UN", b"ab", "binary"),
        (PRIVATE, None, b"ab", "binary"),
        (0x00283006, None, b"\0\0", "binary"),  # LUTData: US or OW
        (SMALLEST_PIXEL, None, b"\xff\xff", "signed"),
        (ROWS, "US", b"\1\2\3", "length"),
        (0x00280009, "AT", b"\1\2", "length"),
        (SERIES_DESCRIPTION, "LO", b"x" * (SIZE_LIMIT + 1), "longer"),
        (0x00181030, "PN", b"Test^Name ", "declared as a person name"),
        (PRIVATE, "PN", b"Test^Name ", "declared as a person name"),
        (PATIENT_NAME, "PN", b"Test^Name ", "a person name"),
        (PATIENT_NAME, "LO", b"Test^Name ", "a person name"),
        (PATIENT_NAME, None, b"Test^Name ", "a person name"),
    ],
)
def test_values_without_a_plain_form_are_empty_and_reported(tag: int, vr: str | None, raw: bytes, problem: str) -> None:
    found = read(tag, vr, raw)
    assert found.value == ""
    assert problem in str(found.problem)
    assert read(tag, vr, b"") == Conversion("")


def test_person_names_are_text_only_where_permitted_and_where_they_belong() -> None:
    raw = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"
    declared = "\\ISO 2022 IR 87"
    assert value(PATIENT_NAME, "PN", raw, declared, person_names=True) == "Yamada^Tarou=山田^太郎"
    assert read(0x00181030, "PN", raw, declared, person_names=True).value == ""


def test_codes_are_ascii_whatever_set_is_declared() -> None:
    found = read(MODALITY, "CS", b"M\xe4", "ISO_IR 100")
    assert found.value == "M\ufffd"
    assert "ASCII" in str(found.problem)


def test_long_descriptions_are_kept() -> None:
    assert value(SERIES_DESCRIPTION, "LO", b"x" * 60000) == "x" * 60000


VRS = [None, "QQ", "SQ", "OB", "UN", "PN", "US or SS", *TAG_OF_VR]


@settings(deadline=None)  # the first example loads pydicom
@given(
    tag=st.sampled_from([SERIES_DESCRIPTION, SERIES_NUMBER, ECHO_TIME, ROWS, SMALLEST_PIXEL, PATIENT_NAME, PRIVATE]),
    vr=st.sampled_from(VRS),
    raw=st.binary(max_size=40) | st.text("\x1b$()-ABCJI\\^= \0aé頭1.", max_size=20).map(lambda text: text.encode()),
    declared=st.sampled_from(
        ["", "ISO_IR 13", "ISO_IR 192", "GB18030", "ISO_IR 166", "nonsense", "\\ISO 2022 IR 87\\ISO 2022 IR 149"]
    ),
    big_endian=st.booleans(),
)
def test_any_bytes_give_strict_json_and_no_warning(
    tag: int, vr: str | None, raw: bytes, declared: str, big_endian: bool
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read(tag, vr, raw, declared, big_endian=big_endian)
    assert json.loads(json.dumps(found.value, allow_nan=False)) == found.value
    json.dumps(found.value, ensure_ascii=False).encode("utf-8")  # no lone surrogates
    assert found == read(tag, vr, raw, declared, big_endian=big_endian)


@settings(deadline=None)  # the first example loads pydicom
@given(raw=st.binary(max_size=60))
def test_character_sets_of_any_bytes(raw: bytes) -> None:
    assert all(isinstance(term, str) for term in parse_character_sets(raw))


def test_character_sets() -> None:
    assert parse_character_sets(b"") == ()
    assert parse_character_sets(b" ISO_IR 100 \0") == ("ISO_IR 100",)
    assert parse_character_sets(b"\\ISO 2022 IR 87 ") == ("", "ISO 2022 IR 87")


def test_problems_never_quote_the_value() -> None:
    for tag, vr, raw in [(SERIES_NUMBER, "IS", b"secret"), (PATIENT_NAME, "PN", b"secret"), (ROWS, "US", b"secre")]:
        assert "secre" not in str(read(tag, vr, raw).problem)


def test_remembered_lists_are_not_shared() -> None:
    first = value(SERIES_NUMBER, "IS", b"1\\2 ")
    assert isinstance(first, list)
    first.append("changed")
    assert value(SERIES_NUMBER, "IS", b"1\\2 ") == [1, 2]


def test_repeated_values_are_cheap() -> None:
    elements = [(SERIES_DESCRIPTION, "LO", b"t1_mprage "), (SERIES_NUMBER, "IS", b"1 "), (MODALITY, "CS", b"MR")]
    for tag, vr, raw in elements:
        read(tag, vr, raw)
    begin = time.process_time()
    for _ in range(30_000):
        for tag, vr, raw in elements:
            convert_value(tag, vr, raw, (), False)
    assert time.process_time() - begin < 1  # a tenth of it on an idle machine


def test_dictionary_lookups() -> None:
    assert tag_for_keyword("SeriesDescription") == SERIES_DESCRIPTION
    assert tag_for_keyword("NoSuchThing") is None
    assert tag_for_keyword("OverlayData") is None
    assert keyword_for_tag(SERIES_DESCRIPTION) == "SeriesDescription"
    assert keyword_for_tag(PRIVATE) is None
    assert dictionary_vr(SERIES_DESCRIPTION) == "LO"
    assert dictionary_vr(SMALLEST_PIXEL) == "US or SS"
    assert dictionary_vr(PRIVATE) is None
    assert dictionary_vr(0xFFFEE000) is None


def test_importing_the_module_does_not_load_pydicom() -> None:
    code = "import sys, icf_utils.dicom.values, icf_utils.dicom.confidentiality; sys.exit('pydicom' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
