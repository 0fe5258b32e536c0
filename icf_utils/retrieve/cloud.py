"""Buckets at ``gs://`` and ``s3://``, also behind an endpoint of one's own, through obstore. Uses the network.

Credentials are those of the environment, as obstore documents them (``AWS_ACCESS_KEY_ID``, an instance's role,
``GOOGLE_APPLICATION_CREDENTIALS``, ...), or a bearer token for ``gs://``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from icf_utils.errors import MissingRequirement
from icf_utils.fetch.problems import FetchFailure, Kind
from icf_utils.fetch.source import CHUNK
from icf_utils.retrieve.buckets import Listed
from icf_utils.retrieve.places import BucketPlace

if TYPE_CHECKING:
    from icf_utils.fetch.web import Web

_REFUSALS: dict[str, tuple[Kind, str, str]] = {
    "NotFoundError": ("missing", "there is no such thing", "check the address"),
    "PermissionDeniedError": ("forbidden", "it is not allowed", "ask who runs it for access"),
    "UnauthenticatedError": ("unauthorised", "it wants to know who asks", "give credentials, or a token"),
    "PreconditionError": ("changed", "it was replaced during the transfer", "begin again"),
}


class CloudBucket:
    """A bucket that obstore opens; see :class:`~icf_utils.retrieve.buckets.Bucket`."""

    def __init__(self, place: BucketPlace, web: Web) -> None:
        self._shown, self._web = f"{place.scheme}://{place.bucket}", web
        self._store = _open(place)

    def url(self, name: str) -> str:
        return f"{self._shown}/{name}"

    def list(self, prefix: str) -> Iterator[Listed]:
        from obstore.exceptions import BaseError

        try:
            for page in self._store.list(prefix or None):
                for meta in page:
                    yield Listed(meta["path"], meta["size"], meta["e_tag"] or "")
        except BaseError as error:
            raise failure(self._shown, error) from None

    def open(self, item: Listed) -> CloudSource:
        return CloudSource(self._store, item, self.url(item.name), self._web)


class CloudSource:
    """An object that obstore reads; see :class:`~icf_utils.fetch.source.Source`."""

    def __init__(self, store: Any, item: Listed, where: str, web: Web) -> None:
        self._store, self._item, self._where, self._web = store, item, where, web

    @property
    def where(self) -> str:
        return self._where

    def size(self) -> int:
        return self._item.size

    def exists(self) -> bool:
        from obstore.exceptions import BaseError

        try:
            size: int = self._store.head(self._item.name)["size"]
        except BaseError as error:
            found = failure(self._where, error)
            if found.kind == "missing":
                return False
            raise found from None
        return size == self._item.size

    def read(self, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        from icf_utils.fetch.web import Attempts

        end = self._item.size if size is None else start + size
        if end > self._item.size:
            problem = f"expected {end} bytes at least, found {self._item.size}"
            raise FetchFailure(self._where, problem, "it is another or a damaged file", kind="size")
        attempts = Attempts(self._where, self._web.patience, self._web.stop)
        while start < end:
            begun = start
            for chunk in self._attempt(start, end):
                attempts.check()
                attempts.progressed()
                start += len(chunk)
                yield chunk
            if start < end:
                attempts.pause(f"the stream was cut after {start - begun} bytes")

    def _attempt(self, start: int, end: int) -> Iterator[bytes]:
        """Bytes up to ``end``, or fewer where the connection fails."""
        from obstore.exceptions import BaseError

        options: dict[str, Any] = {"range": (start, end)}
        if self._item.state:
            options["if_match"] = self._item.state
        try:
            for chunk in self._store.get(self._item.name, options=options).stream(min_chunk_size=CHUNK):
                yield bytes(chunk)
        except BaseError as error:
            found = failure(self._where, error)
            if found.kind != "gave-up":
                raise found from None


def failure(where: str, error: Exception) -> FetchFailure:
    """What an error of obstore means; its text may have addresses with signatures in it and is not repeated."""
    name = type(error).__name__
    other: tuple[Kind, str, str] = ("gave-up", f"the connection or the server failed ({name})", "try again later")
    kind, problem, remedy = _REFUSALS.get(name, other)
    return FetchFailure(where, problem, remedy, kind=kind)


def _open(place: BucketPlace) -> Any:
    try:
        from obstore.exceptions import BaseError
        from obstore.store import GCSStore, S3Store
    except ImportError:
        raise MissingRequirement(
            f"the package obstore, for {place.scheme}://", "install it: pip install 'icf-utils[cloud]'"
        ) from None
    config: dict[str, Any] = {"client_options": {"allow_http": place.endpoint.startswith("http://")}}
    if place.endpoint:
        config["endpoint" if place.scheme == "s3" else "base_url"] = place.endpoint
    if place.token and place.scheme == "gs":
        config["bearer_token"] = place.token.value
    try:
        return (S3Store if place.scheme == "s3" else GCSStore)(place.bucket, **config)
    except BaseError as error:
        raise failure(f"{place.scheme}://{place.bucket}", error) from None
