"""Requests to web servers: pooled connections, repeats with growing pauses, credentials that stay with their server.

Uses the network and the clock; writes nothing. Certificates and proxies are those of the environment that
``requests`` knows (``REQUESTS_CA_BUNDLE``, ``HTTPS_PROXY``); netrc is left to :mod:`icf_utils.credentials`.


Bytes of objects on web servers, whole or by ranges, resumed where a stream was cut. Uses the network.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import requests
import requests.adapters
import requests.auth
import urllib3.exceptions

from icf_utils import __version__
from icf_utils.credentials import Login, Secret, check_token, without_credentials
from icf_utils.errors import InvalidSetting
from icf_utils.fetch.errors import FetchFailure
from icf_utils.fetch.responses import (
    PASSING,
    Asked,
    Body,
    Identity,
    condition,
    identity_of,
    judge,
    refusal,
    unauthorised,
    whole_size,
)
from icf_utils.fetch.source import CHUNK

#: Who asks: a user's name and password (Basic, RFC 7617), a bearer token (RFC 6750), or nobody in particular.
Auth = Login | Secret | None

#: What may go better the next time, as the libraries below say it.
CUT = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
    OSError,
)


@dataclass(frozen=True)
class Patience:
    """How long to try: ``attempts`` in a row in which nothing comes; pauses and timeouts in seconds.

    A pause doubles each time, from ``first_pause`` up to ``longest_pause``; a server's ``Retry-After`` counts instead
    if it is not longer than ``longest_wait``.
    """

    attempts: int = 5
    first_pause: float = 0.5
    longest_pause: float = 30.0
    longest_wait: float = 300.0
    connect: float = 15.0
    read: float = 60.0


DEFAULT_PATIENCE = Patience()


class Attempts:
    """Counts the attempts at one thing, and waits between them."""

    def __init__(self, where: str, patience: Patience, stop: threading.Event) -> None:
        self._where, self._patience, self._stop, self._failed = where, patience, stop, 0

    def progressed(self) -> None:
        """Something came: begin counting again."""
        self._failed = 0

    def check(self) -> None:
        """Raise if the caller wants to stop."""
        if self._stop.is_set():
            raise FetchFailure(self._where, "stopped", "begin again to go on", kind="stopped")

    def pause(self, problem: str, retry_after: str = "", status: int = 0) -> None:
        """Wait before the next attempt, or raise if there have been enough."""
        self._failed += 1
        wait = _asked_pause(retry_after)
        if self._failed >= self._patience.attempts or (wait or 0) > self._patience.longest_wait:
            when = f" (it asks to come back after {wait:.0f} s)" if wait else ""
            raise FetchFailure(
                self._where,
                f"{problem}{when}; tried {self._failed} times",
                "try again later",
                kind="gave-up",
                status=status,
            )
        longest = min(self._patience.first_pause * 2 ** (self._failed - 1), self._patience.longest_pause)
        own = longest * (0.5 + random.random() / 2)  # noqa: S311 - so that many clients do not come back at once
        self._stop.wait(own if wait is None else wait)
        self.check()


class Web:
    """Connections to web servers, at most ``connections`` to each at a time; safe for threads; a context manager.

    ``stop`` ends pauses and transfers from outside.
    """

    def __init__(
        self, connections: int = 4, patience: Patience = DEFAULT_PATIENCE, stop: threading.Event | None = None
    ) -> None:
        self.patience, self.stop = patience, stop or threading.Event()
        self._session = _Session()
        adapter = requests.adapters.HTTPAdapter(pool_connections=connections, pool_maxsize=connections, pool_block=True)
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)
        self._session.headers.update({"User-Agent": f"icf-utils/{__version__}"})

    def __enter__(self) -> Web:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._session.close()

    def request(self, method: str, url: str, headers: Mapping[str, str], auth: Auth) -> requests.Response:
        """One request, body unread; redirects are followed. Raises what is in :data:`CUT`, or a failure of ours.

        Raises :class:`~icf_utils.errors.InvalidSetting` for an address or a token that can be none.
        """
        asked = {"Accept-Encoding": "identity", **headers}
        where = without_credentials(url)
        try:
            return self._session.request(
                method,
                url,
                headers=asked,
                auth=_Authorization(auth),
                stream=True,
                timeout=(self.patience.connect, self.patience.read),
                allow_redirects=True,
            )
        except (requests.exceptions.SSLError, requests.exceptions.ProxyError) as error:
            problem = f"no secure connection ({_reason(error)})"
            raise FetchFailure(where, problem, "check certificates and proxy", kind="refused") from None
        except requests.TooManyRedirects:
            raise FetchFailure(where, "it redirects without end", "check the address", kind="refused") from None
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError):
            raise InvalidSetting(where, "this is no web address") from None


def reason_of(error: BaseException) -> str:
    """Why a connection failed, in a few words, without any address."""
    return _reason(error)


class _Session(requests.Session):
    """Credentials go to the server that they were given for, never on to where it redirects."""

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        before, after = response.request.url or "", prepared_request.url or ""
        if "Authorization" in prepared_request.headers and self.should_strip_auth(before, after):  # type: ignore[no-untyped-call]
            del prepared_request.headers["Authorization"]


class _Authorization(requests.auth.AuthBase):
    def __init__(self, auth: Auth) -> None:
        self._auth = check_token(auth) if isinstance(auth, Secret) else auth

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if isinstance(self._auth, Secret):
            request.headers["Authorization"] = f"Bearer {self._auth.value}"
        elif self._auth is not None:
            user, password = self._auth.user.encode(), self._auth.password.value.encode()
            basic: Any = requests.auth.HTTPBasicAuth(user, password)
            return basic(request)  # type: ignore[no-any-return]
        return request


def _asked_pause(text: str) -> float | None:
    """Seconds that a ``Retry-After`` header asks for (RFC 9110, 10.2.3)."""
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0) if text else None
    except (ValueError, TypeError):
        return None


def _reason(error: BaseException) -> str:
    """The innermost cause's class; texts of these errors repeat the URL, which may hold a token."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__


