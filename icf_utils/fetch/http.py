"""The HTTP client of the package. Uses the network and the clock; writes nothing.

Everything that speaks HTTP as a client does it through :class:`HttpClient`: ``retrieve``, ``sessions``, the special
remote, XNAT. Its rules:

**Credentials belong to an origin** (scheme, host and port). A request carries the credential that it is given only to
the origin that this was bound to (:func:`icf_utils.credentials.bind_credential`). No other origin gets it, neither by
a redirect nor by a mistake of the caller, who cannot set ``Authorization`` or ``Cookie`` in any other way. Likewise, a
client certificate is shown to the first origin only. netrc is never read here; see
:func:`icf_utils.credentials.find_login`.

**One retry rule** (:class:`RetryPolicy`): what may work later is repeated after pauses that double each time, or after
the time that the server asks for (``Retry-After``) up to a bound. :meth:`HttpClient.request` repeats a request as a
whole; :class:`icf_utils.fetch.http_source.HttpSource` asks for the rest of a stream that was cut. The statuses that
count are :data:`icf_utils.fetch.responses.TRANSIENT`.

**Redirects** are followed for GET and HEAD, ten at most, to ``http`` and ``https`` only, and each is checked like the
first address (:mod:`icf_utils.fetch.addresses`). Any other request gets the redirect as its answer.

**Proxies** are those of the environment (:mod:`icf_utils.fetch.connections`), **trusted certificates** those of
:mod:`icf_utils.fetch.tls`.

::

    with HttpClient(connections=4, tls=TlsFiles(authority=ca)) as client:
        credential = bind_credential("https://xnat.example.org", Login(user, password))
        with client.request("GET", url, query={"format": "json"}, credential=credential) as response:
            if response.status != 200: ...
            text = response.text(limit=1 << 24)
        with client.request_once("POST", url, body=body, credential=credential) as response: ...

Errors are :class:`icf_utils.fetch.errors.FetchFailure` with a ``kind``, or, where no answer came, its subclass
:class:`icf_utils.fetch.errors.ConnectionFailure`. A status is not an error here: the caller judges it.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from http.cookies import CookieError, SimpleCookie
from types import TracebackType
from typing import Protocol
from urllib.parse import urlencode, urljoin, urlsplit

import urllib3
import urllib3.exceptions
import urllib3.util

from icf_utils import __version__
from icf_utils.credentials import Credential, origin_of, without_credentials
from icf_utils.errors import InvalidSetting, printable
from icf_utils.fetch.addresses import AddressRule, UserRule
from icf_utils.fetch.connections import Connections, Route
from icf_utils.fetch.errors import ConnectionFailure, FetchFailure
from icf_utils.fetch.responses import TRANSIENT, UNTOUCHED
from icf_utils.fetch.source import CHUNK
from icf_utils.fetch.speed import DEFAULT_LOWEST, LowestSpeed, TooSlow
from icf_utils.fetch.tls import TlsFiles, client_context, explain_tls_failure
from icf_utils.formatting import format_count

#: XNAT asks clients that are named like a browser for a token against cross-site requests; this name is not.
USER_AGENT = f"icf-utils/{__version__}"

_MOST_REDIRECTS = 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BOUND_ONLY = frozenset({"authorization", "cookie", "proxy-authorization"})


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how long to try; times in seconds.

    ``attempts`` is how many attempts in a row may bring nothing. A pause doubles each time, from ``first_pause`` up to
    ``longest_pause``; a server's ``Retry-After`` counts instead, unless it exceeds ``longest_wait``, which ends the
    attempts. ``connect`` and ``read`` bound the wait for a connection and for each piece of an answer; an answer that
    comes below the ``lowest`` speed ends as one that takes too long.
    """

    attempts: int = 5
    first_pause: float = 0.5
    longest_pause: float = 30.0
    longest_wait: float = 300.0
    connect: float = 15.0
    read: float = 60.0
    lowest: LowestSpeed = DEFAULT_LOWEST


DEFAULT_RETRY = RetryPolicy()


