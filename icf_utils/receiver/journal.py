"""Rows of the journal's tables: their numbers as ids, and conditions on them. Pure.

The journal's file: an SQLite database that several processes read and write. Opens it, and runs statements.

Write-ahead logging lets readers read while somebody writes; writers wait for each other. A transaction is on the disk
when it is committed (``synchronous=FULL``).


The part of the journal that is about associations. Reads and writes the journal's database.

The part of the journal that is about states: what a session becomes, its counts and its notes.

Reads and writes the journal's database, and looks whether a session's images are there.


The journal of the intake: every session and association, what came, and what became of it.

Reads and writes ``<spool>/journal.sqlite`` (see :mod:`icf_utils.receiver.journal`), and makes, fills and removes the
sessions' folders ``<spool>/sessions/<id>``. Several processes may do so at once: the receiver, the web pages, commands.
Nothing here ever touches a store.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icf_utils.errors import DepositDamaged, InvalidSetting, StorageFailure, shown, storage_errors
from icf_utils.receiver.model import (
    SESSION_STATES,
    Association,
    AssociationState,
    Session,
    SessionFilter,
    SessionState,
    visit_of_revision,
)
from icf_utils.store.layout import check_identifier

if TYPE_CHECKING:
    import sqlite3


def id_of(number: int) -> str:
    """The id of the session in a row."""
    return f"s{number:06d}"


def number_of(session_id: str) -> int:
    """The row of a session; 0, which none has, for any other text."""
    digits = session_id[1:]
    known = session_id[:1] == "s" and digits.isascii() and digits.isdecimal() and 6 <= len(digits) <= 18
    return int(digits) if known and id_of(int(digits)) == session_id else 0


def suffix_of(path: Path) -> str:
    """``.zip``, ``.tar`` or ``.tar.gz``: by which an input is recognised."""
    suffixes = path.suffixes[-2:]
    return "".join(suffixes) if len(suffixes) == 2 and suffixes[0] == ".tar" else path.suffix


def conditions(wanted: SessionFilter) -> tuple[str, list[Any]]:
    """What follows WHERE, and the values for its places; no text of a user's is part of it."""
    columns = {
        "calling_ae": wanted.sender,
        "called_ae": wanted.called_ae,
        "study": wanted.study,
        "visit": wanted.visit,
        "rule": wanted.rule,
    }
    given = {name: value for name, value in columns.items() if value}
    parts, values = [f"{name} = ?" for name in given], list[Any](given.values())
    if wanted.states:
        parts.append(f"state IN ({', '.join('?' * len(wanted.states))})")
        values += wanted.states
    if not wanted.deleted:
        parts.append("NOT deleted")
    return " AND ".join(parts) or "1", values


#: Seconds that a writer waits for another one.
_PATIENCE = 60.0
_PAUSE = 0.02

#: Written into the file; a later layout gets another number.
_LAYOUT = 1

_SCHEMA = """
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
"""


