"""Put a visit directly into XNAT's prearchive: folder, row, rebuild. Writes to the prearchive and to XNAT's database.

The order is the one of XNAT's own importer: first the files, then the row, then the request to build the session.
When something fails, the row is removed first, then the folder, so that XNAT never sees a row without its files.
What XNAT is working on is never removed: that is waited for, and reported if it takes too long.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from icf_utils.errors import IcfError, InvalidSetting, RemoteFailure, printable
from icf_utils.formatting import format_count
from icf_utils.interrupts import note_leftovers
from icf_utils.progress import SILENT, Progress
from icf_utils.results import Notice
from icf_utils.sources.source import Source
from icf_utils.waiting import poll
from icf_utils.xnat.database import (
    INSERT_ROW,
    LOCK_TABLE,
    LOCK_TIMEOUT,
    SELECT_SESSION,
    SELECT_STUDY,
    PrearchiveRow,
    XnatDatabase,
    check_table,
    delete_row,
    insert_row,
    refuse_same_study,
)
from icf_utils.xnat.labels import check_label
from icf_utils.xnat.model import BUILT_STATUSES, INTERRUPTED, UNASSIGNED
from icf_utils.xnat.rest import ARCHIVED, REBUILD, XnatClient, prearchive_path, prearchive_uri
from icf_utils.xnat.session_layout import SessionLayout, lay_out_session
from icf_utils.xnat.staging import (
    CopiedFile,
    FileRights,
    Reservation,
    copy_session,
    format_timestamp,
    list_abandoned,
    move_into_place,
    release_reservation,
    remove_session,
    reserve_place,
    set_folder_rights,
)

#: A row in these statuses is our own still, and XNAT has not taken it up.
_OURS = frozenset({"RECEIVING", INTERRUPTED, "ERROR"})

#: A row in these statuses can be removed: XNAT is not working on the session.
_REMOVABLE = _OURS | BUILT_STATUSES

#: Seconds between two questions: at first, and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0

#: Seconds that XNAT may take to list a new row.
_LISTED_WITHIN = 30.0

#: Seconds that XNAT may take to finish its work on a session that is to be removed.
_LET_GO_WITHIN = 30.0


@dataclass(frozen=True)
class PrearchiveSession:
    """Names of a session that is put into the prearchive, and how XNAT is to treat it.

    ``root`` is the prearchive, ``server_root`` the same folder as XNAT's host sees it, if that path is another one.
    Without ``project`` the session stays unassigned; without ``subject`` XNAT takes PatientName. ``again`` allows a
    second session of the same study. ``wait`` bounds the wait for XNAT to build the session, in seconds.

    Raises :class:`~icf_utils.errors.InvalidSetting` for labels that XNAT does not accept.
    """

    root: Path
    label: str
    project: str | None = None
    subject: str | None = None
    server_root: str = ""
    rights: FileRights = field(default_factory=FileRights)
    prevent_anon: bool = False
    prevent_auto_commit: bool = False
    again: bool = False
    wait: float = 600.0

    def __post_init__(self) -> None:
        check_label("--session", self.label)
        if self.project == UNASSIGNED:
            raise InvalidSetting("--project", "leave it out for a session that is not assigned to a project")
        for what, value in (("--project", self.project), ("--subject", self.subject)):
            if value is not None:
                check_label(what, value)
        if not self.root.is_dir():
            raise InvalidSetting("--prearchive", f"'{printable(self.root)}' is not a folder")

    @property
    def listed_project(self) -> str:
        """The project as XNAT's listings and addresses name it."""
        return self.project or UNASSIGNED


@dataclass(frozen=True)
class PrearchiveResult:
    """What was put into the prearchive. ``status`` is the last that XNAT showed, ``log`` XNAT's log of the session."""

    project: str | None
    timestamp: str
    session: str
    study_uid: str
    folder: Path
    url: str
    files: tuple[CopiedFile, ...]
    scans: tuple[str, ...]
    status: str
    log: str
    notices: tuple[Notice, ...]


@dataclass(frozen=True)
class PrearchivePlan:
    """What would be done: the folder, SQL statements with their values, HTTP requests, and the place of each file."""

    folder: Path
    statements: tuple[str, ...]
    values: Mapping[str, object]
    requests: tuple[str, ...]
    places: Mapping[str, str]
    study_uid: str
    notices: tuple[Notice, ...]


def plan_prearchive(source: Source, session: PrearchiveSession, progress: Progress = SILENT) -> PrearchivePlan:
    """What :func:`put_into_prearchive` would do now. Reads the input; makes no connection, writes nothing."""
    layout = lay_out_session(source, progress)
    now = datetime.now().astimezone().replace(tzinfo=None)
    reservation = Reservation(session.root, session.project, format_timestamp(now), session.label, made_project=False)
    row = _row(session, reservation, layout)
    requests = (
        f"POST {REBUILD} src={_uri(session, reservation)}",
        f"GET {prearchive_path(session.listed_project)}?format=json",
    )
    return PrearchivePlan(
        folder=reservation.session_dir,
        statements=(LOCK_TIMEOUT, LOCK_TABLE, SELECT_SESSION, *(() if session.again else (SELECT_STUDY,)), INSERT_ROW),
        values=row.values(),
        requests=requests,
        places={file.entry.name: file.place for file in layout.files},
        study_uid=layout.study_uid,
        notices=(*source.notices, *layout.notices),
    )


