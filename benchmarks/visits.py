"""Visits to measure with: real headers from the files that pydicom ships, pixels from a seeded generator."""

from __future__ import annotations

import random
from pathlib import Path

import pydicom
import pydicom.data
from pydicom.uid import UID, generate_uid

SMALLEST, LARGEST = 30_000, 250_000
IMAGES_PER_SERIES = 500
_HEADERS = ("MR_small.dcm", "MR_small_implicit.dcm", "CT_small.dcm", "98892003/MR700/4467", "77654033/CT2/17106")


def make_visit(
    folder: Path, images: int, *, size: int | None = None, seed: int = 1, per_series: int = IMAGES_PER_SERIES
) -> Path:
    """A visit of ``images`` files in folders of a series each, made once; returns its folder.

    Each file has a size between 30 and 250 kB, or ``size`` bytes.
    """
    series_name = "" if per_series == IMAGES_PER_SERIES else f"-by-{per_series}"
    target = folder / f"visit-{images}-{size or 'mixed'}-{seed}{series_name}"
    if (target / ".complete").exists():
        return target / "dicoms"
    dice = random.Random(seed)
    noise = dice.randbytes(LARGEST * 2)
    series = None
    for number in range(images):
        if number % per_series == 0:
            series = _Series(number // per_series + 1, seed)
            (target / "dicoms" / series.folder).mkdir(parents=True, exist_ok=True)
        assert series
        length = size or dice.randint(SMALLEST, LARGEST)
        data = series.image(number, noise, dice.randrange(LARGEST), length)
        (target / "dicoms" / series.folder / f"{number:06}.dcm").write_bytes(data)
    (target / ".complete").touch()
    return target / "dicoms"


class _Series:
    """Images that differ by instance number, SOPInstanceUID and pixels; the header is encoded once."""

    def __init__(self, number: int, seed: int) -> None:
        source = Path(pydicom.data.__file__).parent / "test_files"
        name = _HEADERS[number % len(_HEADERS)]
        data = pydicom.dcmread(source / ("dicomdirtests/" + name if "/" in name else name))
        data.SeriesNumber, data.StudyDate, data.StudyTime = number, "20240131", "101500"
        data.SeriesDescription, data.ProtocolName = f"series {number}", f"protocol {number % 7}"
        data.StudyInstanceUID = generate_uid(entropy_srcs=["benchmark", str(seed)])
        data.SeriesInstanceUID = generate_uid(entropy_srcs=["benchmark", str(seed), str(number)])
        self._mark = generate_uid(entropy_srcs=["benchmark", "instance"])[:50] + "." + "7" * 10
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = UID(self._mark)
        self.folder = f"{number:03}_series"
        self._head = _encoded_head(data)

    def image(self, number: int, noise: bytes, start: int, length: int) -> bytes:
        """One image of about ``length`` bytes."""
        head = self._head.replace(self._mark.encode(), f"{self._mark[:51]}{number + 1_000_000_000}".encode())
        pixels = noise[start : start + max(2, length - len(head) - 12) // 2 * 2]
        return head + b"\xe0\x7f\x10\x00" + self._length(len(pixels)) + pixels

    def _length(self, size: int) -> bytes:
        return (b"OW\0\0" if self._explicit else b"") + size.to_bytes(4, "little")

    @property
    def _explicit(self) -> bool:
        return b"1.2.840.10008.1.2.1\0" in self._head[:1000]


def _encoded_head(data: pydicom.Dataset) -> bytes:
    """All of a data set in front of its pixels, as a file."""
    from io import BytesIO

    for tag in [element.tag for element in data if element.tag >= 0x7FE00000]:
        del data[tag]
    buffer = BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
