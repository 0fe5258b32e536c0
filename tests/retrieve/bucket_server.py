"""A bucket on loopback: the JSON API of Google Cloud Storage, and the XML API that it shares with S3."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

from tests.fetch.server import FaultyServer, Request

BUCKET = "my-bucket"
_JSON = f"/storage/v1/b/{BUCKET}/o"


class BucketServer(FaultyServer):
    """Objects of one bucket by name, listed in pages of ``page`` names.

    As Google's does, it unpacks what is stored with gzip for who does not accept that; ``raw`` leaves it packed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.page = 5
        self.raw = False

    @property
    def place(self) -> str:
        return f"{self.url}/{BUCKET}"

    def fill(self, objects: Mapping[str, bytes], prefix: str = "dicomweb") -> None:
        self.objects.update({f"{prefix}/{name}" if prefix else name: data for name, data in objects.items()})

    def load(self, folder: Path) -> None:
        """All files of a folder, by their names below it."""
        files = (path for path in folder.rglob("*") if path.is_file() and path.name != "README.md")
        self.fill({path.relative_to(folder).as_posix(): path.read_bytes() for path in files}, "")

    def find(self, request: Request) -> tuple[bytes, Mapping[str, str]] | None:
        if request.path == _JSON:
            return self._json_page(request.query)
        if request.path in (f"/{BUCKET}", f"/{BUCKET}/") and "list-type" in request.query:
            return self._xml_page(request.query)
        name = request.path.removeprefix(f"{_JSON}/" if request.path.startswith(_JSON) else f"/{BUCKET}/")
        data = self.objects.get(name)
        if data is None or request.query.get("generation", self.generation(data)) != self.generation(data):
            return None
        packed = data.startswith(b"\x1f\x8b") and request.path.startswith(_JSON)
        headers = {"x-goog-generation": self.generation(data), "Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT"}
        if packed and not self.raw:
            return gzip.decompress(data), headers
        return data, {**headers, "Content-Encoding": "gzip"} if packed else headers

    @staticmethod
    def generation(data: bytes) -> str:
        return str(hash(data) % 10**15)

    def _names(self, query: Mapping[str, str]) -> list[str]:
        return sorted(name for name in self.objects if name.startswith(query.get("prefix", "")))

    def _json_page(self, query: Mapping[str, str]) -> tuple[bytes, Mapping[str, str]]:
        names, start = self._names(query), int(query.get("pageToken", "0"))
        answer: dict[str, object] = {"kind": "storage#objects"}
        if names[start : start + self.page]:
            answer["items"] = [self._item(name) for name in names[start : start + self.page]]
        if names[start + self.page :]:
            answer["nextPageToken"] = str(start + self.page)
        return json.dumps(answer).encode(), {"Content-Type": "application/json"}

    def _item(self, name: str) -> dict[str, str]:
        data = self.objects[name]
        packed = {"contentEncoding": "gzip"} if data.startswith(b"\x1f\x8b") else {}
        return {"name": name, "size": str(len(data)), "generation": self.generation(data), **packed}

    def _xml_page(self, query: Mapping[str, str]) -> tuple[bytes, Mapping[str, str]]:
        names, start = self._names(query), int(query.get("continuation-token", "0"))
        here, more = names[start : start + self.page], names[start + self.page :]
        token = f"<NextContinuationToken>{start + self.page}</NextContinuationToken>" if more else ""
        items = "".join(
            f"<Contents><Key>{escape(name)}</Key><LastModified>2026-11-21T10:00:00.000Z</LastModified>"
            f"<ETag>&quot;{self._tag(name)}&quot;</ETag><Size>{len(self.objects[name])}</Size></Contents>"
            for name in here
        )
        text = (
            f"<ListBucketResult><IsTruncated>{str(bool(more)).lower()}</IsTruncated>{token}{items}</ListBucketResult>"
        )
        return text.encode(), {"Content-Type": "application/xml"}

    def _tag(self, name: str) -> str:
        import hashlib

        return hashlib.md5(self.objects[name]).hexdigest()