def put_into_prearchive(
    source: Source,
    session: PrearchiveSession,
    database: XnatDatabase,
    xnat: XnatClient,
    *,
    expected: Mapping[str, str] | None = None,
    progress: Progress = SILENT,
) -> PrearchiveResult:
    """Copy a visit into the prearchive, insert its row, and have XNAT build the session.

    ``expected`` contains MD5s of the input's files by name, where they are known. Whatever fails or interrupts this is
    undone, and what a kill left behind is removed by the next call. Where XNAT works on the session for too long, it
    cannot be undone; :func:`~icf_utils.interrupts.noted_leftovers` says so of the error.

    Raises :class:`~icf_utils.errors.InputRefused`, :class:`~icf_utils.errors.StorageFailure` and
    :class:`~icf_utils.errors.RemoteFailure`.
    """
    check_table(database)
    xnat.check_project(session.listed_project)
    layout = lay_out_session(source, progress)
    remove_abandoned(session.root, database, progress)
    if not session.again:
        refuse_same_study(database, session.project, layout.study_uid)
    with (
        reserve_place(session.root, session.project, session.label) as reservation,
        _undone(reservation, database, progress) as attempt,
    ):
        target = reservation.staging / session.label
        copied = copy_session(source, layout, target, session.rights, expected or {}, progress)
        progress.message(f"copied and checked {format_count(len(copied), 'file')}")
        move_into_place(reservation)
        set_folder_rights(reservation.made_folders, session.rights)
        progress.message(f"moved to '{printable(reservation.session_dir)}'")
        row = _row(session, reservation, layout)
        was_archived = _archived_study(xnat, session) is not None
        attempt.row = True
        insert_row(database, row, again=session.again)
        progress.message("inserted the row into the table")
        xnat.rebuild(_uri(session, reservation))
        progress.message("asked XNAT to build the session")
        status = _wait(xnat, session, reservation, "" if was_archived else layout.study_uid, progress)
        log = read_log(reservation.session_dir)
        if status == "ERROR":
            raise RemoteFailure("XNAT", f"it could not build the session (status ERROR){_quoted(log)}", "see the log")
        release_reservation(reservation)
    if status == ARCHIVED:
        _check_archived(xnat, session, len(copied))
    return PrearchiveResult(
        project=session.project,
        timestamp=reservation.timestamp,
        session=session.label,
        study_uid=layout.study_uid,
        folder=reservation.session_dir,
        url=row.url,
        files=copied,
        scans=layout.scans,
        status=status,
        log=log,
        notices=(*source.notices, *layout.notices),
    )


def remove_abandoned(root: Path, database: XnatDatabase, progress: Progress = SILENT) -> None:
    """Undo what commands of this host left behind when they were killed. Sessions that XNAT has taken up since stay."""
    for reservation in list_abandoned(root):
        place = printable(reservation.session_dir)
        status = delete_row(database, reservation.key, _OURS)
        if status is None:
            remove_session(reservation)
            progress.message(f"removed '{place}', which an interrupted command had left")
        else:
            release_reservation(reservation)
            progress.message(f"left '{place}' of an interrupted command to XNAT, which has taken it up ({status})")


def read_log(folder: Path) -> str:
    """XNAT's log of a session, oldest entries first (``logs/<milliseconds>.log`` in its folder)."""
    try:
        files = sorted((folder / "logs").glob("*.log"))
        return "".join(f"{path.read_text(encoding='utf-8', errors='replace').rstrip()}\n" for path in files)
    except OSError:  # they are XNAT's own files, which we may not be allowed to read
        return ""


def _quoted(log: str) -> str:
    lines = [printable(line) for line in log.splitlines()[-20:]]
    return "; XNAT's log:\n  " + "\n  ".join(lines) if lines else "; XNAT left no log"


def _row(session: PrearchiveSession, reservation: Reservation, layout: SessionLayout) -> PrearchiveRow:
    now = datetime.now().astimezone().replace(tzinfo=None)
    time_of_study = layout.study_time
    root = session.server_root.rstrip("/") or str(session.root.resolve())
    return PrearchiveRow(
        project=session.project,
        timestamp=reservation.timestamp,
        lastmod=now,
        uploaded=now,
        scan_date=time_of_study,
        scan_time=f"{time_of_study:%H:%M:%S}" if time_of_study else None,
        subject=session.subject,
        foldername=reservation.foldername,
        name=session.label,
        tag=layout.study_uid,
        status="RECEIVING",
        url=f"{root}/{reservation.session_dir.relative_to(reservation.root).as_posix()}",
        prevent_anon=session.prevent_anon,
        prevent_auto_commit=session.prevent_auto_commit,
    )


