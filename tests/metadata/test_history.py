"""``VISIT_history.json``: the versions of a visit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from icf_utils.errors import DepositDamaged
from icf_utils.metadata.history import VersionRecord, current_version, encode_history, kept_archive, read_history
from icf_utils.store.layout import Visit

FIRST = VersionRecord(1, "0" * 32, 10240, "a" * 40)
SECOND = VersionRecord(2, "1" * 32, 20480, "b" * 40, "Größe was wrong", "2026-03-01")


@pytest.fixture
def place(tmp_path: Path) -> Visit:
    (tmp_path / "s").mkdir()
    return Visit(tmp_path, "s", "v1")


def test_the_form(place: Visit) -> None:
    kept = replace(FIRST, kept=kept_archive(place, 1).name)
    raw = encode_history([kept, SECOND])
    assert raw.decode().splitlines() == [
        "[",
        f'{{"version": 1, "md5": "{"0" * 32}", "size": 10240, "commit": "{"a" * 40}", "reason": "", "date": "", '
        '"kept": "v1_dicom.v1.tar"},',
        f'{{"version": 2, "md5": "{"1" * 32}", "size": 20480, "commit": "{"b" * 40}", "reason": "Größe was wrong", '
        '"date": "2026-03-01"}',
        "]",
    ]
    place.history.write_bytes(raw)
    assert read_history(place) == (kept, SECOND)
    assert current_version(place) == 2


def test_a_visit_without_a_history(place: Visit) -> None:
    assert read_history(place) == ()
    assert current_version(place) == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}\n",
        b"[]\n",
        encode_history([FIRST]),
        encode_history([SECOND, FIRST]),
        encode_history([FIRST, replace(SECOND, version=3)]),
        encode_history([FIRST, replace(SECOND, md5="x")]),
        encode_history([FIRST, replace(SECOND, date="2026")]),
        encode_history([FIRST, SECOND]).replace(b'"2026-03-01"', b"1"),
        b"[" * 100_000,
    ],
)
def test_damage_is_found(place: Visit, raw: bytes) -> None:
    place.history.write_bytes(raw)
    with pytest.raises(DepositDamaged, match=r"v1_history.json.*the versions of a visit"):
        read_history(place)
    assert current_version(place) == 1
