"""What the stand-in for XNAT keeps: its sessions, what an import does to them, and what clients have asked."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO

from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.errors import InvalidDicomError

USER, PASSWORD = "uploader", "correct-horse/battery"
ALIAS, SECRET = "01234567-89ab-cdef-0123-456789abcdef", "token-secret-of-the-tests"

#: A fault of a request. ``NNN``: answered with that status, and nothing is done; 401 also ends the login session.
#: ``NNN-after``: answered with that status although all was done. ``reset``: the connection ends before anything is
#: done, ``reset-after``: afterwards, ``cut``: in the middle of an import. ``slow``: done after ``slow`` seconds.
#: ``late``: listed as RECEIVING at once, done after ``slow`` seconds.
Fault = str

UNASSIGNED = "Unassigned"

#: A session with one of these statuses is locked: a commit is answered with 409.
LOCKED = ("ARCHIVING", "BUILDING", "DELETING", "MOVING", "SEPARATING")

_TAGS = ["StudyInstanceUID", "SeriesNumber", "SOPInstanceUID", "PatientName", "PatientID"]


class Refused(Exception):
    """An answer other than success: its HTTP status and what XNAT says."""

    def __init__(self, status: int, words: str) -> None:
        self.status, self.words = status, words
        super().__init__(words)


@dataclass
class Session:
    """A session. ``files`` maps scan and SOPInstanceUID to sizes; ``imports`` counts the uploads merged into it."""

    project: str
    timestamp: str
    folder: str
    subject: str
    name: str
    tag: str
    status: str = "RECEIVING"
    files: dict[tuple[str, str], int] = field(default_factory=dict)
    #: The MD5s of the files; XNAT shows those of archived sessions, unless the site has turned them off.
    md5: dict[tuple[str, str], str] = field(default_factory=dict)
    archived: bool = False
    imports: int = 0
    lastmod: str = ""
    log: str = ""
    #: The session is not listed before this time of the monotonic clock.
    hidden_until: float = 0.0

    @property
    def is_hidden(self) -> bool:
        return time.monotonic() < self.hidden_until

    @property
    def prearchive_uri(self) -> str:
        return f"/prearchive/projects/{self.project}/{self.timestamp}/{self.folder}"

    @property
    def archive_uri(self) -> str:
        return f"/archive/projects/{self.project}/subjects/{self.subject}/experiments/{self.name}"

    @property
    def uri(self) -> str:
        return self.archive_uri if self.archived else self.prearchive_uri

    def scans(self) -> dict[str, list[int]]:
        """The sizes of the files of each scan."""
        found: dict[str, list[int]] = {}
        for (scan, _), size in sorted(self.files.items()):
            found.setdefault(scan, []).append(size)
        return found

    def row(self) -> dict[str, object]:
        """The session's row in a listing of the prearchive."""
        return {
            "project": self.project,
            "timestamp": self.timestamp,
            "folderName": self.folder,
            "name": self.name,
            "subject": self.subject,
            "status": self.status,
            "tag": self.tag,
            "lastmod": self.lastmod,
            "uploaded": self.lastmod,
            "scan_date": "",
            "scan_time": "",
            "url": self.prearchive_uri,
            "autoarchive": "Manual",
            "prevent_anon": "false",
            "prevent_auto_commit": "false",
        }


@dataclass(frozen=True)
class Order:
    """The request of an import."""

    project: str
    subject: str
    session: str
    commit: bool = False
    to_archive: bool = False
    overwrite: str = ""
    ignore_unparsable: bool = False


@dataclass(frozen=True)
class Image:
    """What XNAT reads of a file."""

    study: str
    scan: str
    uid: str
    subject: str
    session: str
    size: int
    md5: str = ""


