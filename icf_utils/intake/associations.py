"""The part of the journal that is about associations. Reads and writes the journal's database."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from icf_utils.intake.database import Database
from icf_utils.intake.sessions import Association, AssociationState

if TYPE_CHECKING:
    import sqlite3

#: What is counted of associations and sessions alike.
COUNTS = frozenset({"images", "duplicates", "quarantined", "refused", "size"})

_FIELDS = COUNTS | {"transfer_syntaxes", "sessions"}


class AssociationJournal:
    """What :class:`~icf_utils.intake.journal.Journal` knows about associations."""

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
