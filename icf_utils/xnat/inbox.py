"""A visit through XNAT's inbox: the server's own importer reads a folder that it sees. Writes copies to the inbox.

XNAT makes folder and row by itself, so nothing can go wrong between them. Its importer would delete the folder that it
has read; it is told not to, and what we copied we remove.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from icf_utils.errors import InvalidSetting, RemoteFailure, printable, storage_errors
from icf_utils.interrupts import leave_behind
from icf_utils.progress import SILENT, Progress
from icf_utils.results import Notice
from icf_utils.sources.source import Source
from icf_utils.xnat.session_layout import SessionLayout, check_label, lay_out_session
from icf_utils.xnat.staging import (
    FileRights,
    copy_session,
    format_timestamp,
    list_abandoned,
    move_into_place,
    release_reservation,
    remove_session,
    reserve_place,
    set_folder_rights,
)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
_DONE = frozenset({"READY", "CONFLICT", "ERROR"})


class Importer(Protocol):
    """What is asked of XNAT, over HTTP."""

    def import_inbox(self, query: dict[str, str]) -> None: ...

    def rows(self, project: str) -> list[Any]: ...

    def files(self, project: str, timestamp: str, foldername: str) -> int: ...


@dataclass(frozen=True)
class InboxSession:
    """Where XNAT's inbox is for us (``root``) and for it (``server_root``), and what the session is to be called."""

    root: Path
    label: str
    project: str
    subject: str
    server_root: str = ""
    rights: FileRights = field(default_factory=FileRights)
    wait: float = 600.0

    def __post_init__(self) -> None:
        for what, value in (("--session", self.label), ("--project", self.project), ("--subject", self.subject)):
            check_label(what, value)
        if not self.root.is_dir():
            raise InvalidSetting("--inbox", f"'{printable(self.root)}' is no folder")


@dataclass(frozen=True)
class InboxResult:
    """What XNAT made of a folder of its inbox. ``status`` is empty where it has not shown the session in time."""

    project: str
    session: str
    study_uid: str
    path: str
    copied: bool
    files: int
    timestamp: str
    status: str
    counted: int
    notices: tuple[Notice, ...]


def inbox_query(session: InboxSession, path: str) -> dict[str, str]:
    """The parameters of the import. ``cleanupAfterImport`` is true where it is not given: XNAT would delete the folder.

    ``path`` is the folder as XNAT's host sees it.
    """
    return {
        "import-handler": "inbox",
        "path": path,
        "PROJECT_ID": session.project,
        "SUBJECT_ID": session.subject,
        "EXPT_LABEL": session.label,
        "cleanupAfterImport": "false",
    }


@dataclass(frozen=True)
class InboxPlan:
    """What would be done: where the copy would be (none for a folder in the inbox), and the import's parameters."""

    copy: Path | None
    query: dict[str, str]
    study_uid: str
    notices: tuple[Notice, ...]


def plan_inbox(source: Source, place: Path, session: InboxSession, progress: Progress = SILENT) -> InboxPlan:
    """What :func:`import_through_inbox` would do now. Reads the input; connects to nothing, writes nothing."""
    layout = lay_out_session(source, progress)
    inside = _inside(place, session.root)
    now = format_timestamp(datetime.now().astimezone().replace(tzinfo=None))
    relative = inside or f"{session.project}/{now}/{session.label}"
    return InboxPlan(
        copy=None if inside else session.root / relative,
        query=inbox_query(session, _on_server(session, relative)),
        study_uid=layout.study_uid,
        notices=(*source.notices, *layout.notices),
    )


