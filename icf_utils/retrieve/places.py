"""How a bucket is called: by URL or by its details. Pure, no input or output happens here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from icf_utils.credentials import Secret, without_credentials
from icf_utils.errors import InvalidSetting, shown

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
            raise InvalidSetting("bucket", f"'{shown(self.bucket)}' with prefix '{shown(self.prefix)}' names no place")
        if self.scheme != "file" and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.bucket):
            raise InvalidSetting("bucket", f"'{shown(self.bucket)}' is no name of a bucket")

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
        raise InvalidSetting("bucket", f"'{shown(without_credentials(text))}': known are https, http, gs, s3 and file")
    if "@" in parts.netloc:
        raise InvalidSetting("bucket", "user and password do not belong into the address of a bucket")
    if parts.scheme == "file":
        from icf_utils.fetch.local import path_of

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


def place_of(details: Mapping[str, object]) -> BucketPlace:
    """The bucket that ``{bucket, bucketPrefix, token}`` means, as ``cod-retrieve`` takes it; all used as given.

    ``endpoint`` is the server, if it is not Google's. Raises :class:`~icf_utils.errors.InvalidSetting`.
    """
    known = {"bucket", "bucketPrefix", "token", "endpoint"}
    if unknown := sorted(str(key) for key in details if key not in known):
        raise InvalidSetting(
            "bucket", f"its details have {', '.join(map(shown, unknown))}; known are {', '.join(sorted(known))}"
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
