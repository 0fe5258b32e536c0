"""Import a visit through XNAT's inbox: XNAT's own importer reads a folder on its host. Writes copies to the inbox.

XNAT creates folder and row by itself, so that nothing can fail between them. Its importer deletes the folder that it
has read, unless the request says otherwise, as it does here; a copy is removed by this module, an input never.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from icf_utils.errors import InvalidSetting, RemoteFailure, printable, storage_errors
from icf_utils.formatting import format_count
from icf_utils.interrupts import note_leftovers
from icf_utils.progress import SILENT, Progress
from icf_utils.results import Notice
from icf_utils.sources.source import Source
from icf_utils.waiting import poll
from icf_utils.xnat.labels import check_label
from icf_utils.xnat.model import BUILT_STATUSES
from icf_utils.xnat.rest import ARCHIVED, ListingRow, XnatClient, inbox_query, prearchive_uri
from icf_utils.xnat.session_layout import SessionLayout, lay_out_session
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

#: Seconds between two questions: at first, and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0


@dataclass(frozen=True)
class InboxSession:
    """Names of a session that XNAT is to import from its inbox.

    ``root`` is the inbox, ``server_root`` the same folder as XNAT's host sees it, if that path is another one. ``wait``
    bounds the wait for XNAT to build the session, in seconds.

    Raises :class:`~icf_utils.errors.InvalidSetting` for labels that XNAT does not accept.
    """

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
            raise InvalidSetting("--inbox", f"'{printable(self.root)}' is not a folder")


@dataclass(frozen=True)
class InboxResult:
    """What XNAT made of a folder of its inbox. ``status`` is empty where XNAT did not list the session in time."""

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


@dataclass(frozen=True)
class InboxPlan:
    """What would be done: the place of the copy (``None`` for a folder in the inbox), and the import's parameters."""

    copy: Path | None
    query: dict[str, str]
    study_uid: str
    notices: tuple[Notice, ...]


def plan_inbox(source: Source, place: Path, session: InboxSession, progress: Progress = SILENT) -> InboxPlan:
    """What :func:`import_through_inbox` would do now. Reads the input; makes no connection, writes nothing."""
    layout = lay_out_session(source, progress)
    inside = _inside(place, session.root)
    now = format_timestamp(datetime.now().astimezone().replace(tzinfo=None))
    relative = inside or f"{session.project}/{now}/{session.label}"
    return InboxPlan(
        copy=None if inside else session.root / relative,
        query=_query(session, relative),
        study_uid=layout.study_uid,
        notices=(*source.notices, *layout.notices),
    )


def import_through_inbox(
    source: Source, place: Path, session: InboxSession, xnat: XnatClient, *, progress: Progress = SILENT
) -> InboxResult:
    """Have XNAT import an input. ``place`` is its path: a folder in the inbox is read there, other inputs are copied.

    A copy is removed when XNAT has read it, or when the request fails. Raises
    :class:`~icf_utils.errors.InputRefused`, :class:`~icf_utils.errors.StorageFailure` and
    :class:`~icf_utils.errors.RemoteFailure`.
    """
    layout = lay_out_session(source, progress)
    before = {_key(row) for row in xnat.list_prearchive(session.project)}
    was_archived = xnat.archived_study(session.project, session.subject, session.label) is not None
    inside = _inside(place, session.root)
    if inside:
        query, copy = _query(session, inside), None
        xnat.import_inbox(query)
    else:
        copy = _copied(source, layout, session, xnat, progress)
        query = _query(session, copy.relative_to(session.root).as_posix())
    path = query["path"]
    progress.message(f"asked XNAT to import '{printable(path)}'")
    try:
        row = _wait(xnat, session, layout.study_uid, before, was_archived, progress)
    except BaseException as error:
        note_leftovers(error, _left(path, copy))
        raise
    status = str(row.get("status", "")) if row else ""
    built = status in BUILT_STATUSES or status == ARCHIVED
    counted = (_count(xnat, session, row) or 0) if row and built else 0
    if copy and built:
        _discard(copy, session.root)
    if status in ("READY", ARCHIVED) and counted != len(layout.files):
        problem = f"expected {format_count(len(layout.files), 'file')} in the session, XNAT counts {counted}"
        raise RemoteFailure("XNAT", problem, f"check the session in its {_part(status)}")
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


