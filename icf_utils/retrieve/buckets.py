"""How a bucket is called: by URL or by its details. Pure, no input or output happens here.

Buckets: names of their objects, and the bytes. Uses the network, or reads a folder that is laid out like a bucket.

:class:`GcsBucket` speaks the JSON API of Google Cloud Storage (``objects: list`` and ``objects: get``);
``gs://`` and ``s3://`` are in :mod:`icf_utils.retrieve.obstore`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from icf_utils.credentials import Secret, bind_credential, without_credentials
from icf_utils.errors import InvalidSetting, printable, storage_errors
from icf_utils.fetch.errors import FetchFailure
from icf_utils.fetch.files import FileSource
from icf_utils.fetch.open import open_source, read_whole
from icf_utils.fetch.source import ByteSource

if TYPE_CHECKING:
    from icf_utils.fetch.http import HttpClient


#: Where Google's buckets are.
GOOGLE = "https://storage.googleapis.com"

#: The last part of the prefix of most buckets.
USUAL_PREFIX = "dicomweb"


@dataclass(frozen=True)
class BucketPlace:
    """A COD bucket. ``prefix`` is what stands before ``studies/``, without slashes around it; it may be empty.

    ``scheme``: ``https`` or ``http`` for the JSON API of Google Cloud Storage at ``endpoint``, ``gs`` and ``s3`` for
    the cloud providers' own ways (``endpoint`` empty: the provider's), ``file`` for a folder, named by ``bucket``.
    """

    bucket: str
    prefix: str = ""
    token: Secret | None = field(default=None, repr=False)
    scheme: str = "https"
    endpoint: str = GOOGLE

    def __post_init__(self) -> None:
        bad = any(part in ("", ".", "..") for part in self.prefix.split("/")) if self.prefix else False
        if not self.bucket or bad or re.search(r"[\x00-\x1f]", self.bucket + self.prefix):
            raise InvalidSetting(
                "bucket", f"'{printable(self.bucket)}' with prefix '{printable(self.prefix)}' names no place"
            )
        if self.scheme != "file" and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.bucket):
            raise InvalidSetting("bucket", f"'{printable(self.bucket)}' is no name of a bucket")

    @property
    def where(self) -> str:
        """The bucket and prefix as they may be shown."""
        root = self.endpoint if self.scheme in ("http", "https") else f"{self.scheme}:/"
        return f"{root}/{self.bucket}/{self.prefix}".rstrip("/")

    def named(self, *parts: str) -> str:
        """The name of an object below the prefix."""
        return "/".join((*((self.prefix,) if self.prefix else ()), *parts))


def parse_bucket(
    text: str, prefix: str | None = None, endpoint: str | None = None, token: Secret | None = None
) -> BucketPlace:
    """The bucket that a URL or a plain name means.

    ``https://host/bucket[/prefix...][?token=T]`` as ``cod-retrieve`` documents it: ``/dicomweb`` is appended to the
    prefix unless it ends so, and is the prefix where there is none. Prefixes of ``gs://bucket/prefix``,
    ``s3://bucket/prefix`` and ``file:///folder/prefix`` stand as they are, and so does a ``prefix`` given apart.
    A plain name is a bucket of Google's. A ``token`` given apart counts instead of one in the URL.

    Raises :class:`~icf_utils.errors.InvalidSetting`.
    """
    parts = urlsplit(text)
    if not parts.scheme:
        return BucketPlace(text, _trim(prefix or ""), token, endpoint=(endpoint or GOOGLE).rstrip("/"))
    if parts.scheme not in ("http", "https", "gs", "s3", "file"):
        raise InvalidSetting(
            "bucket", f"'{printable(without_credentials(text))}': known are https, http, gs, s3 and file"
        )
    if "@" in parts.netloc:
        raise InvalidSetting("bucket", "user and password do not belong into the address of a bucket")
    if parts.scheme == "file":
        from icf_utils.fetch.files import path_of

        return BucketPlace(str(path_of(without_credentials(text))), _trim(prefix or ""), scheme="file", endpoint="")
    if parts.scheme in ("gs", "s3"):
        own = unquote(parts.path) if prefix is None else prefix
        server = (endpoint or "").rstrip("/")
        return BucketPlace(parts.netloc, _trim(own), token or _token(parts.query), parts.scheme, server)
    if endpoint:
        raise InvalidSetting("--endpoint", "an address with http or https says already where the bucket is")
    bucket, _, rest = unquote(parts.path).lstrip("/").partition("/")
    own = _usual(_trim(rest)) if prefix is None else _trim(prefix)
    host = f"{parts.scheme}://{parts.netloc}"
    return BucketPlace(bucket, own, token or _token(parts.query), parts.scheme, host)


def parse_bucket_details(details: Mapping[str, object]) -> BucketPlace:
    """The bucket that ``{bucket, bucketPrefix, token}`` means, as ``cod-retrieve`` takes it; all used as given.

    ``endpoint`` is the server, if it is not Google's. Raises :class:`~icf_utils.errors.InvalidSetting`.
    """
    known = {"bucket", "bucketPrefix", "token", "endpoint"}
    if unknown := sorted(str(key) for key in details if key not in known):
        raise InvalidSetting(
            "bucket", f"its details have {', '.join(map(printable, unknown))}; known are {', '.join(sorted(known))}"
        )
    texts = {key: details.get(key) or "" for key in known}
    if wrong := [key for key in sorted(known) if not isinstance(texts[key], (str, Secret))]:
        raise InvalidSetting("bucket", f"expected text for {', '.join(wrong)}")
    token = texts["token"] if isinstance(texts["token"], Secret) else _secret(str(texts["token"]))
    endpoint = str(texts["endpoint"] or GOOGLE).rstrip("/")
    scheme = "http" if endpoint.startswith("http://") else "https"
    return BucketPlace(str(texts["bucket"]), _trim(str(texts["bucketPrefix"])), token, scheme, endpoint)


def has_token(text: str) -> bool:
    """Whether an address carries a token, which does not belong on a command line."""
    return _token(urlsplit(text).query) is not None


def _usual(prefix: str) -> str:
    if not prefix:
        return USUAL_PREFIX
    return prefix if prefix.rpartition("/")[2] == USUAL_PREFIX else f"{prefix}/{USUAL_PREFIX}"


def _trim(prefix: str) -> str:
    return prefix.strip("/")


def _token(query: str) -> Secret | None:
    return _secret(dict(parse_qsl(query)).get("token", ""))


def _secret(value: str) -> Secret | None:
    return Secret(value) if value not in ("", "null", "undefined") else None


#: The largest page of a listing that is read, in bytes; a page has 1000 names.
_LARGEST_PAGE = 1 << 26


@dataclass(frozen=True)
class BucketObject:
    """An object: its name in the bucket, size in bytes, and its generation, or ETag, or empty text.

    The size is -1 where the object may be stored compressed, and be sent with another size.
    """

    name: str
    size: int
    state: str = ""


class Bucket(Protocol):
    """Objects by name. All methods raise :class:`~icf_utils.fetch.errors.FetchFailure`."""

    def url(self, name: str) -> str:
        """An object's address as it may be shown."""

    def list(self, prefix: str) -> Iterator[BucketObject]:
        """All objects whose names begin with ``prefix``."""

    def open(self, item: BucketObject) -> ByteSource:
        """The bytes of an object, in the state that was listed."""


