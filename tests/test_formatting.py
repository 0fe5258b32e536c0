"""Sizes, counts and tables have one form each."""

from __future__ import annotations

import pytest

from icf_utils.formatting import format_count, format_size, format_table


@pytest.mark.parametrize(
    ("size", "text"),
    [
        *((0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_600, "999.6 kB"), (999_949, "999.9 kB")),
        *((999_950, "1.0 MB"), (8_570_880, "8.6 MB"), (2 * 10**15, "2.0 PB"), (10**19, "10000.0 PB")),
    ],
)
def test_sizes_are_decimal(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        *((0, "image", "0 images"), (1, "image", "1 image"), (2, "study", "2 studies"), (2, "key", "2 keys")),
        *((1, "series", "1 series"), (7, "series", "7 series")),
    ],
)
def test_nouns_agree_with_their_numbers(number: int, noun: str, text: str) -> None:
    assert format_count(number, noun) == text


def test_a_phrase_is_given_its_plural() -> None:
    assert format_count(2, "image was", "images were") == "2 images were"


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    rows = [("session", "images"), ("s000001", "12"), ("s2", "7")]
    assert format_table(rows, right=[1]) == ["session  images", "s000001      12", "s2            7"]
    assert format_table(rows) == ["session  images", "s000001  12", "s2       7"]


def test_a_table_of_nothing_has_no_lines() -> None:
    assert format_table([]) == []


def test_a_row_of_another_length_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        format_table([("a", "b"), ("c",)])
