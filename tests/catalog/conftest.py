"""Stores with made-up visits: the catalog stage needs nothing but a visit's two JSON files. And a visitor."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from icf_utils.dicom.values import Value
from icf_utils.metadata.records import (
    STANDARD_TAGS,
    ImageRecord,
    TarballRecord,
    VisitMetadata,
    encode_images,
    encode_tarball,
)
from icf_utils.store.layout import Visit

STUDY = "proj-1"
UID_ROOT = "1.2.826.0.1.3680043.8.498"


def digest(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def make_image(path: str, series_uid: str = "", *, size: int = 1000, **tags: Value) -> ImageRecord:
    uids = {
        "SOPInstanceUID": f"{UID_ROOT}.9.{int(digest(path)[:8], 16)}",
        "SeriesInstanceUID": series_uid,
        "StudyInstanceUID": f"{UID_ROOT}.1",
    }
    return ImageRecord(path, digest(path), size, 512, dict.fromkeys(STANDARD_TAGS, "") | tags, uids)


def make_series(number: int, images: int, description: str, modality: str = "MR", **tags: Value) -> list[ImageRecord]:
    uid = f"{UID_ROOT}.5.{number}"
    all_tags: dict[str, Value] = {"SeriesNumber": number, "SeriesDescription": description, "Modality": modality}
    return [
        make_image(f"a/b/s{number:02d}_{at:04d}.dcm", uid, size=210_000, **(all_tags | tags))
        for at in range(1, images + 1)
    ]


def make_visit(visit: str, images: Iterable[ImageRecord], *, study: str = STUDY, size: int = 0) -> VisitMetadata:
    place = Visit(Path(), study, visit)
    images = tuple(replace(image, path=f"{place.member_root}/{image.path}") for image in images)
    total = size or sum(image.size for image in images) + 10240
    md5 = digest(visit + "".join(image.md5 for image in images))
    return VisitMetadata(TarballRecord(total, md5, place.dspath, place.storepath), images)


def typical_images(extra: int = 0) -> list[ImageRecord]:
    return [
        *make_series(1, 3, "localizer", ProtocolName="AAHead_Scout"),
        *make_series(2, 12 + extra, "t1_mprage_sag", ProtocolName="T1w"),
        *make_series(3, 1, "Dose Report", "SR"),
    ]


def deposit(root: Path, visit: str, metadata: VisitMetadata, study: str = STUDY) -> Visit:
    """Write a visit's two JSON files into the store at ``root``."""
    place = Visit(root, study, visit)
    place.tarball_json.parent.mkdir(parents=True, exist_ok=True)
    place.tarball_json.write_bytes(encode_tarball(metadata.tarball))
    place.dicoms_json.write_bytes(encode_images(metadata.images))
    return place


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """An empty store."""
    root = tmp_path / "store"
    root.mkdir()
    return root


@pytest.fixture
def three_visits(store: Path) -> Path:
    """A store with the metadata of three visits, and no catalog yet."""
    for at, visit in enumerate(("v001", "v002", "v003")):
        deposit(store, visit, make_visit(visit, typical_images(at)))
    return store


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, bytes]]:
    """All files below a folder with their bytes."""

    def taken(folder: Path) -> dict[str, bytes]:
        files = (path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(files)}

    return taken
