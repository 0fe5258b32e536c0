"""The client of XNAT's REST interface, the only one in the package. Uses the network.

Addresses, parameters and answers are those of XNAT 1.8: ``/data/services/import``, and the prearchive and the archive
below ``/data``. The rules:

**One login session** serves all threads, since XNAT counts the sessions of a user. Credentials are sent to open it,
afterwards only its cookie. When XNAT has ended it (401), it is opened again.

**Requests that change nothing are repeated**, and so is the rebuild, which may be asked for twice: until there is an
answer of a status that is not in :data:`TRANSIENT`, or the attempts of :data:`QUESTIONS` are used up. An import and a
commit are sent once: when the connection is lost, nobody knows what XNAT has done. :mod:`icf_utils.xnat.upload` finds
out before it sends anything again.

**A project is checked before it is used**: XNAT puts what is for an unknown or forbidden project into another one,
without an error.

``PUT /data/prearchive`` is never sent: it deletes every row of the prearchive and reads all of its folders again.
"""

from __future__ import annotations

import json
import re
import ssl
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol
from urllib.parse import quote, unquote

import requests

from icf_utils import __version__
from icf_utils.credentials import Login
from icf_utils.errors import RemoteFailure, printable
from icf_utils.fetch.tls import TlsFiles, client_context
from icf_utils.xnat.model import INTERRUPTED, UploadTarget, is_busy

#: XNAT requires a token against cross-site requests from clients that have a browser's name; this is not one.
USER_AGENT = f"icf-utils/{__version__}"

#: Statuses of answers that may be different later. 423: XNAT has locked the session while it works on it.
TRANSIENT = frozenset({408, 423, 425, 429, 500, 502, 503, 504})

IMPORT = "/data/services/import"
LOGIN_SESSION = "/data/JSESSION"
REBUILD = "/data/services/prearchive/rebuild"

#: The status of a session that XNAT's answer names and that XNAT does not list.
NOT_LISTED = "not listed"

#: The status of a session in the archive.
ARCHIVED = "ARCHIVED"

#: The resources of a scan that hold what was uploaded; XNAT adds others, such as snapshots.
_IMAGE_RESOURCES = ("DICOM", "secondary")

_IN_PREARCHIVE = re.compile(r"/prearchive/projects/([^/]+)/([^/]+)/([^/]+)/?")
_IN_PROJECT = re.compile(r"/(?:pre)?archive/projects/([^/]+)(?:/.*)?")

#: Seconds to wait for a login, and for a connection.
_SHORT = 30.0

#: Characters of an answer that are shown.
_LONGEST_ANSWER = 300

#: Attempts at a question; the first pause and the longest, in seconds.
_ATTEMPTS, _FIRST_PAUSE, _LONGEST_PAUSE = 12, 0.5, 30.0

#: A line of one of XNAT's listings: its columns by their names.
ListingRow = Mapping[str, Any]


class ConnectionLost(RemoteFailure):
    """A request was sent, perhaps in part, and no answer came: nobody knows what XNAT has done."""


class ResponseTimeout(ConnectionLost):
    """The server was silent for too long, and may still be working on the request."""


class RequestBody(Protocol):
    """A body of known length in bytes."""

    @property
    def content_type(self) -> str: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[bytes]: ...


@dataclass(frozen=True)
class XnatAnswer:
    """What XNAT answered: the HTTP status and the text of the body."""

    status: int
    text: str

    def __str__(self) -> str:
        """For messages and logs: one line, shortened."""
        words = printable(" ".join(self.text.split()))
        return f"{self.status} {words[:_LONGEST_ANSWER]}".rstrip()


@dataclass(frozen=True)
class SessionStatus:
    """A session as XNAT shows it.

    ``status`` is one of :data:`~icf_utils.xnat.model.STATUSES`, :data:`ARCHIVED` or :data:`NOT_LISTED`. ``key`` changes
    when the session does. ``files`` counts its images, ``None`` where XNAT does not say.
    """

    uri: str
    key: str
    status: str
    files: int | None = None

    @property
    def is_busy(self) -> bool:
        """Whether XNAT is working on the session."""
        return is_busy(self.status)


