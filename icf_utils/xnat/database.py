"""XNAT's table of the prearchive, ``xdat_search.prearchive``, in PostgreSQL. Uses the database, through psycopg.

The columns and their values are those of XNAT 1.8 (DatabaseSession, PrearcUtils). The table itself accepts values that
XNAT cannot read: any status, NULL as ``prevent_auto_commit`` (which stops XNAT's rebuilder for every session), and the
same session twice where the project is NULL. So every value is checked before it is written. The reasons for writing to
this table at all are in ``docs/decisions/0017-xnat-prearchive-table.md``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from icf_utils.credentials import Secret
from icf_utils.errors import InvalidSetting, RemoteFailure, printable
from icf_utils.installation import missing_package
from icf_utils.xnat.model import STATUSES, UNASSIGNED

TABLE = "xdat_search.prearchive"

_TIMESTAMP = re.compile(r"[0-9]{8}_[0-9]{9}")
_KEY = "timestamp = %(timestamp)s AND foldername = %(foldername)s AND project IS NOT DISTINCT FROM %(project)s"

#: Other inserts, including XNAT's own, wait until the transaction ends; reading does not.
LOCK_TABLE = f"LOCK TABLE {TABLE} IN SHARE ROW EXCLUSIVE MODE"
LOCK_TIMEOUT = "SET LOCAL lock_timeout = '10s'"
SELECT_SESSION = f"SELECT status FROM {TABLE} WHERE {_KEY}"  # noqa: S608 - constant names; values are parameters
SELECT_STUDY = (
    f"SELECT timestamp, foldername, status FROM {TABLE} WHERE tag = %(tag)s "  # noqa: S608
    "AND project IS NOT DISTINCT FROM %(project)s ORDER BY timestamp LIMIT 1"
)
DELETE_ROW = f"DELETE FROM {TABLE} WHERE {_KEY} AND status = ANY(%(statuses)s)"  # noqa: S608


@dataclass(frozen=True)
class PrearchiveRow:
    """A row of the table, with a value for every column. Times are local times of XNAT's host, without a zone.

    ``project`` is ``None`` for a session that is not assigned to one, ``tag`` is the StudyInstanceUID, ``url`` the
    session's folder as XNAT's host sees it. Raises :class:`~icf_utils.errors.InvalidSetting` for values that XNAT
    cannot read.
    """

    project: str | None
    timestamp: str
    lastmod: datetime
    uploaded: datetime
    scan_date: datetime | None
    scan_time: str | None
    subject: str | None
    foldername: str
    name: str
    tag: str
    status: str
    url: str
    autoarchive: str | None = None
    prevent_anon: bool = False
    prevent_auto_commit: bool = False
    source: str | None = "icf-utils"
    visit: str | None = None
    protocol: str | None = None
    timezone: str | None = None

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise InvalidSetting("status", f"'{printable(self.status)}' is not a status of XNAT")
        if not _TIMESTAMP.fullmatch(self.timestamp):
            raise InvalidSetting("timestamp", f"'{printable(self.timestamp)}' is not yyyyMMdd_HHmmssSSS")
        for name in ("foldername", "url", "tag", "name"):
            if not getattr(self, name):
                raise InvalidSetting(name, "must not be empty")
        for name in ("prevent_anon", "prevent_auto_commit"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidSetting(name, "must be true or false: XNAT's rebuilder stops at NULL")
        if self.project in ("", UNASSIGNED):
            raise InvalidSetting("project", f"expected None for a session without a project, not '{self.project}'")

    def values(self) -> dict[str, object]:
        """The value of each column."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


COLUMNS = tuple(item.name for item in fields(PrearchiveRow))
INSERT_ROW = (
    f"INSERT INTO {TABLE} ({', '.join(COLUMNS)}) "  # noqa: S608 - constant names; values are parameters
    f"VALUES ({', '.join(f'%({name})s' for name in COLUMNS)})"
)


@dataclass(frozen=True)
class XnatDatabase:
    """How to connect to XNAT's database; libpq finds what is empty (``PGHOST`` and the like, ``~/.pgpass``).

    Raises :class:`~icf_utils.errors.InvalidSetting` for a connection string, which might contain a password.
    """

    host: str = ""
    port: int | None = None
    name: str = ""
    user: str = ""
    password: Secret | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for what, text in (("--db-name", self.name), ("--db-host", self.host), ("--db-user", self.user)):
            if "=" in text or "://" in text:
                problem = "give the name alone, not a connection string, which might contain a password"
                raise InvalidSetting(what, problem)

    @property
    def place(self) -> str:
        """The database's name in messages."""
        return f"database {self.name or 'of the environment'}{f' on {self.host}' if self.host else ''}"


