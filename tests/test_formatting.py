"""Sizes, counts and tables have one form each."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest

import icf_utils
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


_COUNTED = re.compile(r" (files|images|visits|sessions|studies|stages|jobs|series|problems|errors)\b")


def hand_made_counts(text: str) -> list[str]:
    """F-strings of a module in which a number is followed by a plural, whatever the number is."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.JoinedStr):
            for value, after in pairwise(node.values):
                is_value = isinstance(value, ast.FormattedValue) and not isinstance(value.value, ast.Constant)
                if is_value and isinstance(after, ast.Constant) and _COUNTED.match(str(after.value)):
                    found.append(ast.unparse(node))
    return found


def test_counts_have_one_form_in_the_whole_package() -> None:
    assert hand_made_counts('f"{len(x)} files"') == ["f'{len(x)} files'"]
    assert hand_made_counts("f\"{format_count(len(x), 'file')} in it\"") == []
    package = Path(icf_utils.__file__).parent
    found = {path.name: counts for path in package.rglob("*.py") if (counts := hand_made_counts(path.read_text()))}
    assert found == {}
