"""A stand-in for XNAT over HTTP(S) that holds its clients to the contract; :func:`standin` runs one.

It knows the routes that are used here and no others. What XNAT would punish late or silently is in ``violations``,
which a test finds empty (:meth:`StandIn.check`): a route or parameter that does not exist, a browser's name, a body
without a length, and ``PUT /data/prearchive``, which deletes every row of the prearchive.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import ssl
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

from tests.xnat.standin_multipart import one_part
from tests.xnat.standin_state import LOCKED, Image, Order, Refused, Seen, Session, State, images_of, read_image

USER, PASSWORD = "uploader", "correct-horse/battery"
ALIAS, SECRET = "01234567-89ab-cdef-0123-456789abcdef", "token-secret-of-the-tests"

#: What may be done to a request instead of, or beside, answering it.
#: ``NNN``: that status and nothing else is done; 401 ends the login session, too. ``NNN-after``: that status, though
#: all was done. ``reset``: the connection ends before anything is done, ``reset-after`` afterwards; ``cut``: in the
#: middle of an import. ``slow``: done after ``slow`` seconds, ``late``: shown as under way at once, done afterwards.
Fault = str

_IMPORT_PARAMETERS = {
    *("import-handler", "dest", "PROJECT_ID", "SUBJECT_ID", "EXPT_LABEL", "project", "subject", "session"),
    *("overwrite", "Ignore-Unparsable", "Direct-Archive", "prevent_anon", "prevent_auto_commit", "quarantine"),
    *("path", "cleanupAfterImport", "format"),
}
_BROWSER = re.compile(r"Mozilla|Chrome|Safari|Firefox|Opera|MSIE|Edge", re.IGNORECASE)
_DEST = re.compile(r"/(prearchive|archive)(?:/projects/([^/]+))?(?:/subjects/([^/]+))?(?:/experiments/([^/]+))?")
_KINDS = {"application/zip": "zip", "application/x-tar": "tar"}
_LENIENT = ("/", "/data/auth", "/data/version", "/xapi/siteConfig/buildInfo")


class StandIn(State):
    """A running server; see the module's and :class:`~tests.xnat.standin_state.State`'s words."""

    def __init__(self, inbox: Path | None = None) -> None:
        super().__init__()
        self.url = ""
        self.inbox = inbox
        self.requests: list[Seen] = []
        self.violations: list[str] = []
        self.cookies: set[str] = set()
        self.fault: Callable[[Seen], Fault | None] = lambda _: None
        self.slow = 1.0
        #: Sessions that are committed without being asked for go to the archive.
        self.auto_archive = False
        #: The answer of an import, if it is to be another.
        self.answer: Callable[[list[str]], list[str]] = lambda uris: uris

    def check(self) -> None:
        """Fail if a client has done what it must not."""
        assert not self.violations, self.violations

    def seen(self, method: str, path: str) -> list[Seen]:
        return [item for item in self.requests if (item.method, item.path) == (method, path)]

    def imports(self) -> list[Seen]:
        return self.seen("POST", "/data/services/import")


@contextmanager
def standin(inbox: Path | None = None, certificate: Path | None = None) -> Iterator[StandIn]:
    """Run one on a free loopback port; with ``certificate`` (PEM with its key) over TLS."""
    state = StandIn(inbox)

    class Handler(_Handler):
        xnat = state

    server = _Server(("127.0.0.1", 0), Handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    state.url = (
        f"{'https' if certificate else 'http'}://{'localhost' if certificate else '127.0.0.1'}:{server.server_port}"
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    xnat: StandIn
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base
        """Requests are recorded by themselves."""

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        self._cookie = ""
        with tempfile.TemporaryFile() as body:
            size = self._read(body)
            self._seen = Seen(self.command, unquote(parts.path), query, dict(self.headers.items()), size)
            self.xnat.requests.append(self._seen)
            try:
                self._respond(self._seen, body)
            except Refused as refused:
                if refused.status == 0:
                    self._hang_up()
                else:
                    self._answer(refused.status, refused.words)

    def _read(self, body: BinaryIO) -> int:
        left = int(self.headers.get("Content-Length") or 0)
        while left:
            data = self.rfile.read(min(left, 1 << 16))
            if not data:
                break
            body.write(data)
            left -= len(data)
        size = body.tell()
        body.seek(0)
        return size

    def _respond(self, seen: Seen, body: BinaryIO) -> None:
        fault = self.xnat.fault(seen) or ""
        self._before(fault)
        if _BROWSER.search(self.headers.get("User-Agent", "")) and seen.method != "GET":
            self.xnat.violations.append("a client named like a browser")
            raise Refused(403, "INVALID CSRF (XNAT_CSRF)")
        status, kind, text = self._routed(seen, body, fault)
        if fault == "reset-after":
            raise Refused(0, "")
        if fault.endswith("-after"):
            raise Refused(int(fault[:3]), "an injected fault, though it was done")
        self._answer(status, text, kind)

    def _before(self, fault: Fault) -> None:
        if fault == "reset":
            raise Refused(0, "")
        if fault == "401":
            self.xnat.cookies.discard(self._sent_cookie())
        if fault.isdecimal():
            raise Refused(int(fault), "an injected fault")
        if fault == "slow":
            time.sleep(self.xnat.slow)

    def _answer(self, status: int, text: str, kind: str = "text/plain") -> None:
        data = text.encode()
        with suppress(OSError):
            self.send_response(status)
            if self._cookie:
                self.send_header("Set-Cookie", f"JSESSIONID={self._cookie}; Path=/; HttpOnly")
            if status == 301:
                self.send_header("Location", f"{self.xnat.url}/data{text.strip()}")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    def _hang_up(self) -> None:
        """End the connection without an answer."""
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(2)

    # -- who is asking ------------------------------------------------------------------------------------------------

    def _sent_cookie(self) -> str:
        found = re.search(r"JSESSIONID=([^;]+)", self.headers.get("Cookie", ""))
        return found[1] if found else ""

    def _is_known(self, user: str, password: str) -> bool:
        return (user, password) in ((USER, PASSWORD), (ALIAS, SECRET))

    def _log_in(self) -> None:
        self._cookie = uuid.uuid4().hex.upper()
        self.xnat.cookies.add(self._cookie)

    def _authenticate(self) -> str:
        """The login session's identifier; who sends a login without one gets one."""
        if self._sent_cookie() in self.xnat.cookies:
            return self._sent_cookie()
        scheme, _, code = self.headers.get("Authorization", "").partition(" ")
        if scheme != "Basic":
            raise Refused(401, "authentication required")
        user, _, password = base64.b64decode(code).decode().partition(":")
        if not self._is_known(user, password):
            raise Refused(401, "Login attempt failed. Please try again.")
        self._log_in()
        return self._cookie

    # -- what is asked ------------------------------------------------------------------------------------------------

    def _routed(self, seen: Seen, body: BinaryIO, fault: Fault) -> tuple[int, str, str]:
        if (seen.method, seen.path) == ("PUT", "/data/services/auth"):
            given = dict(parse_qsl(body.read().decode()))
            if not self._is_known(given.get("username", ""), given.get("password", "")):
                raise Refused(401, "Login attempt failed. Please try again.")
            self._log_in()
            return 200, "text/plain", self._cookie
        if seen.path == "/" and seen.method == "GET":
            return 200, "text/html", "<html></html>"
        session = self._authenticate()
        if seen.path == "/data/JSESSION" and seen.method in ("GET", "DELETE"):
            if seen.method == "DELETE":
                self.xnat.cookies.discard(session)
            return 200, "text/plain", session
        for method, pattern, function in _ROUTES:
            found = re.fullmatch(pattern, seen.path)
            if method == seen.method and found:
                return function(self, seen, found, body, fault)
        if seen.path not in _LENIENT:
            self.xnat.violations.append(f"no such route: {seen.method} {seen.path}")
        raise Refused(404, "no such resource")

    def auth(self, seen: Seen, found: re.Match[str], body: BinaryIO, fault: Fault) -> tuple[int, str, str]:
        return 200, "text/plain", f"User '{USER}' is logged in"

    def build_info(self, seen: Seen, found: re.Match[str], body: BinaryIO, fault: Fault) -> tuple[int, str, str]:
        return _as_json({"version": "1.8.11"})

    def trap(self, seen: Seen, found: re.Match[str], body: BinaryIO, fault: Fault) -> tuple[int, str, str]:
        self.xnat.violations.append("PUT /data/prearchive: every row of the prearchive is lost")
        self.xnat.sessions = [item for item in self.xnat.sessions if item.archived]
        return 200, "text/plain", ""

    def import_(self, seen: Seen, found: re.Match[str], body: BinaryIO, fault: Fault) -> tuple[int, str, str]:
        query = seen.query
        unknown = sorted(set(query) - _IMPORT_PARAMETERS)
        if unknown:
            self.xnat.violations.append(f"an import has no parameters {unknown}")
        handler = query.get("import-handler")
        if handler == "inbox":
            return self._inbox(query)
        if handler not in (None, "SI", "DICOM-zip"):
            raise Refused(404, f"unknown importer: {handler}")
        if query.get("overwrite", "none") not in ("none", "append", "delete"):
            raise Refused(400, "Overwrite flag was not set to a valid option. ('append' or 'delete')")
        order, (kind, content) = _order(query), self._content(body)
        if fault == "late":
            made = self._late(order, list(images_of(kind, content)))
        else:
            images = images_of(kind, content)
            made = self.xnat.receive(order, images, at_most=1 if fault == "cut" else None)
        uris = self.xnat.answer([item.uri for item in made])
        # only the handler that is chosen by default puts /data before its answers
        text = "".join(f"{'' if handler else '/data'}{uri}\r\n" for uri in uris)
        return 200, "text/uri-list", text

    def _late(self, order: Order, images: list[Image | None]) -> list[Session]:
        """Take the first image at once, the others after a while: meanwhile the session is RECEIVING."""

        def slowly() -> Iterator[Image | None]:
            for at, image in enumerate(images):
                if at == 1:
                    time.sleep(self.xnat.slow)
                yield image

        return self.xnat.receive(order, slowly())

    def _content(self, body: BinaryIO) -> tuple[str, BinaryIO]:
        """Kind and bytes of what was uploaded."""
        if "Content-Length" not in self.headers:
            self.xnat.violations.append("an upload without Content-Length")
            raise Refused(400, "Unable to identify upload format.")
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip()
        if kind == "multipart/form-data":
            name, content = one_part(self.headers["Content-Type"], body)
            return ("tar" if name.endswith(".tar") else "zip"), content
        if kind not in _KINDS:
            raise Refused(400, "Unable to identify upload format.")
        return _KINDS[kind], body

    def _inbox(self, query: Mapping[str, str]) -> tuple[int, str, str]:
        """Import a folder of the server's own inbox; without another word it is deleted afterwards."""
        folder = Path(query.get("path", ""))
        if not self.xnat.inbox or self.xnat.inbox not in folder.parents or not folder.is_dir():
            raise Refused(400, "the path is not below the inbox")
        if query.get("PROJECT_ID") not in self.xnat.projects:
            raise Refused(400, "a project is needed")
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        images = (read_image(path.read_bytes()) for path in files)
        order = Order(query["PROJECT_ID"], query.get("SUBJECT_ID", ""), query.get("EXPT_LABEL", ""), commit=True)
        made = self.xnat.receive(order, images)
        if query.get("cleanupAfterImport", "true") != "false":
            shutil.rmtree(folder)
        return 200, "text/uri-list", "".join(f"/data{item.uri}\r\n" for item in made)

    def listing(self, seen: Seen, found: re.Match[str], body: BinaryIO, fault: Fault) -> tuple[int, str, str]:
        project = found["project"]
        if project not in (None, "Unassigned", *self.xnat.projects, *self.xnat.readonly):
            raise Refused(403, "you may not see this project")
        return _results(seen, [item.row() for item in self.xnat.prearchived(project)])

    def prearchived(self, seen: Seen, found: re.Match[str], body: BinaryIO, fault: Fault) -> tuple[int, str, str]:
        session = self._found(found)
        return _results(seen, [session.row()])

    def prearchived_resources(
        self, seen: Seen, found: re.Match[str], body: BinaryIO, fault: Fault
    ) -> tuple[int, str, str]:
        session = self._found(found)
        if session.status in ("RECEIVING", "RECEIVING_INTERRUPT"):
            raise Refused(404, "the session has no XML yet")
        rows = [
            {"category": "scans", "cat_id": scan, "label": "DICOM", "file_count": len(sizes), "file_size": sum(sizes)}
            for scan, sizes in session.scans().items()
        ]
        return _results(seen, rows)

    def prearchived_scans(self, seen: Seen, found: re.Match[str], body: BinaryIO, fault: Fault) -> tuple[int, str, str]:
        rows: list[dict[str, object]] = [
            {"ID": scan, "type": "", "series_description": ""} for scan in self._found(found).scans()
        ]
        return _results(seen, rows)

    def logs(self, seen: Seen, found: re.Match[str], body: BinaryIO, fault: Fault) -> tuple[int, str, str]:
        return 200, "text/plain", self._found(found).log

    def commit(self, seen: Seen, found: re.Match[str], body: BinaryIO, fault: Fault) -> tuple[int, str, str]:
        session = self._found(found)
        if seen.query.get("action") != "commit":
            raise Refused(400, "no such action")
        if session.status in (*LOCKED, "RECEIVING"):
            raise Refused(409, "the session is locked")
        self.xnat.rebuild(session)
        if self.xnat.auto_archive or seen.query.get("AA") == "true":
            self.xnat.archive(session)
            return 301, "text/uri-list", f"{session.uri}\r\n"
        return 200, "text/uri-list", f"{session.uri}\r\n"

    def rebuild(self, seen: Seen, found: re.Match[str], body: BinaryIO, fault: Fault) -> tuple[int, str, str]:
        sources = parse_qs(urlsplit(self.path).query).get("src", []) or parse_qs(body.read().decode()).get("src", [])
        if not sources:
            raise Refused(400, "no src")
        for source in sources:
            place = re.fullmatch(_SESSION, source.removeprefix("/data"))
            if not place:
                raise Refused(400, f"src is no session: {source}")
            session = self._found(place)
            if session.status in LOCKED:
                raise Refused(409, "the session is locked")
            self.xnat.rebuild(session)
        return 200, "text/plain", ""

    def archived(self, seen: Seen, found: re.Match[str], body: BinaryIO, fault: Fault) -> tuple[int, str, str]:
        session = self._archived(found)
        _want_json(seen)
        return _as_json({"items": [{"data_fields": {"label": session.name, "project": session.project}}]})

    def archived_files(self, seen: Seen, found: re.Match[str], body: BinaryIO, fault: Fault) -> tuple[int, str, str]:
        session = self._archived(found)
        rows: list[dict[str, object]] = [
            {"Name": f"{uid}.dcm", "Size": str(size), "collection": "DICOM", "cat_ID": scan}
            for (scan, uid), size in session.files.items()
        ]
        rows += [{"Name": "thumb.gif", "Size": "9", "collection": "SNAPSHOTS", "cat_ID": "1"}]
        return _results(seen, rows)

    def _found(self, found: re.Match[str]) -> Session:
        return self.xnat.in_prearchive(found["project"], found["timestamp"], found["folder"])

    def _archived(self, found: re.Match[str]) -> Session:
        session = self.xnat.in_archive(found["project"], found["subject"], found["session"])
        if session is None:
            raise Refused(404, "no such experiment")
        return session