def import_through_inbox(
    source: Source, place: Path, session: InboxSession, xnat: Importer, *, progress: Progress = SILENT
) -> InboxResult:
    """Have XNAT import an input; ``place`` is where it lies: a folder in the inbox is read there, others are copied.

    A copy is removed when XNAT has read it, or when the request fails. Raises
    :class:`~icf_utils.errors.InputRefused`, :class:`~icf_utils.errors.StorageFailure` and
    :class:`~icf_utils.errors.RemoteFailure`.
    """
    layout = lay_out_session(source, progress)
    before = {_key(row) for row in xnat.rows(session.project)}
    inside = _inside(place, session.root)
    if inside:
        path, copy = _on_server(session, inside), None
        xnat.import_inbox(inbox_query(session, path))
    else:
        copy = _copied(source, layout, session, xnat, progress)
        path = _on_server(session, copy.relative_to(session.root).as_posix())
    progress.message(f"XNAT was asked to import '{printable(path)}'")
    try:
        row = _wait(xnat, session, layout.study_uid, before, progress)
    except BaseException as error:
        leave_behind(error, _left(path, copy))
        raise
    status = str(row.get("status", "")) if row else ""
    counted = xnat.files(session.project, *_key(row)) if row and status in _DONE else 0
    if copy and status in _DONE:
        _discard(copy, session.root)
    if status == "READY" and counted != len(layout.files):
        problem = f"{len(layout.files)} files were given to it, it counts {counted}"
        raise RemoteFailure("XNAT", problem, "look at the session in its prearchive")
    return InboxResult(
        project=session.project,
        session=session.label,
        study_uid=layout.study_uid,
        path=path,
        copied=copy is not None,
        files=len(layout.files),
        timestamp=_key(row)[0] if row else "",
        status=status,
        counted=counted,
        notices=(*source.notices, *layout.notices),
    )


def _left(path: str, copy: Path | None) -> str:
    """What is under way when the command stops waiting."""
    going_on = f"XNAT goes on with its import of '{printable(path)}'; look for the session in its prearchive"
    return (
        f"{going_on}. The copy '{printable(copy)}' was left: remove it when the session is there" if copy else going_on
    )


def _inside(place: Path, root: Path) -> str:
    """The place relative to the inbox, if it is a folder in there."""
    real, above = os.path.realpath(place), os.path.realpath(root)
    return os.path.relpath(real, above) if os.path.isdir(real) and real.startswith(above.rstrip("/") + "/") else ""


def _on_server(session: InboxSession, relative: str) -> str:
    return f"{session.server_root.rstrip('/') or os.path.realpath(session.root)}/{relative}"


def _copied(source: Source, layout: SessionLayout, session: InboxSession, xnat: Importer, progress: Progress) -> Path:
    """A copy in the inbox that XNAT has agreed to import; nothing is left of it where it has not."""
    for reservation in list_abandoned(session.root):
        remove_session(reservation)
        progress.message(f"removed what an interrupted command had left: '{printable(reservation.session_dir)}'")
    with reserve_place(session.root, session.project, session.label) as reservation:
        try:
            copy_session(source, layout, reservation.staging / session.label, session.rights, {}, progress)
            move_into_place(reservation)
            set_folder_rights(reservation.made_folders, session.rights)
            relative = reservation.session_dir.relative_to(reservation.root).as_posix()
            xnat.import_inbox(inbox_query(session, _on_server(session, relative)))
        except BaseException:
            remove_session(reservation)
            raise
        release_reservation(reservation)
    return reservation.session_dir


def _discard(copy: Path, root: Path) -> None:
    """Remove our copy and the folders above it that are empty, below the inbox."""
    with storage_errors(copy, "remove"):
        shutil.rmtree(copy)
    for folder in copy.parents:
        if folder == root:
            return
        try:
            folder.rmdir()
        except OSError:
            return


def _key(row: Any) -> tuple[str, str]:
    return str(row.get("timestamp", "")), str(row.get("folderName", ""))


def _wait(xnat: Importer, session: InboxSession, study: str, before: set[tuple[str, str]], progress: Progress) -> Any:
    """The new session of this study and label, once XNAT has done with it, or as it is when patience is over."""
    started, pause, found, told = time.monotonic(), _FIRST_PAUSE, None, ""
    while True:
        for row in xnat.rows(session.project):
            if (
                _key(row) not in before
                and row.get("tag") == study
                and session.label in (row.get("name"), row.get("folderName"))
            ):
                found = row
        status = str(found.get("status")) if found else ""
        if status != told:
            progress.message(f"XNAT: {printable(status)}")
            told = status
        waited = time.monotonic() - started
        if status in _DONE or waited >= session.wait:
            return found
        time.sleep(min(pause, max(0.05, session.wait - waited)))
        pause = min(1.5 * pause, _LONGEST_PAUSE)