class XnatClient:
    """A login session at an XNAT, from ``with`` to its end. Safe to use from several threads.

    ``timeout`` bounds the wait for each response, in seconds; ``pause`` is the first pause before a question is
    repeated. Setting ``stop`` ends pauses from outside.

    Raises :class:`~icf_utils.errors.StorageFailure` or :class:`~icf_utils.errors.InvalidSetting` on creation for a
    ``ca`` that contains no certificates. Every method raises :class:`~icf_utils.errors.RemoteFailure`:
    :class:`ConnectionLost` where no answer came, else where repeating the request would not help.
    """

    def __init__(
        self,
        url: str,
        login: Login,
        ca: Path | None = None,
        *,
        timeout: float = 900.0,
        pause: float = _FIRST_PAUSE,
        stop: threading.Event | None = None,
    ) -> None:
        self.url, self._login, self._timeout = url.rstrip("/"), login, timeout
        self._pause, self._stop = pause, stop or threading.Event()
        if ca:
            client_context(TlsFiles(ca))  # says what is wrong with the file, if anything is
        self._verify: bool | str = str(ca) if ca else True
        self._cookie, self._lock, self._local = "", threading.Lock(), threading.local()

    def __enter__(self) -> XnatClient:
        self._log_in("")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with suppress(RemoteFailure):  # XNAT ends the session after a while in any case
            self._request_once("DELETE", LOGIN_SESSION, {}, None, _SHORT)

    # -- what XNAT has ------------------------------------------------------------------------------------------------

    def list_prearchive(self, project: str) -> list[ListingRow]:
        """The sessions in a project's prearchive."""
        answer, rows = self._list(prearchive_path(project))
        if answer.status != 200:
            problem = f"the prearchive of project '{printable(project)}' cannot be listed ({answer})"
            raise self.failure(problem, "check the project's ID (not its title) and the user's permissions in it")
        return rows

    def check_project(self, project: str) -> None:
        """Check that a project of exactly this ID exists, and that the user may list its prearchive."""
        found = {str(row.get("project") or project) for row in self.list_prearchive(project)}
        if found - {project}:
            others = ", ".join(f"'{printable(name)}'" for name in sorted(found))
            problem = f"the prearchive of '{printable(project)}' contains sessions of project {others}"
            raise self.failure(problem, "give the project's ID exactly as XNAT spells it")

    def prearchive_status(self, project: str, timestamp: str, foldername: str) -> str | None:
        """The status of a session in the prearchive, ``None`` for a session that is not listed."""
        for row in self.list_prearchive(project):
            if (row.get("timestamp"), row.get("folderName")) == (timestamp, foldername):
                return str(row.get("status"))
        return None

    def find_sessions(
        self, project: str, subject: str, label: str, rows: Iterable[ListingRow] | None = None
    ) -> tuple[SessionStatus, ...]:
        """All that the prearchive and the archive have of a session.

        ``rows`` is a listing of the prearchive, if there is one already. Images are not counted while XNAT is working
        on a session.
        """
        found = select_sessions(self.list_prearchive(project) if rows is None else rows, subject, label)
        return (*(self._with_files(item) for item in found), *self.find_archived(project, subject, label))

    def find_archived(self, project: str, subject: str, label: str) -> tuple[SessionStatus, ...]:
        """The session of this label in the archive, if there is one."""
        path = f"/data/archive{_experiment(project, subject, label)}"
        if self._ask("GET", path, {"format": "json"}).status != 200:
            return ()
        answer, rows = self._list(f"{path}/scans/ALL/files")
        files = count_archived_images(rows) if answer.status == 200 else None
        uri = path.removeprefix("/data")
        return (SessionStatus(uri, f"{uri} {files}", ARCHIVED, files),)

    def read_session(self, uri: str) -> SessionStatus:
        """The session at an address in the prearchive."""
        answer, rows = self._list(f"/data{uri}")
        if answer.status != 200 or not rows:
            return SessionStatus(uri, uri, NOT_LISTED)
        key, status = f"{uri} {rows[0].get('lastmod')}", str(rows[0].get("status") or "")
        return self._with_files(SessionStatus(uri, key, status))

    def count_files(self, uri: str) -> int | None:
        """How many images XNAT counts in a session of the prearchive, ``None`` where it does not say."""
        answer, rows = self._list(f"/data{uri}/resources")
        return count_prearchived_images(rows) if answer.status == 200 else None

    # -- what XNAT is to do -------------------------------------------------------------------------------------------

    def import_session(self, query: Mapping[str, str], body: RequestBody) -> XnatAnswer:
        """Have XNAT import an upload; ``query`` is made by :func:`import_query`. Sent once."""
        return self._request("POST", IMPORT, query, body)

    def import_inbox(self, query: Mapping[str, str]) -> None:
        """Have XNAT import a folder of its inbox; ``query`` is made by :func:`inbox_query`. Sent once."""
        answer = self._request("POST", IMPORT, query)
        if answer.status != 200:
            problem = f"the import from the inbox was refused ({answer})"
            raise self.failure(problem, "check the project, the site's inbox, and the path as the server sees it")

    def commit(self, uri: str) -> XnatAnswer:
        """Have XNAT finish a session of the prearchive whose upload broke off. Sent once.

        The answer is 200, or 301 where the project archives sessions by itself, or 409 while the session is locked.
        """
        return self._request("POST", f"/data{uri}", {"action": "commit"})

    def rebuild(self, uri: str) -> None:
        """Have XNAT build a session of the prearchive from its files. That it does so already (409) is as good."""
        answer = self._ask("POST", REBUILD, {"src": uri})
        if answer.status not in (200, 301, 409):
            raise self.failure(f"the rebuild of {uri} was refused ({answer})", "check the user's permissions there")

    # -- requests -----------------------------------------------------------------------------------------------------

    def failure(self, problem: str, remedy: str) -> RemoteFailure:
        """An error of this server."""
        return RemoteFailure(self.url, problem, remedy)

    def _with_files(self, found: SessionStatus) -> SessionStatus:
        if found.is_busy or found.status == INTERRUPTED:
            return found
        return replace(found, files=self.count_files(found.uri))

    def _list(self, path: str) -> tuple[XnatAnswer, list[ListingRow]]:
        """The answer to a question for a listing, and its rows where the status is 200."""
        answer = self._ask("GET", path, {"format": "json"})
        if answer.status != 200:
            return answer, []
        try:
            rows: list[ListingRow] = json.loads(answer.text)["ResultSet"]["Result"]
        except (ValueError, KeyError, TypeError) as error:
            problem = f"expected a listing from {path}, found something else"
            raise self.failure(problem, "check that this is the address of an XNAT") from error
        return answer, rows

    def _ask(self, method: str, path: str, query: Mapping[str, str]) -> XnatAnswer:
        """A request that may be repeated."""
        pause = self._pause
        for _ in range(_ATTEMPTS - 1):
            with suppress(ConnectionLost):
                answer = self._request(method, path, query)
                if answer.status not in TRANSIENT | {401}:
                    return answer
            self._stop.wait(pause)
            if self._stop.is_set():
                raise self.failure("stopped", "run the same command again to continue")
            pause = min(2 * pause, _LONGEST_PAUSE)
        return self._request(method, path, query)

    def _request(self, method: str, path: str, query: Mapping[str, str], body: RequestBody | None = None) -> XnatAnswer:
        """A request that is sent once, or twice where the login session had ended (401): then XNAT has done nothing."""
        cookie = self._cookie
        answer = self._request_once(method, path, query, body, self._timeout)
        if answer.status == 401:
            self._log_in(cookie)
            answer = self._request_once(method, path, query, body, self._timeout)
        return answer

    def _log_in(self, expired: str) -> None:
        """Open a login session, unless another thread has done so since ``expired`` was in use."""
        with self._lock:
            if self._cookie != expired:
                return
            response = self._send(
                "GET", LOGIN_SESSION, auth=(self._login.user, self._login.password.value), timeout=_SHORT
            )
            if response.status_code == 401:
                raise self.failure("the login was refused", "check user and password, or whether the token has expired")
            if response.status_code != 200:
                where = f" to {printable(response.headers['Location'])}" if response.is_redirect else ""
                raise self.failure(
                    f"expected 200 for the login, found {response.status_code}{where}", "check the address of the XNAT"
                )
            self._cookie = response.cookies.get("JSESSIONID") or response.text.strip()

    def _request_once(
        self, method: str, path: str, query: Mapping[str, str], body: RequestBody | None, timeout: float
    ) -> XnatAnswer:
        response = self._send(
            method,
            path,
            params=query,
            data=body,
            headers={"Cookie": f"JSESSIONID={self._cookie}", **({"Content-Type": body.content_type} if body else {})},
            timeout=(_SHORT, timeout),
        )
        return XnatAnswer(response.status_code, response.text)

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
            raise self.failure(*explain_tls_error(error)) from error
        except requests.exceptions.ConnectTimeout as error:
            raise ConnectionLost(self.url, "it does not answer", "check address, network and proxy") from error
        except requests.exceptions.Timeout as error:
            raise ResponseTimeout(self.url, "no answer in time", "look into XNAT's prearchive") from error
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


