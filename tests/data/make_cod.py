"""Buckets in the Cloud Optimized DICOM format (COD, metadata 1.0 and 2.0): objects by name, as a bucket holds them.

``CodSeries`` is one series of any bytes; ``sample_bucket`` a small bucket of real images with what the format's own
writer leaves in practice: metadata of both versions, hashed UIDs, a bucket that moved, appended images, thumbnails.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import google_crc32c
import pydicom
import zstandard

from tests.data.make_dicom import JPEG_BASELINE, dicom_bytes, uid

BUCKET_OF_WRITER = "gs://my-bucket"
JPEG_2000_LOSSLESS = "1.2.840.10008.1.2.4.90"


@dataclass
class CodSeries:
    """A series: ``name`` is ``studies/STUDY/series/SERIES``. The document may be changed before it is packed.

    ``home`` is what the ``uri`` of each image begins with: a bucket may have moved since. With ``hashed``, ``study``
    and ``series`` and the names of the images are hashes, and the records alone hold the UIDs.
    """

    study: str
    series: str
    images: Mapping[str, bytes]
    number: int = 1
    description: str = "T1w"
    version: str = "2.0"
    home: str = "gs://old/home"
    hashed: bool = False
    tar: bytes = b""
    document: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        buffer = io.BytesIO()
        records: dict[str, Any] = {}
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for sop, content in self.images.items():
                info = tarfile.TarInfo(f"instances/{sop}.dcm")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
                records[sop] = self._record(sop, content, buffer.tell())
        self.tar = buffer.getvalue()
        for sop, content in self.images.items():  # where tarfile itself finds the content
            with tarfile.open(fileobj=io.BytesIO(self.tar)) as tar:
                start = tar.getmember(f"instances/{sop}.dcm").offset_data
            records[sop]["headers"] = {"start_byte": start, "end_byte": start + len(content)}
        own = "deid_" if self.hashed else ""
        self.document = {f"{own}study_uid": self.study, f"{own}series_uid": self.series, "cod": {"instances": records}}

    @property
    def name(self) -> str:
        return f"studies/{self.study}/series/{self.series}"

    @property
    def records(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = self.document["cod"]["instances"]
        return found

    def _record(self, sop: str, content: bytes, position: int) -> dict[str, Any]:
        elements = {
            "0008103E": {"vr": "LO", "Value": [self.description]},
            "00200011": {"vr": "IS", "Value": [self.number]},
        }
        packed = base64.b64encode(zstandard.compress(json.dumps(elements).encode())).decode()
        return {
            "metadata": elements if self.version == "1.0" else packed,
            ("url" if self.version == "1.0" else "uri"): f"{self.home}/{self.name}.tar://instances/{sop}.dcm",
            "crc32c": base64.b64encode(google_crc32c.value(content).to_bytes(4, "big")).decode(),
            "size": len(content),
            **({} if self.version == "1.0" else {"instance_uid": self._uid(sop, content), "version": self.version}),
        }

    def _uid(self, name: str, content: bytes) -> str:
        if not self.hashed:
            return name
        return str(pydicom.dcmread(io.BytesIO(content), specific_tags=["SOPInstanceUID"]).SOPInstanceUID)

    def objects(self, packed: bool = True) -> dict[str, bytes]:
        raw = json.dumps(self.document).encode()
        return {
            f"{self.name}.tar": self.tar,
            f"{self.name}/metadata.json": gzip.compress(raw) if packed else raw,
            f"{self.name}/index.sqlite": b"SQLite format 3",
        }


def _series(number: int, count: int, *, prefix: str, hashed: bool = False, **options: Any) -> CodSeries:
    """A series of images, numbered from 1; ``syntax`` is their transfer syntax."""
    changes = {"transfer_syntax": options.pop("syntax")} if "syntax" in options else {}
    study = uid("cod", prefix)
    images = {}
    for at in range(1, count + 1):
        content = dicom_bytes(StudyInstanceUID=study, SeriesNumber=number, InstanceNumber=at, **changes)
        images[_name(uid(study, number, at), hashed=hashed)] = content
    series = uid(study, number)
    return CodSeries(
        _name(study, hashed=hashed), _name(series, hashed=hashed), images, number, hashed=hashed, **options
    )


def _name(identifier: str, *, hashed: bool) -> str:
    return f"9.9.{zlib.crc32(identifier.encode())}" if hashed else identifier


def sample_bucket() -> dict[str, bytes]:
    """A bucket below six prefixes; the empty one is that of a bucket without a prefix."""
    contents = {
        "": [_series(1, 4, prefix="")],
        "v1meta/dicomweb": [
            _series(at, 2, prefix="v1meta", version="1.0", home=f"{BUCKET_OF_WRITER}/v1meta/dicomweb")
            for at in range(4)
        ],
        "deid/dicomweb": [_series(1, 4, prefix="deid", hashed=True, home=f"{BUCKET_OF_WRITER}/deid/dicomweb")],
        "appended/dicomweb": [_series(1, 6, prefix="appended", home=f"{BUCKET_OF_WRITER}/earlier/dicomweb")],
        "j2k/dicomweb": [_series(1, 3, prefix="j2k", home=f"{BUCKET_OF_WRITER}/earlier", syntax=JPEG_2000_LOSSLESS)],
        "pub/v1/dicomweb": [_series(1, 1, prefix="pub"), _series(2, 3, prefix="pub", syntax=JPEG_BASELINE)],
    }
    found = {}
    for prefix, all_series in contents.items():
        for series in all_series:
            objects = series.objects()
            if prefix.startswith("pub"):
                objects[f"{series.name}/thumbnail.jpg"] = b"\xff\xd8\xff\xd9"
            found.update({f"{prefix}/{name}" if prefix else name: data for name, data in objects.items()})
    return found


def write_bucket(folder: Path, objects: Mapping[str, bytes]) -> None:
    """Write objects as files below a folder."""
    for name, data in objects.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