def _uri(session: PrearchiveSession, reservation: Reservation) -> str:
    return prearchive_uri(session.listed_project, reservation.timestamp, reservation.foldername)


def _archived_study(xnat: XnatClient, session: PrearchiveSession) -> str | None:
    """The StudyInstanceUID of the session of this label in the archive. XNAT archives nothing without a project."""
    return xnat.archived_study(session.project, session.subject or "", session.label) if session.project else None


def _check_archived(xnat: XnatClient, session: PrearchiveSession, copied: int) -> None:
    """Compare the number of images in the archive; without the subject's label, XNAT cannot be asked for it."""
    if not session.project or not session.subject:
        return
    for found in xnat.find_archived(session.project, session.subject, session.label):
        if found.files not in (None, copied):
            problem = (
                f"expected {format_count(copied, 'file')} in the session that it archived, XNAT counts {found.files}"
            )
            raise RemoteFailure("XNAT", problem, "check the session in its archive")


def _wait(
    xnat: XnatClient, session: PrearchiveSession, reservation: Reservation, study_uid: str, progress: Progress
) -> str:
    """The status in which XNAT finishes, or the last one that it shows in time.

    A project may archive sessions by itself: then the prearchive does not list the session any more, and the archive
    has one of this label with ``study_uid``. That is empty where the archive had a session of this label before.
    """
    status = ""
    for waited in poll(_FIRST_PAUSE, _LONGEST_PAUSE, timeout=session.wait, factor=1.5):
        found = xnat.prearchive_status(session.listed_project, reservation.timestamp, reservation.foldername)
        if found is None and study_uid and _archived_study(xnat, session) == study_uid:
            progress.message("XNAT: archived, as the project's settings say")
            return ARCHIVED
        if found is None and waited >= min(session.wait, _LISTED_WITHIN):
            problem = "it does not list the session whose row is in the table"
            raise RemoteFailure("XNAT", problem, "check that database and prearchive are those of this XNAT")
        if found is not None and found != status:
            progress.message(f"XNAT: {printable(found)}")
            status = found
        if found in BUILT_STATUSES:
            break
    return status


class _Attempt:
    """How far the work got: whether there may be a row."""

    row = False


@contextmanager
def _undone(reservation: Reservation, database: XnatDatabase, progress: Progress) -> Iterator[_Attempt]:
    """Undo everything when the block fails; the error says what could not be undone."""
    attempt = _Attempt()
    try:
        yield attempt
    except BaseException as error:
        with _undisturbed():
            left = _undo(reservation, database if attempt.row else None, progress)
            if left:
                note_leftovers(error, left)
        raise


def _undo(reservation: Reservation, database: XnatDatabase | None, progress: Progress) -> str:
    """Remove the row, if there may be one, then the folder. Returns what was left and what to do; empty for nothing.

    Where the row cannot be removed the folder stays, and so does the journal, for the next command.
    """
    place = printable(reservation.session_dir)
    try:
        status = _remove_row(reservation, database, progress) if database else None
        if status is None:
            remove_session(reservation)
            return ""
        then = "removes both if XNAT has ended with ERROR by then, and otherwise leaves them to XNAT"
        left = f"XNAT is still working on the session ({printable(status)}), so '{place}' and its row were left there"
        return f"{left}; check the session in XNAT's prearchive. {_NEXT} {then}"
    except IcfError as error:
        return f"'{place}' could not be removed ({error}). {_NEXT} removes it"


_NEXT = "The next 'icf-utils xnat prearchive' on this host for this prearchive"


def _remove_row(reservation: Reservation, database: XnatDatabase, progress: Progress) -> str | None:
    """Remove the row as soon as XNAT no longer works on it; returns the status of one that it works on for too long."""
    status: str | None = None
    for attempt, _ in enumerate(poll(_FIRST_PAUSE, _FIRST_PAUSE, timeout=_LET_GO_WITHIN)):
        status = delete_row(database, reservation.key, _REMOVABLE)
        if status is None:
            break
        if not attempt:
            what = f"XNAT is working on '{printable(reservation.session_dir)}' ({printable(status)})"
            progress.message(f"{what}: waiting up to {_LET_GO_WITHIN:g} s for it to finish before anything is removed")
    return status


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Delay signals that would end the command in the middle of its cleaning up.

    They are handled and kept, not blocked: a blocked signal would go to another thread, such as that of a progress
    bar, and from there to Python's handler all the same.
    """
    if threading.current_thread() is not threading.main_thread():  # handlers run in the main thread only
        yield
        return
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    ours = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    try:
        for number in ours:
            signal.signal(number, lambda number, _frame: received.append(number))
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])
