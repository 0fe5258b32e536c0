"""A login session at an XNAT, and single requests in it. Talks to the network.

One session serves all threads, since XNAT counts the sessions of a user. Its cookie is sent by hand; requests follows
no redirect and adds no login of its own. A session that XNAT has ended is begun anew.


The addresses of XNAT's REST interface, its query parameters, and what its answers say. Pure.

The names are those of XNAT 1.8: ``/data/services/import``, the prearchive and the archive below ``/data``.


Looking for a session in XNAT, and counting its files. Asks the server, changes nothing.

These requests may be repeated as often as one likes, and are where the server or the network stumbles.


The requests of a direct import: rebuild a session, look for it, import from XNAT's inbox. Talks to the server.

Never ``PUT /data/prearchive``: it deletes every row of the prearchive and reads all folders anew.
"""

from __future__ import annotations

import json
import re
import ssl
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol
from urllib.parse import quote, unquote

import requests

from icf_utils import __version__
from icf_utils.credentials import Login
from icf_utils.errors import IcfError, RemoteFailure, printable
from icf_utils.fetch.tls import TlsFiles, client_context
from icf_utils.xnat.model import UploadTarget

#: XNAT asks clients that are named like a browser for a token against cross-site requests; this is none.
USER_AGENT = f"icf-utils/{__version__}"

#: The statuses of requests that may have better luck later.
PASSING = (408, 423, 429, 500, 502, 503, 504)

_SHORT, _WORDS_AT_MOST = 30.0, 300


class ConnectionLost(RemoteFailure):
    """A request was sent, perhaps in part, and no answer came: nobody knows what was done."""


class ResponseTimeout(ConnectionLost):
    """The server was silent for too long, and may still be at work on the request."""


class RequestBody(Protocol):
    """A body of known length."""

    @property
    def content_type(self) -> str: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[bytes]: ...


@dataclass(frozen=True)
class Response:
    """What XNAT says: the status of HTTP and the text of the body."""

    status: int
    text: str
    location: str = ""

    def __str__(self) -> str:
        """For logs: one line, cut to a sensible length."""
        words = printable(" ".join(self.text.split()))
        return f"{self.status} {words[:_WORDS_AT_MOST]}".rstrip()


class XnatClient:
    """An XNAT that one is logged in to, from ``with`` to its end. Safe to use from several threads.

    Raises :class:`~icf_utils.errors.StorageFailure` or :class:`~icf_utils.errors.InvalidSetting` on creation for a
    ``ca`` that holds no certificates.
    """

    def __init__(self, url: str, login: Login, ca: Path | None = None, timeout: float = 900.0) -> None:
        self.url, self._login, self._timeout = url.rstrip("/"), login, timeout
        if ca:
            client_context(TlsFiles(ca))  # says what is wrong with the file, if anything is
        self._verify: bool | str = str(ca) if ca else True
        self._cookie, self._lock, self._local = "", threading.Lock(), threading.local()

    def __enter__(self) -> XnatClient:
        self._log_in("")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with suppress(RemoteFailure):  # the session ends by itself after a while, too
            self._once("DELETE", SESSION, {}, None, _SHORT)

    def request(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: RequestBody | None = None
    ) -> Response:
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
                where = f" to {printable(response.headers['Location'])}" if response.is_redirect else ""
                raise self.failure(
                    f"expected 200 for the login, found {response.status_code}{where}", "check the address of the XNAT"
                )
            self._cookie = response.cookies.get("JSESSIONID") or response.text.strip()

    def _once(
        self, method: str, path: str, query: Mapping[str, str], body: RequestBody | None, timeout: float
    ) -> Response:
        response = self._send(
            method,
            path,
            params=query,
            data=body,
            headers={"Cookie": f"JSESSIONID={self._cookie}", **({"Content-Type": body.content_type} if body else {})},
            timeout=(_SHORT, timeout),
        )
        return Response(response.status_code, response.text, response.headers.get("Location", ""))

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


#: OpenSSL's numbers of what may be wrong with a certificate (X509_V_ERR_...), beside that its issuer is unknown.
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
        return f"its TLS certificate {problem}", "tell those who run the server, and check this computer's clock"
    if isinstance(found, ssl.SSLCertVerificationError):
        why = printable(found.verify_message)
        return f"its TLS certificate is not trusted ({why})", "name the authority's certificate by --ca"
    return "there is no TLS connection with it", "check whether it speaks TLS at this port (https: or http:)"


