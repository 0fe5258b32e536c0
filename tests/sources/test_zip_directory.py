"""A zip with a huge directory costs neither memory nor time."""

from __future__ import annotations

import io
import struct
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest

from icf_utils.errors import InputRefused
from icf_utils.sources import zip_directory
from icf_utils.sources.open import open_source
from icf_utils.sources.zip_directory import refuse_huge_directory


def huge(entries: int, is_large: bool = True) -> bytes:
    """A zip of one file whose directory names many; ``is_large``: by the records of zip64."""
    local = b"PK\3\4" + struct.pack("<HHHHHLLLHH", 20, 0, 0, 0, 0x21, 0, 0, 0, 1, 0) + b"a"
    fields = (20, 20, 0, 0, 0, 0x21, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0)
    header = b"PK\1\2" + struct.pack("<HHHHHHLLLHHHHHLL", *fields)
    directory = b"".join(header + b"%07x" % at for at in range(entries))
    start, size = len(local), len(directory)
    large = b"PK\6\6" + struct.pack("<QHHLLQQQQ", 44, 45, 45, 0, 0, entries, entries, size, start)
    large += b"PK\6\7" + struct.pack("<LQL", 0, start + size, 1)
    end = b"PK\5\6" + struct.pack("<HHHHLLH", 0, 0, 0xFFFF, 0xFFFF, size, start, 0)
    return local + directory + (large if is_large else b"") + end


@pytest.mark.parametrize("is_large", [True, False])
def test_too_many_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_large: bool) -> None:
    monkeypatch.setattr(zip_directory, "MOST_ENTRIES", 1000)
    (tmp_path / "v.zip").write_bytes(huge(1001, is_large))
    with pytest.raises(InputRefused, match="has more than 1000 entries"), open_source(tmp_path / "v.zip", tmp_path):
        pass


def test_a_directory_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_directory, "LARGEST_DIRECTORY", 10_000)
    (tmp_path / "v.zip").write_bytes(huge(1000))
    with pytest.raises(InputRefused, match="has a directory of 53000 bytes"), open_source(tmp_path / "v.zip", tmp_path):
        pass


@pytest.mark.parametrize("entries", [0, 1, 500])
@pytest.mark.parametrize("comment", [b"", b"x" * 0xFFFF])
def test_ordinary_zips(tmp_path: Path, entries: int, comment: bytes) -> None:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        archive.comment = comment
        for at in range(entries):
            archive.writestr(f"{at}.dcm", b"x")
    (tmp_path / "v.zip").write_bytes(raw.getvalue())
    with (tmp_path / "v.zip").open("rb") as file:
        refuse_huge_directory(file, "v.zip")


@pytest.mark.parametrize("raw", [b"", b"PK", b"PK\3\4", b"PK\5\6", b"x" * 100, b"PK\5\6" + b"\xff" * 18])
def test_damaged_zips_are_left_to_their_reader_or_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "v.zip").write_bytes(raw)
    with (tmp_path / "v.zip").open("rb") as file, suppress(InputRefused):
        refuse_huge_directory(file, "v.zip")