class Retries:
    """Counts the attempts at one thing, and waits between them by a :class:`RetryPolicy`."""

    def __init__(self, where: str, policy: RetryPolicy, stop: threading.Event) -> None:
        self._where, self._policy, self._stop, self._failed = where, policy, stop, 0

    def progressed(self) -> None:
        """Something came: begin counting again."""
        self._failed = 0

    def check(self) -> None:
        """Raise a failure of the kind ``stopped`` if the caller wants to stop."""
        if self._stop.is_set():
            raise FetchFailure(self._where, "stopped", "run the same command again to continue", kind="stopped")

    def pause(self, problem: str, retry_after: str = "", status: int = 0) -> None:
        """Wait before the next attempt; raises a failure of the kind ``gave-up`` after the last one.

        ``retry_after`` is the header ``Retry-After`` as it was sent, empty where there was none.
        """
        self._failed += 1
        wait = _asked_pause(retry_after)
        if self._failed >= self._policy.attempts or (wait or 0) > self._policy.longest_wait:
            when = f" (it asks to come back after {wait:.0f} s)" if wait else ""
            problem = f"{problem}{when}; gave up after {format_count(self._failed, 'attempt')}"
            raise FetchFailure(self._where, problem, "try again later", kind="gave-up", status=status)
        longest = min(self._policy.first_pause * 2 ** (self._failed - 1), self._policy.longest_pause)
        own = longest * (0.5 + random.random() / 2)  # noqa: S311 - so that many clients do not come back at once
        self._stop.wait(own if wait is None else wait)
        self.check()


class RequestBody(Protocol):
    """A request's body of known length in bytes, which can be iterated again for another attempt."""

    @property
    def content_type(self) -> str: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[bytes]: ...