IMPORT = "/data/services/import"
SESSION = "/data/JSESSION"
REBUILD = "/data/services/prearchive/rebuild"

#: XNAT is still at work on a session with one of these statuses, or with one that begins with ``QUEUED_``.
BUSY_STATUSES = ("RECEIVING", "BUILDING", "ARCHIVING", "MOVING", "SEPARATING", "DELETING")

#: The upload of the session broke off.
INTERRUPTED = "RECEIVING_INTERRUPT"

#: The resources of a scan that hold what was uploaded; XNAT adds others, such as snapshots.
_IMAGE_RESOURCES = ("DICOM", "secondary")

_PREARCHIVED = re.compile(r"/prearchive/projects/([^/]+)/([^/]+)/([^/]+)/?")
_IN_PROJECT = re.compile(r"/(?:pre)?archive/projects/([^/]+)(?:/.*)?")


@dataclass(frozen=True)
class SessionStatus:
    """A session as XNAT shows it. ``key`` changes when the session does; ``files`` counts images, if known."""

    uri: str
    key: str
    status: str
    files: int | None = None

    @property
    def at_work(self) -> bool:
        return self.status in BUSY_STATUSES or self.status.startswith("QUEUED_")


def import_query(target: UploadTarget, subject: str, label: str, has_others: bool, overwrite: str) -> dict[str, str]:
    """The parameters of an import. With ``dest``, XNAT commits at once; without, the session would stay RECEIVING.

    ``has_others``: the upload holds files that are no images, over which XNAT would stumble.
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


def _experiment(project: str, subject: str, label: str) -> str:
    return f"/projects/{quote(project)}/subjects/{quote(subject)}/experiments/{quote(label)}"


def experiment_path(project: str, subject: str, label: str) -> str:
    """A session in the archive."""
    return f"/data/archive{_experiment(project, subject, label)}"


def prearchive_path(project: str) -> str:
    """The listing of a project's prearchive."""
    return f"/data/prearchive/projects/{quote(project)}"


def parse_session_uris(text: str) -> tuple[str, ...]:
    r"""The sessions that an import answers with: a ``text/uri-list``, lines ended by CRLF, perhaps several.

    Some of XNAT's import handlers write ``/data`` or ``/REST`` before each, others do not.

    >>> answered_uris("/data/prearchive/projects/P/1/a\r\n/data/prearchive/projects/P/2/b\r\n")
    ('/prearchive/projects/P/1/a', '/prearchive/projects/P/2/b')
    """
    lines = (line.strip() for line in text.splitlines())
    found = (re.sub(r"^/(?:data|REST)(?=/)", "", line) for line in lines if line and not line.startswith("#"))
    return tuple(dict.fromkeys(uri for uri in found if uri.startswith("/")))


def project_of(uri: str) -> str:
    """The project in a session's URI, empty where it names none."""
    found = _IN_PROJECT.fullmatch(uri)
    return unquote(found[1]) if found else ""


def is_in_prearchive(uri: str) -> bool:
    return _PREARCHIVED.fullmatch(uri) is not None


def select_sessions(rows: Iterable[Mapping[str, object]], subject: str, label: str) -> tuple[SessionStatus, ...]:
    """The sessions of that subject and label in a listing of the prearchive."""
    found = []
    for row in rows:
        text = {name: str(row.get(name) or "") for name in ("name", "folderName", "subject", "status", "lastmod")}
        if label in (text["name"], text["folderName"]) and text["subject"] in (subject, ""):
            uri = str(row.get("url") or "").removeprefix("/data")
            found.append(SessionStatus(uri, f"{uri} {text['lastmod']}", text["status"]))
    return tuple(found)


def count_prearchived_images(rows: Iterable[Mapping[str, object]]) -> int:
    """How many image files a prearchived session has: the sum over the resources of its scans."""
    return sum(int(str(row.get("file_count") or 0)) for row in rows if row.get("label") in _IMAGE_RESOURCES)


def count_archived_images(rows: Iterable[Mapping[str, object]]) -> int:
    """How many image files an archived session has: one row for each."""
    return sum(1 for row in rows if row.get("collection") in _IMAGE_RESOURCES)


_POLL_FIRST, _POLL_MOST, _TIMES = 0.2, 10.0, 12

