"""The journal of the intake: every session and association, what came, and what became of it.

Reads and writes ``<spool>/journal.sqlite`` (see :mod:`icf_utils.intake.database`), and makes, fills and removes the
sessions' folders ``<spool>/sessions/<id>``. Several processes may do so at once: the receiver, the web pages, commands.
Nothing here ever touches a store.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from icf_utils.errors import InvalidSetting, shown, storage_errors
from icf_utils.intake.database import Database
from icf_utils.intake.rows import conditions, id_of, number_of, suffix_of
from icf_utils.intake.sessions import (
    SESSION_STATES,
    Session,
    SessionFilter,
    SessionState,
    visit_of_revision,
)
from icf_utils.intake.states import StateJournal
from icf_utils.store import check_identifier

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
