"""Why a request failed, as values. Pure, no input or output happens here."""

from __future__ import annotations

from typing import Literal

from icf_utils.errors import RemoteFailure

#: ``unauthorised``: 401. ``forbidden``: 403, a local file that may not be read, or an address that must not be asked.
#: ``missing``: 404, 410, or no such file. ``no-ranges``: the server sends whole objects only. ``changed``: it is not
#: the object that was begun with. ``size``: it is not as long as it should be. ``page``: a web page came instead.
#: ``encoded``: it came compressed. ``unreachable``: no connection was made, and nothing was sent. ``timeout``: no
#: answer in time. ``lost``: the connection ended before the answer did. ``tls``: there is no TLS connection.
#: ``gave-up``: repeating did not help (cut streams, 429, 5xx, no connection). ``stopped``: the caller stopped it.
#: ``refused``: any other answer.
Kind = Literal[
    "unauthorised",
    "forbidden",
    "unreachable",
    "timeout",
    "lost",
    "tls",
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
    """A request failed. ``kind`` is a word for programs, ``status`` the HTTP status (0 where there is none).

    ``challenge`` is the ``WWW-Authenticate`` header of a 401 (RFC 9110, 11.6.1), ``challenger`` the address that sent
    it, after redirects; both are empty elsewhere.
    """

    def __init__(
        self,
        where: str,
        problem: str,
        remedy: str,
        *,
        kind: Kind,
        status: int = 0,
        challenge: str = "",
        challenger: str = "",
    ) -> None:
        self.kind, self.status, self.challenge, self.challenger = kind, status, challenge, challenger
        super().__init__(where, problem, remedy)


class ConnectionFailure(FetchFailure):
    """No answer came, or not all of one; the same request may work later.

    ``kind`` is ``unreachable``, ``timeout`` or ``lost``; after the last two the server may have acted on it.
    """


class RangesRefused(FetchFailure):
    """The server sends whole objects only; nothing was transferred. ``total`` is the size in bytes, if known."""

    def __init__(self, where: str, total: int | None) -> None:
        self.total = total
        super().__init__(
            where,
            "a range was requested, and the server began to send the whole file",
            "get the whole file, or configure the server to support ranges",
            kind="no-ranges",
            status=200,
        )
