"""The requests of a direct import: rebuild a session, look for it, import from XNAT's inbox. Talks to the server.

Never ``PUT /data/prearchive``: it deletes every row of the prearchive and reads all folders anew.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from icf_utils.errors import shown
from icf_utils.xnat.client import PASSING, Answer, ConnectionLost, Xnat
from icf_utils.xnat.routes import IMPORT, REBUILD, prearchive_path, prearchived_files

_TIMES, _FIRST_PAUSE, _LONGEST_PAUSE = 6, 0.5, 10.0


class Rebuilder:
    """What :mod:`icf_utils.xnat.prearchive` and :mod:`icf_utils.xnat.inbox` ask of an XNAT."""

    def __init__(self, xnat: Xnat) -> None:
        self._xnat = xnat

    def check_project(self, project: str) -> None:
        """See that there is a project of exactly this ID, whose prearchive one may list."""
        named = {str(row.get("project") or project) for row in self.rows(project)}
        if named - {project}:
            others = ", ".join(f"'{shown(name)}'" for name in sorted(named))
            problem = f"the prearchive of '{project}' holds sessions of project {others}"
            raise self._xnat.failure(problem, "give the project's ID exactly as it is spelled there")

    def rebuild(self, src: str) -> None:
        """Ask for a session to be built; that XNAT is at it already (409) is as good."""
        answer = self._patiently("POST", REBUILD, {"src": src})
        if answer.status not in (200, 301, 409):
            raise self._xnat.failure(f"the rebuild of {src} was refused ({answer})", "check the user's rights there")

    def status(self, project: str, timestamp: str, foldername: str) -> str | None:
        """The status of a session of the prearchive; ``None`` where it is not listed."""
        for row in self.rows(project):
            if (row.get("timestamp"), row.get("folderName")) == (timestamp, foldername):
                return str(row.get("status"))
        return None

    def rows(self, project: str) -> list[Mapping[str, Any]]:
        """The listing of a project's prearchive."""
        path = prearchive_path(project)
        answer = self._patiently("GET", path, {"format": "json"})
        if answer.status != 200:
            remedy = "check the project's ID (not its title) and the user's rights in it"
            raise self._xnat.failure(f"the prearchive of project '{project}' cannot be listed ({answer})", remedy)
        return self._result(path, answer)

    def files(self, project: str, timestamp: str, foldername: str) -> int:
        """How many images XNAT counts in a session that it has built."""
        path = f"{prearchive_path(project)}/{quote(timestamp)}/{quote(foldername)}/resources"
        answer = self._patiently("GET", path, {"format": "json"})
        return prearchived_files(self._result(path, answer)) if answer.status == 200 else 0

    def import_inbox(self, query: Mapping[str, str]) -> None:
        """Have XNAT import a folder of its inbox. Sent once: nobody knows what a lost request has done."""
        answer = self._xnat.request("POST", IMPORT, query)
        if answer.status != 200:
            remedy = "check the path as the server sees it, the project, and that the inbox is where XNAT has it"
            raise self._xnat.failure(f"the import from the inbox was refused ({answer})", remedy)

    def _result(self, path: str, answer: Answer) -> list[Mapping[str, Any]]:
        try:
            rows: list[Mapping[str, Any]] = json.loads(answer.text)["ResultSet"]["Result"]
        except (ValueError, KeyError, TypeError) as error:
            raise self._xnat.failure(f"expected a listing from {path}, found something else", "is it XNAT?") from error
        return rows

    def _patiently(self, method: str, path: str, query: Mapping[str, str]) -> Answer:
        """A request that may be repeated, again after what may pass."""
        pause = _FIRST_PAUSE
        for _ in range(_TIMES - 1):
            try:
                answer = self._xnat.request(method, path, query)
            except ConnectionLost:
                pass
            else:
                if answer.status not in PASSING:
                    return answer
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return self._xnat.request(method, path, query)
