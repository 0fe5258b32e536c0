"""Events in the receiver's journal, and their deliveries: the tables ``event`` and ``delivery``.

An event is written in the transaction of the change that it reports, so neither exists without the other. The receiver
then *plans* it: decides which targets of its settings get it, and writes what they get. From then on each delivery has
a state of its own. An event without a target is planned as well, so that a target which is configured later does not
get events of the past.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

DeliveryState = Literal["waiting", "delivered", "failed"]

#: What the journal adds to its layout for this module.
LAYOUT = """
CREATE TABLE event (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, kind TEXT NOT NULL, time REAL NOT NULL,
    session INTEGER, detail TEXT NOT NULL, body TEXT NOT NULL DEFAULT '', planned INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX event_unplanned ON event (id) WHERE NOT planned;
CREATE INDEX event_time ON event (time);
CREATE INDEX event_session ON event (session);
CREATE TABLE delivery (
    event INTEGER NOT NULL REFERENCES event, target TEXT NOT NULL, state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL, message TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (event, target)
) WITHOUT ROWID;
CREATE INDEX delivery_due ON delivery (target, due) WHERE state = 'waiting';
"""


class Database(Protocol):
    """What this module needs of the journal's database."""

    def transaction(self) -> AbstractContextManager[None]: ...

    def run(self, statement: str, values: Sequence[Any] = ()) -> int: ...

    def run_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None: ...

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[Any]: ...


@dataclass(frozen=True)
class Event:
    """Something that happened. ``time`` is in POSIX seconds, ``session`` a row number, 0 without one.

    ``key`` identifies the event for those who get it, however often it is sent. ``detail`` is what the session's row
    does not say.
    """

    number: int
    key: str
    kind: str
    time: float
    session: int
    detail: Mapping[str, Any]


@dataclass(frozen=True)
class Delivery:
    """An event on its way to a target. ``due`` is the POSIX time of the next attempt, ``message`` the last problem."""

    event: int
    target: str
    key: str
    kind: str
    time: float
    session: int
    state: DeliveryState
    attempts: int
    due: float
    message: str
    body: str


class EventTable:
    """The events of a journal. Methods raise as those of the journal do."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, kind: str, session: int = 0, **detail: Any) -> None:
        """Add an event; within a transaction, it belongs to that."""
        statement = "INSERT INTO event (key, kind, time, session, detail) VALUES (?, ?, ?, ?, ?)"
        self._database.run(
            statement, [f"icf_{secrets.token_hex(16)}", kind, time.time(), session or None, json.dumps(detail)]
        )

    def unplanned(self, limit: int = 100) -> list[Event]:
        """Events that are to be planned, the oldest first."""
        statement = "SELECT * FROM event WHERE NOT planned ORDER BY id LIMIT ?"
        return [
            Event(row["id"], row["key"], row["kind"], row["time"], row["session"] or 0, json.loads(row["detail"]))
            for row in self._database.rows(statement, [limit])
        ]

    def plan(self, event: Event, body: str, targets: Iterable[str]) -> None:
        """Record what is sent of an event, and to which targets."""
        with self._database.transaction():
            self._database.run("UPDATE event SET planned = 1, body = ? WHERE id = ?", [body, event.number])
            self._database.run_many(
                "INSERT OR IGNORE INTO delivery (event, target, state, due) VALUES (?, ?, 'waiting', ?)",
                [(event.number, target, event.time) for target in targets],
            )

    def next_due(self, target: str, now: float) -> Delivery | None:
        """The delivery to a target that has been due for longest; ``None`` if none is due."""
        where = "target = ? AND state = 'waiting' AND due <= ?"
        found = self._deliveries(where, [target, now], "due, event", 1)
        return found[0] if found else None

    def record_attempt(self, delivery: Delivery) -> None:
        """Write state, attempts, due time and message of a delivery."""
        statement = "UPDATE delivery SET state = ?, attempts = ?, due = ?, message = ? WHERE event = ? AND target = ?"
        values = [delivery.state, delivery.attempts, delivery.due, delivery.message, delivery.event, delivery.target]
        self._database.run(statement, values)

    def deliveries(self, states: Sequence[DeliveryState] = (), limit: int = 0) -> list[Delivery]:
        """Deliveries in these states (none: in any), those of the newest event first; at most ``limit`` (0: all)."""
        where = f"state IN ({', '.join('?' * len(states))})" if states else "1"
        return self._deliveries(where, states, "event DESC, target", limit)

    def _deliveries(self, where: str, values: Sequence[Any], order: str, limit: int) -> list[Delivery]:
        statement = (
            "SELECT event, target, key, kind, time, coalesce(session, 0) AS session, state, attempts, due, message, "  # noqa: S608
            f"body FROM delivery JOIN event ON event.id = event WHERE {where} ORDER BY {order} LIMIT ?"
        )
        return [Delivery(**dict(row)) for row in self._database.rows(statement, [*values, limit or -1])]

    def retry_failed(self, target: str = "") -> int:
        """Let deliveries that were given up be attempted again, of one target or of all; returns their number."""
        where, values = ("AND target = ?", [target]) if target else ("", [])
        with self._database.transaction():
            found = self._database.rows(f"SELECT count(*) FROM delivery WHERE state = 'failed' {where}", values)  # noqa: S608
            statement = f"UPDATE delivery SET state = 'waiting', attempts = 0, due = ? WHERE state = 'failed' {where}"  # noqa: S608
            self._database.run(statement, [time.time(), *values])
        return int(found[0][0])

    def fail_unknown(self, targets: Sequence[str]) -> int:
        """Give up what waits for targets other than these, which were removed; returns the number of deliveries."""
        where = f"state = 'waiting' AND target NOT IN ({', '.join('?' * len(targets))})"
        with self._database.transaction():
            found = self._database.rows(f"SELECT count(*) FROM delivery WHERE {where}", targets)  # noqa: S608
            statement = f"UPDATE delivery SET state = 'failed', message = ? WHERE {where}"  # noqa: S608
            self._database.run(statement, ["the target was removed from the settings", *targets])
        return int(found[0][0])

    def counts(self) -> dict[DeliveryState, int]:
        """The number of deliveries in each state."""
        rows = self._database.rows("SELECT state, count(*) FROM delivery GROUP BY state")
        known = {row[0]: row[1] for row in rows}
        return {state: known.get(state, 0) for state in ("waiting", "delivered", "failed")}

    def oldest_waiting(self) -> float | None:
        """When the oldest event that waits for a target happened, in POSIX seconds; ``None`` if none waits."""
        statement = "SELECT min(time) FROM event JOIN delivery ON event.id = event WHERE state = 'waiting'"
        (found,) = self._database.rows(statement)
        return float(found[0]) if found[0] is not None else None

    def prune(self, before: float) -> int:
        """Remove the events before a time (POSIX seconds) that wait for no target; returns their number."""
        waiting = "SELECT 1 FROM delivery WHERE event = event.id AND state = 'waiting'"
        statement = f"SELECT id FROM event WHERE time < ? AND planned AND NOT EXISTS ({waiting})"  # noqa: S608
        with self._database.transaction():
            ids = [(row[0],) for row in self._database.rows(statement, [before])]
            self._remove(ids)
        return len(ids)

    def forget_session(self, session: int) -> None:
        """Remove the events of a session; the caller has a transaction."""
        statement = "SELECT id FROM event WHERE session = ?"
        self._remove([(row[0],) for row in self._database.rows(statement, [session])])

    def _remove(self, ids: Sequence[Sequence[Any]]) -> None:
        self._database.run_many("DELETE FROM delivery WHERE event = ?", ids)
        self._database.run_many("DELETE FROM event WHERE id = ?", ids)
