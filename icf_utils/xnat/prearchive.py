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

from icf_utils.errors import IcfError, RemoteFailure, shown
from icf_utils.interrupts import leave_behind
from icf_utils.progress import SILENT, Progress
from icf_utils.sources.source import Source
from icf_utils.xnat.database import (
    INSERT,
    LOCK,
    PATIENCE,
    SAME_SESSION,
    SAME_STUDY,
    UNASSIGNED,
    Database,
    Row,
    check_study,
    check_table,
    delete,
    insert,
)
from icf_utils.xnat.direct import Plan, PrearchiveResult, Session, Xnat
from icf_utils.xnat.session_layout import Arrangement, arrange
from icf_utils.xnat.staging import (
    Claim,
    claimed,
    copy_session,
    give_folders,
    leftovers,
    move_in,
    release,
    remove,
    timestamp_of,
)

#: Where XNAT has come to an end with a session.
DONE = frozenset({"READY", "CONFLICT", "ERROR"})

#: A row in these states is nobody's but ours, and one in these XNAT is not working on.
_OURS = frozenset({"RECEIVING", "RECEIVING_INTERRUPT", "ERROR"})
_AT_REST = _OURS | {"READY", "CONFLICT"}

#: Seconds: between two looks at first and at most, for XNAT to list a new row, to let go of one that is undone.
_FIRST_PAUSE, _LONGEST_PAUSE, _LISTED_WITHIN, _LET_GO_WITHIN = 0.2, 5.0, 30.0, 30.0


def plan(source: Source, session: Session, progress: Progress = SILENT) -> Plan:
    """What :func:`put_into_prearchive` would do now. Reads the input; connects to nothing, writes nothing."""
    arrangement = arrange(source, progress)
    now = datetime.now().astimezone().replace(tzinfo=None)
    claim = Claim(session.root, session.project, timestamp_of(now), session.label, made_project=False)
    row = _row(session, claim, arrangement)
    requests = (f"POST /data/services/prearchive/rebuild src={_src(claim)}", f"GET {_listing(claim)}")
    return Plan(
        folder=claim.session_dir,
        statements=(PATIENCE, LOCK, SAME_SESSION, *(() if session.again else (SAME_STUDY,)), INSERT),
        values=row.values(),
        requests=requests,
        places={file.entry.name: file.place for file in arrangement.files},
        study_uid=arrangement.study_uid,
        notices=(*source.notices, *arrangement.notices),
    )


