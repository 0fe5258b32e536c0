"""The archive's latest time, compared with ``tarfile``; archives that are none."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icf_utils.dataset.archive_time import latest_time
from icf_utils.errors import DepositDamaged, StorageFailure

_TIMES = st.lists(st.floats(-1e11, 3e11) | st.integers(-(10**10), 10**12), max_size=5)
_FORMATS = st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])


def tar(path: Path, times: list[float], form: int = tarfile.PAX_FORMAT, name: str = "n" * 150) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for at, time in enumerate(times):
            info = tarfile.TarInfo(f"study_v1/{at}/{name}")
            info.size, info.mtime = 700 * at, time
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    return path


@given(times=_TIMES, form=_FORMATS)
@settings(max_examples=60, deadline=None)
def test_as_tarfile_reads_it(times: list[float], form: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tar(tmp_path_factory.mktemp("tar") / "x.tar", times, form)
    with tarfile.open(path) as archive:
        expected = max((member.mtime for member in archive), default=0)
    assert latest_time(path, path.stat().st_size) == expected


def test_sizes_and_long_records_of_a_pax_header(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "global"}) as archive:
        info = tarfile.TarInfo("a" * 3000)
        info.mtime, info.size, info.pax_headers = 5.5, 600, {"size": "600"}
        archive.addfile(info, io.BytesIO(bytes(600)))
        archive.addfile(tarfile.TarInfo("later"))
    assert latest_time(path, path.stat().st_size) == 5.5


def _cut(raw: bytes) -> bytes:
    return raw[:700]


def _wrong_checksum(raw: bytes) -> bytes:
    return raw[:3] + b"?" + raw[4:]


def _no_number(raw: bytes) -> bytes:
    return raw.replace(b"mtime=1.5", b"mtime=nan")


def _no_record(raw: bytes) -> bytes:
    return raw.replace(b"mtime=1.5", b"mtime:1.5")


def _negative_size(raw: bytes) -> bytes:
    return raw.replace(b"mtime=1.5", b"size=-512")


def _text(raw: bytes) -> bytes:
    return b"This is not an archive at all. " * 100


@pytest.mark.parametrize("damage", [_cut, _wrong_checksum, _no_number, _no_record, _negative_size, _text])
def test_damage_is_named(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", [1.5, 2.5], name="x")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DepositDamaged, match=r"x\.tar.*pax archive"):
        latest_time(path, path.stat().st_size)


def test_another_size_than_the_metadata_s(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", [1.5])
    with pytest.raises(DepositDamaged, match="5 bytes as in the visit's metadata"):
        latest_time(path, 5)


def test_no_archive(tmp_path: Path) -> None:
    with pytest.raises(StorageFailure):
        latest_time(tmp_path / "x.tar", 5)