def _order(query: Mapping[str, str]) -> Order:
    """What the parameters of an import mean; those of ``dest`` win."""
    found = _DEST.fullmatch(query["dest"]) if query.get("dest") else None
    if query.get("dest") and not found:
        raise Refused(400, "Parameter dest format error")
    _, project, subject, session = found.groups() if found else (None,) * 4
    archive = found is not None and found[1] == "archive"
    direct = query.get("Direct-Archive") == "true"
    return Order(
        project=project or query.get("PROJECT_ID") or query.get("project", ""),
        subject=subject or query.get("SUBJECT_ID") or query.get("subject", ""),
        session=session or query.get("EXPT_LABEL") or query.get("session", ""),
        commit=found is not None or direct,
        to_archive=archive or direct,
        overwrite=query.get("overwrite", ""),
        ignore_unparsable=query.get("Ignore-Unparsable") == "true",
    )


def _want_json(seen: Seen) -> None:
    if seen.query.get("format") != "json":
        raise Refused(400, "<html>this would be a page for people: ask for format=json</html>")


def _results(seen: Seen, rows: list[dict[str, object]]) -> tuple[int, str, str]:
    _want_json(seen)
    return _as_json({"ResultSet": {"Result": rows, "totalRecords": str(len(rows))}})


def _as_json(value: object) -> tuple[int, str, str]:
    return 200, "application/json", json.dumps(value)


