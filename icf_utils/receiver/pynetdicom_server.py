"""The parts of pynetdicom's server that the receiver replaces. Listens on the network.

pynetdicom negotiates associations, answers C-ECHO, and runs the state machine of PS3.8. This module replaces how bytes
reach it and how C-STORE requests leave it (docs/decisions/0014-pynetdicom-server.md has the reasons):

- :class:`EventSocket` waits until there is something to do, where pynetdicom looks every millisecond; it reads in large
  blocks, and refuses PDUs longer than negotiated.
- :class:`ConnectionHandler` does the TLS handshake of a connection in the connection's own thread, and gives the
  association its event-driven socket, queues and C-STORE service.
- :class:`AssociationServer` limits the number of open connections.
- :class:`StoreService` passes the data set of each C-STORE request on, piece by piece, to an :class:`ImageSink`, and
  sends the response at once from the thread that reads. No image is held in memory.
- :func:`parse_store_request` and :func:`encode_store_response` read and write C-STORE command sets (PS3.7 sections 6.3
  and 9.3.1) as bytes. Through pynetdicom's data sets this would take longer than storing a small image.

Several of the replaced members are private, so that the version of pynetdicom has an upper bound, and
``tests/receiver/test_pynetdicom_server.py`` fails when one of them is gone.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import socket
import ssl
import struct
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from socketserver import TCPServer
from typing import Any, Protocol

from pynetdicom import _config
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from icf_utils.dicom.ae_titles import AE_TITLE_RULE, is_ae_title
from icf_utils.errors import printable

#: Seconds after which a connection checks its timers if nothing happens.
_TIMER_INTERVAL = 0.2

#: Bytes that a PDU may have beyond the negotiated length, which limits its variable part only (PS3.8 section 9.3.1).
_PDU_MARGIN = 64 * 1024


def configure_pynetdicom() -> None:
    """Set the library's global options for a receiver."""
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)  # it logs tracebacks of what a peer did wrong
    _config.LOG_HANDLER_LEVEL = "none"
    _config.UNRESTRICTED_STORAGE_SERVICE = True  # accept private and future storage classes too
    _config.VALIDATORS["AE"] = _validate_ae_title


def _validate_ae_title(text: str) -> tuple[bool, str]:
    """Accept titles that are padded with NUL, for which pynetdicom aborts the association."""
    is_title = is_ae_title(text)
    return is_title, "" if is_title else AE_TITLE_RULE


# connections


class AssociationServer(ThreadedAssociationServer):
    """Accepts connections, up to a limit; one that fails does not affect the others."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        *args: Any,
        sink: ImageSink,
        max_connections: int,
        on_failure: Callable[[str, str], None],
        **kwargs: Any,
    ) -> None:
        """``on_failure`` gets the address and the reason for each connection that did not become an association."""
        self.sink, self._max_connections, self._on_failure = sink, max_connections, on_failure
        self.sockets: weakref.WeakSet[EventSocket] = weakref.WeakSet()
        super().__init__(*args, **{**kwargs, "request_handler": ConnectionHandler})

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; the TLS handshake follows in the connection's thread."""
        assert self.socket is not None
        connection, address = self.socket.accept()
        if self.ssl_context:
            connection = self.ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether the limit allows one more connection."""
        return sum(not item.is_closed for item in list(self.sockets)) < self._max_connections

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report a connection that failed before it was an association, usually in the TLS handshake."""
        error = sys.exc_info()[1]
        reason = error.reason if isinstance(error, ssl.SSLError) and error.reason else type(error).__name__
        self._on_failure(str(client_address[0]), f"the connection failed: {printable(reason)}")

    def shutdown(self) -> None:
        """Stop accepting connections."""
        TCPServer.shutdown(self)  # pynetdicom's also removes the server from a list that it is not in
        self.server_close()


class ConnectionHandler(RequestHandler):
    """Creates the association of a connection; runs in the connection's own thread."""

    server: AssociationServer

    def handle(self) -> None:
        """Do the TLS handshake, if any, and start the association."""
        connection = self.request
        connection.settimeout(self.ae.network_timeout)
        with suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if isinstance(connection, ssl.SSLSocket):
            connection.settimeout(self.ae.acse_timeout)
            connection.do_handshake()
            connection.settimeout(self.ae.network_timeout)
        super().handle()

    def _create_association(self) -> Association:
        association = super()._create_association()
        event_socket = EventSocket(association, self.request, self.ae.maximum_pdu_size + _PDU_MARGIN)
        association.dul.event_queue.get_nowait()  # both sockets, the library's and this one, announced the connection
        association.dul.socket = event_socket
        self.server.sockets.add(event_socket)
        association.dimse = StoreService(association, self.server.sink)
        checkpoint = association._reactor_checkpoint = _Checkpoint()
        association.dul.to_user_queue = _NotifyingQueue(checkpoint.notify)
        association.dimse.msg_queue = _NotifyingQueue(checkpoint.notify)
        association.dul._run_loop_delay = 0  # the socket waits
        return association