class _CutShort(Exception):
    """A stream ended before what was announced."""


class HttpSource:
    """An object on a web server; see :class:`~icf_utils.fetch.source.Source`.

    ``expected`` is the size in bytes that it must have, if that is known; ``takes`` is what can be given to a server
    that wants to know who asks, for messages. What has come of a read is kept when the
    stream is cut: the rest is asked for on its own, and must come from the same object. A server that knows no ranges
    is read from the start again, which :meth:`read` does only for reads from the start; others raise
    :class:`~icf_utils.fetch.errors.RangesRefused` before anything is transferred.
    """

    def __init__(
        self, url: str, web: Web, auth: Auth = None, expected: int | None = None, takes: str = "a login"
    ) -> None:
        self._url, self._web, self._auth, self._takes = url, web, auth, takes
        self._where = without_credentials(url)
        self._pinned = Identity("", expected)
        self._lock = threading.Lock()
        self._head_is_disliked = False

    @property
    def where(self) -> str:
        return self._where

    def size(self) -> int | None:
        if self._pinned.size is None:
            self._ask_for_size()
        return self._pinned.size

    def exists(self) -> bool:
        """Whether the server has it now, by a request without a body; its size must be the expected one."""
        try:
            self._ask_for_size()
        except FetchFailure as failure:
            if failure.kind == "missing":
                return False
            raise
        return True

    def read(self, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        attempts, done = Attempts(self._where, self._web.patience, self._web.stop), 0
        while size is None or done < size:
            asked = Asked(start, size, done)
            try:
                response = self._send("GET", asked)
                with closing(response):
                    if response.status_code in PASSING:
                        self._pause(attempts, response)
                        continue
                    for chunk in self._body(response, asked):
                        attempts.check()
                        attempts.progressed()
                        done += len(chunk)
                        yield chunk
                if size is None:
                    return
            except _CutShort as error:
                attempts.pause(str(error))
            except CUT as error:
                attempts.pause(f"the connection failed ({reason_of(error)})")

    def _send(self, method: str, asked: Asked) -> requests.Response:
        headers = {}
        if asked.at or asked.size is not None:
            end = "" if asked.left is None else asked.at + asked.left - 1
            headers["Range"] = f"bytes={asked.at}-{end}"
            headers.update(condition(self._pinned.mark))
        response = self._web.request(method, self._url, headers, self._auth)
        if response.status_code == 401:
            with closing(response):
                raise unauthorised(self._where, response.headers, self._sent(response), self._takes)
        return response

    def _sent(self, response: requests.Response) -> str:
        """What the answered request carried, in words: nothing where it was redirected to another server."""
        if "Authorization" not in response.request.headers:
            return ""
        return "token" if isinstance(self._auth, Secret) else "user and password"

    def _body(self, response: requests.Response, asked: Asked) -> Iterator[bytes]:
        """The part of an answer's body that was asked for; raises :class:`_CutShort` if it ends early."""
        if response.status_code in (200, 206):
            self._refuse_replaced(identity_of(response.headers, None))
        body = judge(self._where, response.status_code, response.headers, asked)
        self._pin(body.identity)
        come = 0
        try:
            for chunk in _trimmed(response, body):
                come += len(chunk)
                yield chunk
        except _CutShort as error:
            raise _CutShort(f"the stream was cut after {asked.done + come} bytes ({error})") from error
        if body.length is not None and come < body.length:
            raise _CutShort(f"the stream was cut after {asked.done + come} bytes")
        end = asked.at + come
        if asked.size is None and self._pinned.size is not None and end < self._pinned.size:
            raise _CutShort(f"the stream was cut after {end} of {self._pinned.size} bytes")

    def _pin(self, found: Identity) -> None:
        """What is read is one state of the object: the one of the first answer."""
        with self._lock:
            pinned = self._pinned
            if not pinned.mark and not pinned.agrees(found):
                problem = f"expected {pinned.size} bytes in all, found {found.size}"
                raise FetchFailure(self._where, problem, "it is another or a damaged file", kind="size")
            self._refuse_replaced(found)
            size = found.size if pinned.size is None else pinned.size
            self._pinned = Identity(pinned.mark or found.mark, size)

    def _refuse_replaced(self, found: Identity) -> None:
        """Before anything else that an answer may be wrong about: of another object, all else says nothing."""
        if not self._pinned.agrees(found):
            raise FetchFailure(self._where, "it was replaced during the transfer", "begin again", kind="changed")

    def _ask_for_size(self) -> None:
        """By HEAD; where a server dislikes that, by the answer to a request for the first byte, which is not read."""
        attempts = Attempts(self._where, self._web.patience, self._web.stop)
        asked = {"HEAD": Asked(0, None), "GET": Asked(0, 1)}
        method = "HEAD"
        while not self._ask(method, asked[method], attempts):
            method = "GET" if self._head_is_disliked else "HEAD"

    def _ask(self, method: str, asked: Asked, attempts: Attempts) -> bool:
        """Learn size and state from one answer; false where another attempt is needed."""
        try:
            with closing(self._send(method, asked)) as response:
                if response.status_code in PASSING - {501}:
                    self._pause(attempts, response)
                    return False
                if method == "HEAD" and _is_dislike(response):
                    self._head_is_disliked = True
                    return False
                self._learn(response)
                return True
        except CUT as error:
            attempts.pause(f"the connection failed ({reason_of(error)})")
            return False

    def _learn(self, response: requests.Response) -> None:
        status, headers = response.status_code, response.headers
        if status == 200:
            self._pin(judge(self._where, 200, headers, Asked(0, None)).identity)
        elif status == 206:
            self._pin(judge(self._where, 206, headers, Asked(0, 1)).identity)
        elif status == 416:  # of an empty object there is no first byte
            self._pin(identity_of(headers, 0))
        else:
            raise refusal(self._where, status)

    def _pause(self, attempts: Attempts, response: requests.Response) -> None:
        status = response.status_code
        attempts.pause(f"the server answered {status}", response.headers.get("Retry-After", ""), status)


def _trimmed(response: requests.Response, body: Body) -> Iterator[bytes]:
    """The body without what precedes and follows the part that is ours; bytes as they were sent, not decoded."""
    skip, left = body.skip, body.length
    for chunk in _raw(response):
        piece = chunk[skip:] if skip else chunk
        skip -= len(chunk) - len(piece)
        if left is not None:
            piece = piece[:left]
            left -= len(piece)
        if piece:
            yield piece
        if left == 0:
            return


def _raw(response: requests.Response) -> Iterator[bytes]:
    try:
        yield from response.raw.stream(CHUNK, decode_content=False)
    except CUT as error:
        raise _CutShort(reason_of(error)) from error


def _is_dislike(response: requests.Response) -> bool:
    """Of HEAD: signed addresses allow GET only, and streaming servers tell no length of what they do not send."""
    status = response.status_code
    return status in (400, 403, 405, 501) or (status == 200 and whole_size(response.headers) is None)
