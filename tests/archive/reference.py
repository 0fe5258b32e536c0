"""An archive made in the simplest way: pydicom reads whole files, ``tarfile`` writes. The package is not used here."""

from __future__ import annotations

import os
import tarfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.valuerep import DA, TM


@contextmanager
def local_zone(name: str) -> Iterator[None]:
    """Set the process's time zone for a block."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = name
    time.tzset()
    try:
        yield
    finally:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()


def study_time(date: object, clock: object) -> float | None:
    """``StudyDate`` and ``StudyTime`` as a local time of the process's zone; ``None`` if pydicom finds none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            day, hour = DA(date), TM(clock)
        return datetime.combine(day, hour).timestamp()  # TypeError where pydicom says that there is none
    except (ValueError, OverflowError, TypeError):
        return None


def image_time(path: bytes) -> float | None:
    """The study time of an image in the local zone; ``None`` if it has none or is not DICOM."""
    with warnings.catch_warnings(), open(path, "rb") as handle:
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(handle)
            return study_time(dataset.get("StudyDate"), dataset.get("StudyTime"))
        except (InvalidDicomError, ValueError):
            return None


def files_below(folder: Path) -> dict[str, bytes]:
    """Relative name to path on disk, in the order of the names' parts."""
    root = os.fsencode(folder)
    found = {}
    for place, _, names in os.walk(root):
        for name in names:
            path = os.path.join(place, name)
            found[os.path.relpath(path, root).decode("utf-8", "surrogateescape")] = path
    return {name: found[name] for name in sorted(found, key=lambda name: name.split("/"))}


def reference_archive(folder: Path, root: str, zone: str = "UTC") -> bytes:
    """The archive of ``folder`` with all members below ``root``."""
    files = files_below(folder)
    with local_zone(zone):
        times = {name: image_time(path) for name, path in files.items()}
    latest = max((moment for moment in times.values() if moment is not None), default=0.0)
    buffer = BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape"
    ) as archive:
        for name, path in files.items():
            moment = times[name]
            info = tarfile.TarInfo(f"{root}/{name}")
            info.size = os.stat(path).st_size
            info.mtime = latest if moment is None else moment
            info.mode = 0o100644
            info.uid = info.gid = 0
            info.uname = info.gname = "root"
            with open(path, "rb") as handle:
                archive.addfile(info, handle)
    return buffer.getvalue()