def _part(status: str) -> str:
    return "archive" if status == ARCHIVED else "prearchive"


def _count(xnat: XnatClient, session: InboxSession, row: ListingRow) -> int | None:
    """The number of images that XNAT has of a session, in the archive or in the prearchive."""
    if row.get("status") != ARCHIVED:
        return xnat.read_session(prearchive_uri(session.project, *_key(row))).files
    return next((item.files for item in xnat.find_archived(session.project, session.subject, session.label)), None)


def _left(path: str, copy: Path | None) -> str:
    """What is still being done when the command stops waiting."""
    still = f"XNAT continues to import '{printable(path)}'; look for the session in its prearchive"
    return f"{still}. The copy '{printable(copy)}' was left: remove it once the session is complete" if copy else still


def _inside(place: Path, root: Path) -> str:
    """The path relative to the inbox of a folder in it, else an empty text."""
    real, above = os.path.realpath(place), os.path.realpath(root)
    return os.path.relpath(real, above) if os.path.isdir(real) and real.startswith(above.rstrip("/") + "/") else ""


def _query(session: InboxSession, relative: str) -> dict[str, str]:
    """The parameters of the import of a folder in the inbox."""
    path = f"{session.server_root.rstrip('/') or os.path.realpath(session.root)}/{relative}"
    return inbox_query(session.project, session.subject, session.label, path)


def _copied(source: Source, layout: SessionLayout, session: InboxSession, xnat: XnatClient, progress: Progress) -> Path:
    """Copy an input into the inbox and have XNAT import it; the copy is removed where the request fails."""
    for reservation in list_abandoned(session.root):
        remove_session(reservation)
        progress.message(f"removed '{printable(reservation.session_dir)}', which an interrupted command had left")
    with reserve_place(session.root, session.project, session.label) as reservation:
        try:
            copy_session(source, layout, reservation.staging / session.label, session.rights, {}, progress)
            move_into_place(reservation)
            set_folder_rights(reservation.made_folders, session.rights)
            relative = reservation.session_dir.relative_to(reservation.root).as_posix()
            xnat.import_inbox(_query(session, relative))
        except BaseException:
            remove_session(reservation)
            raise
        release_reservation(reservation)
    return reservation.session_dir


def _discard(copy: Path, root: Path) -> None:
    """Remove the copy, and the folders above it in the inbox that are empty then."""
    with storage_errors(copy, "remove"):
        shutil.rmtree(copy)
    for folder in copy.parents:
        if folder == root:
            return
        try:
            folder.rmdir()
        except OSError:
            return


def _key(row: ListingRow) -> tuple[str, str]:
    return str(row.get("timestamp", "")), str(row.get("folderName", ""))


def _wait(
    xnat: XnatClient,
    session: InboxSession,
    study: str,
    before: set[tuple[str, str]],
    was_archived: bool,
    progress: Progress,
) -> ListingRow | None:
    """The new session of this study and label once XNAT has built it, or its last state when the time is over.

    A project may archive it by itself: then the prearchive does not list it any more, and the archive has the study.
    ``was_archived`` says that the archive had a session of this label before, which proves nothing.
    """
    found: ListingRow | None = None
    reported = ""
    for _ in poll(_FIRST_PAUSE, _LONGEST_PAUSE, timeout=session.wait, factor=1.5):
        for row in xnat.list_prearchive(session.project):
            is_same = row.get("tag") == study and session.label in (row.get("name"), row.get("folderName"))
            if is_same and _key(row) not in before:
                found = row
                break
        else:
            if not was_archived and xnat.archived_study(session.project, session.subject, session.label) == study:
                found = {**(found or {}), "status": ARCHIVED}
        status = str(found.get("status")) if found else ""
        if status != reported:
            progress.message(f"XNAT: {printable(status)}")
            reported = status
        if status in BUILT_STATUSES or status == ARCHIVED:
            break
    return found
