"""A lower limit for the speed of a server's answers. Uses the clock and reads from sockets.

A timeout bounds the wait for the next byte; a server that sends one byte before each timeout could keep a client for
years. :func:`response_class` gives responses of :mod:`http.client` that end such an answer with :class:`TooSlow`,
in the headers and in the body. As curl's ``--speed-limit`` and ``--speed-time`` do, the limit applies to the mean of a
period, so that short breaks do no harm. Only time spent in waiting for the server counts: not the time before the
answer's first byte, which the timeout bounds, and not the time that the caller needs for what has come.

What is read by lines is bounded by their number and length: headers after any number of interim answers (RFC 9110,
15.2), the sizes of chunks, and trailers could go on at full speed for ever.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


@dataclass(frozen=True)
class LowestSpeed:
    """At least ``rate`` bytes a second in each period of ``seconds`` (or of the connection's timeout, if longer)."""

    rate: float = 1000.0
    seconds: float = 60.0


DEFAULT_LOWEST = LowestSpeed()

#: Lines in a row, and bytes of each: :mod:`http.client` allows 100 headers of 64 KiB.
_MOST_LINES, _LONGEST_LINE = 256, 1 << 16


class TooSlow(TimeoutError):
    """An answer came more slowly than the :class:`LowestSpeed`."""


class TooManyLines(http.client.HTTPException):
    """The headers of an answer, or other lines of it, do not end."""


def response_class(lowest: LowestSpeed) -> type[http.client.HTTPResponse]:
    """A class of responses that come with the lowest speed, or raise :class:`TooSlow`."""

    class TimedResponse(http.client.HTTPResponse):
        def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
            super().__init__(sock, *arguments, **options)
            period = max(lowest.seconds, sock.gettimeout() or 0.0)
            self.fp = _LineCounter(_TimedReader(self.fp.detach(), lowest.rate, period))

    return TimedResponse


class _LineCounter(io.BufferedReader):
    """Limits the number and length of lines. Without a ``limit``, a line may have the greatest length."""

    _lines = 0

    def readline(self, limit: int | None = -1, /) -> bytes:
        self._lines += 1
        line = super().readline(_LONGEST_LINE if limit is None or limit < 0 else limit)
        if self._lines > _MOST_LINES or len(line) == _LONGEST_LINE:
            raise TooManyLines
        return line

    def read(self, size: int | None = -1, /) -> bytes:
        self._lines = 0
        return super().read(size)

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        self._lines = 0
        return super().readinto(buffer)


class _TimedReader(io.RawIOBase):
    """What is read from ``raw``, at ``rate`` bytes a second in each ``period`` of seconds."""

    def __init__(self, raw: io.RawIOBase, rate: float, period: float) -> None:
        super().__init__()
        self._raw, self._rate, self._period = raw, rate, period
        self._has_begun, self._waited, self._come = False, 0.0, 0

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def close(self) -> None:
        self._raw.close()
        super().close()

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        begin = time.monotonic()
        count: int | None = self._raw.readinto(buffer)
        if self._has_begun:
            self._waited += time.monotonic() - begin
            self._come += count or 0
        self._has_begun = True
        if count and self._waited >= self._period:
            if self._come < self._rate * self._waited:
                text = f"below {self._rate:g} bytes a second for {self._waited:.0f} s"
                raise TooSlow(text)
            self._waited, self._come = 0.0, 0
        return count