class Response:
    """An answer, its body unread; a context manager, which gives the connection back.

    ``url`` is the address that answered, after redirects; ``carried`` says what credential this request carried in
    words, empty for none.
    """

    def __init__(self, raw: urllib3.BaseHTTPResponse, url: str, where: str, carried: str) -> None:
        self._raw, self.url, self.where, self.carried = raw, url, where, carried
        self.status = raw.status
        self.headers: Mapping[str, str] = raw.headers
        self._body: bytes | None = None

    def __enter__(self) -> Response:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back, which is closed where the body was not read to its end."""
        self._raw.close()
        self._raw.release_conn()

    def stream(self) -> Iterator[bytes]:
        """The body in pieces, as it was sent. Raises :class:`~icf_utils.fetch.errors.ConnectionFailure`."""
        try:
            yield from self._raw.stream(CHUNK, decode_content=False)
        except urllib3.exceptions.TimeoutError as error:
            raise _failure_of(error, self.where) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:  # also TLS, which was established and is broken now
            raise _lost(error, self.where) from error

    def read(self, limit: int, seconds: float = math.inf) -> bytes:
        """The whole body, of ``limit`` bytes at most, in ``seconds`` at most; read once, and kept.

        Raises :class:`~icf_utils.fetch.errors.FetchFailure` of the kind ``size`` for a longer one, and
        :class:`~icf_utils.fetch.errors.ConnectionFailure` for one that takes longer.
        """
        if self._body is not None:
            return self._body
        parts, total, end = [], 0, time.monotonic() + seconds
        for piece in self.stream():
            parts.append(piece)
            total += len(piece)
            if time.monotonic() > end:
                problem = f"the answer has not ended within {seconds:g} s"
                raise ConnectionFailure(self.where, problem, "try again later", kind="timeout")
            if total > limit:
                problem = f"the answer is larger than the limit of {limit} bytes"
                raise FetchFailure(self.where, problem, "check the address", kind="size", status=self.status)
        self._body = b"".join(parts)
        return self._body

    def text(self, limit: int, seconds: float = math.inf) -> str:
        """The whole body as UTF-8 text; bytes that are not are replaced. Raises as :meth:`read` does."""
        return self.read(limit, seconds).decode("utf-8", "replace")

    def cookie(self, name: str) -> str:
        """The value of a cookie that this answer sets, empty where it does not."""
        for line in self._raw.headers.getlist("Set-Cookie"):
            try:
                cookies = SimpleCookie(line)
            except CookieError:
                continue
            if name in cookies:
                return cookies[name].value
        return ""


@dataclass(frozen=True)
class _Request:
    """A request to one server; ``where`` is the address that the caller asked for, as it may be shown."""

    method: str
    url: str
    where: str
    credential: Credential | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: RequestBody | None = None
    timeout: float | None = None


class HttpClient:
    """Connections to web servers, at most ``connections`` to each at a time; safe for threads; a context manager.

    ``rule`` says which servers may be asked, ``with_proxies`` whether proxies of the environment are used. Setting
    ``stop`` ends pauses from outside.

    Raises as :func:`icf_utils.fetch.tls.client_context` does for files of ``tls`` that cannot be used.
    """

    def __init__(
        self,
        connections: int = 4,
        retry: RetryPolicy = DEFAULT_RETRY,
        *,
        tls: TlsFiles | None = None,
        rule: AddressRule | None = None,
        with_proxies: bool = True,
        stop: threading.Event | None = None,
    ) -> None:
        self.retry, self.stop = retry, stop or threading.Event()
        self._rule: AddressRule = rule or UserRule()
        if tls:
            client_context(tls)  # says at once what is wrong with the files
        self._connections = Connections(connections, tls or TlsFiles(), self._rule, with_proxies, retry.lowest)

    def __enter__(self) -> HttpClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._connections.close()

    def request(
        self,
        method: str,
        url: str,
        *,
        credential: Credential | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: RequestBody | None = None,
        timeout: float | None = None,
        limit: int | None = None,
        transient: frozenset[int] = TRANSIENT,
        is_repeatable: bool = True,
    ) -> Response:
        """A request that is repeated, by the client's policy, while no answer comes, or one of status ``transient``.

        With ``limit``, the body is read here, up to so many bytes, and a cut body counts as no answer. A request whose
        repetition would change something has ``is_repeatable=False``: it is repeated only where the server has
        certainly done nothing, after a refused connection, 429 or 503. Other arguments are those of
        :meth:`request_once`.

        Raises :class:`~icf_utils.fetch.errors.FetchFailure`, of the kind ``gave-up`` where repeating did not help.
        """
        retries = Retries(without_credentials(url), self.retry, self.stop)
        transient = transient if is_repeatable else transient & UNTOUCHED
        while True:
            try:
                response = self.request_once(
                    method, url, credential=credential, query=query, headers=headers, body=body, timeout=timeout
                )
                if limit is not None and response.status not in transient:
                    response.read(limit)
            except ConnectionFailure as failure:
                if not is_repeatable and failure.kind != "unreachable":
                    raise
                retries.pause(failure.problem)
                continue
            if response.status not in transient:
                return response
            with response:
                pause_after(retries, response)

    def request_once(
        self,
        method: str,
        url: str,
        *,
        credential: Credential | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: RequestBody | None = None,
        timeout: float | None = None,
    ) -> Response:
        """One request, sent once. ``timeout`` in seconds replaces the policy's ``read``.

        Raises :class:`~icf_utils.fetch.errors.ConnectionFailure` where no answer came,
        :class:`~icf_utils.fetch.errors.FetchFailure` where the server must not be asked or there is no TLS, and
        :class:`~icf_utils.errors.InvalidSetting` for an address or credential that cannot be sent.
        """
        if forbidden := {name for name in headers or () if name.lower() in _BOUND_ONLY}:
            raise ValueError(f"{forbidden} are sent by binding a credential to an origin")
        if query:
            url += f"{'&' if urlsplit(url).query else '?'}{urlencode(query)}"
        request = _Request(method, url, without_credentials(url), credential, headers or {}, body, timeout)
        first, before = origin_of(url), None
        for _ in range(_MOST_REDIRECTS + 1):
            self._rule.check_url(request.url)
            origin = origin_of(request.url)
            route = self._connections.route_to(origin, before, with_certificate=origin == first)
            response = self._send(request, route)
            target = response.headers.get("Location", "")
            if method not in ("GET", "HEAD") or response.status not in _REDIRECTS or not target:
                return response
            response.close()
            before = self._connections.network_of(origin, route)
            request = replace(request, url=_redirected(request, target))
        raise FetchFailure(request.where, "it redirects in a circle", "check the address", kind="refused")

    def _send(self, request: _Request, route: Route) -> Response:
        """One request to one server."""
        origin = origin_of(request.url)
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **request.headers}
        carried = ""
        if request.credential is not None and request.credential.origin == origin:
            name, value = request.credential.header()
            headers[name], carried = value, request.credential.kind
        if request.body is not None:
            headers |= {"Content-Type": request.body.content_type, "Content-Length": str(len(request.body))}
        try:
            parsed = urllib3.util.parse_url(request.url)
            if (parsed.scheme, (parsed.host or "").strip("[]")) != (origin.scheme, origin.host):
                raise urllib3.exceptions.LocationValueError  # what connects reads it in another way than what checks
            raw = self._connections.manager(route, origin.scheme).urlopen(
                request.method,
                request.url,
                headers=headers,
                body=request.body,
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
                timeout=urllib3.Timeout(connect=self.retry.connect, read=request.timeout or self.retry.read),
            )
        except (urllib3.exceptions.LocationValueError, UnicodeError):
            raise InvalidSetting(request.where, "this is not a web address") from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _failure_of(error, request.where) from error
        return Response(raw, request.url, request.where, carried)


def pause_after(retries: Retries, response: Response) -> None:
    """Wait after an answer that may be different the next time, as long as it asks for."""
    retries.pause(f"the server answered {response.status}", response.headers.get("Retry-After", ""), response.status)


#: What a failure to connect means, by its class: in words, and what to do.
_NO_CONNECTION: tuple[tuple[type[BaseException], str, str], ...] = (
    (urllib3.exceptions.ProxyError, "the proxy cannot be used ({})", "check the proxy's address"),
    (urllib3.exceptions.NameResolutionError, "the host's name cannot be resolved ({})", "check the address"),
    (urllib3.exceptions.NewConnectionError, "no connection ({})", "check the address, the network and the proxy"),
    (urllib3.exceptions.ConnectTimeoutError, "no connection in time", "check the address, the network and the proxy"),
)


def _failure_of(error: BaseException, where: str) -> FetchFailure:
    """What an exception of urllib3 or the operating system means; its text may hold addresses and is not repeated."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, urllib3.exceptions.SSLError):
            return FetchFailure(where, *explain_tls_failure(cause), kind="tls")
        cause = cause.__cause__ or cause.__context__
    for kind, problem, remedy in _NO_CONNECTION:
        if isinstance(error, kind):
            return ConnectionFailure(where, problem.format(_reason(error)), remedy, kind="unreachable")
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return ConnectionFailure(where, _delay(error), "try again later", kind="timeout")
    return _lost(error, where)