#: OpenSSL's numbers of what may be wrong with a certificate (X509_V_ERR_...) other than an unknown issuer.
_NOT_YET, _EXPIRED, _OTHER_NAME, _OTHER_ADDRESS = 9, 10, 62, 64


def explain_tls_error(error: BaseException) -> tuple[str, str]:
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
        return f"its TLS certificate {problem}", "tell the server's administrator, and check this computer's clock"
    if isinstance(found, ssl.SSLCertVerificationError):
        why = printable(found.verify_message)
        return f"its TLS certificate is not trusted ({why})", "name the authority's certificate by --ca"
    return "there is no TLS connection with it", "check whether it speaks TLS at this port (https: or http:)"


def import_query(target: UploadTarget, subject: str, label: str, has_others: bool, overwrite: str) -> dict[str, str]:
    """The parameters of an import. With ``dest``, XNAT commits at once; without, the session would stay RECEIVING.

    ``has_others`` says that the upload contains files that are not images, at which XNAT would stop.
    """
    query = {"import-handler": "DICOM-zip", "PROJECT_ID": target.project, "SUBJECT_ID": subject, "EXPT_LABEL": label}
    if target.direct_archive:
        query["Direct-Archive"] = "true"
    else:
        query["dest"] = f"/archive{_experiment(target.project, subject, label)}"
        if target.dest == "prearchive":
            query["dest"] = f"/prearchive/projects/{target.project}"
    if overwrite:
        query["overwrite"] = overwrite
    if has_others:
        query["Ignore-Unparsable"] = "true"
    return query