def insert_row(database: XnatDatabase, row: PrearchiveRow, *, again: bool = False) -> None:
    """Insert a session, unless the table has it, or another one of the same study and project.

    The table is locked for the milliseconds that this takes, so that nobody else inserts in between, including XNAT.
    ``again`` allows a second session of the same study. Raises :class:`~icf_utils.errors.RemoteFailure`, also where
    another transaction holds the lock for 10 s.
    """
    values = row.values()
    with _transaction(database) as cursor:
        cursor.execute(LOCK_TIMEOUT)
        cursor.execute(LOCK_TABLE)
        if cursor.execute(SELECT_SESSION, values).fetchone():
            raise RemoteFailure(
                database.place, "the prearchive already has a session of this name and time", "try again"
            )
        if not again:
            _refuse_study(database, cursor, values)
        cursor.execute(INSERT_ROW, values)


def refuse_same_study(database: XnatDatabase, project: str | None, study_uid: str) -> None:
    """Raise :class:`~icf_utils.errors.RemoteFailure` where the project's prearchive has a session of this study.

    This does not lock the table; :func:`insert_row` checks again.
    """
    with _transaction(database) as cursor:
        _refuse_study(database, cursor, {"tag": study_uid, "project": project})


def _refuse_study(database: XnatDatabase, cursor: Any, values: dict[str, object]) -> None:
    found = cursor.execute(SELECT_STUDY, values).fetchone()
    if found:
        stamp, folder, status = found
        raise RemoteFailure(
            database.place,
            f"the project's prearchive already has a session of this study: {stamp}/{printable(folder)} ({status})",
            "archive or delete it in XNAT first, or use --again to add a second one",
        )


def read_status(database: XnatDatabase, key: PrearchiveRow | dict[str, object]) -> str | None:
    """The status of a session, ``None`` where the table has no row of it."""
    with _transaction(database) as cursor:
        found = cursor.execute(SELECT_SESSION, _key(key)).fetchone()
    return str(found[0]) if found else None


def delete_row(database: XnatDatabase, key: PrearchiveRow | dict[str, object], statuses: frozenset[str]) -> str | None:
    """Delete a session's row if it has one of ``statuses``; returns the status of a row that stays, if there is one."""
    with _transaction(database) as cursor:
        cursor.execute(LOCK_TIMEOUT)
        cursor.execute(DELETE_ROW, {**_key(key), "statuses": sorted(statuses)})
        found = cursor.execute(SELECT_SESSION, _key(key)).fetchone()
    return str(found[0]) if found else None


_OTHER_XNAT = "this version of XNAT is not supported; use 'xnat upload'"


def check_table(database: XnatDatabase) -> None:
    """Raise :class:`~icf_utils.errors.RemoteFailure` unless the table is one that rows can be added to.

    It has every column that is written, and no other that must have a value, as a later version of XNAT may add one.
    """
    with _transaction(database) as cursor:
        query = (
            "SELECT column_name, is_nullable = 'NO' AND column_default IS NULL FROM information_schema.columns "
            "WHERE table_schema = %s AND table_name = %s"
        )
        found = {str(name): bool(needed) for name, needed in cursor.execute(query, TABLE.split(".")).fetchall()}
    if not found:
        problem, remedy = (
            f"table {TABLE} does not exist, or this user may not see it",
            "check the database and the user",
        )
        raise RemoteFailure(database.place, problem, remedy)
    if missing := sorted(set(COLUMNS) - set(found)):
        raise RemoteFailure(database.place, f"{TABLE} has no column {', '.join(missing)}", _OTHER_XNAT)
    if unknown := sorted(name for name, needed in found.items() if needed and name not in COLUMNS):
        problem = f"{TABLE} needs a value for {', '.join(unknown)}, which icf-utils does not know"
        raise RemoteFailure(database.place, problem, _OTHER_XNAT)


def _key(key: PrearchiveRow | dict[str, object]) -> dict[str, object]:
    values = key.values() if isinstance(key, PrearchiveRow) else key
    return {name: values[name] for name in ("project", "timestamp", "foldername")}


@contextmanager
def _transaction(database: XnatDatabase) -> Iterator[Any]:
    """A cursor of one transaction, committed at the end, rolled back when the block fails."""
    try:
        import psycopg
    except ImportError as error:
        raise missing_package("psycopg", "xnat") from error
    given = {
        "host": database.host,
        "port": database.port,
        "dbname": database.name,
        "user": database.user,
        "password": database.password.value if database.password else None,
    }
    named = {name: value for name, value in given.items() if value}
    try:
        with psycopg.connect(connect_timeout=10, application_name="icf-utils", **named) as connection:  # type: ignore[arg-type]
            yield connection.cursor()
    except psycopg.errors.LockNotAvailable as error:
        problem = f"another transaction has locked {TABLE} for 10 s"
        raise RemoteFailure(
            database.place, problem, "try again later; the view pg_locks shows which process"
        ) from error
    except psycopg.Error as error:
        # the server's first line only: the details quote values
        text = (error.diag.message_primary or str(error).partition("\n")[0] or type(error).__name__).strip()
        raise RemoteFailure(
            database.place, printable(text), "check the host, the database, the user and its permissions"
        ) from error
