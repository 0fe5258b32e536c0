"""What a client may do to the pages before it has shown the token: next to nothing.

waitress reads a request completely before the application sees it. These extensions of its classes judge a request
when its header is complete: the body of one without the token is not read, and the application answers it. Bodies of
other requests go to the spool's disk as long as its reserve stays free. A client has a limited time for a header and a
least rate for a body, and an address a limited number of connections.

The extended methods are not documented by waitress; ``pyproject.toml`` names the versions with which this is tested.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import IO, Any

from waitress.buffers import OverflowableBuffer, TempfileBasedBuffer
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.utilities import Error

from icf_utils.errors import printable
from icf_utils.receiver.web.settings import is_loopback
from icf_utils.receiver.web.uploads import UploadSpace

#: Connections of one address, other than this machine's, on which proxies run; and of all.
CONNECTIONS_PER_ADDRESS, MOST_CONNECTIONS = 32, 200

#: Seconds for a header, and before the rate of a body counts, which is in bytes a second; seconds between two checks.
_HEADER_TIME, _BODY_TIME, _BODY_RATE, _CHECK_INTERVAL = 20.0, 60.0, 1000, 2

#: Bytes of the largest body of a request that does not upload a file, and between two looks for space.
_SMALL_BODY, _LOOK_AFTER = 1 << 20, 64 << 20

#: The addresses that take files.
_UPLOADS = ("/sessions", "/code/php/processZip.php")

#: Settings of waitress that go with these classes.
ADJUSTMENTS: Mapping[str, int] = {
    "connection_limit": MOST_CONNECTIONS,
    "cleanup_interval": _CHECK_INTERVAL,
    "channel_timeout": 60,
    "max_request_header_size": 1 << 16,
}


class _Refusal(Error):  # type: ignore[misc]
    """A response in the form of the application's."""

    def to_response(self, ident: str | None = None) -> tuple[str, list[tuple[str, str]], bytes]:
        body = json.dumps({"error": self.body}).encode("ascii") + b"\n"
        return f"{self.code} {self.reason}", [("Content-Type", "application/json")], body


class _NoSpace(_Refusal):
    code = 507
    reason = "Insufficient Storage"


class _TooLarge(_Refusal):
    code = 413
    reason = "Content Too Large"


class _SpoolFile(TempfileBasedBuffer):  # type: ignore[misc]
    """A buffer in a file of the spool."""

    def __init__(self, space: UploadSpace, from_buffer: Any) -> None:
        self._space, self._unchecked = space, 0
        super().__init__(from_buffer)

    def newfile(self) -> IO[bytes]:
        return self._space.new_file()

    def append(self, piece: bytes) -> None:
        self._unchecked += len(piece)
        if self._unchecked > _LOOK_AFTER:
            self._unchecked = 0
            if not self._space.has_room(0):
                raise OSError(28, "less than the reserve is free")
        super().append(piece)


class _Body(OverflowableBuffer):  # type: ignore[misc]
    """The body of a request: in memory while it is small."""

    def __init__(self, overflow: int, space: UploadSpace) -> None:
        self._space = space
        self.buf: Any = None
        super().__init__(overflow)

    def _set_large_buffer(self) -> None:
        before = self.buf
        self.buf, self.overflowed = _SpoolFile(self._space, before), True
        if before is not None:
            before.close()


class Limits:
    """What connections of a server may do; ``has_token`` judges an ``Authorization`` header."""

    def __init__(self, has_token: Callable[[str], bool], space: UploadSpace, log: Callable[[str], None]) -> None:
        self.has_token, self.space, self._log = has_token, space, log

    def apply(self, server: Any) -> None:
        """Apply the limits to a server of waitress that was just made."""
        regular = server.maintenance

        def maintain(now: float) -> None:
            regular(now)
            self._close_slow_channels(server)

        server.channel_class = self.open_channel
        server.maintenance = maintain

    def open_channel(self, server: Any, connection: Any, address: Any, *words: Any, **more: Any) -> _Channel | None:
        """The channel of a new connection; ``None`` if it was closed, because its address has too many."""
        host = str(address[0])
        amount = sum(channel.addr[0] == host for channel in list(server.active_channels.values()))
        if amount >= CONNECTIONS_PER_ADDRESS and not is_loopback(host):
            self._log(f"http: refused a connection of {printable(host)}: it has {amount} open")
            connection.close()
            return None
        return _Channel(self, server, connection, address, *words, **more)

    def _close_slow_channels(self, server: Any) -> None:
        now = time.monotonic()
        for channel in list(server.active_channels.values()):
            if not channel.will_close and channel.is_too_slow(now):
                channel.will_close = True
                host = printable(str(channel.addr[0]))
                self._log(f"http: closed a connection of {host}: its request takes too long")


class _Parser(HTTPRequestParser):  # type: ignore[misc]
    """A request as it comes."""

    body_rcv: Any

    def __init__(self, limits: Limits, adjustments: Any) -> None:
        super().__init__(adjustments)
        self._limits = limits
        self.started = self.head_ended = time.monotonic()

    def received(self, data: bytes) -> int:
        was_finished = self.headers_finished
        try:
            consumed: int = super().received(data)
            if self.headers_finished and not was_finished:
                self._judge()
        except OSError:
            self._refuse(_NoSpace("not enough space"))
            return len(data)
        return consumed

    def _judge(self) -> None:
        """Decide about the body, when the header has come."""
        self.head_ended = time.monotonic()
        if self.error or self.body_rcv is None or self.completed:
            return
        if not self._limits.has_token(self.headers.get("AUTHORIZATION", "")):
            self._drop_body()
        elif self.path not in _UPLOADS and (self.chunked or self.content_length > _SMALL_BODY):
            self._refuse(_TooLarge("this address takes no file"))
        elif not self._limits.space.has_room(self.content_length):
            self._refuse(_NoSpace("not enough space"))
        else:
            self.body_rcv.buf = _Body(self.adj.inbuf_overflow, self._limits.space)

    def _drop_body(self) -> None:
        """Let the application answer without the body, which must not be taken for the next request."""
        self.body_rcv, self.chunked, self.content_length = None, False, 0
        self.headers.update(CONTENT_LENGTH="0", CONNECTION="close")
        self.completed, self.connection_close, self.expect_continue = True, True, False

    def _refuse(self, error: Error) -> None:
        self.error, self.completed, self.expect_continue = error, True, False


class _Channel(HTTPChannel):  # type: ignore[misc]
    """A connection."""

    def __init__(self, limits: Limits, *words: Any, **more: Any) -> None:
        self.parser_class = partial(_Parser, limits)
        super().__init__(*words, **more)

    def is_too_slow(self, now: float) -> bool:
        """Whether the request that is being received takes too long; ``now`` is of the monotonic clock."""
        parser = self.request
        if parser is None or self.requests:
            return False
        if not parser.headers_finished:
            return bool(now - parser.started > _HEADER_TIME)
        seconds = now - parser.head_ended
        return bool(seconds > _BODY_TIME and parser.body_bytes_received < seconds * _BODY_RATE)
