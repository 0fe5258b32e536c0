"""One connection of a peer: reads bytes under deadlines, and writes. Uses the network.

A thread of its own serves each connection and waits in the system until bytes come; nothing is asked for at intervals.
What a peer may keep a place for is limited in every phase:

- until its association request is complete, TLS handshake included: an absolute deadline;
- between messages: the longest silence;
- within a command or the header of a PDU: an absolute deadline from its first byte;
- within a data set: the longest silence, and a rate. Only the time in which this side waits for the peer counts, so
  that a slow disk here is never the sender's fault.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import inf

from icf_utils.dicom.pdu import HEADER_SIZE, MalformedPdu

#: Bytes that are read at once, at most.
_BUFFER = 256 * 1024

#: Seconds for which a connection is kept open after its last PDU, so that the peer can read it, and bytes that are
#: then still read.
_LINGER, _LINGER_BYTES = 2.0, 1 << 20

_HEADER = struct.Struct(">BxL")


class ConnectionLost(Exception):
    """The peer closed the connection, or it broke; the text says which."""


class TooSlow(Exception):
    """The peer did not send what was due in time; the text says what."""


@dataclass(frozen=True)
class Limits:
    """How long a peer may take, in seconds; ``rate`` in bytes a second, 0 for any."""

    request: float
    silence: float
    rate: int


class Link:
    """The connection of one peer; used by one thread, except for :meth:`interrupt` and :meth:`wake`."""

    def __init__(self, connection: socket.socket, limits: Limits) -> None:
        self._socket, self._limits = connection, limits
        self._buffer = memoryview(bytearray(_BUFFER))
        self._start = self._end = 0
        self._timeout = -1.0
        self._deadline, self._due = inf, ""
        self._is_measured, self._waited, self._received = False, 0.0, 0
        self._wake_up: _WakeUp | None = None
        self._is_interrupted = False
        self.bytes_received = 0

    # phases

    def expect_request(self) -> None:
        """The association request is due, from now on."""
        self._set_deadline(self._limits.request, "its association request")

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Do the TLS handshake. Raises :class:`ConnectionLost` and :class:`TooSlow`."""
        try:
            self._socket.settimeout(max(0.01, self._deadline - time.monotonic()))
            self._socket = context.wrap_socket(self._socket, server_side=True)
        except TimeoutError as error:
            raise TooSlow("the TLS handshake was not complete in time") from error
        except (OSError, ValueError) as error:  # an SSLError is an OSError; a ValueError for a closed socket
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
            raise ConnectionLost(f"the TLS handshake failed ({reason})") from error
        self._timeout = -1.0

    def expect_message(self) -> None:
        """Nothing is due: the peer may be silent for a while."""
        self._deadline, self._is_measured = inf, False

    def expect_command(self) -> None:
        """The rest of a command is due, from now on."""
        self._set_deadline(self._limits.silence, "the rest of a command")

    def expect_data(self) -> None:
        """A data set is due, however long it takes, but at a rate."""
        self._deadline, self._is_measured = inf, bool(self._limits.rate)
        self._waited, self._received = 0.0, 0

    def _set_deadline(self, seconds: float, due: str) -> None:
        self._deadline, self._due, self._is_measured = time.monotonic() + seconds, due, False

    # reading

    def read_header(self) -> tuple[int, int]:
        """Type and length of the next PDU."""
        if self._start == self._end:
            self._fill()
        is_idle = self._deadline == inf and not self._is_measured
        if is_idle and self._end - self._start < HEADER_SIZE:
            self._set_deadline(self._limits.silence, "the rest of a PDU")
        kind, length = _HEADER.unpack(self.read(HEADER_SIZE))
        if is_idle:
            self.expect_message()
        return kind, length

    def read(self, count: int) -> bytes:
        """Exactly that many bytes."""
        if self._end - self._start >= count:
            self._start += count
            return bytes(self._buffer[self._start - count : self._start])
        return b"".join(map(bytes, self.pieces(count)))

    def pieces(self, count: int) -> Iterator[memoryview]:
        """Exactly that many bytes, in pieces that are valid until the next one is taken."""
        while count:
            if self._start == self._end:
                self._fill()
            piece = self._buffer[self._start : min(self._end, self._start + count)]
            self._start += len(piece)
            count -= len(piece)
            yield piece

    def _fill(self) -> None:
        """Wait for bytes, and read what has come; the buffer is empty."""
        now = time.monotonic()
        seconds = min(self._limits.silence, self._deadline - now)
        if seconds <= 0:
            raise TooSlow(f"{self._due} did not arrive in time")
        self._set_timeout(seconds)
        try:
            count = self._socket.recv_into(self._buffer)
        except TimeoutError as error:
            due = f"{self._due} did not arrive in time" if self._deadline < inf else f"silent for {seconds:.0f} s"
            raise TooSlow(due) from error
        except (OSError, ValueError) as error:  # a ValueError for a socket that was closed
            raise ConnectionLost(getattr(error, "strerror", None) or type(error).__name__) from error
        if not count:
            raise ConnectionLost("the peer closed the connection")
        self._start, self._end = 0, count
        self.bytes_received += count
        if self._is_measured:
            self._measure(count, time.monotonic() - now)

    def _measure(self, count: int, seconds: float) -> None:
        self._received += count
        self._waited += seconds
        if self._waited < self._limits.silence:
            return
        if self._received < self._limits.rate * self._waited:
            raise TooSlow(f"fewer than {self._limits.rate} bytes a second of an image")
        self._waited, self._received = 0.0, 0

    def _set_timeout(self, seconds: float) -> None:
        if seconds != self._timeout:
            self._socket.settimeout(seconds)
            self._timeout = seconds

    def check_length(self, length: int, longest: int) -> None:
        """Refuse a PDU that is longer than was negotiated. Raises :class:`~icf_utils.dicom.pdu.MalformedPdu`."""
        if length > longest:
            raise MalformedPdu(f"a PDU of {length} bytes was announced, at most {longest} are accepted")

    # waiting for the peer or for this side

    def enable_wake_up(self) -> None:
        """Let :meth:`wait` end when :meth:`wake` is called."""
        self._wake_up = self._wake_up or _WakeUp()

    def wake(self) -> None:
        """Let :meth:`wait` return, from another thread."""
        if self._wake_up is not None:
            self._wake_up.notify()

    def wait(self) -> bool:
        """Whether the peer has sent something; false where :meth:`wake` was called before that."""
        if self._wake_up is None or self._start < self._end:
            return True
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return True
        poll = select.poll()
        try:
            poll.register(self._socket, select.POLLIN)
            poll.register(self._wake_up.reader, select.POLLIN)
            events = dict(poll.poll(self._limits.silence * 1000))
        except (OSError, ValueError) as error:
            raise ConnectionLost("the connection is closed") from error
        if not events:
            raise TooSlow(f"silent for {self._limits.silence:.0f} s")
        if self._wake_up.reader not in events:
            return True
        self._wake_up.reset()
        return False

    @property
    def is_interrupted(self) -> bool:
        return self._is_interrupted

    def interrupt(self) -> None:
        """End what the connection's thread waits for, from another thread: it then finds the connection lost."""
        self._is_interrupted = True
        self.wake()
        with suppress(OSError, ValueError):
            # the plain socket's method: the one of TLS would drop the encryption, under which an abort is still sent
            socket.socket.shutdown(self._socket, socket.SHUT_RD)

    # writing

    def send(self, raw: bytes) -> None:
        """Send all of it. Raises :class:`ConnectionLost` and :class:`TooSlow`."""
        self._set_timeout(self._limits.silence)
        try:
            self._socket.sendall(raw)
        except TimeoutError as error:
            raise TooSlow("the peer did not read what was sent to it") from error
        except (OSError, ValueError) as error:
            raise ConnectionLost(getattr(error, "strerror", None) or type(error).__name__) from error

    def send_last(self, raw: bytes) -> None:
        """Send the last PDU, if that is still possible, and wait for a moment until the peer has read it."""
        with suppress(ConnectionLost, TooSlow):
            self.send(raw)
            self._set_deadline(_LINGER, "the end of the connection")
            self._start = self._end
            at_first = self.bytes_received
            while not self._is_interrupted and self.bytes_received - at_first < _LINGER_BYTES:
                self._fill()
                self._start = self._end

    def close(self) -> None:
        with suppress(OSError):
            self._socket.close()
        if self._wake_up is not None:
            self._wake_up.close()


class _WakeUp:
    """A file descriptor that ``poll`` can wait for together with a socket."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._lock, self._is_open = threading.Lock(), True

    def notify(self) -> None:
        """Make the descriptor readable."""
        with self._lock, suppress(BlockingIOError):
            if self._is_open:
                os.write(self._writer, b"!")

    def reset(self) -> None:
        """Make the descriptor unreadable again."""
        with suppress(BlockingIOError):
            os.read(self.reader, 4096)

    def close(self) -> None:
        with self._lock:
            if self._is_open:
                self._is_open = False
                os.close(self.reader)
                os.close(self._writer)
