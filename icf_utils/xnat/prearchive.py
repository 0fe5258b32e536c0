"""A visit straight into XNAT's prearchive: folder, row, rebuild. Writes to the prearchive and to XNAT's database.

The order is that of XNAT's own importer: the files first, the row last, then the request. Whatever fails, the row is
removed first and the folder then, so that XNAT never sees a row without its files.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from icf_utils.errors import IcfError, RemoteFailure, printable
from icf_utils.interrupts import leave_behind
from icf_utils.progress import SILENT, Progress
from icf_utils.sources.source import Source
from icf_utils.xnat.database import (
    INSERT_ROW,
    LOCK_TABLE,
    LOCK_TIMEOUT,
    SELECT_SESSION,
    SELECT_STUDY,
    UNASSIGNED,
    PrearchiveRow,
    XnatDatabase,
    check_table,
    delete_row,
    insert_row,
    refuse_same_study,
)
from icf_utils.xnat.direct import PrearchivePlan, PrearchiveRequests, PrearchiveResult, PrearchiveSession
from icf_utils.xnat.session_layout import SessionLayout, lay_out_session
from icf_utils.xnat.staging import (
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

#: Where XNAT has come to an end with a session.
FINAL_STATUSES = frozenset({"READY", "CONFLICT", "ERROR"})

#: A row in these states is nobody's but ours, and one in these XNAT is not working on.
_OURS = frozenset({"RECEIVING", "RECEIVING_INTERRUPT", "ERROR"})
_AT_REST = _OURS | {"READY", "CONFLICT"}

#: Seconds: between two looks at first and at most, for XNAT to list a new row, to let go of one that is undone.
_FIRST_PAUSE, _LONGEST_PAUSE, _LISTED_WITHIN, _LET_GO_WITHIN = 0.2, 5.0, 30.0, 30.0


def plan_prearchive(source: Source, session: PrearchiveSession, progress: Progress = SILENT) -> PrearchivePlan:
    """What :func:`put_into_prearchive` would do now. Reads the input; connects to nothing, writes nothing."""
    layout = lay_out_session(source, progress)
    now = datetime.now().astimezone().replace(tzinfo=None)
    reservation = Reservation(session.root, session.project, format_timestamp(now), session.label, made_project=False)
    row = _row(session, reservation, layout)
    requests = (f"POST /data/services/prearchive/rebuild src={_src(reservation)}", f"GET {_listing(reservation)}")
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
    xnat: PrearchiveRequests,
    *,
    expected: Mapping[str, str] | None = None,
    progress: Progress = SILENT,
) -> PrearchiveResult:
    """Copy a visit into the prearchive, insert its row, and have XNAT build the session.

    ``expected`` holds MD5s of the input's files by name, where they are known. Whatever fails or interrupts this is
    undone; what a kill has left is removed by the next call. What XNAT holds for too long cannot be undone:
    :func:`~icf_utils.errors.left_behind` says so of the error. Raises :class:`~icf_utils.errors.InputRefused`,
    :class:`~icf_utils.errors.StorageFailure`, :class:`~icf_utils.errors.RemoteFailure` and others of ours.
    """
    check_table(database)
    xnat.check_project(session.project or UNASSIGNED)
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
        progress.message(f"copied and checked {len(copied)} files")
        move_into_place(reservation)
        set_folder_rights(reservation.made_folders, session.rights)
        progress.message(f"in its place: '{printable(reservation.session_dir)}'")
        row = _row(session, reservation, layout)
        attempt.row = True
        insert_row(database, row, again=session.again)
        progress.message("the row is in the table")
        xnat.rebuild(_src(reservation))
        progress.message("XNAT was asked to build the session")
        status = _wait(xnat, reservation, session.wait, progress)
        log = read_log(reservation.session_dir)
        if status == "ERROR":
            raise RemoteFailure("XNAT", f"the session could not be built (status ERROR){_quoted(log)}", "see the log")
        release_reservation(reservation)
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
    """Undo what commands of this host that were killed have left; what XNAT has taken up meanwhile is left to it."""
    for reservation in list_abandoned(root):
        place = printable(reservation.session_dir)
        status = delete_row(database, reservation.key, _OURS)
        if status is None:
            remove_session(reservation)
            progress.message(f"removed what an interrupted command had left: '{place}'")
        else:
            release_reservation(reservation)
            progress.message(f"of an interrupted command, XNAT has taken up '{place}' ({status})")


def read_log(folder: Path) -> str:
    """What XNAT has written about a session, oldest first (``logs/<milliseconds>.log`` in its folder)."""
    try:
        files = sorted((folder / "logs").glob("*.log"))
        return "".join(f"{path.read_text(encoding='utf-8', errors='replace').rstrip()}\n" for path in files)
    except OSError:  # XNAT's own files, perhaps not for us to read
        return ""


def _quoted(log: str) -> str:
    lines = [printable(line) for line in log.splitlines()[-20:]]
    return "; XNAT's log says:\n  " + "\n  ".join(lines) if lines else "; XNAT left no log"


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


def _src(reservation: Reservation) -> str:
    return f"/prearchive/projects/{reservation.project or UNASSIGNED}/{reservation.timestamp}/{reservation.foldername}"


def _listing(reservation: Reservation) -> str:
    return f"/data/prearchive/projects/{reservation.project or UNASSIGNED}?format=json"


def _wait(xnat: PrearchiveRequests, reservation: Reservation, patience: float, progress: Progress) -> str:
    """The status in which XNAT ends, or the last one that it shows in time."""
    started, pause, told, status = time.monotonic(), _FIRST_PAUSE, "", ""
    while True:
        found = xnat.status(reservation.project or UNASSIGNED, reservation.timestamp, reservation.foldername)
        waited = time.monotonic() - started
        status = found or status
        if found is not None and found != told:
            progress.message(f"XNAT: {printable(found)}")
            told = found
        if found in FINAL_STATUSES or (found and waited >= patience):
            return status
        if found is None and waited >= min(patience, _LISTED_WITHIN):
            problem = "it does not list the session whose row is in the table"
            raise RemoteFailure("XNAT", problem, "check that this is the database and the prearchive of this XNAT")
        time.sleep(min(pause, max(0.05, patience - waited)))
        pause = min(pause * 1.5, _LONGEST_PAUSE)


class _Attempt:
    """How far it got: whether there may be a row."""

    row = False


@contextmanager
def _undone(reservation: Reservation, database: XnatDatabase, progress: Progress) -> Iterator[_Attempt]:
    """Undo it all when the block fails; what could not be undone is said with the error."""
    attempt = _Attempt()
    try:
        yield attempt
    except BaseException as error:
        with _undisturbed():
            left = _undo(reservation, database if attempt.row else None, progress)
            if left:
                leave_behind(error, left)
        raise


def _undo(reservation: Reservation, database: XnatDatabase | None, progress: Progress) -> str:
    """Row first, if there may be one, then folder. Returns what was left and how to go on, empty text if nothing was.

    Where the row cannot be removed the folder stays, and the journal for the next command.
    """
    place = printable(reservation.session_dir)
    try:
        status = _take_back(reservation, database, progress) if database else None
        if status is None:
            remove_session(reservation)
            return ""
        then = "removes both if XNAT has ended with an error by then, and else leaves them to XNAT"
        left = f"XNAT is still working on it ({printable(status)}), so '{place}' and its row were left there"
        return f"{left}; see what becomes of it in XNAT's prearchive. {_NEXT} {then}"
    except IcfError as error:
        return f"'{place}' could not be undone ({error}) and is left for the next command to remove. {_NEXT} does so"


_NEXT = "The next 'icf-utils xnat prearchive' on this host for this prearchive"


def _take_back(reservation: Reservation, database: XnatDatabase, progress: Progress) -> str | None:
    """Remove the row as soon as XNAT has let go of it; the status of one that it holds for too long."""
    started, told = time.monotonic(), False
    while (status := delete_row(database, reservation.key, _AT_REST)) is not None:
        if time.monotonic() - started > _LET_GO_WITHIN:
            return status
        if not told:
            patience = f"nothing can be taken away before it lets go; waiting for that, {_LET_GO_WITHIN:g} s at most"
            progress.message(
                f"XNAT is working on '{printable(reservation.session_dir)}' ({printable(status)}): {patience}"
            )
            told = True
        time.sleep(_FIRST_PAUSE)
    return None


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let signals wait that would end the command in the middle of its tidying up.

    They are heard and kept, not blocked: a blocked one would come to another thread, such as that of a progress bar,
    and from there to Python's handler all the same.
    """
    if threading.current_thread() is not threading.main_thread():  # no handler runs here
        yield
        return
    heard: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    ours = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    try:
        for number in ours:
            signal.signal(number, lambda number, _frame: heard.append(number))
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
        if heard:
            signal.raise_signal(heard[0])
