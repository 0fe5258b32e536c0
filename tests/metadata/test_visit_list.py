"""``visits.json``: one line a visit, in order, the same bytes whatever the order of changes."""

from __future__ import annotations

import json
import random
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icf_utils.errors import DepositDamaged
from icf_utils.metadata.visit_list import (
    VisitLine,
    encode_visit_list,
    parse_visit_list,
    with_line,
    without_dates,
    without_line,
)

MD5 = "0123456789abcdef0123456789abcdef"
LINE = VisitLine("v1", 1, 10240, MD5, 5, 2, ("CT", "MR"), "2024-05-31")

lines = st.builds(
    VisitLine,
    visit=st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,8}", fullmatch=True),
    version=st.integers(1, 9),
    size=st.integers(0),
    md5=st.just(MD5),
    images=st.integers(0),
    series=st.integers(0),
    modalities=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=3)).map(tuple),
    date=st.sampled_from(["", "2024-05-31"]),
)
lists = st.lists(lines, unique_by=lambda line: line.visit, max_size=6)


def test_the_form() -> None:
    raw = encode_visit_list([replace(LINE, visit="v2", date=""), LINE])
    assert raw.decode().splitlines() == [
        "[",
        f'{{"visit": "v1", "version": 1, "size": 10240, "md5": "{MD5}", "images": 5, "series": 2, '
        '"modalities": ["CT", "MR"], "date": "2024-05-31"},',
        f'{{"visit": "v2", "version": 1, "size": 10240, "md5": "{MD5}", "images": 5, "series": 2, '
        '"modalities": ["CT", "MR"]}',
        "]",
    ]
    assert encode_visit_list([]) == b"[]\n"


@given(found=lists)
def test_it_is_read_as_it_was_written(found: list[VisitLine]) -> None:
    raw = encode_visit_list(found)
    assert list(parse_visit_list(raw, "x")) == sorted(found, key=lambda line: line.visit)
    assert len(json.loads(raw)) == len(found)


@given(found=lists, new=lines)
def test_one_line_changes(found: list[VisitLine], new: VisitLine) -> None:
    raw = encode_visit_list(found)
    others = [line for line in found if line.visit != new.visit]
    added = with_line(raw, new)
    assert added == encode_visit_list([*others, new])
    assert without_line(added, new.visit) == encode_visit_list(others)
    assert without_line(raw, new.visit) == encode_visit_list(others)


def test_the_order_of_changes_does_not_matter() -> None:
    found = [replace(LINE, visit=f"v{number}") for number in range(50)]
    results = set()
    for seed in range(3):
        random.Random(seed).shuffle(found)
        raw: bytes | None = b"[]\n"
        for line in found:
            assert raw is not None
            raw = with_line(raw, line)
        results.add(raw)
    assert results == {encode_visit_list(found)}


def test_dates_are_removed() -> None:
    raw = encode_visit_list([LINE, replace(LINE, visit="v2", date="")])
    bare = encode_visit_list([replace(LINE, date=""), replace(LINE, visit="v2", date="")])
    assert without_dates(raw, "x") == bare
    assert without_dates(bare, "x") is bare


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[",
        b"{}\n",
        b"[1]\n",
        b'[{"visit": "v1"}]\n',
        encode_visit_list([LINE]).replace(b"0123", b"012"),
        encode_visit_list([LINE]).replace(b'"size": 10240', b'"size": -1'),
        encode_visit_list([LINE]).replace(b'"size": 10240', b'"size": true'),
        encode_visit_list([LINE]).replace(b'"CT", ', b"1, "),
        b"[" * 100_000,
    ],
)
def test_damage_is_found(raw: bytes) -> None:
    with pytest.raises(DepositDamaged, match=r"visits.json.*the list of a study's visits"):
        parse_visit_list(raw, "visits.json")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        encode_visit_list([LINE])[:-1],
        encode_visit_list([LINE]).replace(b'"visit": "v1"', b'"visit":"v1"'),
        encode_visit_list([LINE, replace(LINE, visit="v2")]).replace(b'"v1"', b'"v3"'),
        encode_visit_list([LINE, replace(LINE, visit="v2")]).replace(b'"v1"', b'"v2"'),
    ],
)
def test_a_list_in_another_form_is_not_changed(raw: bytes) -> None:
    assert with_line(raw, LINE) is None
    assert without_line(raw, "v1") is None


def test_unknown_keys_are_read_over() -> None:
    raw = encode_visit_list([LINE]).replace(b'"version"', b'"later": {}, "version"')
    assert parse_visit_list(raw, "x") == (LINE,)


def test_a_visit_more_in_thousands_is_quick() -> None:
    """Under 50 ms is asked for; the best of a few, as the machine may be busy."""
    raw = encode_visit_list(replace(LINE, visit=f"sub-{number:05d}") for number in range(5000))
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        assert with_line(raw, replace(LINE, visit="sub-02500x"))
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.05
