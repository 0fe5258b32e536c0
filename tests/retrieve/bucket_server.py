"""A bucket on loopback: the JSON API of Google Cloud Storage, and the XML API that it shares with S3."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

import google_crc32c

from tests.fetch.server import FaultyServer, Request

BUCKET = "my-bucket"
_JSON = f"/storage/v1/b/{BUCKET}/o"


class BucketServer(FaultyServer):
    """Objects of one bucket by name, listed in pages of ``page`` names.

    As Google's does, it unpacks what is stored with gzip for who does not accept that; ``raw`` leaves it packed.
    Its listing says which objects these are if it ``tells_encoding``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.page = 5
        self.raw = False
        self.tells_encoding = True

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
        is_json, path = _JSON in request.path, request.path.removeprefix("/download")
        name = path.removeprefix(f"{_JSON}/" if is_json else f"/{BUCKET}/")
        data = self.objects.get(name)
        if data is None or request.query.get("generation", self.generation(data)) != self.generation(data):
            return None
        if is_json and request.query.get("alt") != "media":
            return json.dumps(self._item(name)).encode(), {"Content-Type": "application/json"}
        packed = data.startswith(b"\x1f\x8b") and is_json
        headers = {"x-goog-generation": self.generation(data), "Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT"}
        headers["X-Goog-Storage-Class"] = "STANDARD"
        if packed and not self.raw:
            return gzip.decompress(data), headers
        return data, {**headers, "Content-Encoding": "gzip"} if packed else headers

    def change(self, request: Request, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        """Uploads in one piece (``uploadType=multipart``) and deletions, as the client library of Google makes them."""
        if request.method == "DELETE":
            self.objects.pop(request.path.removeprefix(f"{_JSON}/"), None)
            return 204, {}, b""
        boundary = b"--" + request.headers["content-type"].partition("boundary=")[2].strip('"').encode()
        _, first, second, _ = body.split(boundary)
        name = json.loads(first.partition(b"\r\n\r\n")[2])["name"]
        self.objects[name] = second.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
        return 200, {"Content-Type": "application/json"}, json.dumps(self._item(name)).encode()

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
        packed = {"contentEncoding": "gzip"} if data.startswith(b"\x1f\x8b") and self.tells_encoding else {}
        crc32c = base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()
        return {
            "bucket": BUCKET,
            "crc32c": crc32c,
            "storageClass": "STANDARD",
            "name": name,
            "size": str(len(data)),
            "generation": self.generation(data),
            **packed,
        }

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
        return hashlib.md5(self.objects[name]).hexdigest()
