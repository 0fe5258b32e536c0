"""The journal's file: an SQLite database that several processes read and write. Opens it, and runs statements.

Write-ahead logging lets readers read while somebody writes; writers wait for each other. A transaction is on the disk
when it is committed (``synchronous=FULL``).
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icf_utils.errors import DepositDamaged, StorageFailure, storage_errors

if TYPE_CHECKING:
    import sqlite3

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