class State:
    """All sessions. The user may write to ``projects``; ``fallback`` receives what is for other projects."""

    def __init__(self) -> None:
        self.projects = {"PILOT", "OTHER"}
        #: Projects that the user may read, but not write to.
        self.readonly: set[str] = set()
        self.fallback = UNASSIGNED
        self.sessions: list[Session] = []
        #: Sessions kept elsewhere, such as in a table of a database; listings include them.
        self.others: Callable[[], Iterable[Session]] = list
        #: The status of a session after a rebuild.
        self.on_rebuild: Callable[[Session], str] = lambda session: "READY" if session.files else "ERROR"
        self.lock = threading.RLock()
        self._clock = 0

    def now(self) -> str:
        """A time that no other session has, as XNAT writes it."""
        with self.lock:
            self._clock += 1
            moment = datetime.fromtimestamp(1_600_000_000 + self._clock / 1000, timezone.utc)
        return f"{moment:%Y%m%d_%H%M%S}{moment.microsecond // 1000:03}"

    def prearchived(self, project: str | None = None) -> list[Session]:
        with self.lock:
            known = [*self.sessions, *self.others()]
            return [item for item in known if not item.archived and project in (None, item.project)]

    def in_prearchive(self, project: str, timestamp: str, folder: str) -> Session:
        for item in self.prearchived(project):
            if (item.timestamp, item.folder) == (timestamp, folder):
                return item
        raise Refused(404, "no such session")

    def in_archive(self, project: str, subject: str | None, name: str) -> Session | None:
        with self.lock:
            for item in self.sessions:
                is_named = (item.project, item.name) == (project, name) and subject in (None, item.subject)
                if item.archived and is_named:
                    return item
        return None

    def rebuild(self, session: Session) -> None:
        session.status = "BUILDING"
        session.status, session.lastmod = self.on_rebuild(session), self.now()

    def receive(self, order: Order, images: Iterator[Image | None], at_most: int | None = None) -> list[Session]:
        """Merge images into sessions; ``None`` is not DICOM. After ``at_most`` files the connection ends."""
        made: dict[str, Session] = {}
        try:
            for at, image in enumerate(images):
                if at_most is not None and at >= at_most:
                    raise Refused(0, "the connection ended")
                if image is None:
                    if not order.ignore_unparsable:
                        raise Refused(400, "unable to parse a file as DICOM")
                    continue
                if image.study not in made:
                    made[image.study] = self._place(order, image)
                made[image.study].files[image.scan, image.uid] = image.size
                made[image.study].md5[image.scan, image.uid] = image.md5
        except Refused:
            for session in made.values():
                session.status = "RECEIVING_INTERRUPT"
            raise
        if not made:
            raise Refused(400, "no DICOM in the upload")
        for session in made.values():
            session.imports += 1
            session.lastmod = self.now()
            self._finish(order, session)
        return list(made.values())

    def _place(self, order: Order, image: Image) -> Session:
        """The session for the images of a study; its status locks it."""
        project = order.project if order.project in self.projects else self.fallback
        name, subject = order.session or image.session, order.subject or image.subject
        with self.lock:
            for item in self.prearchived(project):
                if (item.tag, item.name) == (image.study, name):
                    return self._again(order, item)
            stamp = self.now()
            session = Session(project, stamp, name, subject, name, image.study, lastmod=stamp)
            self.sessions.append(session)
            return session

    def _again(self, order: Order, item: Session) -> Session:
        if item.status in (*LOCKED, "RECEIVING"):
            raise Refused(423, "the session is locked")
        if item.status != "RECEIVING_INTERRUPT" and order.overwrite not in ("append", "delete"):
            raise Refused(409, "the session exists")
        if order.overwrite == "delete":
            item.files.clear()
            item.md5.clear()
        item.status = "RECEIVING"
        return item

    def _finish(self, order: Order, session: Session) -> None:
        if not order.commit:
            return
        session.status = "READY"
        if order.to_archive:
            self.archive(session, order.overwrite)

    def archive(self, session: Session, overwrite: str = "") -> None:
        """Move a session from the prearchive to the archive."""
        with self.lock:
            there = self.in_archive(session.project, session.subject, session.name)
            if there and overwrite not in ("append", "delete"):
                session.status = "CONFLICT"
                raise Refused(400, "Failed to archive 1 of 1 session(s)")
            if there:
                if overwrite == "append":
                    session.files = {**there.files, **session.files}
                    session.md5 = {**there.md5, **session.md5}
                session.imports += there.imports
                self.sessions.remove(there)
            session.archived = True


@dataclass(frozen=True)
class Seen:
    """A request. ``query`` contains the last value of each name; ``size`` is that of the body in bytes."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    size: int
    at: float = field(default_factory=time.monotonic)


class StandIn(State):
    """A running server: its sessions, and what tests see and set of it."""

    def __init__(self, inbox: Path | None = None) -> None:
        super().__init__()
        self.url = ""
        self.inbox = inbox
        self.requests: list[Seen] = []
        self.violations: list[str] = []
        self.cookies: set[str] = set()
        self.fault: Callable[[Seen], Fault | None] = lambda _: None
        self.slow = 1.0
        #: Seconds after which the sessions of an import are listed.
        self.shows_after = 0.0
        #: Whether the project archives committed sessions automatically.
        self.auto_archive = False
        #: Whether the site records checksums of the files in its archive.
        self.checksums = True
        #: Changes the addresses in the answer to an import.
        self.answer: Callable[[list[str]], list[str]] = lambda uris: uris

    def check(self) -> None:
        """Fail if a client has violated the contract."""
        assert not self.violations, self.violations

    def seen(self, method: str, path: str) -> list[Seen]:
        return [item for item in self.requests if (item.method, item.path) == (method, path)]

    def imports(self) -> list[Seen]:
        return self.seen("POST", "/data/services/import")


def images_of(kind: str, body: BinaryIO) -> Iterator[Image | None]:
    """The files of a zip or tar, read in sequence like XNAT does. Raises :class:`Refused` for what XNAT cannot read."""
    try:
        files = _zipped(body) if kind == "zip" else _tarred(body)
        for content in files:
            yield read_image(content)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise Refused(400, "unable to read data from file") from error


def _zipped(body: BinaryIO) -> Iterator[bytes]:
    with zipfile.ZipFile(body) as archive:
        for info in archive.infolist():
            if info.flag_bits & 8 and info.compress_type == zipfile.ZIP_STORED:
                # java.util.zip.ZipInputStream cannot find the end of such a member
                raise Refused(400, "only DEFLATED entries can have EXT descriptor")
            if not info.is_dir():
                yield archive.read(info)


def _tarred(body: BinaryIO) -> Iterator[bytes]:
    with tarfile.open(fileobj=body, mode="r|") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None:
                yield content.read()


def read_image(content: bytes) -> Image | None:
    try:
        header = dcmread(io.BytesIO(content), stop_before_pixels=True, specific_tags=list(_TAGS))
    except (InvalidDicomError, EOFError):
        return None

    def value(keyword: str) -> str:
        element = header.get_item(keyword)  # unconverted: pydicom warns of a UID that is not valid
        return element.value.decode("latin-1").strip(" \0") if isinstance(element, RawDataElement) else ""

    if not value("SOPInstanceUID"):
        return None
    return Image(
        value("StudyInstanceUID"),
        value("SeriesNumber"),
        value("SOPInstanceUID"),
        value("PatientName"),
        value("PatientID"),
        len(content),
        hashlib.md5(content, usedforsecurity=False).hexdigest(),
    )
