"""What can be downloaded of a session: its images, its results, its log. Reads the session's folder and the store.

Every path comes from the journal or from the store's own names, never from a client.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from icf_utils.errors import IcfError, storage_errors
from icf_utils.processing.arrange import list_output_files
from icf_utils.processing.records import log_path
from icf_utils.receiver.model import Session
from icf_utils.receiver.web.virtual_zip import ZippedFile
from icf_utils.sources.selection import list_files
from icf_utils.store.layout import VISIT_SUFFIXES, Visit

#: Rejected associations that are listed.
MOST_REJECTED = 100


class NotAvailable(IcfError):
    """A session does not have the requested files; the message says why."""


def members_of(session: Session, kind: str, store: Path, processings: Sequence[str] = ()) -> list[ZippedFile]:
    """The files of a session's ``input``, ``output`` or ``quarantine``. Raises :class:`NotAvailable`."""
    if kind == "quarantine":
        return quarantine_members(session)
    return input_members(session) if kind == "input" else output_members(session, store, processings)


def quarantine_members(session: Session) -> list[ZippedFile]:
    """The images in quarantine, as ``<id>/QUARANTINE/...``. Raises :class:`NotAvailable`."""
    paths = sorted(session.quarantine.glob("*.dcm"))
    if not paths:
        raise NotAvailable(f"{session.id} has no images in quarantine")
    return [ZippedFile(f"{session.id}/QUARANTINE/{path.name}", path) for path in paths]


def input_members(session: Session) -> list[ZippedFile]:
    """The received files, as ``<id>/INPUT/...``. Raises :class:`NotAvailable`."""
    place = session.input
    if session.state == "receiving":
        raise NotAvailable(f"the images of {session.id} are still being received")
    if place.is_dir():
        names = list_files(os.fspath(place))
        members = [ZippedFile(f"{session.id}/INPUT/{name}", place / name) for name in names if (place / name).is_file()]
    else:
        members = [ZippedFile(f"{session.id}/INPUT/{place.name}", place)] if place.is_file() else []
    if not members:
        raise NotAvailable(f"{session.id} has no images, or they were removed")
    return members


def output_members(session: Session, store: Path, processings: Sequence[str] = ()) -> list[ZippedFile]:
    """What was made of a session, as ``<id>/OUTPUT/...``: the files of its processings, or else the visit's files.

    With several processings, the files of each are in a folder of its name. Raises :class:`NotAvailable`.
    """
    if session.state not in ("success", "partial"):
        raise NotAvailable(f"{session.id} has no results: it is {session.state}")
    place = Visit(store, session.study, session.visit)
    if processings:
        return _outputs(session, place, processings)
    paths = [place.of_study.folder / f"{session.visit}{suffix}" for suffix in VISIT_SUFFIXES]
    members = [ZippedFile(f"{session.id}/OUTPUT/{path.name}", path) for path in paths if path.is_file()]
    if not members:
        raise NotAvailable(f"the files of {session.name} were removed from the store")
    return members


def _outputs(session: Session, place: Visit, processings: Sequence[str]) -> list[ZippedFile]:
    members = []
    for name in processings:
        below = f"{session.id}/OUTPUT/{name}" if len(processings) > 1 else f"{session.id}/OUTPUT"
        tar = place.output(name)
        files = list_output_files(tar) if tar.is_file() else []
        members += [ZippedFile(f"{below}/{file.path}", tar, file.offset, file.size) for file in files]
    if not members:
        raise NotAvailable(f"the outputs of {session.name} were removed from the store")
    return members


def read_processing_log(session: Session, store: Path, name: str) -> bytes:
    """What a program printed; raises :class:`NotAvailable` if that was not kept."""
    path = log_path(Visit(store, session.study, session.visit), name)
    with storage_errors(path, "read"):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise NotAvailable(f"{session.id} has no log of '{name}'") from None


def log_status(session: Session) -> tuple[int, float | None]:
    """Size of the log in bytes and the time of its last change; 0 and ``None`` without a log."""
    try:
        status = os.stat(session.log)
    except OSError:
        return 0, None
    return status.st_size, status.st_mtime


def read_log(session: Session) -> bytes:
    """The content of the log; empty if it does not exist yet."""
    with storage_errors(session.log, "read"):
        try:
            return session.log.read_bytes()
        except FileNotFoundError:
            return b""
