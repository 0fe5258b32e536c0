"""The client of XNAT's REST interface, the only one in the package. Uses the network.

Addresses, parameters and answers are those of XNAT 1.8: ``/data/services/import``, and the prearchive and the archive
below ``/data``. Connections, TLS, redirects and the retry rule are those of :mod:`icf_utils.fetch.http`. The rules:

**One login session** serves all threads, since XNAT counts the sessions of a user. Name and password are sent to open
it, afterwards only its cookie. When XNAT has ended it (401), it is opened again.

**Requests that change nothing are repeated** by the retry rule, and so is the rebuild, which may be asked for twice. An
import and a commit are sent once: when the connection is lost, it is unknown what XNAT has done.
:mod:`icf_utils.xnat.upload` finds out before it sends anything again.

**A project is checked before it is used**: XNAT puts what is for an unknown or forbidden project into another one,
without an error.

``PUT /data/prearchive`` is never sent: it deletes every row of the prearchive and reads all of its folders again.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, unquote

from icf_utils.credentials import Credential, Login, Secret, SessionCookie, bind_credential, origin_of
from icf_utils.errors import RemoteFailure, printable
from icf_utils.fetch.errors import ConnectionFailure
from icf_utils.fetch.http import DEFAULT_RETRY, HttpClient, RequestBody, Response, Retries, RetryPolicy
from icf_utils.fetch.responses import TRANSIENT_XNAT
from icf_utils.fetch.tls import TlsFiles
from icf_utils.xnat.identity import HeldImages, ImageDigest
from icf_utils.xnat.model import INTERRUPTED, UploadTarget, is_busy

#: After these answers the same request may succeed. 401: the login session has ended twice in a row.
ASK_AGAIN = TRANSIENT_XNAT | {401}

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
_CHECK_ADDRESS = "check the address of the XNAT"
_SESSION_ID = re.compile(r"[A-Za-z0-9._!~-]{1,256}", re.ASCII)
_MD5 = re.compile(r"[0-9a-f]{32}", re.ASCII)
_IN_PROJECT = re.compile(r"/(?:pre)?archive/projects/([^/]+)(?:/.*)?")

#: Seconds to wait for the answer to a login or logout.
_LOGIN_TIMEOUT = 30.0

#: Characters of an answer that are shown.
_LONGEST_ANSWER = 300

#: The most bytes of an answer: a listing of the files of a session in the archive has some 300 for each.
_LONGEST_BODY = 256 << 20

#: The most bytes of an answer that is the id of a login session.
_LONGEST_LOGIN = 64 << 10

#: A line of one of XNAT's listings: its columns by their names.
ListingRow = Mapping[str, Any]


@dataclass(frozen=True)
class XnatAnswer:
    """What XNAT answered: the HTTP status, the text of the body, and the header ``Retry-After``, empty if not sent."""

    status: int
    text: str
    retry_after: str = ""

    def __str__(self) -> str:
        """For messages and logs: one line, shortened, with what it usually means where XNAT has not answered itself."""
        if meaning := self._meaning():
            return f"{self.status}: {meaning}"
        words = printable(" ".join(self.text[: 4 * _LONGEST_ANSWER].split()))
        return f"{self.status} {words[:_LONGEST_ANSWER]}".rstrip()

    def _meaning(self) -> str:
        if self.status == 413:
            return (
                "the web server in front of XNAT limits the size of uploads; have the limit raised "
                "(nginx: client_max_body_size), or send fewer scans in one session"
            )
        if 300 <= self.status < 400:
            return f"{LOGIN_PAGE}; it redirects there" if self.status != 301 else ""
        return LOGIN_PAGE if self.status == 200 and is_web_page(self.text) else ""


@dataclass(frozen=True)
class SessionStatus:
    """A session as XNAT shows it.

    ``status`` is one of :data:`~icf_utils.xnat.model.STATUSES`, :data:`ARCHIVED` or :data:`NOT_LISTED`. ``key`` changes
    when the session does. ``images`` is what XNAT shows of its images.
    """

    uri: str
    key: str
    status: str
    images: HeldImages = field(default_factory=HeldImages)

    @property
    def files(self) -> int | None:
        """The number of images, ``None`` where XNAT does not say."""
        return self.images.count

    @property
    def is_busy(self) -> bool:
        """Whether XNAT is working on the session."""
        return is_busy(self.status)


#: What a web page in place of an answer usually is.
LOGIN_PAGE = (
    "received a web page instead of XNAT's answer, probably a login page: check the address. If users log in at "
    "another site, use a token"
)


def is_web_page(text: str) -> bool:
    """Whether an answer is a page for people."""
    return text[:1000].lstrip("\ufeff \t\r\n").lower().startswith(("<!doctype html", "<html"))


class XnatClient:
    """A login session at an XNAT, from ``with`` to its end. Safe to use from several threads.

    ``timeout`` bounds the wait for each response, in seconds. ``retry`` says how often questions are repeated; the
    login, where a mistyped address shows, is repeated as often as by default. ``connections`` says how many requests
    are sent at a time. Setting ``stop`` ends pauses from outside.

    Raises :class:`~icf_utils.errors.InvalidSetting` or :class:`~icf_utils.errors.StorageFailure` on creation for a
    ``ca`` that contains no certificates. Every method raises :class:`~icf_utils.errors.RemoteFailure` where XNAT
    refuses, and its subclass :class:`~icf_utils.fetch.errors.FetchFailure` where no answer came: a
    :class:`~icf_utils.fetch.errors.ConnectionFailure` from the methods that send a request once.
    """

    def __init__(
        self,
        url: str,
        login: Login,
        ca: Path | None = None,
        *,
        timeout: float = 900.0,
        retry: RetryPolicy = DEFAULT_RETRY,
        connections: int = 4,
        stop: threading.Event | None = None,
    ) -> None:
        self.url, self._timeout, self._retry = url.rstrip("/"), timeout, retry
        first_pause = min(retry.first_pause, DEFAULT_RETRY.first_pause)
        self._http = HttpClient(
            connections, replace(DEFAULT_RETRY, first_pause=first_pause), tls=TlsFiles(ca) if ca else None, stop=stop
        )
        self._login = bind_credential(self.url, login)
        self._session: Credential | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> XnatClient:
        self._log_in(None)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with suppress(RemoteFailure):  # XNAT ends the session after a while in any case
            self._request_once("DELETE", LOGIN_SESSION, {}, None, _LOGIN_TIMEOUT)
        self._http.close()

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
        return (*(self._with_images(item) for item in found), *self.find_archived(project, subject, label))

    def find_archived(self, project: str, subject: str, label: str) -> tuple[SessionStatus, ...]:
        """The session of this label in the archive, if there is one."""
        path = f"/data/archive{_experiment(project, subject, label)}"
        answer = self._ask("GET", path, {"format": "json"})
        if answer.status != 200:
            return ()
        listed, rows = self._list(f"{path}/scans/ALL/files")
        study_uid = archived_study_uid(answer.text)
        images = archived_images(rows, study_uid) if listed.status == 200 else HeldImages(study_uid)
        uri = path.removeprefix("/data")
        return (SessionStatus(uri, f"{uri} {images.count}", ARCHIVED, images),)

    def archived_study(self, project: str, subject: str, label: str) -> str | None:
        """The StudyInstanceUID of the session of this label in the archive, ``None`` where it does not exist.

        ``subject`` may be empty: labels of sessions are unique in a project.
        """
        answer = self._ask("GET", f"/data/archive{_experiment(project, subject, label)}", {"format": "json"})
        return archived_study_uid(answer.text) if answer.status == 200 else None

    def read_session(self, uri: str) -> SessionStatus:
        """The session at an address in the prearchive."""
        answer, rows = self._list(f"/data{uri}")
        if answer.status != 200 or not rows:
            return SessionStatus(uri, uri, NOT_LISTED)
        key, status = f"{uri} {rows[0].get('lastmod')}", str(rows[0].get("status") or "")
        return self._with_images(SessionStatus(uri, key, status, HeldImages(str(rows[0].get("tag") or ""))))

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

    def _with_images(self, found: SessionStatus) -> SessionStatus:
        """A session of the prearchive with the number of its images, where XNAT shows it and is not working on it."""
        if found.is_busy or found.status == INTERRUPTED:
            return found
        answer, rows = self._list(f"/data{found.uri}/resources")
        if answer.status != 200:
            return found
        return replace(found, images=prearchived_images(rows, found.images.study_uid))

    def _list(self, path: str) -> tuple[XnatAnswer, list[ListingRow]]:
        """The answer to a question for a listing, and its rows where the status is 200."""
        answer = self._ask("GET", path, {"format": "json"})
        if answer.status != 200:
            return answer, []
        try:
            rows: list[ListingRow] = json.loads(answer.text)["ResultSet"]["Result"]
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise TypeError("not a list of rows")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            found = "something else"
            if is_web_page(answer.text):
                found = f"something else ({LOGIN_PAGE})"
            problem = f"expected a listing from {path}, found {found}"
            raise self.failure(problem, "check that this is the address of an XNAT") from error
        return answer, rows

    def _ask(self, method: str, path: str, query: Mapping[str, str]) -> XnatAnswer:
        """The answer to a request that is repeated by the retry rule."""
        retries = Retries(self.url, self._retry, self._http.stop)
        while True:
            try:
                answer = self._request(method, path, query)
            except ConnectionFailure as failure:
                retries.pause(failure.problem)
                continue
            if answer.status not in ASK_AGAIN:
                return answer
            retries.pause(f"the server answered {answer}", answer.retry_after, answer.status)

    def _request(self, method: str, path: str, query: Mapping[str, str], body: RequestBody | None = None) -> XnatAnswer:
        """The answer to a request that is sent once, or again where the login session had ended (401)."""
        session = self._session
        answer = self._request_once(method, path, query, body, self._timeout)
        if answer.status == 401:
            self._log_in(session)
            answer = self._request_once(method, path, query, body, self._timeout)
        return answer

    def _request_once(
        self, method: str, path: str, query: Mapping[str, str], body: RequestBody | None, timeout: float
    ) -> XnatAnswer:
        with self._http.request_once(
            method, self.url + path, credential=self._session, query=query, body=body, timeout=timeout
        ) as response:
            text = response.text(_LONGEST_BODY, timeout)
            return XnatAnswer(response.status, text, response.headers.get("Retry-After", ""))

    def _log_in(self, expired: Credential | None) -> None:
        """Open a login session, unless another thread has done so since ``expired`` was in use."""
        with self._lock:
            if self._session is not expired:
                return
            with self._http.request(
                "GET", self.url + LOGIN_SESSION, credential=self._login, timeout=_LOGIN_TIMEOUT
            ) as response:
                self._check_login(response)
                text = response.text(_LONGEST_LOGIN, _LOGIN_TIMEOUT).strip()
                if is_web_page(text):
                    raise self.failure("it did not open a login session", LOGIN_PAGE)
                cookie = response.cookie("JSESSIONID") or text
                if not _SESSION_ID.fullmatch(cookie):
                    raise self.failure("expected the id of a login session, found something else", _CHECK_ADDRESS)
            self._session = bind_credential(self.url, SessionCookie("JSESSIONID", Secret(cookie)))

    def _check_login(self, response: Response) -> None:
        """Raise where the login was refused, or where something other than an XNAT answered."""
        if (origin := origin_of(response.url)) != origin_of(self.url):
            raise self.failure(f"it redirects to {origin}", "give that address, if it is the XNAT that you mean")
        if response.status == 401:
            raise self.failure(
                "the login was refused", "check the user and the password, or whether the token has expired"
            )
        if response.status != 200:
            if 300 <= response.status < 400:
                raise self.failure(f"it did not open a login session ({response.status})", LOGIN_PAGE)
            raise self.failure(f"expected 200 for the login, found {response.status}", _CHECK_ADDRESS)


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
    of_subject = f"/subjects/{quote(subject)}" if subject else ""
    return f"/projects/{quote(project)}{of_subject}/experiments/{quote(label)}"


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
            study_uid = str(row.get("tag") or "")
            found.append(SessionStatus(uri, f"{uri} {text['lastmod']}", text["status"], HeldImages(study_uid)))
    return tuple(found)


def other_sessions_of_study(rows: Iterable[ListingRow], study_uid: str, subject: str, label: str) -> tuple[str, ...]:
    """The addresses of the sessions in a listing of the prearchive that are of a study, but have other labels."""
    listed = [row for row in rows if study_uid and row.get("tag") == study_uid]
    same = {item.uri for item in select_sessions(listed, subject, label)}
    found = [item for row in listed for item in (str(row.get("url") or "").removeprefix("/data"),)]
    return tuple(uri for uri in found if uri not in same)


def prearchived_images(rows: Iterable[ListingRow], study_uid: str = "") -> HeldImages:
    """What the listing of the resources of a session of the prearchive shows of its images: count and size."""
    resources = [row for row in rows if row.get("label") in _IMAGE_RESOURCES]
    sizes = [_whole_number(row.get("file_size")) for row in resources]
    count = sum(_whole_number(row.get("file_count")) or 0 for row in resources)
    return HeldImages(study_uid, count, None if None in sizes else sum(size or 0 for size in sizes))


def archived_images(rows: Iterable[ListingRow], study_uid: str = "") -> HeldImages:
    """What the listing of the files of a session of the archive shows of its images: sizes and MD5s."""
    files = [row for row in rows if row.get("collection") in _IMAGE_RESOURCES]
    digests = tuple(_digest(row) for row in files)
    sizes = [image.size for image in digests]
    return HeldImages(study_uid, len(files), None if -1 in sizes else sum(sizes), digests)


def _digest(row: ListingRow) -> ImageDigest:
    size, md5 = _whole_number(row.get("Size")), str(row.get("digest") or "").lower()
    return ImageDigest(-1 if size is None else size, md5 if _MD5.fullmatch(md5) else "")


def _whole_number(value: object) -> int | None:
    """A number of a listing, which XNAT gives as a number or as a text."""
    text = str(value if value is not None else "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def archived_study_uid(text: str) -> str:
    """The StudyInstanceUID in XNAT's description of a session of the archive, empty where it has none."""
    try:
        found = json.loads(text)["items"][0]["data_fields"].get("UID")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return ""
    return found if isinstance(found, str) else ""