#: XNAT's answer names a session that XNAT does not show.
NOT_LISTED = "not shown"


class Stopped(IcfError):
    """The run is being ended."""

    exit_code = 130

    def __init__(self) -> None:
        super().__init__("the upload was stopped")


class Watch:
    """What one target's XNAT shows. ``stop`` ends all waiting."""

    def __init__(self, xnat: XnatClient, target: UploadTarget, stop: threading.Event) -> None:
        self.xnat, self.target, self._stop = xnat, target, stop

    def rows(self) -> list[Mapping[str, object]]:
        """The listing of the project's prearchive.

        Raises :class:`~icf_utils.errors.RemoteFailure` where the project does not exist or may not be seen: XNAT would
        put uploads elsewhere, without a word.
        """
        answer, rows = self._listing(prearchive_path(self.target.project))
        if answer.status != 200:
            raise self.xnat.failure(
                f"the prearchive of project '{self.target.project}' cannot be listed ({answer})",
                "check the project's ID (not its title) and your rights in it; nothing was sent",
            )
        return rows

    def find(
        self, subject: str, label: str, rows: list[Mapping[str, object]] | None = None
    ) -> tuple[SessionStatus, ...]:
        """All that there is of a session; files are counted where XNAT is not at work on it."""
        found = select_sessions(self.rows() if rows is None else rows, subject, label)
        return (*(self._counted(item) for item in found), *self._archived(subject, label))

    def count(self, uri: str) -> SessionStatus:
        """The session of a URI, which XNAT may still be at work on."""
        if not is_in_prearchive(uri):
            return SessionStatus(uri, uri, "ARCHIVED")
        answer, rows = self._listing(f"/data{uri}")
        if answer.status != 200 or not rows:
            return SessionStatus(uri, uri, NOT_LISTED)
        return self._counted(SessionStatus(uri, f"{uri} {rows[0].get('lastmod')}", str(rows[0].get("status") or "")))

    def settled(self, uri: str) -> SessionStatus:
        """The session of a URI once XNAT has done with it, or as it is when patience is over."""
        end, pause = time.monotonic() + self.target.patience, _POLL_FIRST
        while (found := self.count(uri)).at_work and time.monotonic() < end:
            self.sleep(pause)
            pause = min(2 * pause, _POLL_MOST)
        return found

    def answered(self, uri: str, subject: str, label: str, known: Collection[str]) -> SessionStatus:
        """The session of an answer's URI once XNAT shows it and has done with it, or as it is when patience is over.

        ``known`` are the keys of sightings from before the upload: what has left the prearchive since may be in the
        archive, where another session of the label may be.
        """
        end, pause = time.monotonic() + self.target.patience, _POLL_FIRST
        while True:
            found = self._answered(uri, subject, label, known)
            is_empty = found.status == "ARCHIVED" and not found.files
            if not (found.at_work or found.status == NOT_LISTED or is_empty) or time.monotonic() >= end:
                return found
            self.sleep(min(pause, max(0.0, end - time.monotonic())))
            pause = min(2 * pause, _POLL_MOST)

    def _answered(self, uri: str, subject: str, label: str, known: Collection[str]) -> SessionStatus:
        if is_in_prearchive(uri) and (found := self.count(uri)).status != NOT_LISTED:
            return found
        there = next(iter(self._archived(subject, label)), None)
        if there and not (is_in_prearchive(uri) and there.key in known):
            return there
        return SessionStatus(uri, uri, NOT_LISTED)

    def sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped

    def check(self) -> None:
        if self._stop.is_set():
            raise Stopped

    def _counted(self, found: SessionStatus) -> SessionStatus:
        if found.at_work or found.status == INTERRUPTED:
            return found
        answer, rows = self._listing(f"/data{found.uri}/resources")
        return replace(found, files=count_prearchived_images(rows)) if answer.status == 200 else found

    def _archived(self, subject: str, label: str) -> tuple[SessionStatus, ...]:
        path = experiment_path(self.target.project, subject, label)
        if self.get(path).status != 200:
            return ()
        answer, rows = self._listing(f"{path}/scans/ALL/files")
        files = count_archived_images(rows) if answer.status == 200 else None
        uri = path.removeprefix("/data")
        return (SessionStatus(uri, f"{uri} {files}", "ARCHIVED", files),)

    def _listing(self, path: str) -> tuple[Response, list[Mapping[str, object]]]:
        answer = self.get(path)
        if answer.status != 200:
            return answer, []
        try:
            rows: Any = json.loads(answer.text)["ResultSet"]["Result"]
        except (ValueError, KeyError, TypeError) as error:
            raise self.xnat.failure(
                f"expected a listing from {path}, found something else", "is it an XNAT?"
            ) from error
        return answer, rows

    def get(self, path: str) -> Response:
        """A request that may be repeated."""
        for at in range(_TIMES):
            try:
                answer = self.xnat.request("GET", path, {"format": "json"})
                if answer.status not in (401, *PASSING) or at == _TIMES - 1:
                    return answer
            except ConnectionLost:
                if at == _TIMES - 1:
                    raise
            self.sleep(min(self.target.pause * 2**at, 30.0))
        raise RemoteFailure(self.xnat.url, "no answer", "try again")


