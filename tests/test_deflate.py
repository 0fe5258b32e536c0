"""Streams without compression: zlib reads them, and a changed one is noticed."""

from __future__ import annotations

import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icf_utils.deflate import read_stored, read_zlib, stored_deflate, stored_zlib

SIZES = (0, 1, 0xFFFF, 0x10000, 0x1FFFE, 200_000)


@pytest.mark.parametrize("size", SIZES)
def test_zlib_reads_what_is_stored(size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert zlib.decompress(stored_zlib(data)) == data
    assert zlib.decompress(stored_deflate(data), -15) == data
    assert read_zlib(b"before" + stored_zlib(data) + b"after", 6) == (data, 6 + len(stored_zlib(data)))


@given(st.binary(max_size=200), st.data())
def test_a_changed_stream_is_noticed(data: bytes, chosen: st.DataObject) -> None:
    stream = bytearray(stored_zlib(data))
    stream[chosen.draw(st.integers(0, len(stream) - 1))] ^= chosen.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match="byte"):
        read_zlib(bytes(stream), 0)


def test_a_compressed_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="stored block"):
        read_stored(zlib.compress(b"a" * 100)[2:], 0)
