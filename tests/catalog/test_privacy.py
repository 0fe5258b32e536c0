from __future__ import annotations

import pytest

from icf_utils.catalog.privacy import (
    REMOVED,
    clean_text,
    has_identifier,
    remove_identifiers,
    value_text,
)

UID = "1.2.826.0.1.3680043.8.498.77"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("t1 mprage", "t1 mprage"),
        (" padded \x00", "padded \ufffd"),
        ("a\r\nb\tc", "a  b c"),
        ("a\u202eb\u2066c", "a\ufffdb\ufffdc"),
        ("no utf-8 \udcff", "no utf-8 \ufffd"),
        ("Schädel 頭部 <b>{{x}}</b>", "Schädel 頭部 <b>{{x}}</b>"),
    ],
)
def test_clean_text_keeps_printable_characters(raw: str, shown: str) -> None:
    assert clean_text(raw) == shown


def test_values_of_all_kinds_become_text() -> None:
    assert value_text(None) == ""
    assert value_text(7) == "7"
    assert value_text(["a", 1.5]) == "a, 1.5"


@pytest.mark.parametrize("text", [f"copy of {UID}", f"{UID}", f"x{UID}x", "scan 20240131", "scan 2024-01-31T10"])
def test_uids_and_dates_are_taken_out_of_text(text: str) -> None:
    shown = remove_identifiers(text)
    assert REMOVED in shown
    assert "3680043" not in shown
    assert "31" not in shown


def test_a_known_uid_is_taken_out_whatever_its_form() -> None:
    assert remove_identifiers("series 1.2.3 of it", ["", "1.2.3"]) == f"series {REMOVED} of it"


@pytest.mark.parametrize("text", ["v1.2.3", "ep2d_bold_TR2000_TE30", "0.8x0.8x0.8mm", "t1 1.0 iso", "192.168.0.1"])
def test_ordinary_text_stays(text: str) -> None:
    assert remove_identifiers(text) == text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (f"MR.{UID}.dcm", True),
        (UID.replace(".", "_"), True),
        ("NAME.MR.PROTOCOL.0003.0001.2020.01.31.10.22.33.484375.123.IMA", True),
        ("20200131_1.dcm", True),
        ("IM0001", False),
        ("s01_0001.dcm", False),
        ("1-002.dcm", False),
    ],
)
def test_names_that_hold_a_uid_or_a_date(name: str, expected: bool) -> None:
    assert has_identifier(name, ["9.9.9"]) is expected


def test_names_with_a_known_uid() -> None:
    assert has_identifier("x_9_9_9.dcm", ["9.9.9"])