def inbox_query(project: str, subject: str, label: str, path: str) -> dict[str, str]:
    """The parameters of an import from the inbox; ``path`` is the folder as XNAT's host sees it.

    Without ``cleanupAfterImport=false``, XNAT would delete the folder.
    """
    return {
        "import-handler": "inbox",
        "path": path,
        "PROJECT_ID": project,
        "SUBJECT_ID": subject,
        "EXPT_LABEL": label,
        "cleanupAfterImport": "false",
    }


def _experiment(project: str, subject: str, label: str) -> str:
    return f"/projects/{quote(project)}/subjects/{quote(subject)}/experiments/{quote(label)}"


def prearchive_path(project: str) -> str:
    """The path of the listing of a project's prearchive."""
    return f"/data/prearchive/projects/{quote(project)}"


def prearchive_uri(project: str, timestamp: str, foldername: str) -> str:
    """The address of a session in the prearchive, by which XNAT names it."""
    return f"/prearchive/projects/{quote(project)}/{quote(timestamp)}/{quote(foldername)}"


def parse_session_uris(text: str) -> tuple[str, ...]:
    r"""The addresses of the sessions that an import answers with (``text/uri-list``: lines that end with CRLF).

    Some of XNAT's import handlers write ``/data`` or ``/REST`` before each address, others do not.

    >>> parse_session_uris("/data/prearchive/projects/P/1/a\r\n/data/prearchive/projects/P/2/b\r\n")
    ('/prearchive/projects/P/1/a', '/prearchive/projects/P/2/b')
    """
    lines = (line.strip() for line in text.splitlines())
    found = (re.sub(r"^/(?:data|REST)(?=/)", "", line) for line in lines if line and not line.startswith("#"))
    return tuple(dict.fromkeys(uri for uri in found if uri.startswith("/")))


def project_of(uri: str) -> str:
    """The project in the address of a session, empty where it names none."""
    found = _IN_PROJECT.fullmatch(uri)
    return unquote(found[1]) if found else ""


def is_in_prearchive(uri: str) -> bool:
    """Whether the address is one of a session in the prearchive."""
    return _IN_PREARCHIVE.fullmatch(uri) is not None


def select_sessions(rows: Iterable[ListingRow], subject: str, label: str) -> tuple[SessionStatus, ...]:
    """The sessions of a subject and label in a listing of the prearchive; their images are not counted."""
    found = []
    for row in rows:
        text = {name: str(row.get(name) or "") for name in ("name", "folderName", "subject", "status", "lastmod")}
        if label in (text["name"], text["folderName"]) and text["subject"] in (subject, ""):
            uri = str(row.get("url") or "").removeprefix("/data")
            found.append(SessionStatus(uri, f"{uri} {text['lastmod']}", text["status"]))
    return tuple(found)


def count_prearchived_images(rows: Iterable[ListingRow]) -> int:
    """How many images a session of the prearchive has, by the listing of its resources."""
    return sum(int(str(row.get("file_count") or 0)) for row in rows if row.get("label") in _IMAGE_RESOURCES)


def count_archived_images(rows: Iterable[ListingRow]) -> int:
    """How many images a session of the archive has, by the listing of its files."""
    return sum(1 for row in rows if row.get("collection") in _IMAGE_RESOURCES)
