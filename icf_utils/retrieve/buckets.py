"""Buckets: their addresses, the names of their objects, and the objects' bytes.

An address is a URL (:func:`parse_bucket`) or the details that ``cod-retrieve`` takes (:func:`parse_bucket_details`).
:class:`GcsBucket` uses the JSON API of Google Cloud Storage (``objects: list`` and ``objects: get``),
:class:`FolderBucket` reads a folder with the layout of a bucket; ``gs://`` and ``s3://`` are in
:mod:`icf_utils.retrieve.obstore`. Uses the network, or reads files.
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


#: The server of Google's buckets.
GOOGLE = "https://storage.googleapis.com"

#: The last part of the prefix of most buckets.
USUAL_PREFIX = "dicomweb"


@dataclass(frozen=True)
class BucketPlace:
    """The place of a COD bucket. ``prefix`` precedes ``studies/``, without slashes at its ends; it may be empty.

    ``scheme``: ``https`` or ``http`` for the JSON API of Google Cloud Storage at ``endpoint``, ``gs`` and ``s3`` for
    the providers' own APIs (``endpoint`` empty: the provider's server), ``file`` for the folder ``bucket``.

    For buckets whose requester pays: ``billed_project`` is the Google project that is charged, ``requester_pays``
    accepts the charges of an S3 bucket. A ``gs`` or ``s3`` bucket that ``is_public`` is read without credentials.
    """

    bucket: str
    prefix: str = ""
    token: Secret | None = field(default=None, repr=False)
    scheme: str = "https"
    endpoint: str = GOOGLE
    billed_project: str = ""
    requester_pays: bool = False
    is_public: bool = False

    def __post_init__(self) -> None:
        bad = any(part in ("", ".", "..") for part in self.prefix.split("/")) if self.prefix else False
        if not self.bucket or bad or re.search(r"[\x00-\x1f]", self.bucket + self.prefix):
            raise InvalidSetting(
                "bucket", f"'{printable(self.bucket)}' with prefix '{printable(self.prefix)}' is not a place"
            )
        if self.scheme != "file" and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.bucket):
            raise InvalidSetting("bucket", f"'{printable(self.bucket)}' is not the name of a bucket")

    @property
    def where(self) -> str:
        """Bucket and prefix for messages, without credentials."""
        root = self.endpoint if self.scheme in ("http", "https") else f"{self.scheme}:/"
        return f"{root}/{self.bucket}/{self.prefix}".rstrip("/")

    def named(self, *parts: str) -> str:
        """The full name of an object below the prefix."""
        return "/".join((*((self.prefix,) if self.prefix else ()), *parts))


def parse_bucket(
    text: str, prefix: str | None = None, endpoint: str | None = None, token: Secret | None = None
) -> BucketPlace:
    """The place of the bucket that a URL or a plain name means.

    ``https://host/bucket[/prefix...][?token=T]`` as ``cod-retrieve`` documents it: ``/dicomweb`` is appended to a
    prefix that does not end with it. The prefixes of ``gs://bucket/prefix``, ``s3://bucket/prefix`` and
    ``file:///folder/prefix``, and the argument ``prefix``, are used unchanged. A plain name is a bucket of Google's.
    The argument ``token`` takes precedence over one in the URL.

    Raises :class:`~icf_utils.errors.InvalidSetting`.
    """
    parts = urlsplit(text)
    if not parts.scheme:
        return BucketPlace(text, _trim(prefix or ""), token, endpoint=(endpoint or GOOGLE).rstrip("/"))
    if parts.scheme not in ("http", "https", "gs", "s3", "file"):
        raise InvalidSetting(
            "bucket", f"'{printable(without_credentials(text))}': expected https, http, gs, s3 or file"
        )
    if "@" in parts.netloc:
        raise InvalidSetting("bucket", "the address of a bucket must not contain a user name or password")
    if parts.scheme == "file":
        from icf_utils.fetch.files import path_of

        return BucketPlace(str(path_of(without_credentials(text))), _trim(prefix or ""), scheme="file", endpoint="")
    if parts.scheme in ("gs", "s3"):
        own = unquote(parts.path) if prefix is None else prefix
        server = (endpoint or "").rstrip("/")
        return BucketPlace(parts.netloc, _trim(own), token or _token(parts.query), parts.scheme, server)
    if endpoint:
        raise InvalidSetting("--endpoint", "cannot be combined with an http or https address")
    bucket, _, rest = unquote(parts.path).lstrip("/").partition("/")
    own = _usual(_trim(rest)) if prefix is None else _trim(prefix)
    host = f"{parts.scheme}://{parts.netloc}"
    return BucketPlace(bucket, own, token or _token(parts.query), parts.scheme, host)


def parse_bucket_details(details: Mapping[str, object]) -> BucketPlace:
    """The place of the bucket ``{bucket, bucketPrefix, token}``, as ``cod-retrieve`` takes it; all used unchanged.

    ``endpoint`` is the server, unless it is Google's. Raises :class:`~icf_utils.errors.InvalidSetting`.
    """
    known = {"bucket", "bucketPrefix", "token", "endpoint"}
    if unknown := sorted(str(key) for key in details if key not in known):
        raise InvalidSetting(
            "bucket", f"unknown details {', '.join(map(printable, unknown))} (known: {', '.join(sorted(known))})"
        )
    texts = {key: details.get(key) or "" for key in known}
    if wrong := [key for key in sorted(known) if not isinstance(texts[key], (str, Secret))]:
        raise InvalidSetting("bucket", f"expected a text for {', '.join(wrong)}")
    token = texts["token"] if isinstance(texts["token"], Secret) else _secret(str(texts["token"]))
    endpoint = str(texts["endpoint"] or GOOGLE).rstrip("/")
    scheme = "http" if endpoint.startswith("http://") else "https"
    return BucketPlace(str(texts["bucket"]), _trim(str(texts["bucketPrefix"])), token, scheme, endpoint)


def has_token(text: str) -> bool:
    """Whether an address contains a token, which must not be on a command line."""
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


#: The largest page of a listing that is read, in bytes; a page has at most 1,000 names.
_LARGEST_PAGE = 1 << 26

#: The longest list of objects that is read, and how many pages of it in a row may have none.
_MOST_OBJECTS, _MOST_EMPTY_PAGES = 10_000_000, 1000


@dataclass(frozen=True)
class BucketObject:
    """An object: its name in the bucket, its size in bytes, and its generation or ETag, if the bucket has them.

    The size is -1 where the object may be stored compressed, and so be sent with another size.
    """

    name: str
    size: int
    state: str = ""


class Bucket(Protocol):
    """Objects by name. All methods raise :class:`~icf_utils.fetch.errors.FetchFailure`."""

    def url(self, name: str) -> str:
        """An object's address for messages."""

    def list(self, prefix: str) -> Iterator[BucketObject]:
        """All objects whose names begin with ``prefix``."""

    def open(self, item: BucketObject) -> ByteSource:
        """The bytes of an object, in the state that was listed."""


