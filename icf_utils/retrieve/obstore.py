"""Buckets at ``gs://`` and ``s3://``, or at another endpoint, by obstore. Uses the network.

Credentials are those of the environment, as obstore documents them (``AWS_ACCESS_KEY_ID``, an instance's role,
``GOOGLE_APPLICATION_CREDENTIALS``, ...), or a bearer token for ``gs://``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from icf_utils.credentials import check_token
from icf_utils.fetch.errors import FetchFailure, Kind
from icf_utils.fetch.source import CHUNK
from icf_utils.formatting import format_count
from icf_utils.installation import missing_package
from icf_utils.retrieve.buckets import BucketObject, BucketPlace

if TYPE_CHECKING:
    from icf_utils.fetch.http import HttpClient, RetryPolicy

_MISSING: tuple[Kind, str, str] = ("missing", "not found (404)", "check the address")
_FORBIDDEN: tuple[Kind, str, str] = ("forbidden", "access denied (403)", "ask its administrator for access")
_UNKNOWN: tuple[Kind, str, str] = (
    "unauthorised",
    "it requires other credentials (401)",
    "set the environment variables that its provider documents, or give a token for gs://",
)
_REFUSED: tuple[Kind, str, str] = ("unauthorised", "it rejects the token (401)", "check the token")
_REPLACED: tuple[Kind, str, str] = ("changed", "it was replaced during the transfer", "run the same command again")

#: By the class of the error, or by the status of the answer, which obstore gives in some texts only.
_REFUSALS = {
    "NotFoundError": _MISSING,
    "FileNotFoundError": _MISSING,
    "404": _MISSING,
    "PermissionDeniedError": _FORBIDDEN,
    "403": _FORBIDDEN,
    "UnauthenticatedError": _UNKNOWN,
    "401": _UNKNOWN,
    "PreconditionError": _REPLACED,
}
_STATUS = re.compile(r"status code: (\d{3})")


class CloudBucket:
    """A bucket that obstore opens; see :class:`~icf_utils.retrieve.buckets.Bucket`."""

    def __init__(self, place: BucketPlace, client: HttpClient) -> None:
        self._shown, self._client = f"{place.scheme}://{place.bucket}", client
        self._has_token = _takes_token(place)
        self._store = _open(place, client.retry)

    def url(self, name: str) -> str:
        return f"{self._shown}/{name}"

    def list(self, prefix: str) -> Iterator[BucketObject]:
        try:
            for page in self._store.list(prefix or None):
                for meta in page:
                    yield BucketObject(meta["path"], meta["size"], meta["e_tag"] or "")
        except _errors() as error:
            raise failure_of(self._shown, error, self._has_token) from None

    def open(self, item: BucketObject) -> CloudSource:
        return CloudSource(self._store, item, self.url(item.name), self._client, self._has_token)


class CloudSource:
    """An object that obstore reads; see :class:`~icf_utils.fetch.source.Source`."""

    def __init__(self, store: Any, item: BucketObject, where: str, client: HttpClient, has_token: bool) -> None:
        self._store, self._item, self._where, self._client = store, item, where, client
        self._has_token = has_token

    @property
    def where(self) -> str:
        return self._where

    def size(self) -> int:
        return self._item.size

    def exists(self) -> bool:
        try:
            size: int = self._store.head(self._item.name)["size"]
        except _errors() as error:
            found = failure_of(self._where, error, self._has_token)
            if found.kind == "missing":
                return False
            raise found from None
        return size == self._item.size

    def read(self, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        from icf_utils.fetch.http import Retries

        end = self._item.size if size is None else start + size
        if end > self._item.size:
            problem = f"expected at least {format_count(end, 'byte')}, found {self._item.size}"
            raise FetchFailure(self._where, problem, "it is another file, or damaged", kind="size")
        retries = Retries(self._where, self._client.retry, self._client.stop)
        while start < end:
            begun = start
            for chunk in self._attempt(start, end):
                retries.check()
                retries.progressed()
                start += len(chunk)
                yield chunk
            if start < end:
                retries.pause(f"the transfer was cut off after {start - begun} bytes")

    def _attempt(self, start: int, end: int) -> Iterator[bytes]:
        """Bytes up to ``end``, or fewer if the connection fails."""
        options: dict[str, Any] = {"range": (start, end)}
        if self._item.state:
            options["if_match"] = self._item.state
        try:
            stream = self._store.get(self._item.name, options=options).stream(min_chunk_size=CHUNK)
        except _errors() as error:  # after obstore's own repetitions
            raise failure_of(self._where, error, self._has_token) from None
        with suppress(*_errors()):
            for chunk in stream:
                yield bytes(chunk)


def _errors() -> tuple[type[Exception], ...]:
    """The exceptions of obstore."""
    from obstore.exceptions import BaseError

    return (BaseError, OSError)


def failure_of(where: str, error: Exception, has_token: bool) -> FetchFailure:
    """What an exception of obstore means; its text is not repeated, since it may contain signed addresses.

    Only obstore knows whether credentials of the environment were sent; ``has_token`` says that a token was.
    """
    name, status = type(error).__name__, _STATUS.search(str(error))
    number = status[1] if status else ""
    other: tuple[Kind, str, str] = (
        "gave-up",
        f"the connection or the server failed ({number or name})",
        "try again later",
    )
    found = _REFUSALS.get(name) or _REFUSALS.get(number, other)
    kind, problem, remedy = _REFUSED if found is _UNKNOWN and has_token else found
    return FetchFailure(where, problem, remedy, kind=kind, status=int(number or 0))


def _open(place: BucketPlace, retry: RetryPolicy) -> Any:
    try:
        from obstore.exceptions import BaseError
        from obstore.store import GCSStore, S3Store
    except ImportError:
        raise missing_package("obstore", "cloud") from None
    config: dict[str, Any] = {
        "client_options": {
            "allow_http": place.endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=retry.connect),
            "read_timeout": timedelta(seconds=retry.read),
            "timeout": timedelta(days=1),  # of a whole answer, which may be long
        },
        "retry_config": {
            "max_retries": retry.attempts - 1,
            "backoff": {
                "init_backoff": timedelta(seconds=retry.first_pause),
                "max_backoff": timedelta(seconds=retry.longest_pause),
            },
        },
    }
    if place.billed_project:
        config["client_options"]["default_headers"] = {"x-goog-user-project": place.billed_project}
    if place.requester_pays:
        config["request_payer"] = True
    if place.is_public:
        config["skip_signature"] = True
    if place.endpoint:
        config["endpoint" if place.scheme == "s3" else "base_url"] = place.endpoint
    if place.token and _takes_token(place):
        config["bearer_token"] = check_token(place.token).value
    try:
        return (S3Store if place.scheme == "s3" else GCSStore)(place.bucket, **config)
    except BaseError as error:
        raise failure_of(f"{place.scheme}://{place.bucket}", error, _takes_token(place)) from None


def _takes_token(place: BucketPlace) -> bool:
    return place.token is not None and place.scheme == "gs"
