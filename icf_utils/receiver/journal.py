"""The receiver's journal: every session and association, which images came, and what became of them.

An SQLite database, ``<spool>/journal.sqlite``, that several processes read and write at once: the receiver, the web
pages, the commands. Write-ahead logging lets readers read while somebody writes; writers wait for each other. A
transaction is on the disk when it is committed (``synchronous=FULL``), with everything that was committed before it.
Only the beginning and the end of an association are not synced by themselves: a power failure that forgets them
leaves an association without images, or one that counts as interrupted.

A session has a row and a folder, ``<spool>/sessions/<id>``, which the journal creates and removes together with it.
Session ids are row numbers and never reused. A session whose change is ``new`` has a visit identifier that no session
before it had: the next revision of the visit. The others belong to a visit that exists. The journal never touches a
store.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from icf_utils.errors import DepositDamaged, InvalidSetting, StorageFailure, printable, storage_errors
from icf_utils.formatting import format_count
from icf_utils.receiver.arguments import keep_arguments, kept_arguments
from icf_utils.receiver.event_table import LAYOUT as EVENT_LAYOUT
from icf_utils.receiver.event_table import Event, EventTable
from icf_utils.receiver.identify import image_key
from icf_utils.receiver.model import (
    ASSOCIATION_LOST,
    CONFLICTING,
    FINISHED,
    OTHER_FAILED,
    PARTIAL_OUTPUT,
    SESSION_STATES,
    Association,
    AssociationState,
    Session,
    SessionFilter,
    SessionState,
    VisitChange,
    failed_stage,
    final_state,
    refusal_note,
    visit_of_revision,
)
from icf_utils.receiver.model import format_session_id as _session_id
from icf_utils.receiver.spool import has_sends, mark_sends
from icf_utils.store.layout import check_identifier
from icf_utils.waiting import poll

if TYPE_CHECKING:
    import sqlite3

#: Below the spool: the database, and the folder of the sessions' folders.
JOURNAL_NAME, SESSIONS_NAME = "journal.sqlite", "sessions"

#: Rejected associations that the journal keeps; somebody may request thousands.
MOST_REJECTED = 10_000

#: Seconds after which a rejection for the same reason is an event again.
_REJECTION_REPEATED = 3600.0

#: In a session's folder: a visit that is put together from accepted images, until it is a session of its own.
ACCEPTED_NAME = "accepted"

#: Counts of associations and sessions alike.
_COUNTS = frozenset({"images", "duplicates", "quarantined", "refused", "size"})

#: What may be set of an association and of a session.
_ASSOCIATION_FIELDS = _COUNTS | {"transfer_syntaxes", "sessions"}
_SESSION_FIELDS = _COUNTS | {"calling_ae", "address", "last_received", "expected", "failure", "study_uid"}


@dataclass(frozen=True)
class OpenCommitment:
    """A request for storage commitment that waits for its report. ``due`` is the POSIX time of the next attempt.

    ``references`` is a JSON list of pairs of SOP class and SOP instance.
    """

    id: int
    transaction_uid: str
    references: str
    called_ae: str
    calling_ae: str
    address: str
    attempts: int
    due: float


@dataclass(frozen=True)
class NewSession:
    """What is known of a session before it has a number; the fields are columns of the table ``session``.

    ``visit`` is the identifier without a revision's suffix.
    """

    rule: str
    study: str
    visit: str
    revision: int = 1
    change: VisitChange = "new"
    study_uid: str = ""
    called_ae: str = ""
    calling_ae: str = ""
    address: str = ""
    expected: int = 0
    images: int = 0
    size: int = 0


class Journal:
    """The journal in a spool folder, which is created if it is missing. Safe for threads and processes.

    All methods raise :class:`~icf_utils.errors.StorageFailure` for what the system refuses, and
    :class:`~icf_utils.errors.DepositDamaged` for a file that is not a journal of this layout.
    """

    def __init__(self, spool: Path) -> None:
        self.spool = Path(os.path.abspath(spool))
        self._database = _Database(self.spool / JOURNAL_NAME)
        self.events = EventTable(self._database)
        self._numbers, self._last_number = threading.Lock(), 0

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def compact(self) -> None:
        """Move what is in the write-ahead log to the database, so that both use as little of a full disk as possible.

        What is being read meanwhile stays in the log.
        """
        with suppress(StorageFailure):
            self._database.run("PRAGMA wal_checkpoint(TRUNCATE)")

    def check_on_disk(self) -> None:
        """Raise :class:`~icf_utils.errors.DepositDamaged` if the file was removed or replaced since it was opened."""
        if not self._database.is_on_disk():
            remedy = "stop the receiver, put the journal back, or what there is of it, and start the receiver again"
            raise DepositDamaged(self._database.path, "the journal that was opened", "no file, or another one", remedy)

    def pass_over_unknown_sessions(self) -> list[Path]:
        """The folders of sessions that are not in the journal, as after it was lost; their numbers are not used again.

        Only the receiver calls this, before it creates a session.
        """
        with storage_errors(self.spool / SESSIONS_NAME, "read"):
            try:
                names = sorted(os.listdir(self.spool / SESSIONS_NAME))
            except FileNotFoundError:
                return []
        numbers = {name: number for name in names if (number := _row_number(name))}
        with self._database.transaction():
            known = {row["id"] for row in self._database.rows("SELECT id FROM session")}
            last = self._database.rows("SELECT seq FROM sqlite_sequence WHERE name = 'session'")
            highest = max(numbers.values(), default=0)
            if highest > (last[0]["seq"] if last else 0):
                self._database.run("DELETE FROM sqlite_sequence WHERE name = 'session'")
                self._database.run("INSERT INTO sqlite_sequence (name, seq) VALUES ('session', ?)", [highest])
        return [self.spool / SESSIONS_NAME / name for name, number in numbers.items() if number not in known]

    # sessions: create and find

    def open_session(
        self,
        *,
        rule: str,
        study: str,
        visit: str,
        state: SessionState = "receiving",
        study_uid: str = "",
        called_ae: str = "",
        calling_ae: str = "",
        address: str = "",
        expected: int = 0,
        revision: int = 1,
        change: VisitChange = "new",
    ) -> Session:
        """Create a session and its folder; ``visit`` is the identifier without a revision's suffix.

        A ``new`` one gets the first revision, from ``revision`` on, whose identifier no session has had; of these,
        ``expected`` applies to the first only. The others get exactly that revision. Raises
        :class:`~icf_utils.errors.InvalidIdentifier`.
        """
        with self._database.transaction():
            new = NewSession(
                rule, study, visit, revision, change, study_uid, called_ae, calling_ae, address, expected=expected
            )
            session = self._new_session(new, state)
            with storage_errors(session.input, "create"):
                session.input.mkdir()
        return session

    def enqueue(
        self,
        new: NewSession,
        source: Path,
        *,
        move: bool = False,
        is_held: bool = False,
        arguments: Sequence[str] | None = None,
    ) -> Session:
        """Create a queued session for a complete visit: a folder, zip or tar. With ``is_held``, it waits for a release.

        Its revision is as in :meth:`open_session`. With ``move``, ``source`` (on the spool's file system) is renamed
        into the session's folder, and is deleted with it. Without, it stays where it is and is never removed.
        """
        with self._database.transaction():
            return self._enqueue(new, source, move=move, is_held=is_held, arguments=arguments)

    def _enqueue(
        self,
        new: NewSession,
        source: Path,
        *,
        move: bool,
        is_held: bool = False,
        arguments: Sequence[str] | None = None,
    ) -> Session:
        """Do what :meth:`enqueue` does; the caller has a transaction."""
        session = self._new_session(new, "held" if is_held else "queued", "" if move else os.path.abspath(source))
        if is_held:
            self._add_event(session.id, "held")
        if arguments is not None:
            keep_arguments(session.folder, arguments)
        if move:
            place = session.folder / ("input" if source.is_dir() else f"input{_input_suffix(source)}")
            with storage_errors(source, "move"):
                os.rename(source, place)
            self._database.update("session", _row_number(session.id), {"input": str(place)})
        return self._existing(session.id)

    def _new_session(self, new: NewSession, state: SessionState, source: str = "") -> Session:
        """Insert a row and create its folder; the caller has a transaction. ``source`` is the input to archive."""
        number, expected, now = new.revision, new.expected, time.time()
        if new.change == "new":
            number = self._free_revision(new.study, new.visit, new.revision)
            if number > 1:  # the number is expected of the visit, not of what is sent later
                expected = 0
        visit = visit_of_revision(new.visit, number)
        check_identifier("study", new.study)
        check_identifier("visit", visit)
        values = {
            **asdict(new),
            "visit": visit,
            "base_visit": new.visit,
            "revision": number,
            "expected": expected,
            "state": state,
            "input": source,
            "first_received": now,
            "last_received": now,
            "queued": now,
        }
        session = self._existing(_session_id(self._database.insert("session", values)))
        with storage_errors(session.folder, "create"):
            session.folder.mkdir(parents=True)
        return session

    def _free_revision(self, study: str, visit: str, first: int) -> int:
        """The first revision of a visit, from ``first`` on, that comes after those of all sessions."""
        statement = "SELECT max(revision) FROM session WHERE study = ? AND base_visit = ?"
        number = max(first, int(self._database.rows(statement, [study, visit])[0][0] or 0) + 1)
        statement = "SELECT 1 FROM session WHERE study = ? AND visit = ?"
        while self._database.rows(statement, [study, visit_of_revision(visit, number)]):  # of a visit called so
            number += 1
        return number

    def session(self, session_id: str) -> Session | None:
        """The session of an id, even if it was deleted; ``None`` for any other text."""
        number = _row_number(session_id)
        found = self._database.rows("SELECT * FROM session WHERE id = ?", [number]) if number else []
        return self._session(found[0]) if found else None

    def sessions(self, wanted: SessionFilter | None = None, limit: int = 0, offset: int = 0) -> list[Session]:
        """Sessions that match, the newest first; at most ``limit`` of them (0: all), after skipping ``offset``."""
        where, values = _conditions(wanted or SessionFilter())
        statement = f"SELECT * FROM session WHERE {where} ORDER BY id DESC LIMIT ? OFFSET ?"  # noqa: S608
        return [self._session(row) for row in self._database.rows(statement, [*values, limit or -1, offset])]

    def counts(self, wanted: SessionFilter | None = None) -> dict[SessionState, int]:
        """The number of matching sessions in each state; every state is listed."""
        where, values = _conditions(wanted or SessionFilter())
        found = self._database.rows(f"SELECT state, count(*) FROM session WHERE {where} GROUP BY state", values)  # noqa: S608
        known = {row[0]: row[1] for row in found}
        return {state: known.get(state, 0) for state in SESSION_STATES}

    def revisions(self, study: str, visit: str) -> list[Session]:
        """All sessions of a visit, by its identifier without suffix, the first revision first."""
        statement = "SELECT * FROM session WHERE study = ? AND base_visit = ? ORDER BY revision"
        return [self._session(row) for row in self._database.rows(statement, [study, visit])]

    def sessions_of_visit(self, session: Session) -> list[Session]:
        """The other sessions of a session's visit that are not deleted, the first one first."""
        statement = "SELECT * FROM session WHERE study = ? AND visit = ? AND study_uid = ? AND NOT deleted ORDER BY id"
        rows = self._database.rows(statement, [session.study, session.visit, session.study_uid])
        return [item for item in map(self._session, rows) if item.id != session.id]

    def other_visits(self, session: Session) -> list[str]:
        """The visits of the same study that have other identifiers and a session's StudyInstanceUID."""
        statement = (
            "SELECT DISTINCT visit FROM session "
            "WHERE study_uid = ? AND study = ? AND base_visit != ? AND images AND NOT deleted ORDER BY visit"
        )
        values = [session.study_uid, session.study, session.base_visit]
        return [row[0] for row in self._database.rows(statement, values)] if session.study_uid else []

    def running_sessions(self) -> list[tuple[Session, str]]:
        """The sessions that are running, each with the worker that claimed it."""
        rows = self._database.rows("SELECT * FROM session WHERE state = 'running'")
        return [(self._session(row), row["worker"]) for row in rows]

    def _existing(self, session_id: str) -> Session:
        session = self.session(session_id)
        assert session is not None, f"no session {session_id}"
        return session

    def _session(self, row: sqlite3.Row) -> Session:
        values = dict(row)
        session_id = _session_id(values.pop("id"))
        folder = self.spool / SESSIONS_NAME / session_id
        for name in ("worker", "queued"):
            del values[name]
        values["input"] = Path(values["input"]) if values["input"] else folder / "input"
        refusals = self._refusals(row["id"]) if values["refused"] else ()
        values["notes"] = (*json.loads(values["notes"]), *map(refusal_note, refusals))
        values["deleted"] = bool(values["deleted"])
        return Session(id=session_id, folder=folder, log=folder / "log.txt", **values)

    # sessions: change

    def update_session(self, session_id: str, **values: Any) -> Session:
        """Set counts, ``size``, ``expected``, ``calling_ae``, ``address``, ``last_received``, ``failure`` ..."""
        unknown = set(values) - _SESSION_FIELDS
        assert not unknown, f"cannot be set: {sorted(unknown)}"
        self._database.update("session", _row_number(session_id), values)
        return self._existing(session_id)

    def add_counts(self, session_id: str, **amounts: int) -> None:
        """Add to a session's counts (``duplicates=3``)."""
        assert set(amounts) <= _COUNTS
        places = ", ".join(f"{name} = {name} + :{name}" for name in amounts)
        statement = f"UPDATE session SET {places} WHERE id = :row"  # noqa: S608 - the names are known
        self._database.run(statement, {**amounts, "row": _row_number(session_id)})

    def change_state(self, session_id: str, state: SessionState, failure: str = "") -> Session:
        """Put a session into a state, and record the time that goes with it."""
        with self._database.transaction():
            return self._change_state(session_id, state, failure)

    def _change_state(self, session_id: str, state: SessionState, failure: str = "") -> Session:
        """Do what :meth:`change_state` does; the caller has a transaction."""
        columns: dict[str, Any] = {"state": state, "failure": failure, "worker": ""}
        if state == "queued":
            columns.update(queued=time.time(), processing_start=None, processing_end=None)
        elif state in FINISHED:
            columns.update(processing_end=time.time())
        self._database.update("session", _row_number(session_id), columns)
        if state in FINISHED or state == "held":
            self._add_event(session_id, state, failure)
        return self._existing(session_id)

    def _add_event(self, session_id: str, state: SessionState, failure: str = "") -> None:
        """Add the event of a session that has reached a state; the caller has a transaction."""
        detail = {"stage": failed_stage(failure)} if state == "failed" else {}
        self.events.add(state, _row_number(session_id), **detail)

    def add_note(self, session_id: str, note: str) -> Session:
        """Add a sentence to a session's notes, unless it has it already."""
        with self._database.transaction():
            self._database.update("session", _row_number(session_id), self._with_note(session_id, note))
        return self._existing(session_id)

    def _with_note(self, session_id: str, note: str) -> dict[str, Any]:
        """Columns that add a note, unless the session has it already; the caller has a transaction."""
        found = self._database.rows("SELECT notes FROM session WHERE id = ?", [_row_number(session_id)])
        notes = json.loads(found[0]["notes"])
        return {} if note in notes else {"notes": json.dumps([*notes, note])}

    def claim_next(self, rule: str, worker: str) -> Session | None:
        """Change the queued session of a rule that has waited longest to ``running``; ``None`` if there is none."""
        with self._database.transaction():
            statement = (  # one session of a visit at a time
                "SELECT id FROM session AS mine WHERE state = 'queued' AND rule = ? AND NOT deleted AND NOT EXISTS "
                "(SELECT 1 FROM session AS other WHERE other.state = 'running' "
                "AND other.study = mine.study AND other.visit = mine.visit) ORDER BY queued, id LIMIT 1"
            )
            found = self._database.rows(statement, [rule])
            if not found:
                return None
            columns = {"state": "running", "worker": worker, "processing_start": time.time(), "processing_end": None}
            self._database.update("session", found[0][0], columns)
            return self._existing(_session_id(found[0][0]))

    def finish_session(
        self, session_id: str, decide: Callable[[Session], SessionState], failure: str = ""
    ) -> tuple[Session, list[str]]:
        """Put a session into the state that ``decide`` returns for it, and complete earlier ones of its visit.

        An image that was refused there and has come since no longer counts. A session that lacked images is complete
        if the visit has as many as it expected, and if everything was sent again after an association was lost.
        Returns the session, and the ids of the others that are in another state now. All is one transaction, with the
        events that report it.
        """
        with self._database.transaction():
            session = self._change_state(session_id, decide(self._existing(session_id)), failure)
            return session, self._complete_earlier(session)

    def set_quarantined(self, session_id: str, amount: int, note: str) -> Session:
        """Record the number of images in a session's quarantine; a session in ``success`` becomes ``partial``."""
        with self._database.transaction():
            session = self._existing(session_id)
            columns: dict[str, Any] = {"quarantined": amount, **self._with_note(session_id, note)}
            if session.state == "success":
                columns["state"] = "partial"
                self._add_event(session_id, "partial")
            self._database.update("session", _row_number(session_id), columns)
        return self._existing(session_id)

    def accept_quarantine(self, session_id: str, source: Path, *, images: int, size: int) -> Session:
        """Create a queued session of the same visit from the folder ``source``, and empty a session's quarantine.

        Returns the new session.
        """
        with self._database.transaction():
            old = self._existing(session_id)
            accepted = NewSession(
                rule=old.rule,
                study=old.study,
                visit=old.base_visit,
                revision=old.revision,
                change="corrected",
                study_uid=old.study_uid,
                called_ae=old.called_ae,
                calling_ae=old.calling_ae,
                address=old.address,
                images=images,
                size=size,
            )
            new = self._enqueue(accepted, source, move=True, arguments=kept_arguments(old.folder))
            note = f"{format_count(old.quarantined, 'quarantined image')} of {old.id} accepted"
            self._database.update("session", _row_number(new.id), self._with_note(new.id, note))
            self._forget_quarantine(old, f"the images in quarantine were accepted: {new.id}")
        self._remove_quarantine(old)
        return self._existing(new.id)

    def requeue_accepted(self, session_id: str, note: str) -> Session:
        """Queue a failed session again whose quarantined images are in its input now."""
        with self._database.transaction():
            session = self._existing(session_id)
            self._forget_quarantine(session, note)
            self._change_state(session_id, "queued")
        self._remove_quarantine(session)
        return self._existing(session_id)

    def empty_quarantine(self, session_id: str, note: str) -> Session:
        """Delete the images in a session's quarantine."""
        with self._database.transaction():
            session = self._existing(session_id)
            self._forget_quarantine(session, note)
        self._remove_quarantine(session)
        return self._existing(session_id)

    def _forget_quarantine(self, session: Session, note: str) -> None:
        """Record that a session has nothing in quarantine; it is a success if nothing else is wrong."""
        number = _row_number(session.id)
        found = self._database.rows("SELECT notes FROM session WHERE id = ?", [number])
        notes = [item for item in json.loads(found[0]["notes"]) if item != CONFLICTING]
        self._database.update("session", number, {"quarantined": 0, "notes": json.dumps([*notes, note])})
        if session.state == "partial":
            self._decide_again(session)

    def _remove_quarantine(self, session: Session) -> None:
        with storage_errors(session.quarantine, "remove"):
            shutil.rmtree(session.quarantine, ignore_errors=True)

    def finish_deletions(self) -> int:
        """Remove what a kill has left of sessions that were deleted, and of quarantines that were emptied.

        Returns the number of folders. To be called once, before images are received.
        """
        place, removed = self.spool / SESSIONS_NAME, 0
        for folder in sorted(place.iterdir()) if place.is_dir() else ():
            session = self.session(folder.name)
            if session is None:
                continue
            gone = [session.folder] if session.deleted else []
            if session.is_finished and not session.quarantined:
                gone.append(session.quarantine)
            gone.append(session.folder / ACCEPTED_NAME)
            for path in filter(Path.exists, gone):
                with storage_errors(path, "remove"):
                    shutil.rmtree(path)
                removed += 1
        return removed

    def release(self, session_id: str) -> Session:
        """Queue a held session. Raises :class:`~icf_utils.errors.InvalidSetting` for any other one."""
        with self._database.transaction():
            session = self._in_state(session_id, "held", "released")
            return self._change_state(session.id, "queued")

    def _complete_earlier(self, new: Session) -> list[str]:
        """Decide again about the other sessions of a finished session's visit; the caller has a transaction."""
        changed = []
        others = self.sessions_of_visit(new) if new.study_uid else []
        count = self._count_images(new) if others else 0
        for old in others:
            if old.state != "partial":
                continue
            self._forget_arrived_refusals(old)
            if new.state == "success" and old.is_short and _has_all(old, count):
                self._mark_complete(old, new.id, f"the images that were missing came with {new.id}")
            if self._decide_again(old) != old.state:
                changed.append(old.id)
        return changed

    def complete_by_resend(self, session_id: str) -> Session:
        """Take note that a session of which images may be missing was sent again, if all of it was, and no more."""
        with self._database.transaction():
            session = self._existing(session_id)
            others = self.sessions_of_visit(session)
            is_whole = session.is_short and all(item.is_finished for item in others)
            if session.state == "partial" and is_whole and _has_all(session, session.images):
                self._mark_complete(session, session_id, "everything was sent again; nothing was missing")
                self._decide_again(session)
        return self._existing(session_id)

    def _mark_complete(self, session: Session, completed_by: str, note: str) -> None:
        """Record which session brought what a session lacked; the caller has a transaction."""
        columns = {"completed_by": completed_by, **self._with_note(session.id, note)}
        self._database.update("session", _row_number(session.id), columns)

    def _decide_again(self, session: Session) -> SessionState:
        """Put a partial session into the state that it has now, and report it; the caller has a transaction."""
        now = self._existing(session.id)
        state = final_state(now, "", PARTIAL_OUTPUT in now.notes)
        if state != session.state:
            self._database.update("session", _row_number(session.id), {"state": state})
            self._add_event(session.id, state)
            if has_sends(session):  # a target may want what is whole now
                mark_sends(self.spool, session.id)
        return state

    def _count_images(self, session: Session) -> int:
        """The number of images of a session's visit that have digests."""
        of_visit = "SELECT id FROM session WHERE study = ? AND visit = ?"
        statement = f"SELECT count(DISTINCT image) FROM image WHERE session IN ({of_visit})"  # noqa: S608
        return int(self._database.rows(statement, [session.study, session.visit])[0][0])

    def _forget_arrived_refusals(self, session: Session) -> None:
        """Remove the refusals of images that the session's visit has now; the caller has a transaction."""
        arrived = "SELECT image FROM image WHERE session IN (SELECT id FROM session WHERE study = ? AND visit = ?)"
        statement = f"DELETE FROM refused WHERE session = ? AND image IN ({arrived})"  # noqa: S608
        number = _row_number(session.id)
        self._database.run(statement, [number, session.study, session.visit])
        statement = "UPDATE session SET refused = (SELECT count(*) FROM refused WHERE session = :row) WHERE id = :row"
        self._database.run(statement, {"row": number})

    def retry(self, session_id: str) -> Session:
        """Queue a failed session again.

        Raises :class:`~icf_utils.errors.InvalidSetting` for an unknown session, one that did not fail, and one whose
        images are gone.
        """
        with self._database.transaction():
            session = self._in_state(session_id, "failed", "retried")
            if not has_images(session):
                raise InvalidSetting("session", f"{session.id} has no images left; send them again")
            return self._change_state(session.id, "queued")

    def _in_state(self, session_id: str, state: SessionState, done: str) -> Session:
        """The session, if it is in this state; ``done`` is what can be done to such a session, for the message."""
        session = self.session(session_id)
        if session is None or session.deleted:
            raise _no_session(session_id)
        if session.state != state:
            raise InvalidSetting("session", f"{session.id} is {session.state}; only a {state} one can be {done}")
        return session

    def rerun(self, session_id: str) -> Session:
        """Queue a finished session again, also one that succeeded; of one that failed, the images must be there.

        Raises :class:`~icf_utils.errors.InvalidSetting` for an unknown session and one that is not finished.
        """
        with self._database.transaction():
            session = self.session(session_id)
            if session is None or session.deleted:
                raise _no_session(session_id)
            if not session.is_finished:
                raise InvalidSetting("session", f"{session.id} is {session.state}; only a finished one can be rerun")
            if session.state == "failed" and not has_images(session):
                raise InvalidSetting("session", f"{session.id} has no images left; send them again")
            notes = [note for note in session.notes if note not in (PARTIAL_OUTPUT, OTHER_FAILED)]
            self._database.update("session", _row_number(session.id), {"notes": json.dumps(notes)})
            return self._change_state(session.id, "queued")

    def delete_session(self, session_id: str) -> Session:
        """Mark a finished session as deleted and remove its folder; its archive stays in the store.

        The session is deleted as soon as it is marked; :meth:`finish_deletions` removes what a kill leaves of its
        folder.
        Its digests stay, so that images which are sent again are recognised. A failed session without digests never
        got into the store: its visit identifier becomes free again. Raises
        :class:`~icf_utils.errors.InvalidSetting` for an unknown session and one that is not finished.
        """
        with self._database.transaction():
            session = self.session(session_id)
            if session is None:
                raise _no_session(session_id)
            if not session.can_be_deleted:
                raise InvalidSetting("session", f"{session.id} is {session.state}; only a finished one can be deleted")
            self._database.update("session", _row_number(session_id), {"deleted": 1, **self._freed_identifier(session)})
        with (
            storage_errors(session.folder, "remove"),
            suppress(FileNotFoundError),
        ):  # a second command deletes it as well
            shutil.rmtree(session.folder)
        return self._existing(session_id)

    def _freed_identifier(self, session: Session) -> dict[str, Any]:
        """Columns that free the identifier of a session that never got into the store; no identifier has a ``+``."""
        if session.deleted or session.state not in ("failed", "held") or self.has_digests(session.id):
            return {}
        return dict.fromkeys(("visit", "base_visit"), f"{session.visit}+{session.id}")

    def forget_visit(self, study: str, visit: str) -> list[str]:
        """Remove all finished sessions of a visit, with folders, digests and records; returns their ids.

        Nothing of them stays in the file: what was in its free pages is overwritten. Raises
        :class:`~icf_utils.errors.InvalidSetting`, before anything is removed, if a session is not finished.
        """
        wanted = SessionFilter(study=study, visit=visit, deleted=True)
        found = self.sessions(wanted)
        if busy := [session for session in found if not session.can_be_deleted]:
            raise InvalidSetting("session", f"{busy[0].id} is {busy[0].state}; wait until it is finished")
        self._forget_commitments(self.digests([session.id for session in found]).keys())
        self.forget_sessions(found)
        self._database.run("PRAGMA wal_checkpoint(TRUNCATE)")
        return [session.id for session in found]

    def forget_sessions(self, sessions: Sequence[Session]) -> None:
        """Remove sessions with their folders, digests and records. Images that are sent again are not known then."""
        for session in sessions:
            with storage_errors(session.folder, "remove"):
                if session.folder.exists():
                    shutil.rmtree(session.folder)
        rows = [(_row_number(session.id),) for session in sessions]
        with self._database.transaction():
            for session in sessions:
                self.events.forget_session(_row_number(session.id))
            for table in ("image", "refused", "session_association"):
                self._database.run_many(f"DELETE FROM {table} WHERE session = ?", rows)  # noqa: S608
            self._database.run_many("DELETE FROM session WHERE id = ?", rows)

    def ended_sessions(self, before: float, after_id: str = "", limit: int = 1000) -> list[Session]:
        """Sessions in ``success`` and deleted ones that ended before a time (POSIX seconds), by their ids.

        At most ``limit`` of them, after the one of ``after_id``.
        """
        statement = (
            "SELECT * FROM session WHERE processing_end < ? AND (state = 'success' OR deleted) AND id > ? "
            "ORDER BY id LIMIT ?"
        )
        return [self._session(row) for row in self._database.rows(statement, [before, _row_number(after_id), limit])]

    # images of sessions

    def record_digests(self, session_id: str, digests: Mapping[str, bytes]) -> None:
        """Record the MD5 of each of a session's images, by their keys."""
        number = _row_number(session_id)
        with self._database.transaction():
            self._database.run_many(
                "INSERT OR REPLACE INTO image (session, image, digest) VALUES (?, ?, ?)",
                [(number, image, digest) for image, digest in digests.items()],
            )

    def has_digests(self, session_id: str) -> bool:
        """Whether a session's images were archived."""
        return bool(self._database.rows("SELECT 1 FROM image WHERE session = ? LIMIT 1", [_row_number(session_id)]))

    def digests(self, session_ids: Iterable[str]) -> dict[str, tuple[str, bytes]]:
        """Session id and MD5 of each recorded image of some sessions, by its key; an earlier session has precedence."""
        found: dict[str, tuple[str, bytes]] = {}
        for session_id in session_ids:
            statement = "SELECT image, digest FROM image WHERE session = ?"
            for row in self._database.rows(statement, [_row_number(session_id)]):
                found.setdefault(row["image"], (session_id, bytes(row["digest"])))
        return found

    # refused images

    def record_refusals(self, session_id: str, changes: Mapping[str, str]) -> Session:
        """Record why images were refused, by their keys; an empty reason says that the image has come after all.

        A session in ``success`` of which an image was refused becomes ``partial``. Each new reason is an event.
        """
        number = _row_number(session_id)
        with self._database.transaction():
            before = {reason for reason, _ in self._refusals(number)}
            self._database.run_many(
                "INSERT OR REPLACE INTO refused (session, image, reason) VALUES (?, ?, ?)",
                [(number, image, reason) for image, reason in changes.items() if reason],
            )
            self._database.run_many(
                "DELETE FROM refused WHERE session = ? AND image = ?",
                [(number, image) for image, reason in changes.items() if not reason],
            )
            statement = (
                "UPDATE session SET refused = (SELECT count(*) FROM refused WHERE session = :row) WHERE id = :row"
            )
            self._database.run(statement, {"row": number})
            for reason in sorted(set(filter(None, changes.values())) - before):
                self.events.add("refused", number, reason=reason)
            session = self._existing(session_id)
            if session.state == "success" and session.refused:
                self._database.update("session", number, {"state": "partial"})
                self._add_event(session_id, "partial")
        return self._existing(session_id)

    def refused_images(self, session_id: str) -> dict[str, str]:
        """Why images of a session were refused, by their keys."""
        statement = "SELECT image, reason FROM refused WHERE session = ? ORDER BY image"
        return {row["image"]: row["reason"] for row in self._database.rows(statement, [_row_number(session_id)])}

    def refusal_reasons(self, session_id: str) -> list[tuple[str, int]]:
        """The reasons for which images of a session were refused, the most frequent first, and how many."""
        return self._refusals(_row_number(session_id))

    def add_session_event(self, session_id: str, kind: str, **detail: Any) -> None:
        """Add an event about a session."""
        self.events.add(kind, _row_number(session_id), **detail)

    def session_of_event(self, event: Event) -> Session | None:
        """The session of an event, even if it was deleted; ``None`` without one."""
        return self.session(_session_id(event.session)) if event.session else None

    def _refusals(self, number: int) -> list[tuple[str, int]]:
        """The reasons for which images of a session were refused, the most frequent first, and how many."""
        statement = "SELECT reason, count(*) FROM refused WHERE session = ? GROUP BY reason ORDER BY 2 DESC, 1"
        return [(row[0], row[1]) for row in self._database.rows(statement, [number])]

    # associations

    def start_association(
        self,
        called_ae: str,
        calling_ae: str,
        address: str,
        state: AssociationState = "open",
        reason: str = "",
        number: int = 0,
    ) -> int:
        """Record a new association and return its id; one that is not ``open`` has ended already.

        ``number`` is the id if it was reserved by :meth:`next_association`.
        """
        now = time.time()
        columns = {
            "id": number or self.next_association(),
            "called_ae": called_ae,
            "calling_ae": calling_ae,
            "address": address,
            "started": now,
            "ended": None if state == "open" else now,
            "state": state,
            "reason": reason,
        }
        with self._database.without_sync(), self._database.transaction():
            if state == "rejected" and not self._was_just_rejected(columns):
                names = ("called_ae", "calling_ae", "address", "reason")
                self.events.add("rejected", 0, **{name: columns[name] for name in names})
            return self._database.insert("association", columns)

    def next_association(self) -> int:
        """Reserve the id of an association. One process at a time writes associations: the receiver."""
        with self._numbers:
            rows = self._database.rows("SELECT seq FROM sqlite_sequence WHERE name = 'association'")
            self._last_number = 1 + max(self._last_number, rows[0]["seq"] if rows else 0)
            return self._last_number

    def _was_just_rejected(self, columns: Mapping[str, Any]) -> bool:
        """Whether the same was rejected within the last hour; somebody may request thousands of associations."""
        names = ("called_ae", "calling_ae", "address", "reason")
        where = " AND ".join(f"{name} = ?" for name in names)
        statement = f"SELECT 1 FROM association WHERE state = 'rejected' AND ended > ? AND {where} LIMIT 1"  # noqa: S608
        values = [columns["started"] - _REJECTION_REPEATED, *(columns[name] for name in names)]
        return bool(self._database.rows(statement, values))

    def update_association(self, association_id: int, **values: Any) -> None:
        """Set counts, ``size``, ``transfer_syntaxes`` and ``sessions`` of an association."""
        with self._database.transaction():
            self._link_sessions(association_id, values.get("sessions", ()))
            self._database.update("association", association_id, _association_columns(values))

    def _link_sessions(self, association_id: int, sessions: Iterable[str]) -> None:
        """Make an association findable by its sessions; the caller has a transaction."""
        rows = [(_row_number(session), association_id) for session in sessions]
        if rows:
            self._database.run_many("INSERT OR IGNORE INTO session_association VALUES (?, ?)", rows)

    def end_association(self, association_id: int, state: AssociationState, reason: str = "", **values: Any) -> None:
        """Record how an association ended, and what :meth:`update_association` takes."""
        columns = {"state": state, "reason": reason, "ended": time.time(), **_association_columns(values)}
        with self._database.without_sync(), self._database.transaction():
            self._link_sessions(association_id, values.get("sessions", ()))
            self._database.update("association", association_id, columns)

    def interrupt_associations(self) -> int:
        """Mark open associations as ``interrupted``, because their receiver has ended; returns their number."""
        with self._database.transaction():
            found = self._database.rows("SELECT count(*) FROM association WHERE state = 'open'")
            statement = "UPDATE association SET state = 'interrupted', ended = ? WHERE state = 'open'"
            self._database.run(statement, [time.time()])
        return int(found[0][0])

    def associations(self, session_id: str = "", limit: int = 0, offset: int = 0) -> list[Association]:
        """Associations, the newest first; with ``session_id`` only those that brought images of that session."""
        where = "id IN (SELECT association FROM session_association WHERE session = ?)" if session_id else "1"
        values: Sequence[Any] = [_row_number(session_id)] if session_id else []
        statement = f"SELECT * FROM association WHERE {where} ORDER BY id DESC LIMIT ? OFFSET ?"  # noqa: S608
        return [_association(row) for row in self._database.rows(statement, [*values, limit or -1, offset])]

    def rejected_associations(self, limit: int) -> list[Association]:
        """The associations that were rejected last, the newest first."""
        statement = "SELECT * FROM association WHERE state = 'rejected' ORDER BY id DESC LIMIT ?"
        return [_association(row) for row in self._database.rows(statement, [limit])]

    def prune_associations(self, before: float, most_rejected: int = MOST_REJECTED) -> int:
        """Remove the associations that ended before a time (POSIX seconds), and all but the last rejected ones.

        Returns their number. Sessions stay.
        """
        number = "SELECT id FROM association WHERE state = 'rejected' ORDER BY id DESC LIMIT 1 OFFSET ?"
        old = "ended < ? OR (state = 'rejected' AND id <= coalesce((" + number + "), 0))"
        with self._database.transaction():
            statement = f"SELECT id FROM association WHERE {old}"  # noqa: S608
            ids = [(row[0],) for row in self._database.rows(statement, [before, most_rejected])]
            self._database.run_many("DELETE FROM session_association WHERE association = ?", ids)
            self._database.run_many("DELETE FROM association WHERE id = ?", ids)
            self._database.run("DELETE FROM commitment WHERE state != 'open' AND received < ?", [before])
        return len(ids)

    # storage commitment

    def add_commitment(
        self, transaction_uid: str, references: str, called_ae: str, calling_ae: str, address: str
    ) -> int:
        """Record a request for storage commitment; returns its number. ``references`` are SOP classes and instances."""
        columns = {
            "transaction_uid": transaction_uid,
            "sop_references": references,
            "called_ae": called_ae,
            "calling_ae": calling_ae,
            "address": address,
            "received": time.time(),
        }
        return self._database.insert("commitment", columns)

    def open_commitments(self) -> list[OpenCommitment]:
        """The requests that were not reported on, the oldest first."""
        statement = (
            "SELECT id, transaction_uid, sop_references, called_ae, calling_ae, address, attempts, due "
            "FROM commitment WHERE state = 'open' ORDER BY id"
        )
        return [OpenCommitment(*row) for row in self._database.rows(statement)]

    def postpone_commitment(self, number: int, attempts: int, due: float, message: str) -> None:
        """Record that a report failed, and the POSIX time of the next attempt."""
        self._database.update("commitment", number, {"attempts": attempts, "due": due, "message": message})

    def end_commitment(
        self, number: int, state: Literal["reported", "failed"], committed: int = 0, refused: int = 0, message: str = ""
    ) -> None:
        """Record the end of a request, and how many of its images are committed or not."""
        columns = {"state": state, "committed": committed, "refused": refused, "message": message}
        self._database.update("commitment", number, {**columns, "sop_references": ""})

    def _forget_commitments(self, images: Iterable[str]) -> None:
        """End the open requests that name one of some images, by their keys; they contain its UID."""
        gone = set(images)
        for request in self.open_commitments():
            if gone & {image_key(instance) for _, instance in json.loads(request.references)}:
                self.end_commitment(request.id, "failed", message="a visit with images of it was removed")

    def archived_images(self, keys: Iterable[str]) -> Iterator[tuple[str, Session]]:
        """Those of some images that were archived, each with the sessions that brought it."""
        sessions: dict[int, Session] = {}
        for key in keys:
            for row in self._database.rows("SELECT session FROM image WHERE image = ?", [key]):
                if row[0] not in sessions:
                    sessions[row[0]] = self._existing(_session_id(row[0]))
                yield key, sessions[row[0]]

    def association_counts(self) -> dict[str, int]:
        """The number of associations in each state that occurs."""
        rows = self._database.rows("SELECT state, count(*) FROM association GROUP BY state ORDER BY state")
        return {row[0]: row[1] for row in rows}

    def image_totals(self) -> dict[str, int]:
        """The sums of all associations' counts, and of their ``size`` in bytes."""
        names = sorted(_COUNTS)
        sums = ", ".join(f"coalesce(sum({name}), 0)" for name in names)
        (found,) = self._database.rows(f"SELECT {sums} FROM association")  # noqa: S608 - the names are known
        return dict(zip(names, found, strict=True))

    def oldest_queued(self) -> float | None:
        """Since when the session that has waited longest is queued, in POSIX seconds; ``None`` if none is."""
        (found,) = self._database.rows("SELECT min(queued) FROM session WHERE state = 'queued' AND NOT deleted")
        return float(found[0]) if found[0] is not None else None


def _has_all(session: Session, count: int) -> bool:
    """Whether a session that lacked images has them, if its visit has ``count`` now. Pure."""
    was_lost = ASSOCIATION_LOST in session.notes
    return count >= session.expected and (not was_lost or session.duplicates >= session.images)


def has_images(session: Session) -> bool:
    """Whether a session's input still has at least one file."""
    place = session.input
    return place.is_file() or (place.is_dir() and any(path.is_file() for path in place.rglob("*")))


def _no_session(session_id: str) -> InvalidSetting:
    return InvalidSetting("session", f"no session '{printable(session_id[:40])}'")


def _association(row: sqlite3.Row) -> Association:
    values = dict(row)
    for name in ("transfer_syntaxes", "sessions"):
        values[name] = tuple(json.loads(values[name]))
    return Association(**values)


def _association_columns(values: Mapping[str, Any]) -> dict[str, Any]:
    unknown = set(values) - _ASSOCIATION_FIELDS
    assert not unknown, f"cannot be set: {sorted(unknown)}"
    return {key: json.dumps(list(item)) if key not in _COUNTS else item for key, item in values.items()}


def _row_number(session_id: str) -> int:
    """The row of a session; 0, which no session has, for any other text."""
    digits = session_id[1:]
    is_id = session_id[:1] == "s" and digits.isascii() and digits.isdecimal() and 6 <= len(digits) <= 18
    return int(digits) if is_id and _session_id(int(digits)) == session_id else 0


def _input_suffix(path: Path) -> str:
    """``.zip``, ``.tar``, ``.tar.gz`` ..., by which the format of an input is recognised."""
    suffixes = path.suffixes[-2:]
    return "".join(suffixes) if len(suffixes) == 2 and suffixes[0] == ".tar" else path.suffix


def _glob(text: str) -> str:
    """A pattern of SQLite's GLOB in which only ``*`` is special."""
    return text.replace("[", "[[]").replace("?", "[?]")


def _conditions(wanted: SessionFilter) -> tuple[str, list[Any]]:
    """A WHERE clause and the values of its placeholders; it contains no text of a user."""
    columns = {
        "calling_ae": wanted.sender,
        "called_ae": wanted.called_ae,
        "study": wanted.study,
        "visit": wanted.visit,
        "rule": wanted.rule,
    }
    given = {name: value for name, value in columns.items() if value}
    patterns = {name for name in ("study", "visit") if "*" in given.get(name, "")}
    parts = [f"{name} GLOB ?" if name in patterns else f"{name} = ?" for name in given]
    values: list[Any] = [_glob(value) if name in patterns else value for name, value in given.items()]
    if wanted.states:
        parts.append(f"state IN ({', '.join('?' * len(wanted.states))})")
        values += wanted.states
    if not wanted.deleted:
        parts.append("NOT deleted")
    return " AND ".join(parts) or "1", values


#: Seconds that a writer waits for another one, and between two attempts where SQLite does not wait by itself.
_BUSY_TIMEOUT, _BUSY_PAUSE = 60.0, 0.02

#: What each layout adds to the one before; the number of the last one is recorded in the file.
_LAYOUTS = (
    """
CREATE TABLE session (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    rule TEXT NOT NULL, study TEXT NOT NULL, visit TEXT NOT NULL, base_visit TEXT NOT NULL, revision INTEGER NOT NULL,
    state TEXT NOT NULL, study_uid TEXT NOT NULL DEFAULT '', called_ae TEXT NOT NULL, calling_ae TEXT NOT NULL,
    address TEXT NOT NULL, first_received REAL NOT NULL, last_received REAL NOT NULL,
    images INTEGER NOT NULL DEFAULT 0, duplicates INTEGER NOT NULL DEFAULT 0, quarantined INTEGER NOT NULL DEFAULT 0,
    refused INTEGER NOT NULL DEFAULT 0, size INTEGER NOT NULL DEFAULT 0, expected INTEGER NOT NULL DEFAULT 0,
    input TEXT NOT NULL DEFAULT '', worker TEXT NOT NULL DEFAULT '',
    queued REAL, processing_start REAL, processing_end REAL,
    failure TEXT NOT NULL DEFAULT '', notes TEXT NOT NULL DEFAULT '[]', deleted INTEGER NOT NULL DEFAULT 0,
    UNIQUE (study, visit)
);
CREATE INDEX session_state ON session (state, rule, queued);
CREATE INDEX session_base ON session (study, base_visit, revision);
CREATE TABLE image (
    session INTEGER NOT NULL REFERENCES session, image TEXT NOT NULL, digest BLOB NOT NULL,
    PRIMARY KEY (session, image)
) WITHOUT ROWID;
CREATE TABLE association (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    called_ae TEXT NOT NULL, calling_ae TEXT NOT NULL, address TEXT NOT NULL, started REAL NOT NULL, ended REAL,
    state TEXT NOT NULL, reason TEXT NOT NULL, transfer_syntaxes TEXT NOT NULL DEFAULT '[]',
    images INTEGER NOT NULL DEFAULT 0, duplicates INTEGER NOT NULL DEFAULT 0, quarantined INTEGER NOT NULL DEFAULT 0,
    refused INTEGER NOT NULL DEFAULT 0, size INTEGER NOT NULL DEFAULT 0, sessions TEXT NOT NULL DEFAULT '[]'
);
""",
    """
CREATE TABLE refused (
    session INTEGER NOT NULL REFERENCES session, image TEXT NOT NULL, reason TEXT NOT NULL,
    PRIMARY KEY (session, image)
) WITHOUT ROWID;
CREATE TABLE session_association (
    session INTEGER NOT NULL, association INTEGER NOT NULL, PRIMARY KEY (session, association)
) WITHOUT ROWID;
CREATE INDEX association_end ON association (ended);
INSERT OR IGNORE INTO session_association
    SELECT CAST(substr(value, 2) AS INTEGER), association.id FROM association, json_each(association.sessions);
""",
    EVENT_LAYOUT,
    """
CREATE TABLE new_session (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    rule TEXT NOT NULL, study TEXT NOT NULL, visit TEXT NOT NULL, base_visit TEXT NOT NULL, revision INTEGER NOT NULL,
    change TEXT NOT NULL DEFAULT 'new',
    state TEXT NOT NULL, study_uid TEXT NOT NULL DEFAULT '', called_ae TEXT NOT NULL, calling_ae TEXT NOT NULL,
    address TEXT NOT NULL, first_received REAL NOT NULL, last_received REAL NOT NULL,
    images INTEGER NOT NULL DEFAULT 0, duplicates INTEGER NOT NULL DEFAULT 0, quarantined INTEGER NOT NULL DEFAULT 0,
    refused INTEGER NOT NULL DEFAULT 0, size INTEGER NOT NULL DEFAULT 0, expected INTEGER NOT NULL DEFAULT 0,
    input TEXT NOT NULL DEFAULT '', worker TEXT NOT NULL DEFAULT '',
    queued REAL, processing_start REAL, processing_end REAL,
    failure TEXT NOT NULL DEFAULT '', notes TEXT NOT NULL DEFAULT '[]', completed_by TEXT NOT NULL DEFAULT '',
    deleted INTEGER NOT NULL DEFAULT 0
);
DELETE FROM sqlite_sequence WHERE name = 'new_session';
INSERT INTO sqlite_sequence SELECT 'new_session', seq FROM sqlite_sequence WHERE name = 'session';
INSERT INTO new_session SELECT
    id, rule, study, visit, base_visit, revision, 'new', state, study_uid, called_ae, calling_ae, address,
    first_received, last_received, images, duplicates, quarantined, refused, size, expected, input, worker,
    queued, processing_start, processing_end, failure, notes, '', deleted
    FROM session;
DROP TABLE session;
ALTER TABLE new_session RENAME TO session;
CREATE INDEX session_state ON session (state, rule, queued);
CREATE INDEX session_base ON session (study, base_visit, revision);
CREATE INDEX session_visit ON session (study, visit);
CREATE INDEX session_end ON session (processing_end);
CREATE INDEX session_study_uid ON session (study_uid);
CREATE INDEX association_state ON association (state);
CREATE INDEX image_key ON image (image);
CREATE TABLE commitment (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    transaction_uid TEXT NOT NULL, sop_references TEXT NOT NULL, called_ae TEXT NOT NULL, calling_ae TEXT NOT NULL,
    address TEXT NOT NULL, received REAL NOT NULL, state TEXT NOT NULL DEFAULT 'open',
    attempts INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL DEFAULT 0, committed INTEGER NOT NULL DEFAULT 0,
    refused INTEGER NOT NULL DEFAULT 0, message TEXT NOT NULL DEFAULT ''
);
CREATE INDEX commitment_state ON commitment (state);
""",
)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


class _Database:
    """A connection to the file. Its methods may be called by any thread."""

    def __init__(self, path: Path) -> None:
        import sqlite3

        self.path, self._errors, self._lock = path, sqlite3.Error, threading.RLock()
        with storage_errors(path, "create"):
            path.parent.mkdir(parents=True, exist_ok=True)
        with self._translated_errors():
            self._connection: sqlite3.Connection = sqlite3.connect(
                path, timeout=_BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
            )
            self._connection.row_factory = sqlite3.Row
            self._enable_write_ahead_log()
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.execute("PRAGMA secure_delete=ON")  # what is removed is overwritten
            self._create_tables()
        with storage_errors(path, "examine"):
            self._identity = _identity(path)

    def is_on_disk(self) -> bool:
        """Whether the path still leads to the file that was opened."""
        with suppress(OSError):
            return _identity(self.path) == self._identity
        return False

    def _enable_write_ahead_log(self) -> None:
        """While another process creates the same file, SQLite refuses this at once, whatever its timeout."""
        for waited in poll(_BUSY_PAUSE, _BUSY_PAUSE, timeout=_BUSY_TIMEOUT):
            if self._try_write_ahead_log(is_last=waited >= _BUSY_TIMEOUT):
                return

    def _try_write_ahead_log(self, is_last: bool) -> bool:
        try:
            self._connection.execute("PRAGMA journal_mode=WAL")
        except self._errors as error:
            if "locked" not in str(error) or is_last:
                raise
            return False
        return True

    def _create_tables(self) -> None:
        with self.transaction():
            (layout,) = self._connection.execute("PRAGMA user_version").fetchone()
            for statements in _LAYOUTS[layout:] if layout >= 0 else ():
                for statement in statements.split(";"):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version={len(_LAYOUTS)}")
            if not 0 <= layout <= len(_LAYOUTS):
                raise DepositDamaged(
                    self.path,
                    f"a journal of layout {len(_LAYOUTS)} or an earlier one",
                    f"layout {layout}",
                    "use the version of icf-utils that wrote it",
                )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all changes of the block, or none; others see them afterwards."""
        with self._lock, self._translated_errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @contextmanager
    def without_sync(self) -> Iterator[None]:
        """Do not wait for the disk in this block, which is not within a transaction; a later commit syncs this too."""
        with self._lock:
            try:
                with self._translated_errors():
                    self._connection.execute("PRAGMA synchronous=NORMAL")
                yield
            finally:
                with self._translated_errors():
                    self._connection.execute("PRAGMA synchronous=FULL")

    def run(self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> int:
        """Run a statement that changes something; returns the number of the row that it inserted, if any."""
        with self._lock, self._translated_errors():
            return self._connection.execute(statement, values).lastrowid or 0

    def insert(self, table: str, columns: Mapping[str, Any]) -> int:
        """Insert a row and return its number; the column names never come from a user."""
        names = ", ".join(columns)
        places = ", ".join(f":{name}" for name in columns)
        return self.run(f"INSERT INTO {table} ({names}) VALUES ({places})", columns)  # noqa: S608

    def update(self, table: str, row: int, columns: Mapping[str, Any]) -> None:
        """Set columns of the row of that number."""
        if columns:
            places = ", ".join(f"{name} = :{name}" for name in columns)
            self.run(f"UPDATE {table} SET {places} WHERE id = :row", {**columns, "row": row})  # noqa: S608

    def run_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement for each of the rows."""
        with self._lock, self._translated_errors():
            self._connection.executemany(statement, rows)

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Run a query."""
        with self._lock, self._translated_errors():
            return self._connection.execute(statement, values).fetchall()

    def close(self) -> None:
        with self._lock, self._translated_errors():
            self._connection.close()

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            text = str(error)
            if "not a database" in text or "malformed" in text:
                remedy = "restore it from a backup, or move it away; the images in 'sessions' are not touched"
                raise DepositDamaged(self.path, "a journal (an SQLite database)", "something else", remedy) from error
            number = errno.ENOSPC if "full" in text else errno.EIO
            if "readonly" in text or not os.access(self.path.parent, os.W_OK):
                number = errno.EACCES
            if "locked" in text:
                number = errno.EBUSY
            raise StorageFailure(self.path, "use the journal", OSError(number, text)) from error