class Database:
    """One process's hold on the file; its methods may be called by any thread.

    Raises :class:`~icf_utils.errors.StorageFailure` for what the system refuses and
    :class:`~icf_utils.errors.DepositDamaged` for a file that is no journal of this layout.
    """

    def __init__(self, path: Path) -> None:
        import sqlite3

        self.path, self._errors, self._lock = path, sqlite3.Error, threading.RLock()
        with storage_errors(path, "create"):
            path.parent.mkdir(parents=True, exist_ok=True)
        with self._translated():
            self._connection: sqlite3.Connection = sqlite3.connect(
                path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
            )
            self._connection.row_factory = sqlite3.Row
            self._write_ahead()
            self._connection.execute("PRAGMA synchronous=FULL")
            self._prepare()

    def _write_ahead(self) -> None:
        """While another process makes the same file, SQLite refuses this at once, without the patience it was given."""
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode=WAL")
                return
            except self._errors as error:
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
            time.sleep(_PAUSE)

    def _prepare(self) -> None:
        with self.transaction():
            (layout,) = self._connection.execute("PRAGMA user_version").fetchone()
            if layout == 0:
                for statement in _SCHEMA.split(";"):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version={_LAYOUT}")
            elif layout != _LAYOUT:
                raise DepositDamaged(
                    self.path,
                    f"a journal of layout {_LAYOUT}",
                    f"layout {layout}",
                    "use the version of icf-utils that wrote it",
                )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything in the block happens, or nothing; others see it afterwards."""
        with self._lock, self._translated():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def run(self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> int:
        """Run a statement that changes something; the number of the row that it made, if any."""
        with self._lock, self._translated():
            return self._connection.execute(statement, values).lastrowid or 0

    def insert(self, table: str, columns: Mapping[str, Any]) -> int:
        """Add a row and return its number; the names are ours, never a user's."""
        names = ", ".join(columns)
        places = ", ".join(f":{name}" for name in columns)
        return self.run(f"INSERT INTO {table} ({names}) VALUES ({places})", columns)  # noqa: S608

    def update(self, table: str, row: int, columns: Mapping[str, Any]) -> None:
        """Set columns of the row with that number."""
        if columns:
            places = ", ".join(f"{name} = :{name}" for name in columns)
            self.run(f"UPDATE {table} SET {places} WHERE id = :row", {**columns, "row": row})  # noqa: S608

    def run_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement for each of the rows."""
        with self._lock, self._translated():
            self._connection.executemany(statement, rows)

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """What a query finds."""
        with self._lock, self._translated():
            return self._connection.execute(statement, values).fetchall()

    def close(self) -> None:
        with self._lock, self._translated():
            self._connection.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            text = str(error)
            if "not a database" in text or "malformed" in text:
                remedy = "restore it from a backup, or move it away; the images in 'sessions' stay as they are"
                raise DepositDamaged(self.path, "a journal (an SQLite database)", "something else", remedy) from error
            number = errno.ENOSPC if "full" in text else errno.EIO
            if "readonly" in text or not os.access(self.path.parent, os.W_OK):
                number = errno.EACCES
            if "locked" in text:
                number = errno.EBUSY
            raise StorageFailure(self.path, "use the journal", OSError(number, text)) from error


#: What is counted of associations and sessions alike.
COUNTS = frozenset({"images", "duplicates", "quarantined", "refused", "size"})

_FIELDS = COUNTS | {"transfer_syntaxes", "sessions"}


class AssociationJournal:
    """What :class:`~icf_utils.receiver.journal.Journal` knows about associations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def start_association(
        self, called_ae: str, calling_ae: str, address: str, state: AssociationState = "open", reason: str = ""
    ) -> int:
        """Note a new association and return its id; a rejected one ends at once."""
        now = time.time()
        columns = {
            "called_ae": called_ae,
            "calling_ae": calling_ae,
            "address": address,
            "started": now,
            "ended": None if state == "open" else now,
            "state": state,
            "reason": reason,
        }
        return self._database.insert("association", columns)

    def update_association(self, association_id: int, **values: Any) -> None:
        """Set counts, ``size``, ``transfer_syntaxes`` and ``sessions`` of an association."""
        unknown = set(values) - _FIELDS
        assert not unknown, f"not to be set: {sorted(unknown)}"
        plain = {key: json.dumps(list(item)) if key not in COUNTS else item for key, item in values.items()}
        self._database.update("association", association_id, plain)

    def end_association(self, association_id: int, state: AssociationState, reason: str = "") -> None:
        """Note how an association ended."""
        columns = {"state": state, "reason": reason, "ended": time.time()}
        self._database.update("association", association_id, columns)

    def interrupt_associations(self) -> int:
        """Associations that a receiver left open when it was killed become ``interrupted``; how many."""
        with self._database.transaction():
            found = self._database.rows("SELECT count(*) FROM association WHERE state = 'open'")
            self._database.run(
                "UPDATE association SET state = 'interrupted', ended = ? WHERE state = 'open'", [time.time()]
            )
        return int(found[0][0])

    def associations(self, session_id: str = "", limit: int = 0, offset: int = 0) -> list[Association]:
        """Associations, the newest first; with ``session_id`` those that brought images of that session."""
        where = "EXISTS (SELECT 1 FROM json_each(association.sessions) WHERE value = ?)" if session_id else "1"
        values: Sequence[Any] = [session_id] if session_id else []
        statement = f"SELECT * FROM association WHERE {where} ORDER BY id DESC LIMIT ? OFFSET ?"  # noqa: S608
        return [_association(row) for row in self._database.rows(statement, [*values, limit or -1, offset])]


