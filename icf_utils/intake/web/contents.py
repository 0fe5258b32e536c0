"""What can be downloaded of a session: its images, its results, its log. Reads the session's folder and the store.

Every path comes from the journal or the store's own names, never from a client.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from icf_utils.errors import IcfError, storage_errors
from icf_utils.intake.sessions import Session
from icf_utils.intake.web.zips import Member, VirtualZip, stamp_of, virtual_zip
from icf_utils.sources.selection import files_below
from icf_utils.store import VISIT_SUFFIXES, Visit

#: How many zips are remembered, so that the parts of a download need no new checksums.
_REMEMBERED = 64


class NothingThere(IcfError):
    """A session has no such file now; the message says why."""


def input_members(session: Session) -> list[Member]:
    """What came in, below ``<id>/INPUT/``. Raises :class:`NothingThere`."""
    place = session.input
    if session.state == "receiving":
        raise NothingThere(f"the images of {session.id} are still coming")
    if place.is_dir():
        names = files_below(os.fspath(place))
        members = [Member(f"{session.id}/INPUT/{name}", place / name) for name in names if (place / name).is_file()]
    else:
        members = [Member(f"{session.id}/INPUT/{place.name}", place)] if place.is_file() else []
    if not members:
        raise NothingThere(f"the images of {session.id} are not kept any more, or none have come")
    return members


def output_members(session: Session, store: Path) -> list[Member]:
    """The visit's files in the store, below ``<id>/OUTPUT/``. Raises :class:`NothingThere`."""
    if session.state not in ("success", "partial"):
        raise NothingThere(f"{session.id} has no results: it is {session.state}")
    place = Visit(store, session.study, session.visit)
    paths = [place.of_study.folder / f"{session.visit}{suffix}" for suffix in VISIT_SUFFIXES]
    members = [Member(f"{session.id}/OUTPUT/{path.name}", path) for path in paths if path.is_file()]
    if not members:
        raise NothingThere(f"the files of {session.name} are not in the store any more")
    return members


def log_status(session: Session) -> tuple[int, float | None]:
    """Size of the log in bytes and when it last changed; nothing where there is none."""
    try:
        status = os.stat(session.log)
    except OSError:
        return 0, None
    return status.st_size, status.st_mtime


def read_log(session: Session) -> bytes:
    """The log's bytes; empty where there is none yet."""
    with storage_errors(session.log, "read"):
        try:
            return session.log.read_bytes()
        except FileNotFoundError:
            return b""


class ZipShelf:
    """Remembers zips of files that have not changed; safe for threads, which do not make the same one twice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, VirtualZip] = OrderedDict()
        self._making: dict[str, threading.Lock] = {}

    def zip_of(self, members: Sequence[Member]) -> VirtualZip:
        """The zip of these files. Raises :class:`~icf_utils.errors.StorageFailure`."""
        stamp = stamp_of(members)
        with self._lock:
            making = self._making.setdefault(stamp, threading.Lock())
        with making:
            with self._lock:
                if known := self._known.get(stamp):
                    self._known.move_to_end(stamp)
                    return known
            made = virtual_zip(members)
            with self._lock:
                self._known[stamp] = made
                self._making.pop(stamp, None)
                while len(self._known) > _REMEMBERED:
                    self._known.popitem(last=False)
        return made