class GcsBucket:
    """A bucket of Google's, or of a server that speaks its JSON API, with a bearer token or none."""

    def __init__(self, place: BucketPlace, client: HttpClient) -> None:
        self._base = f"{place.endpoint}/storage/v1/b/{quote(place.bucket, safe='')}/o"
        self._shown = f"{place.endpoint}/{place.bucket}"
        self._credential, self._client = bind_credential(place.endpoint, place.token), client

    def url(self, name: str) -> str:
        return f"{self._shown}/{name}"

    def list(self, prefix: str) -> Iterator[BucketObject]:
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

    def open(self, item: BucketObject) -> ByteSource:
        pinned = {"generation": item.state} if item.state else {}
        url = f"{self._base}/{quote(item.name, safe='')}?{urlencode({'alt': 'media', **pinned})}"
        return self._open(url, None if item.size < 0 else item.size)

    def _open(self, url: str, expected: int | None = None) -> ByteSource:
        return open_source(url, self._client, self._credential, expected, advice="give a token")

    def _page(self, prefix: str, page: str) -> dict[str, Any]:
        asked = {"prefix": prefix, "fields": "nextPageToken,items(name,size,generation,contentEncoding)"}
        if page:
            asked["pageToken"] = page
        source = self._open(f"{self._base}?{urlencode(asked)}")
        try:
            answer = json.loads(read_whole(source, _LARGEST_PAGE))
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict) or not isinstance(answer.get("items", []), list):
            raise FetchFailure(
                self._shown, "expected a list of objects, found something else", "check the address", kind="refused"
            )
        return answer

    def _listed(self, item: Any) -> BucketObject:
        """Objects stored compressed are listed with a size that they may not be sent with.

        Not every server says which ones these are. Only a TAR's size is needed: JSON that was cut is none any more.
        """
        try:
            name, size = str(item["name"]), int(item["size"])
            packed = bool(item.get("contentEncoding")) or not name.endswith(".tar")
            return BucketObject(name, -1 if packed else size, str(item.get("generation", "")))
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

    def list(self, prefix: str) -> Iterator[BucketObject]:
        """``prefix`` ends with a slash here."""
        with storage_errors(self._root, "read"):
            for folder, folders, names in os.walk(self._root / prefix):
                folders.sort()
                for path in (Path(folder, name) for name in sorted(names)):
                    if path.is_file():
                        yield BucketObject(path.relative_to(self._root).as_posix(), path.stat().st_size)

    def open(self, item: BucketObject) -> ByteSource:
        return FileSource(self._root / item.name, item.size)