_REBUILD_TIMES, _FIRST_PAUSE, _LONGEST_PAUSE = 6, 0.5, 10.0


class Rebuilder:
    """What :mod:`icf_utils.xnat.prearchive` and :mod:`icf_utils.xnat.inbox` ask of an XNAT."""

    def __init__(self, xnat: XnatClient) -> None:
        self._xnat = xnat

    def check_project(self, project: str) -> None:
        """See that there is a project of exactly this ID, whose prearchive one may list."""
        named = {str(row.get("project") or project) for row in self.rows(project)}
        if named - {project}:
            others = ", ".join(f"'{printable(name)}'" for name in sorted(named))
            problem = f"the prearchive of '{project}' holds sessions of project {others}"
            raise self._xnat.failure(problem, "give the project's ID exactly as it is spelled there")

    def rebuild(self, src: str) -> None:
        """Ask for a session to be built; that XNAT is at it already (409) is as good."""
        answer = self._patiently("POST", REBUILD, {"src": src})
        if answer.status not in (200, 301, 409):
            raise self._xnat.failure(f"the rebuild of {src} was refused ({answer})", "check the user's rights there")

    def status(self, project: str, timestamp: str, foldername: str) -> str | None:
        """The status of a session of the prearchive; ``None`` where it is not listed."""
        for row in self.rows(project):
            if (row.get("timestamp"), row.get("folderName")) == (timestamp, foldername):
                return str(row.get("status"))
        return None

    def rows(self, project: str) -> list[Mapping[str, Any]]:
        """The listing of a project's prearchive."""
        path = prearchive_path(project)
        answer = self._patiently("GET", path, {"format": "json"})
        if answer.status != 200:
            remedy = "check the project's ID (not its title) and the user's rights in it"
            raise self._xnat.failure(f"the prearchive of project '{project}' cannot be listed ({answer})", remedy)
        return self._result(path, answer)

    def files(self, project: str, timestamp: str, foldername: str) -> int:
        """How many images XNAT counts in a session that it has built."""
        path = f"{prearchive_path(project)}/{quote(timestamp)}/{quote(foldername)}/resources"
        answer = self._patiently("GET", path, {"format": "json"})
        return count_prearchived_images(self._result(path, answer)) if answer.status == 200 else 0

    def import_inbox(self, query: Mapping[str, str]) -> None:
        """Have XNAT import a folder of its inbox. Sent once: nobody knows what a lost request has done."""
        answer = self._xnat.request("POST", IMPORT, query)
        if answer.status != 200:
            remedy = "check the path as the server sees it, the project, and that the inbox is where XNAT has it"
            raise self._xnat.failure(f"the import from the inbox was refused ({answer})", remedy)

    def _result(self, path: str, answer: Response) -> list[Mapping[str, Any]]:
        try:
            rows: list[Mapping[str, Any]] = json.loads(answer.text)["ResultSet"]["Result"]
        except (ValueError, KeyError, TypeError) as error:
            raise self._xnat.failure(f"expected a listing from {path}, found something else", "is it XNAT?") from error
        return rows

    def _patiently(self, method: str, path: str, query: Mapping[str, str]) -> Response:
        """A request that may be repeated, again after what may pass."""
        pause = _FIRST_PAUSE
        for _ in range(_REBUILD_TIMES - 1):
            try:
                answer = self._xnat.request(method, path, query)
            except ConnectionLost:
                pass
            else:
                if answer.status not in PASSING:
                    return answer
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return self._xnat.request(method, path, query)
