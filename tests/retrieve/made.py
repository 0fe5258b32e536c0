"""Series of a COD bucket, made from any bytes: objects by name, as a bucket holds them."""

from __future__ import annotations

import base64
import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import google_crc32c
import zstandard


@dataclass
class Made:
    """A series: ``name`` is ``studies/STUDY/series/SERIES``. The document may be changed before it is packed."""

    study: str
    series: str
    images: Mapping[str, bytes]
    number: int = 1
    description: str = "T1w"
    version: str = "2.0"
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
        self.document = {"study_uid": self.study, "series_uid": self.series, "cod": {"instances": records}}

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
            ("url" if self.version == "1.0" else "uri"): f"gs://old/home/{self.name}.tar://instances/{sop}.dcm",
            "crc32c": base64.b64encode(google_crc32c.value(content).to_bytes(4, "big")).decode(),
            "size": len(content),
            **({} if self.version == "1.0" else {"instance_uid": sop, "version": self.version}),
        }

    def objects(self, packed: bool = True) -> dict[str, bytes]:
        raw = json.dumps(self.document).encode()
        return {
            f"{self.name}.tar": self.tar,
            f"{self.name}/metadata.json": gzip.compress(raw) if packed else raw,
            f"{self.name}/index.sqlite": b"SQLite format 3",
        }
