"""The part of the journal that is about states: what a session becomes, its counts and its notes.

Reads and writes the journal's database, and looks whether a session's images are there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icf_utils.errors import InvalidSetting, shown
from icf_utils.intake.associations import COUNTS, AssociationJournal
from icf_utils.intake.database import Database
from icf_utils.intake.rows import id_of, number_of
from icf_utils.intake.sessions import Session, SessionState

if TYPE_CHECKING:
    import sqlite3

#: Below the spool: the folder of the sessions' folders.
SESSIONS_NAME = "sessions"

_SESSION_FIELDS = COUNTS | {"calling_ae", "address", "last_received", "expected", "failure", "study_uid"}


class StateJournal(AssociationJournal):
    """What :class:`~icf_utils.intake.journal.Journal` knows about the states of sessions."""

    def __init__(self, spool: Path, database: Database) -> None:
        super().__init__(database)
        self.spool = spool

    def session(self, session_id: str) -> Session | None:
        """One session, deleted ones too; ``None`` where the id names none (whatever text it is)."""
        number = number_of(session_id)
        found = self._database.rows("SELECT * FROM session WHERE id = ?", [number]) if number else []
        return self._session(found[0]) if found else None

    def update_session(self, session_id: str, **values: Any) -> Session:
        """Set fields of a session: counts, ``size``, ``expected``, ``calling_ae``, ``address``, ``failure`` ..."""
        unknown = set(values) - _SESSION_FIELDS
        assert not unknown, f"not to be set: {sorted(unknown)}"
        self._database.update("session", number_of(session_id), values)
        return self._known(session_id)

    def count(self, session_id: str, **amounts: int) -> None:
        """Add to a session's counts (``duplicates=3``)."""
        assert set(amounts) <= COUNTS
        places = ", ".join(f"{name} = {name} + :{name}" for name in amounts)
        statement = f"UPDATE session SET {places} WHERE id = :row"  # noqa: S608 - the names are known
        self._database.run(statement, {**amounts, "row": number_of(session_id)})

    def change_state(self, session_id: str, state: SessionState, failure: str = "") -> Session:
        """Put a session into a state, with the time that goes with it."""
        columns: dict[str, Any] = {"state": state, "failure": failure, "worker": ""}
        if state == "queued":
            columns.update(queued=time.time(), processing_start=None, processing_end=None)
        elif state in ("success", "failed", "partial"):
            columns.update(processing_end=time.time())
        self._database.update("session", number_of(session_id), columns)
        return self._known(session_id)

    def add_note(self, session_id: str, note: str) -> Session:
        """Add a sentence to a session's notes, once."""
        with self._database.transaction():
            notes = self._known(session_id).notes
            if note not in notes:
                text = json.dumps([*notes, note])
                self._database.run("UPDATE session SET notes = ? WHERE id = ?", [text, number_of(session_id)])
        return self._known(session_id)

    def claim(self, rule: str, worker: str) -> Session | None:
        """Take the longest-waiting queued session of a rule into ``running``; ``None`` where there is none."""
        with self._database.transaction():
            found = self._database.rows(
                "SELECT id FROM session WHERE state = 'queued' AND rule = ? AND NOT deleted "
                "ORDER BY queued, id LIMIT 1",
                [rule],
            )
            if not found:
                return None
            columns = {"state": "running", "worker": worker, "processing_start": time.time(), "processing_end": None}
            self._database.update("session", found[0][0], columns)
            return self._known(id_of(found[0][0]))

    def running(self) -> list[tuple[Session, str]]:
        """Sessions that are being worked on, each with the worker that claimed it."""
        rows = self._database.rows("SELECT * FROM session WHERE state = 'running'")
        return [(self._session(row), row["worker"]) for row in rows]

    def settle(self, session_id: str, decide: Callable[[Session], SessionState], failure: str = "") -> Session:
        """Put a session into the state that ``decide`` says for what it is now; nobody writes to it in between."""
        with self._database.transaction():
            return self.change_state(session_id, decide(self._known(session_id)), failure)

    def set_quarantined(self, session_id: str, amount: int, note: str) -> Session:
        """So many images are in a session's quarantine; one that had succeeded is ``partial`` from now on."""
        with self._database.transaction():
            session = self._known(session_id)
            columns: dict[str, Any] = {"quarantined": amount}
            if session.state == "success":
                columns["state"] = "partial"
            if note not in session.notes:
                columns["notes"] = json.dumps([*session.notes, note])
            self._database.update("session", number_of(session_id), columns)
        return self._known(session_id)

    def retry(self, session_id: str) -> Session:
        """Queue a failed session once more; the steps leave alone what is done already.

        Raises :class:`~icf_utils.errors.InvalidSetting` for an unknown session, one that did not fail, and one whose
        images are not there any more.
        """
        with self._database.transaction():
            session = self.session(session_id)
            if session is None or session.deleted:
                raise InvalidSetting("session", f"there is none called '{shown(session_id[:40])}'")
            if session.state != "failed":
                raise InvalidSetting(
                    "session", f"{session.id} is {session.state}; only a failed one can be tried again"
                )
            if not has_images(session):
                raise InvalidSetting("session", f"{session.id} has no images to try again with; send them again")
            return self.change_state(session.id, "queued")

    def _known(self, session_id: str) -> Session:
        session = self.session(session_id)
        assert session is not None, f"no session {session_id}"
        return session

    def _session(self, row: sqlite3.Row) -> Session:
        values = dict(row)
        session_id = id_of(values.pop("id"))
        folder = self.spool / SESSIONS_NAME / session_id
        for name in ("base_visit", "worker", "queued"):
            del values[name]
        values["input"] = Path(values["input"]) if values["input"] else folder / "input"
        values["notes"] = tuple(json.loads(values["notes"]))
        values["deleted"] = bool(values["deleted"])
        return Session(id=session_id, folder=folder, log=folder / "log.txt", **values)


def has_images(session: Session) -> bool:
    """Whether a session's input is still there, with at least one file in it."""
    place = session.input
    return place.is_file() or (place.is_dir() and any(path.is_file() for path in place.rglob("*")))
