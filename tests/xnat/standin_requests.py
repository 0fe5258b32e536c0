"""What the parts of the stand-in for XNAT share: its state with what clients did wrong, a request, and an answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from re import Match
from typing import BinaryIO

from tests.xnat.standin_state import Refused, Seen, State

USER, PASSWORD = "uploader", "correct-horse/battery"
ALIAS, SECRET = "01234567-89ab-cdef-0123-456789abcdef", "token-secret-of-the-tests"

#: What may be done to a request instead of, or beside, answering it.
#: ``NNN``: that status and nothing else is done; 401 ends the login session, too. ``NNN-after``: that status, though
#: all was done. ``reset``: the connection ends before anything is done, ``reset-after`` afterwards; ``cut``: in the
#: middle of an import. ``slow``: done after ``slow`` seconds, ``late``: shown as under way at once, done afterwards.
Fault = str

#: Status, content type and text of an answer.
Reply = tuple[int, str, str]


class StandIn(State):
    """A running server; see the module's and :class:`~tests.xnat.standin_state.State`'s words."""

    def __init__(self, inbox: Path | None = None) -> None:
        super().__init__()
        self.url = ""
        self.inbox = inbox
        self.requests: list[Seen] = []
        self.violations: list[str] = []
        self.cookies: set[str] = set()
        self.fault: Callable[[Seen], Fault | None] = lambda _: None
        self.slow = 1.0
        #: Seconds after which sessions are shown that an import has made.
        self.shows_after = 0.0
        #: Sessions that are committed without being asked for go to the archive.
        self.auto_archive = False
        #: The answer of an import, if it is to be another.
        self.answer: Callable[[list[str]], list[str]] = lambda uris: uris

    def check(self) -> None:
        """Fail if a client has done what it must not."""
        assert not self.violations, self.violations

    def seen(self, method: str, path: str) -> list[Seen]:
        return [item for item in self.requests if (item.method, item.path) == (method, path)]

    def imports(self) -> list[Seen]:
        return self.seen("POST", "/data/services/import")


@dataclass(frozen=True)
class Asked:
    """A request for one of the routes; ``found`` is the match of its path, ``query`` not taken apart."""

    xnat: StandIn
    seen: Seen
    query: str
    headers: Message
    found: Match[str]
    body: BinaryIO
    fault: Fault


def want_json(seen: Seen) -> None:
    if seen.query.get("format") != "json":
        raise Refused(400, "<html>this would be a page for people: ask for format=json</html>")


def results(seen: Seen, rows: list[dict[str, object]]) -> Reply:
    """A listing."""
    want_json(seen)
    return as_json({"ResultSet": {"Result": rows, "totalRecords": str(len(rows))}})


def as_json(value: object) -> Reply:
    return 200, "application/json", json.dumps(value)
