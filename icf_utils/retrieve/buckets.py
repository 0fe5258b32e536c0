"""Buckets: names of their objects, and the bytes. Uses the network, or reads a folder that is laid out like a bucket.

:class:`GcsBucket` speaks the JSON API of Google Cloud Storage (``objects: list`` and ``objects: get``);
``gs://`` and ``s3://`` are in :mod:`icf_utils.retrieve.cloud`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlencode

from icf_utils.errors import storage_errors
from icf_utils.fetch.local import FileSource
from icf_utils.fetch.opening import open_source, read_all
from icf_utils.fetch.problems import FetchFailure
from icf_utils.fetch.source import Source
from icf_utils.retrieve.places import BucketPlace

if TYPE_CHECKING:
    from icf_utils.fetch.web import Web

#: The largest page of a listing that is read, in bytes; a page has 1000 names.
_LARGEST_PAGE = 1 << 26


@dataclass(frozen=True)
class Listed:
    """An object: its name in the bucket, size in bytes, and its generation, or ETag, or empty text.

    The size is -1 where the object may be stored compressed, and be sent with another size.
    """

    name: str
    size: int
    state: str = ""


class Bucket(Protocol):
    """Objects by name. All methods raise :class:`~icf_utils.fetch.problems.FetchFailure`."""

    def url(self, name: str) -> str:
        """An object's address as it may be shown."""

    def list(self, prefix: str) -> Iterator[Listed]:
        """All objects whose names begin with ``prefix``."""

    def open(self, item: Listed) -> Source:
        """The bytes of an object, in the state that was listed."""


class GcsBucket:
    """A bucket of Google's, or of a server that speaks its JSON API, with a bearer token or none."""

    def __init__(self, place: BucketPlace, web: Web) -> None:
        self._base = f"{place.endpoint}/storage/v1/b/{quote(place.bucket, safe='')}/o"
        self._shown = f"{place.endpoint}/{place.bucket}"
        self._token, self._web = place.token, web

    def url(self, name: str) -> str:
        return f"{self._shown}/{name}"

    def list(self, prefix: str) -> Iterator[Listed]:
        page = ""
        seen: set[str] = set()
        while page not in seen:
            seen.add(page)
            answer = self._page(prefix, page)
            for item in answer.get("items", []):
                yield self._listed(item)
            page = answer.get("nextPageToken", "")
            if not page:
                return
        raise FetchFailure(self._shown, "its list of objects has no end", "the server is at fault", kind="refused")

    def open(self, item: Listed) -> Source:
        pinned = {"generation": item.state} if item.state else {}
        url = f"{self._base}/{quote(item.name, safe='')}?{urlencode({'alt': 'media', **pinned})}"
        return self._open(url, None if item.size < 0 else item.size)

    def _open(self, url: str, expected: int | None = None) -> Source:
        return open_source(url, self._web, self._token, expected, takes="a token")

    def _page(self, prefix: str, page: str) -> dict[str, Any]:
        asked = {"prefix": prefix, "fields": "nextPageToken,items(name,size,generation,contentEncoding)"}
        if page:
            asked["pageToken"] = page
        source = self._open(f"{self._base}?{urlencode(asked)}")
        try:
            answer = json.loads(read_all(source, _LARGEST_PAGE))
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict) or not isinstance(answer.get("items", []), list):
            raise FetchFailure(
                self._shown, "expected a list of objects, found something else", "check the address", kind="refused"
            )
        return answer

    def _listed(self, item: Any) -> Listed:
        """Objects stored compressed are listed with a size that they may not be sent with.

        Not every server says which ones these are. Only a TAR's size is needed: JSON that was cut is none any more.
        """
        try:
            name, size = str(item["name"]), int(item["size"])
            packed = bool(item.get("contentEncoding")) or not name.endswith(".tar")
            return Listed(name, -1 if packed else size, str(item.get("generation", "")))
        except (AttributeError, KeyError, TypeError, ValueError):
            raise FetchFailure(
                self._shown, "its list of objects cannot be understood", "check the address", kind="refused"
            ) from None


class FolderBucket:
    """A folder that is laid out like a bucket."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def url(self, name: str) -> str:
        return str(self._root / name)

    def list(self, prefix: str) -> Iterator[Listed]:
        """``prefix`` ends with a slash here."""
        with storage_errors(self._root, "read"):
            for folder, folders, names in os.walk(self._root / prefix):
                folders.sort()
                for path in (Path(folder, name) for name in sorted(names)):
                    if path.is_file():
                        yield Listed(path.relative_to(self._root).as_posix(), path.stat().st_size)

    def open(self, item: Listed) -> Source:
        return FileSource(self._root / item.name, item.size)