def _association(row: sqlite3.Row) -> Association:
    values = dict(row)
    for name in ("transfer_syntaxes", "sessions"):
        values[name] = tuple(json.loads(values[name]))
    return Association(**values)


#: Below the spool: the folder of the sessions' folders.
SESSIONS_NAME = "sessions"

_SESSION_FIELDS = COUNTS | {"calling_ae", "address", "last_received", "expected", "failure", "study_uid"}


class StateJournal(AssociationJournal):
    """What :class:`~icf_utils.receiver.journal.Journal` knows about the states of sessions."""

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


#: Below the spool: the database.
JOURNAL_NAME = "journal.sqlite"


class Journal(StateJournal):
    """The journal below a spool folder, which is made where it is missing. Safe for threads and processes."""

    def __init__(self, spool: Path) -> None:
        folder = Path(os.path.abspath(spool))
        super().__init__(folder, Database(folder / JOURNAL_NAME))

    def close(self) -> None:
        self._database.close()

    def sessions(self, wanted: SessionFilter | None = None, limit: int = 0, offset: int = 0) -> list[Session]:
        """Sessions that fit, the newest first; at most ``limit`` of them (0: all), without the first ``offset``."""
        where, values = conditions(wanted or SessionFilter())
        statement = f"SELECT * FROM session WHERE {where} ORDER BY id DESC LIMIT ? OFFSET ?"  # noqa: S608
        return [self._session(row) for row in self._database.rows(statement, [*values, limit or -1, offset])]

    def counts(self, wanted: SessionFilter | None = None) -> dict[SessionState, int]:
        """How many sessions that fit are in each state, all states named."""
        where, values = conditions(wanted or SessionFilter())
        found = self._database.rows(f"SELECT state, count(*) FROM session WHERE {where} GROUP BY state", values)  # noqa: S608
        known = {row[0]: row[1] for row in found}
        return {state: known.get(state, 0) for state in SESSION_STATES}

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
        first_revision: int = 1,
    ) -> Session:
        """Begin a session, with its folder; ``visit`` is the identifier without a revision's suffix.

        The revision is the first one, from ``first_revision``, that no session has had; ``expected`` is for the first
        one only. Raises
        :class:`~icf_utils.errors.InvalidIdentifier` for a study or visit that cannot name files.
        """
        with self._database.transaction():
            session = self._new_session(
                rule=rule,
                study=study,
                base_visit=visit,
                revision=first_revision,
                state=state,
                study_uid=study_uid,
                called_ae=called_ae,
                calling_ae=calling_ae,
                address=address,
                expected=expected,
            )
            with storage_errors(session.input, "create"):
                session.input.mkdir()
        return session

    def enqueue(
        self,
        *,
        rule: str,
        study: str,
        visit: str,
        source: Path,
        move: bool = False,
        images: int = 0,
        size: int = 0,
        calling_ae: str = "",
        called_ae: str = "",
        address: str = "",
        first_revision: int = 1,
    ) -> Session:
        """A visit that is there as a whole (a folder, zip or tar) waits from now on for a worker.

        With ``move``, ``source`` (which must lie on the spool's file system) becomes the session's own: it is renamed
        into its folder, and deleted with it. Without, it is left where it is, and never removed.
        """
        with self._database.transaction():
            session = self._new_session(
                rule=rule,
                study=study,
                base_visit=visit,
                revision=first_revision,
                state="queued",
                images=images,
                size=size,
                called_ae=called_ae,
                calling_ae=calling_ae,
                address=address,
                input="" if move else os.path.abspath(source),
            )
            if move:
                place = session.folder / ("input" if source.is_dir() else f"input{suffix_of(source)}")
                with storage_errors(source, "move"):
                    os.rename(source, place)
                self._database.update("session", number_of(session.id), {"input": str(place)})
        return self._known(session.id)

    def _new_session(self, *, base_visit: str, revision: int, **columns: Any) -> Session:
        """A row and its folder; the caller has a transaction."""
        number = max(revision, self._last_revision(columns["study"], base_visit) + 1)
        visit, now = visit_of_revision(base_visit, number), time.time()
        check_identifier("study", columns["study"])
        check_identifier("visit", visit)
        if number > 1:  # what is expected is expected of the visit, not of what came later
            columns["expected"] = 0
        values = {
            **columns,
            "visit": visit,
            "base_visit": base_visit,
            "revision": number,
            "first_received": now,
            "last_received": now,
            "queued": now,
        }
        session = self._known(id_of(self._database.insert("session", values)))
        with storage_errors(session.folder, "create"):
            session.folder.mkdir(parents=True)
        return session

    def revisions(self, study: str, visit: str) -> list[Session]:
        """All sessions of a visit, by its identifier without suffix, the first revision first."""
        rows = self._database.rows(
            "SELECT * FROM session WHERE study = ? AND base_visit = ? ORDER BY revision", [study, visit]
        )
        return [self._session(row) for row in rows]

    def delete_session(self, session_id: str) -> Session:
        """Mark a finished session as deleted and remove its folder; its archive stays in the store.

        Its digests stay too, so that the same images are still recognised. A failed session that has none leaves its
        visit's identifier to the next one: whether an archive stands there already, the store says. Raises
        :class:`~icf_utils.errors.InvalidSetting` for an unknown session, or one that is not finished.
        """
        with self._database.transaction():
            session = self.session(session_id)
            if session is None:
                raise InvalidSetting("session", f"there is none called '{shown(session_id[:40])}'")
            if not session.is_finished:
                raise InvalidSetting("session", f"{session.id} is {session.state}; only a finished one can be deleted")
            self._database.update("session", number_of(session_id), {"deleted": 1, **self._name_left_free(session)})
        with storage_errors(session.folder, "remove"):
            if session.folder.exists():
                shutil.rmtree(session.folder)
        return self._known(session_id)

    def _name_left_free(self, session: Session) -> dict[str, Any]:
        """Other names for the row of a session that never got as far as the store; none has a ``+``."""
        if session.deleted or session.state != "failed" or self.digests([session.id]):
            return {}
        return dict.fromkeys(("visit", "base_visit"), f"{session.visit}+{session.id}")

    def remember_images(self, session_id: str, digests: Mapping[str, bytes]) -> None:
        """Keep the digests of a session's images: their keys to the MD5 of the files."""
        number = number_of(session_id)
        with self._database.transaction():
            self._database.run_many(
                "INSERT OR REPLACE INTO image (session, image, digest) VALUES (?, ?, ?)",
                [(number, image, digest) for image, digest in digests.items()],
            )

    def digests(self, session_ids: Iterable[str]) -> dict[str, tuple[str, bytes]]:
        """What :meth:`remember_images` kept for sessions: an image's key to session id and digest, first one first."""
        found: dict[str, tuple[str, bytes]] = {}
        for session_id in session_ids:
            rows = self._database.rows("SELECT image, digest FROM image WHERE session = ?", [number_of(session_id)])
            for row in rows:
                found.setdefault(row["image"], (session_id, bytes(row["digest"])))
        return found

    def _last_revision(self, study: str, visit: str) -> int:
        found = self._database.rows(
            "SELECT max(revision) FROM session WHERE study = ? AND base_visit = ?", [study, visit]
        )
        return int(found[0][0] or 0)