class EventSocket(AssociationSocket):
    """The socket of one association: waits for bytes from the peer or for something to send."""

    def __init__(self, association: Association, connection: socket.socket, max_pdu: int) -> None:
        super().__init__(association, client_socket=connection)
        self._max_pdu, self._wake_up, self.is_closed = max_pdu, _WakeUpPipe(), False
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._poll.register(self._wake_up.reader, select.POLLIN)
        association.dul.to_provider_queue = _NotifyingQueue(self._wake_up.notify)

    @property
    def ready(self) -> bool:
        """Wait until bytes have come (true), something is to be sent, or the timers must be checked."""
        connection = self.socket
        if connection is None or not self._is_connected:
            time.sleep(0.001)
            return False
        if isinstance(connection, ssl.SSLSocket) and connection.pending():
            return True
        if not self.assoc.dul.to_provider_queue.empty():
            return False
        try:
            events = dict(self._poll.poll(_TIMER_INTERVAL * 1000))
            if self._wake_up.reader in events:
                self._wake_up.reset()
            return bool(events.get(connection.fileno(), 0))
        except (OSError, ValueError):
            self.event_queue.put("Evt17")  # the connection is closed (PS3.8 table 9-6)
            return False

    def recv(self, nr_bytes: int) -> bytearray:
        """Read that many bytes, fewer at the end of the connection.

        Raises ``OSError`` if a PDU may not be that long, or if nothing comes within the network timeout.
        """
        if nr_bytes > self._max_pdu:
            raise OSError(f"a PDU of {nr_bytes} bytes was announced, at most {self._max_pdu} are accepted")
        connection = self.socket
        if connection is None:
            raise OSError("the connection is closed")
        block = bytearray(nr_bytes)
        view, at = memoryview(block), 0
        while at < nr_bytes and (count := connection.recv_into(view[at:])):
            at += count
        view.release()
        if at < nr_bytes:
            del block[at:]
        return block

    def _shutdown_socket(self) -> None:
        connection = self.socket
        super()._shutdown_socket()
        if connection is not None:  # the library leaves it open if the peer was quicker
            with suppress(OSError):
                connection.close()
        self._wake_up.close()
        self.is_closed = True
        if self.assoc.requestor.primitive is None:  # the peer requested nothing: end the association's wait for it
            nothing: Any = None
            self.assoc.dul.to_user_queue.put(nothing)


class _WakeUpPipe:
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

    def __del__(self) -> None:  # of a connection that never became an association
        self.close()


class _NotifyingQueue(queue.Queue[Any]):
    """A queue that calls ``notify`` when something is put into it."""

    def __init__(self, notify: Callable[[], None]) -> None:
        super().__init__()
        self._notify = notify

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        self._notify()


class _Checkpoint(threading.Event):
    """Where the association's thread waits in every turn of its loop: until something is queued, or for a while."""

    def __init__(self) -> None:
        super().__init__()
        self._queued = threading.Event()
        self.set()

    def notify(self) -> None:
        """Say that something was queued."""
        self._queued.set()

    def set(self) -> None:
        """Let the thread continue, at once."""
        super().set()
        self._queued.set()

    def wait(self, timeout: float | None = None) -> bool:
        self._queued.wait(_TIMER_INTERVAL)
        self._queued.clear()
        return super().wait(timeout)


# C-STORE requests

#: Message control header (PS3.8 section E.2): the fragment belongs to the command; it is the last one.
_COMMAND, _LAST = 1, 2


class IncomingImage(Protocol):
    """An image that is being received."""

    def write(self, piece: memoryview) -> None:
        """Take the next bytes of the data set. Never raises: :meth:`finish` reports what went wrong."""

    def finish(self) -> StoreResponse:
        """Take note that all bytes have come. After the status ``SUCCESS``, the image must survive a power failure."""

    def discard(self) -> None:
        """Take note that the rest will never come. May be called at any time, also after :meth:`finish`."""


class ImageSink(Protocol):
    """Where images go."""

    def begin(self, association: Association, request: StoreRequest, transfer_syntax: str) -> IncomingImage:
        """Return what receives the image of a request; ``transfer_syntax`` is a UID."""