def _delay(error: BaseException) -> str:
    """What took too long, in words."""
    slow = error.__cause__
    return f"the answer is too slow ({slow})" if isinstance(slow, TooSlow) else "no answer in time"


def _lost(error: BaseException, where: str) -> ConnectionFailure:
    problem = f"the connection was lost ({_reason(error)})"
    return ConnectionFailure(where, problem, "check the network and the server", kind="lost")


def _reason(error: BaseException) -> str:
    """The innermost cause in a few words, without any address."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__


def _redirected(request: _Request, target: str) -> str:
    """The address that a ``Location`` header leads to. Raises for what is not a web address."""
    try:
        found = urlsplit(urljoin(request.url, target))._replace(fragment="").geturl()
        origin_of(found)
    except (InvalidSetting, ValueError):
        place = "an address with credentials" if "@" in target else f"'{printable(target[:200].partition('?')[0])}'"
        problem = f"it redirects to {place}, which is not a web address"
        raise FetchFailure(request.where, problem, "check the address", kind="refused") from None
    return found


def _asked_pause(text: str) -> float | None:
    """Seconds that a ``Retry-After`` header asks for (RFC 9110, 10.2.3)."""
    if text.isascii() and text.isdecimal():
        return float(text[:20])
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0) if text else None
    except (ValueError, TypeError, OverflowError):
        return None