class GcsBucket:
    """A bucket at Google, or at a server with the same JSON API, with a bearer token or without."""

    def __init__(self, place: BucketPlace, client: HttpClient) -> None:
        self._base = f"{place.endpoint}/storage/v1/b/{quote(place.bucket, safe='')}/o"
        self._shown = f"{place.endpoint}/{place.bucket}"
        self._credential, self._client = bind_credential(place.endpoint, place.token), client
        self._billed = {"userProject": place.billed_project} if place.billed_project else {}

    def url(self, name: str) -> str:
        return f"{self._shown}/{name}"

    def list(self, prefix: str) -> Iterator[BucketObject]:
        page, objects, empty = "", 0, 0
        seen: set[str] = set()
        while page not in seen and objects <= _MOST_OBJECTS and empty <= _MOST_EMPTY_PAGES:
            seen.add(page)
            answer = self._page(prefix, page)
            items = answer.get("items", [])
            for item in items:
                yield self._listed(item)
            objects, empty = objects + len(items), 0 if items else empty + 1
            page = answer.get("nextPageToken", "")
            if not page:
                return
        raise FetchFailure(
            self._shown, "its list of objects has no end", "report it to the server's administrator", kind="refused"
        )

    def open(self, item: BucketObject) -> ByteSource:
        pinned = {"generation": item.state} if item.state else {}
        url = f"{self._base}/{quote(item.name, safe='')}?{urlencode({'alt': 'media', **pinned, **self._billed})}"
        return self._open(url, None if item.size < 0 else item.size)

    def _open(self, url: str, expected: int | None = None) -> ByteSource:
        return open_source(url, self._client, self._credential, expected, advice="give a token")

    def _page(self, prefix: str, page: str) -> dict[str, Any]:
        fields = "nextPageToken,items(name,size,generation,contentEncoding)"
        asked = {"prefix": prefix, "fields": fields, **self._billed}
        if page:
            asked["pageToken"] = page
        source = self._open(f"{self._base}?{urlencode(asked)}")
        try:
            answer = json.loads(read_whole(source, _LARGEST_PAGE))
        except (ValueError, RecursionError):
            answer = None
        if (
            not isinstance(answer, dict)
            or not isinstance(answer.get("items", []), list)
            or not isinstance(answer.get("nextPageToken", ""), str)
        ):
            raise FetchFailure(
                self._shown, "expected a list of objects, found something else", "check the address", kind="refused"
            )
        return answer

    def _listed(self, item: Any) -> BucketObject:
        """An object that is stored compressed is listed with a size other than that of what is sent.

        Not every server says which ones these are. Only the size of TARs is needed: JSON that was cut is invalid.
        """
        try:
            name, size = str(item["name"]), int(item["size"])
            packed = bool(item.get("contentEncoding")) or not name.endswith(".tar")
            return BucketObject(name, -1 if packed else size, str(item.get("generation", "")))
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
            raise FetchFailure(
                self._shown,
                "expected names and sizes of objects, found something else",
                "check the address",
                kind="refused",
            ) from None


class FolderBucket:
    """A folder with the layout of a bucket."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def url(self, name: str) -> str:
        return str(self._root / name)

    def list(self, prefix: str) -> Iterator[BucketObject]:
        """``prefix`` must end with a slash."""
        with storage_errors(self._root, "read"):
            for folder, folders, names in os.walk(self._root / prefix):
                folders.sort()
                for path in (Path(folder, name) for name in sorted(names)):
                    if path.is_file():
                        yield BucketObject(path.relative_to(self._root).as_posix(), path.stat().st_size)

    def open(self, item: BucketObject) -> ByteSource:
        return FileSource(self._root / item.name, item.size)
