"""A login session at an XNAT, and single requests in it. Talks to the network.

One session serves all threads, since XNAT counts the sessions of a user. Its cookie is sent by hand; requests follows
no redirect and adds no login of its own. A session that XNAT has ended is begun anew.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

import requests

from icf_utils import __version__
from icf_utils.credentials import Login
from icf_utils.cstore.peer import Tls, tls_context
from icf_utils.errors import RemoteFailure, shown
from icf_utils.xnat.routes import SESSION

#: XNAT asks clients that are named like a browser for a token against cross-site requests; this is none.
USER_AGENT = f"icf-utils/{__version__}"

#: The statuses of requests that may have better luck later.
PASSING = (408, 423, 429, 500, 502, 503, 504)

_SHORT, _WORDS_AT_MOST = 30.0, 300


class ConnectionLost(RemoteFailure):
    """A request was sent, perhaps in part, and no answer came: nobody knows what was done."""


class NoAnswerInTime(ConnectionLost):
    """The server was silent for too long, and may still be at work on the request."""


class Upload(Protocol):
    """A body of known length."""

    @property
    def content_type(self) -> str: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[bytes]: ...


@dataclass(frozen=True)
class Answer:
    """What XNAT says: the status of HTTP and the text of the body."""

    status: int
    text: str
    location: str = ""

    def __str__(self) -> str:
        """For logs: one line, cut to a sensible length."""
        words = shown(" ".join(self.text.split()))
        return f"{self.status} {words[:_WORDS_AT_MOST]}".rstrip()


class Xnat:
    """An XNAT that one is logged in to, from ``with`` to its end. Safe to use from several threads.

    Raises :class:`~icf_utils.errors.StorageFailure` or :class:`~icf_utils.errors.InvalidSetting` on creation for a
    ``ca`` that holds no certificates.
    """

    def __init__(self, url: str, login: Login, ca: Path | None = None, timeout: float = 900.0) -> None:
        self.url, self._login, self._timeout = url.rstrip("/"), login, timeout
        if ca:
            tls_context(Tls(ca))  # says what is wrong with the file, if anything is
        self._verify: bool | str = str(ca) if ca else True
        self._cookie, self._lock, self._local = "", threading.Lock(), threading.local()

    def __enter__(self) -> Xnat:
        self._log_in("")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with suppress(RemoteFailure):  # the session ends by itself after a while, too
            self._once("DELETE", SESSION, {}, None, _SHORT)

    def request(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: Upload | None = None
    ) -> Answer:
        """One request, sent once. Where XNAT says that nobody is logged in, it has done nothing: then once more.

        Raises :class:`ConnectionLost`, or :class:`~icf_utils.errors.RemoteFailure` where trying again is no use.
        """
        cookie = self._cookie
        answer = self._once(method, path, query or {}, body, self._timeout)
        if answer.status == 401:
            self._log_in(cookie)
            answer = self._once(method, path, query or {}, body, self._timeout)
        return answer

    def failure(self, problem: str, remedy: str) -> RemoteFailure:
        """An error of this server's."""
        return RemoteFailure(self.url, problem, remedy)

    def _log_in(self, expired: str) -> None:
        """Begin a session, unless another thread has done so since ``expired`` was in use."""
        with self._lock:
            if self._cookie != expired:
                return
            response = self._send("GET", SESSION, auth=(self._login.user, self._login.password.value), timeout=_SHORT)
            if response.status_code == 401:
                raise self.failure("the login is refused", "check user and password, or the token; it may be expired")
            if response.status_code != 200:
                where = f" to {shown(response.headers['Location'])}" if response.is_redirect else ""
                raise self.failure(
                    f"expected 200 for the login, found {response.status_code}{where}", "check the address of the XNAT"
                )
            self._cookie = response.cookies.get("JSESSIONID") or response.text.strip()

    def _once(self, method: str, path: str, query: Mapping[str, str], body: Upload | None, timeout: float) -> Answer:
        response = self._send(
            method,
            path,
            params=query,
            data=body,
            headers={"Cookie": f"JSESSIONID={self._cookie}", **({"Content-Type": body.content_type} if body else {})},
            timeout=(_SHORT, timeout),
        )
        return Answer(response.status_code, response.text, response.headers.get("Location", ""))

    def _send(self, method: str, path: str, **options: object) -> requests.Response:
        options.setdefault("auth", lambda prepared: prepared)  # else requests would look into netrc by itself
        try:
            return self._session().request(
                method,
                self.url + path,
                allow_redirects=False,
                verify=self._verify,
                **options,  # type: ignore[arg-type]
            )
        except requests.exceptions.SSLError as error:
            raise self.failure(*tls_problem(error)) from error
        except requests.exceptions.ConnectTimeout as error:
            raise ConnectionLost(self.url, "it does not answer", "check address, network and proxy") from error
        except requests.exceptions.Timeout as error:
            raise NoAnswerInTime(self.url, "no answer in time", "look into XNAT's prearchive") from error
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, OSError) as error:
            if isinstance(error, (requests.exceptions.ConnectionError, requests.exceptions.ChunkedEncodingError)):
                raise ConnectionLost(self.url, "the connection was lost", "check network and server") from error
            raise self.failure("it cannot be reached under this address", "check the address and --ca") from error

    def _session(self) -> requests.Session:
        """The connections of this thread; the cookies of answers are not kept."""
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            session.headers["User-Agent"] = USER_AGENT
        session.cookies.clear()
        return session


#: OpenSSL's numbers of what may be wrong with a certificate (X509_V_ERR_...), beside that its issuer is unknown.
_NOT_YET, _EXPIRED, _OTHER_NAME, _OTHER_ADDRESS = 9, 10, 62, 64


def tls_problem(error: BaseException) -> tuple[str, str]:
    """Why there is no TLS connection, and what to do; the reason is the innermost error of those that wrap it."""
    found: BaseException | None = error
    while found and not (isinstance(found, ssl.SSLError) or type(found).__name__ == "CertificateError"):
        found = found.__cause__ or found.__context__
    code = getattr(found, "verify_code", _OTHER_NAME if found and not isinstance(found, ssl.SSLError) else 0)
    if code in (_OTHER_NAME, _OTHER_ADDRESS):
        remedy = "write --url with the name that the certificate is for, and check that this is the server you mean"
        return "its TLS certificate is for another host", remedy
    if code in (_NOT_YET, _EXPIRED):
        problem = "has expired" if code == _EXPIRED else "is not valid yet"
        return f"its TLS certificate {problem}", "tell those who run the server, and check this computer's clock"
    if isinstance(found, ssl.SSLCertVerificationError):
        why = shown(found.verify_message)
        return f"its TLS certificate is not trusted ({why})", "name the authority's certificate by --ca"
    return "there is no TLS connection with it", "check whether it speaks TLS at this port (https: or http:)"