class StoreService(DIMSEServiceProvider):
    """The messages of one association: serves C-STORE requests, and leaves all others to pynetdicom."""

    def __init__(self, association: Association, sink: ImageSink) -> None:
        super().__init__(association)
        self._sink = sink
        self._command, self._held = b"", list[Any]()  # of a command that may become a C-STORE request
        self._request: StoreRequest | None = None
        self._image: IncomingImage | None = None
        self._context = 0

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take fragments of C-STORE requests; pass all others on unchanged."""
        if self._image is None and self.message is not None:  # in the middle of another message
            super().receive_primitive(primitive)
            return
        for context, data in primitive.presentation_data_value_list:
            if not self._take(context, data):
                held, self._held, self._command = [*self._held, (context, data)], [], b""
                for item in held:
                    super().receive_primitive(_fragment(*item))

    def discard_image(self) -> None:
        """Discard the image that is being received, if any, because the association has ended."""
        image, self._image = self._image, None
        if image:
            image.discard()

    def _take(self, context: int, data: bytes) -> bool:
        """Take a fragment of a C-STORE request, or of a command that may be one; returns whether it was."""
        control = data[0] if data else 0
        if self._image is not None and self._request is not None:
            if control & _COMMAND or context != self._context:
                self.discard_image()  # the library ends the association for this
                return False
            self._image.write(memoryview(data)[1:])
            if control & _LAST:
                self._respond(self._image.finish())
            return True
        if not control & _COMMAND or self.message is not None:
            return False
        self._command += data[1:]
        if not control & _LAST:
            self._held.append((context, data))
            return True
        return self._begin(context)

    def _begin(self, context: int) -> bool:
        request = parse_store_request(self._command)
        accepted = next((item for item in self.assoc.accepted_contexts if item.context_id == context), None)
        if request is None or accepted is None:
            return False
        self._command, self._held, self._request, self._context = b"", [], request, context
        if not request.has_data:
            self._respond(StoreResponse(CANNOT_UNDERSTAND, "there is no data set"))
            return True
        self._image = self._sink.begin(self.assoc, request, str(accepted.transfer_syntax[0]))
        return True

    def _respond(self, response: StoreResponse) -> None:
        assert self._request is not None
        command = bytes([_COMMAND | _LAST]) + encode_store_response(self._request, response)
        fragment = _fragment(self._context, command)
        self._request = self._image = None
        self.dul.send_pdu(fragment)


def _fragment(context: int, data: bytes) -> P_DATA:
    primitive = P_DATA()
    values: Any = [[context, data]]  # lists only, whatever the annotation says
    primitive.presentation_data_value_list = values
    return primitive


# command sets

_STORE_REQUEST, _STORE_RESPONSE, _NO_DATA_SET = 0x0001, 0x8001, 0x0101

#: Statuses of C-STORE (PS3.4 table B.2-1); the last digits are the receiver's choice.
SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000
#: Of the range "cannot understand": no visit identifier, and different content under a known SOPInstanceUID.
NO_IDENTIFIER, CONFLICT = 0xC001, 0xC002

#: Characters of an error comment (PS3.7 section C.4.2).
_COMMENT_LENGTH = 64


@dataclass(frozen=True)
class StoreRequest:
    """What a C-STORE request says about the data set that follows; ``has_data`` is false if none does."""

    message_id: int
    sop_class: str
    sop_instance: str
    has_data: bool


@dataclass(frozen=True)
class StoreResponse:
    """The status and error comment of a C-STORE response; the comment contains no header values."""

    status: int = SUCCESS
    comment: str = ""


def parse_store_request(command: bytes) -> StoreRequest | None:
    """Read a command set; ``None`` if it is malformed or not a C-STORE request.

    >>> parse_store_request(b"nonsense") is None
    True
    """
    elements = _elements(command)
    try:
        if elements[0x0100] != _STORE_REQUEST.to_bytes(2, "little"):
            return None
        return StoreRequest(
            message_id=_short(elements[0x0110]),
            sop_class=_uid(elements[0x0002]),
            sop_instance=_uid(elements[0x1000]),
            has_data=_short(elements[0x0800]) != _NO_DATA_SET,
        )
    except (KeyError, ValueError):
        return None


def encode_store_response(request: StoreRequest, response: StoreResponse) -> bytes:
    """Write the command set that answers a request."""
    elements = [
        (0x0002, _padded(request.sop_class, b"\0")),
        (0x0100, _STORE_RESPONSE.to_bytes(2, "little")),
        (0x0120, request.message_id.to_bytes(2, "little")),
        (0x0800, _NO_DATA_SET.to_bytes(2, "little")),
        (0x0900, response.status.to_bytes(2, "little")),
    ]
    if response.comment:
        elements.append((0x0902, _padded(response.comment[:_COMMENT_LENGTH], b" ")))
    elements.append((0x1000, _padded(request.sop_instance, b"\0")))
    body = b"".join(struct.pack("<HHL", 0, tag, len(value)) + value for tag, value in elements)
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def _elements(command: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at + 8 <= len(command):
        group, element, length = struct.unpack_from("<HHL", command, at)
        at += 8
        if group or at + length > len(command):
            return {}
        found[element] = command[at : at + length]
        at += length
    return found


def _short(raw: bytes) -> int:
    if len(raw) != 2:
        raise ValueError("expected two bytes")
    return int.from_bytes(raw, "little")


def _uid(raw: bytes) -> str:
    return raw.decode("ascii").strip(" \0")


def _padded(text: str, padding: bytes) -> bytes:
    raw = text.encode("ascii", "replace")
    return raw + padding * (len(raw) % 2)