_SESSION = r"/prearchive/projects/(?P<project>[^/]+)/(?P<timestamp>[^/]+)/(?P<folder>[^/]+)"
_EXPERIMENT = (
    r"/data(?:/archive)?/projects/(?P<project>[^/]+)/subjects/(?P<subject>[^/]+)/experiments/(?P<session>[^/]+)"
)
_Route = Callable[[_Handler, Seen, "re.Match[str]", BinaryIO, Fault], "tuple[int, str, str]"]
_ROUTES: tuple[tuple[str, str, _Route], ...] = (
    ("GET", "/data/auth", _Handler.auth),
    ("GET", "/xapi/siteConfig/buildInfo", _Handler.build_info),
    ("PUT", "/data/prearchive", _Handler.trap),
    ("POST", "/data/services/import", _Handler.import_),
    ("POST", "/data/services/prearchive/rebuild", _Handler.rebuild),
    ("GET", "/data/prearchive(?:/projects(?:/(?P<project>[^/]+))?)?", _Handler.listing),
    ("GET", f"/data{_SESSION}", _Handler.prearchived),
    ("POST", f"/data{_SESSION}", _Handler.commit),
    ("GET", f"/data{_SESSION}/resources", _Handler.prearchived_resources),
    ("GET", f"/data{_SESSION}/scans", _Handler.prearchived_scans),
    ("GET", f"/data{_SESSION}/logs", _Handler.logs),
    ("GET", _EXPERIMENT, _Handler.archived),
    ("GET", f"{_EXPERIMENT}/scans/ALL/files", _Handler.archived_files),
)