def put_into_prearchive(
    source: Source,
    session: Session,
    database: Database,
    xnat: Xnat,
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
    arrangement = arrange(source, progress)
    clean_up(session.root, database, progress)
    if not session.again:
        check_study(database, session.project, arrangement.study_uid)
    with claimed(session.root, session.project, session.label) as claim, _undone(claim, database, progress) as attempt:
        target = claim.staging / session.label
        copied = copy_session(source, arrangement, target, session.rights, expected or {}, progress)
        progress.message(f"copied and checked {len(copied)} files")
        move_in(claim)
        made = (claim.project_dir, claim.timestamp_dir) if claim.made_project else (claim.timestamp_dir,)
        give_folders(made, session.rights)
        progress.message(f"in its place: '{shown(claim.session_dir)}'")
        row = _row(session, claim, arrangement)
        attempt.row = True
        insert(database, row, again=session.again)
        progress.message("the row is in the table")
        xnat.rebuild(_src(claim))
        progress.message("XNAT was asked to build the session")
        status = _wait(xnat, claim, session.wait, progress)
        log = read_log(claim.session_dir)
        if status == "ERROR":
            raise RemoteFailure("XNAT", f"the session could not be built (status ERROR){_quoted(log)}", "see the log")
        release(claim)
    return PrearchiveResult(
        project=session.project,
        timestamp=claim.timestamp,
        session=session.label,
        study_uid=arrangement.study_uid,
        folder=claim.session_dir,
        url=row.url,
        files=copied,
        scans=arrangement.scans,
        status=status,
        log=log,
        notices=(*source.notices, *arrangement.notices),
    )


def clean_up(root: Path, database: Database, progress: Progress = SILENT) -> None:
    """Undo what commands of this host that were killed have left; what XNAT has taken up meanwhile is left to it."""
    for claim in leftovers(root):
        place = shown(claim.session_dir)
        status = delete(database, claim.key, _OURS)
        if status is None:
            remove(claim)
            progress.message(f"removed what an interrupted command had left: '{place}'")
        else:
            release(claim)
            progress.message(f"of an interrupted command, XNAT has taken up '{place}' ({status})")


def read_log(folder: Path) -> str:
    """What XNAT has written about a session, oldest first (``logs/<milliseconds>.log`` in its folder)."""
    try:
        files = sorted((folder / "logs").glob("*.log"))
        return "".join(f"{path.read_text(encoding='utf-8', errors='replace').rstrip()}\n" for path in files)
    except OSError:  # XNAT's own files, perhaps not for us to read
        return ""


def _quoted(log: str) -> str:
    lines = [shown(line) for line in log.splitlines()[-20:]]
    return "; XNAT's log says:\n  " + "\n  ".join(lines) if lines else "; XNAT left no log"


def _row(session: Session, claim: Claim, arrangement: Arrangement) -> Row:
    now = datetime.now().astimezone().replace(tzinfo=None)
    time_of_study = arrangement.study_time
    root = session.server_root.rstrip("/") or str(session.root.resolve())
    return Row(
        project=session.project,
        timestamp=claim.timestamp,
        lastmod=now,
        uploaded=now,
        scan_date=time_of_study,
        scan_time=f"{time_of_study:%H:%M:%S}" if time_of_study else None,
        subject=session.subject,
        foldername=claim.foldername,
        name=session.label,
        tag=arrangement.study_uid,
        status="RECEIVING",
        url="/".join([root, *([session.project] if session.project else []), claim.timestamp, claim.foldername]),
        prevent_anon=session.prevent_anon,
        prevent_auto_commit=session.prevent_auto_commit,
    )


def _src(claim: Claim) -> str:
    return f"/prearchive/projects/{claim.project or UNASSIGNED}/{claim.timestamp}/{claim.foldername}"


def _listing(claim: Claim) -> str:
    return f"/data/prearchive/projects/{claim.project or UNASSIGNED}?format=json"


def _wait(xnat: Xnat, claim: Claim, patience: float, progress: Progress) -> str:
    """The status in which XNAT ends, or the last one that it shows in time."""
    started, pause, told, status = time.monotonic(), _FIRST_PAUSE, "", ""
    while True:
        found = xnat.status(claim.project or UNASSIGNED, claim.timestamp, claim.foldername)
        waited = time.monotonic() - started
        status = found or status
        if found is not None and found != told:
            progress.message(f"XNAT: {shown(found)}")
            told = found
        if found in DONE or (found and waited >= patience):
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
def _undone(claim: Claim, database: Database, progress: Progress) -> Iterator[_Attempt]:
    """Undo it all when the block fails; what could not be undone is said with the error."""
    attempt = _Attempt()
    try:
        yield attempt
    except BaseException as error:
        with _undisturbed():
            left = _undo(claim, database if attempt.row else None, progress)
            if left:
                leave_behind(error, left)
        raise


def _undo(claim: Claim, database: Database | None, progress: Progress) -> str:
    """Row first, if there may be one, then folder. Returns what was left and how to go on, empty text if nothing was.

    Where the row cannot be removed the folder stays, and the journal for the next command.
    """
    place = shown(claim.session_dir)
    try:
        status = _take_back(claim, database, progress) if database else None
        if status is None:
            remove(claim)
            return ""
        then = "removes both if XNAT has ended with an error by then, and else leaves them to XNAT"
        left = f"XNAT is still working on it ({shown(status)}), so '{place}' and its row were left there"
        return f"{left}; see what becomes of it in XNAT's prearchive. {_NEXT} {then}"
    except IcfError as error:
        return f"'{place}' could not be undone ({error}) and is left for the next command to remove. {_NEXT} does so"


_NEXT = "The next 'icf-utils xnat prearchive' on this host for this prearchive"


def _take_back(claim: Claim, database: Database, progress: Progress) -> str | None:
    """Remove the row as soon as XNAT has let go of it; the status of one that it holds for too long."""
    started, told = time.monotonic(), False
    while (status := delete(database, claim.key, _AT_REST)) is not None:
        if time.monotonic() - started > _LET_GO_WITHIN:
            return status
        if not told:
            patience = f"nothing can be taken away before it lets go; waiting for that, {_LET_GO_WITHIN:g} s at most"
            progress.message(f"XNAT is working on '{shown(claim.session_dir)}' ({shown(status)}): {patience}")
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
