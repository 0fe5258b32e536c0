"""Requests to web servers: pooled connections, repeats with growing pauses, credentials that stay with their server.

Uses the network and the clock; writes nothing. Certificates and proxies are those of the environment that
``requests`` knows (``REQUESTS_CA_BUNDLE``, ``HTTPS_PROXY``); netrc is left to :mod:`icf_utils.credentials`.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping
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
from icf_utils.fetch.problems import FetchFailure

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
