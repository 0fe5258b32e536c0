"""A session that is put into the prearchive, with a fault at a chosen step."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from icf_utils.credentials import Login, Secret
from icf_utils.fetch.http import RetryPolicy
from icf_utils.progress import SILENT, Task
from icf_utils.sources.open import open_source
from icf_utils.xnat.database import PrearchiveRow
from icf_utils.xnat.prearchive import PrearchiveResult, PrearchiveSession, put_into_prearchive
from icf_utils.xnat.rest import XnatClient
from tests.data.make_dicom import uid
from tests.xnat.postgres import Server
from tests.xnat.standin import PASSWORD, USER, StandIn

#: The study of the visit that is put into the prearchive.
STUDY = uid("study", "prearchive")

#: The number of messages: copied, moved, row inserted, XNAT asked, XNAT's status.
STEPS = 5


def client(url: str) -> XnatClient:
    """The command's own client, with short pauses."""
    return XnatClient(url, Login(USER, Secret(PASSWORD)), retry=RetryPolicy(first_pause=0.02))


class Stop(Exception):
    """An injected fault."""


class Steps:
    """Collects the message of each step, and does something at one of them."""

    def __init__(self, at: int = 0, action: Any = None) -> None:
        self.messages: list[str] = []
        self._at, self._action = at, action

    def task(self, label: str, total: int, unit: str) -> AbstractContextManager[Task]:
        return SILENT.task(label, total, unit)

    def message(self, text: str) -> None:
        self.messages.append(text)
        if len(self.messages) == self._at:
            self._action()


def stop() -> None:
    raise Stop


def put(visit: Path, session: PrearchiveSession, postgres: Server, xnat: StandIn, **more: Any) -> PrearchiveResult:
    with open_source(visit, visit.parent) as source, client(xnat.url) as connected:
        return put_into_prearchive(source, session, postgres.database, connected, **more)


def changes(xnat: StandIn) -> list[str]:
    """What XNAT was asked to do: all requests except questions and the logout."""
    asked = [f"{seen.method} {seen.path}" for seen in xnat.requests if seen.method != "GET"]
    return [request for request in asked if request != "DELETE /data/JSESSION"]


def tree(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*"))


def example_row(**changes: Any) -> PrearchiveRow:
    now = datetime(2024, 1, 2, 3, 4, 5, tzinfo=timezone.utc).replace(tzinfo=None)
    names = {"foldername": "S1", "name": "S1", "tag": "1.2.3", "status": "RECEIVING", "url": "/x/S1"}
    row = PrearchiveRow("PILOT", "20240102_030405006", now, now, None, None, None, **names)  # type: ignore[arg-type]
    return replace(row, **changes)
