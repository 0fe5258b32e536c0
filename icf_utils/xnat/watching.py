"""Looking for a session in XNAT, and counting its files. Asks the server, changes nothing.

These requests may be repeated as often as one likes, and are where the server or the network stumbles.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from icf_utils.errors import IcfError, RemoteFailure
from icf_utils.xnat import routes
from icf_utils.xnat.client import PASSING, Answer, ConnectionLost, Xnat
from icf_utils.xnat.routes import Sighting
from icf_utils.xnat.values import Target

_POLL_FIRST, _POLL_MOST, _TIMES = 0.2, 10.0, 12

#: XNAT's answer names a session that XNAT does not show.
NOT_SHOWN = "not shown"


class Stopped(IcfError):
    """The run is being ended."""

    exit_code = 130

    def __init__(self) -> None:
        super().__init__("the upload was stopped")


class Watch:
    """What one target's XNAT shows. ``stop`` ends all waiting."""

    def __init__(self, xnat: Xnat, target: Target, stop: threading.Event) -> None:
        self.xnat, self.target, self._stop = xnat, target, stop

    def rows(self) -> list[Mapping[str, object]]:
        """The listing of the project's prearchive.

        Raises :class:`~icf_utils.errors.RemoteFailure` where the project does not exist or may not be seen: XNAT would
        put uploads elsewhere, without a word.
        """
        answer, rows = self._listing(routes.prearchive_path(self.target.project))
        if answer.status != 200:
            raise self.xnat.failure(
                f"the prearchive of project '{self.target.project}' cannot be listed ({answer})",
                "check the project's ID (not its title) and your rights in it; nothing was sent",
            )
        return rows

    def find(self, subject: str, label: str, rows: list[Mapping[str, object]] | None = None) -> tuple[Sighting, ...]:
        """All that there is of a session; files are counted where XNAT is not at work on it."""
        found = routes.prearchive_sightings(self.rows() if rows is None else rows, subject, label)
        return (*(self._counted(item) for item in found), *self._archived(subject, label))

    def count(self, uri: str) -> Sighting:
        """The session of a URI, which XNAT may still be at work on."""
        if not routes.is_prearchived(uri):
            return Sighting(uri, uri, "ARCHIVED")
        answer, rows = self._listing(f"/data{uri}")
        if answer.status != 200 or not rows:
            return Sighting(uri, uri, NOT_SHOWN)
        return self._counted(Sighting(uri, f"{uri} {rows[0].get('lastmod')}", str(rows[0].get("status") or "")))

    def settled(self, uri: str) -> Sighting:
        """The session of a URI once XNAT has done with it, or as it is when patience is over."""
        end, pause = time.monotonic() + self.target.patience, _POLL_FIRST
        while (found := self.count(uri)).at_work and time.monotonic() < end:
            self.sleep(pause)
            pause = min(2 * pause, _POLL_MOST)
        return found

    def answered(self, uri: str, subject: str, label: str, known: Collection[str]) -> Sighting:
        """The session of an answer's URI once XNAT shows it and has done with it, or as it is when patience is over.

        ``known`` are the keys of sightings from before the upload: what has left the prearchive since may be in the
        archive, where another session of the label may be.
        """
        end, pause = time.monotonic() + self.target.patience, _POLL_FIRST
        while True:
            found = self._answered(uri, subject, label, known)
            is_empty = found.status == "ARCHIVED" and not found.files
            if not (found.at_work or found.status == NOT_SHOWN or is_empty) or time.monotonic() >= end:
                return found
            self.sleep(min(pause, max(0.0, end - time.monotonic())))
            pause = min(2 * pause, _POLL_MOST)

    def _answered(self, uri: str, subject: str, label: str, known: Collection[str]) -> Sighting:
        if routes.is_prearchived(uri) and (found := self.count(uri)).status != NOT_SHOWN:
            return found
        there = next(iter(self._archived(subject, label)), None)
        if there and not (routes.is_prearchived(uri) and there.key in known):
            return there
        return Sighting(uri, uri, NOT_SHOWN)

    def sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped

    def check(self) -> None:
        if self._stop.is_set():
            raise Stopped

    def _counted(self, found: Sighting) -> Sighting:
        if found.at_work or found.status == routes.INTERRUPTED:
            return found
        answer, rows = self._listing(f"/data{found.uri}/resources")
        return replace(found, files=routes.prearchived_files(rows)) if answer.status == 200 else found

    def _archived(self, subject: str, label: str) -> tuple[Sighting, ...]:
        path = routes.experiment_path(self.target.project, subject, label)
        if self.get(path).status != 200:
            return ()
        answer, rows = self._listing(f"{path}/scans/ALL/files")
        files = routes.archived_files(rows) if answer.status == 200 else None
        uri = path.removeprefix("/data")
        return (Sighting(uri, f"{uri} {files}", "ARCHIVED", files),)

    def _listing(self, path: str) -> tuple[Answer, list[Mapping[str, object]]]:
        answer = self.get(path)
        if answer.status != 200:
            return answer, []
        try:
            rows: Any = json.loads(answer.text)["ResultSet"]["Result"]
        except (ValueError, KeyError, TypeError) as error:
            raise self.xnat.failure(
                f"expected a listing from {path}, found something else", "is it an XNAT?"
            ) from error
        return answer, rows

    def get(self, path: str) -> Answer:
        """A request that may be repeated."""
        for at in range(_TIMES):
            try:
                answer = self.xnat.request("GET", path, {"format": "json"})
                if answer.status not in (401, *PASSING) or at == _TIMES - 1:
                    return answer
            except ConnectionLost:
                if at == _TIMES - 1:
                    raise
            self.sleep(min(self.target.pause * 2**at, 30.0))
        raise RemoteFailure(self.xnat.url, "no answer", "try again")
