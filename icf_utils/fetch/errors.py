"""Why bytes did not come, as values. No input or output happens here."""

from __future__ import annotations

from typing import Literal

from icf_utils.errors import RemoteFailure

#: ``unauthorised``: 401. ``forbidden``: 403, or a local file that may not be read. ``missing``: 404, 410, or no such
#: file. ``no-ranges``: the server sends whole objects only. ``changed``: it is not the object that was begun with.
#: ``size``: it is not as long as it should be. ``page``: a web page came instead. ``encoded``: it came compressed.
#: ``gave-up``: it did not get better by repeating (cut streams, 429, 5xx, no connection). ``stopped``: the caller
#: stopped it. ``refused``: any other answer.
Kind = Literal[
    "unauthorised",
    "forbidden",
    "missing",
    "no-ranges",
    "changed",
    "size",
    "page",
    "encoded",
    "gave-up",
    "stopped",
    "refused",
]


class FetchFailure(RemoteFailure):
    """Bytes could not be had. ``kind`` is a word for programs, ``status`` the HTTP status (0 where there is none).

    ``challenge`` is the ``WWW-Authenticate`` header of a 401 (RFC 9110, 11.6.1), empty elsewhere.
    """

    def __init__(
        self, where: str, problem: str, remedy: str, *, kind: Kind, status: int = 0, challenge: str = ""
    ) -> None:
        self.kind, self.status, self.challenge = kind, status, challenge
        super().__init__(where, problem, remedy)


class RangesRefused(FetchFailure):
    """The server sends whole objects only; nothing was transferred. ``total`` is the size in bytes, if it said so."""

    def __init__(self, where: str, total: int | None) -> None:
        self.total = total
        super().__init__(
            where,
            "a part was asked for, and the server began to send the whole",
            "get the whole file, or have the server answer Range requests",
            kind="no-ranges",
            status=200,
        )
