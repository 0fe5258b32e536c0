"""DICOM connections of the receiver: a pynetdicom server whose connections wait for events instead of polling.

pynetdicom looks every millisecond whether something has come or is to be sent, reads 4 kB at a time, does TLS
handshakes one after the other, and takes PDUs of any announced length. Its server, request handler and socket are
classes that a program may replace; these do, and leave negotiation, messages and the state machine to pynetdicom.


The commands of C-STORE as bytes (PS3.7 sections 6.3 and 9.3.1): implicit VR little endian, few elements. Pure.

pynetdicom reads and writes them through general data sets, which for small images takes longer than storing them.


C-STORE requests of an association: each goes to a sink piece by piece, as it comes, and is answered at once.

Everything but C-STORE is left to pynetdicom. The thread that reads from the network serves the request, so nothing of
an image is held in memory. Touches nothing but what the sink touches.


Who may open an association, and what is known of one that is open. Pure.
"""

from __future__ import annotations

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
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from socketserver import TCPServer
from typing import Any, Protocol

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from icf_utils.errors import printable
from icf_utils.formatting import format_count
from icf_utils.receiver.identify import Sender
from icf_utils.receiver.model import AssociationState
from icf_utils.receiver.settings import Rule

#: Seconds after which a connection looks at its timers, if nothing happens.
_TICK = 0.2

#: Bytes that a PDU may have beyond the negotiated length, which is about its variable part only (PS3.8 section 9.3.1).
_PDU_MARGIN = 64 * 1024


class _Bell:
    """A file descriptor that can be waited for beside a socket."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._lock, self._is_open = threading.Lock(), True

    def ring(self) -> None:
        with self._lock, suppress(BlockingIOError):
            if self._is_open:
                os.write(self._writer, b"!")

    def quiet(self) -> None:
        with suppress(BlockingIOError):
            os.read(self.reader, 4096)

    def close(self) -> None:
        with self._lock:
            if self._is_open:
                self._is_open = False
                os.close(self.reader)
                os.close(self._writer)

    def __del__(self) -> None:  # a connection that never became an association is closed in other ways
        self.close()


class _Announcing(queue.Queue[Any]):
    """A queue that tells when something is put into it."""

    def __init__(self, tell: Callable[[], None]) -> None:
        super().__init__()
        self._tell = tell

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        self._tell()


class _Checkpoint(threading.Event):
    """Where the association's thread stops in every turn: until there is news, or a while has passed."""

    def __init__(self) -> None:
        super().__init__()
        self._news = threading.Event()
        self.set()

    def tell(self) -> None:
        """There is something to look at."""
        self._news.set()

    def set(self) -> None:
        """Let the thread go on, and at once."""
        super().set()
        self._news.set()

    def wait(self, timeout: float | None = None) -> bool:
        self._news.wait(_TICK)
        self._news.clear()
        return super().wait(timeout)


class Link(AssociationSocket):
    """The connection of one association."""

    def __init__(self, association: Association, connection: socket.socket, longest: int) -> None:
        super().__init__(association, client_socket=connection)
        self._longest, self._bell, self.is_shut = longest, _Bell(), False
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._poll.register(self._bell.reader, select.POLLIN)
        association.dul.to_provider_queue = _Announcing(self._bell.ring)

    @property
    def ready(self) -> bool:
        """Wait until something has come (true), or is to be sent, or a while has passed."""
        connection = self.socket
        if connection is None or not self._is_connected:
            time.sleep(0.001)
            return False
        if isinstance(connection, ssl.SSLSocket) and connection.pending():
            return True
        outbox = self.assoc.dul.to_provider_queue
        if not outbox.empty():
            return False
        try:
            events = dict(self._poll.poll(_TICK * 1000))
            if self._bell.reader in events:
                self._bell.quiet()
            return bool(events.get(connection.fileno(), 0))
        except (OSError, ValueError):
            self.event_queue.put("Evt17")  # the connection is closed (PS3.8 table 9-6)
            return False

    def recv(self, nr_bytes: int) -> bytearray:
        """Read that many bytes, fewer at the end of the connection.

        Raises ``OSError`` for more than a PDU may have, or where nothing comes for longer than the network timeout.
        """
        if nr_bytes > self._longest:
            raise OSError(f"a PDU of {format_count(nr_bytes, 'byte')} is announced, at most {self._longest} are taken")
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
        if connection is not None:  # where the peer was quicker, it is left open
            with suppress(OSError):
                connection.close()
        self._bell.close()
        self.is_shut = True
        if self.assoc.requestor.primitive is None:  # nothing was asked for: the association need not wait for it
            nothing: Any = None
            self.assoc.dul.to_user_queue.put(nothing)


class Handler(RequestHandler):
    """Makes the association of a connection; runs on the connection's own thread."""

    server: Server

    def handle(self) -> None:
        """Do the TLS handshake, if any, and begin the association."""
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
        link = Link(association, self.request, self.ae.maximum_pdu_size + _PDU_MARGIN)
        association.dul.event_queue.get_nowait()  # each of the two sockets has announced the connection
        association.dul.socket = link
        self.server.links.add(link)
        association.dimse = StoreProvider(association, self.server.sink)
        checkpoint = association._reactor_checkpoint = _Checkpoint()
        association.dul.to_user_queue = _Announcing(checkpoint.tell)
        association.dimse.msg_queue = _Announcing(checkpoint.tell)
        association.dul._run_loop_delay = 0  # the link waits
        return association


class Server(ThreadedAssociationServer):
    """Takes connections; one that fails does not concern the others."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, *args: Any, sink: Sink, most: int, on_failure: Callable[[str, str], None], **kwargs: Any
    ) -> None:
        """``sink`` takes the images; no more than ``most`` connections may be open.

        ``on_failure`` hears address and reason of a connection that came to nothing.
        """
        self.sink, self._most, self._on_failure = sink, most, on_failure
        self.links: weakref.WeakSet[Link] = weakref.WeakSet()
        super().__init__(*args, **{**kwargs, "request_handler": Handler})

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; its TLS handshake follows on its own thread."""
        assert self.socket is not None
        connection, address = self.socket.accept()
        if self.ssl_context:
            connection = self.ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is still room for a connection."""
        return sum(not link.is_shut for link in list(self.links)) < self._most

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that failed before it was an association: a TLS handshake, mostly."""
        error = sys.exc_info()[1]
        reason = error.reason if isinstance(error, ssl.SSLError) and error.reason else type(error).__name__
        self._on_failure(str(client_address[0]), f"the connection failed: {printable(reason)}")

    def shutdown(self) -> None:
        """Take no more connections."""
        TCPServer.shutdown(self)  # pynetdicom's also takes it from a list that it is not in
        self.server_close()


_STORE_REQUEST, _STORE_RESPONSE, _NO_DATA_SET = 0x0001, 0x8001, 0x0101

#: Statuses of C-STORE (PS3.4 table B.2-1): within their ranges the last digits are the receiver's own.
SUCCESS, OUT_OF_RESOURCES, NOT_UNDERSTOOD, NO_IDENTIFIER, CONTRADICTION = 0x0000, 0xA700, 0xC000, 0xC001, 0xC002

#: Characters of an error comment (PS3.7 section C.4.2).
_COMMENT_LENGTH = 64


@dataclass(frozen=True)
class StoreRequest:
    """What a C-STORE request says about the data set that follows; ``has_data`` is false where none does."""

    message_id: int
    sop_class: str
    sop_instance: str
    has_data: bool


@dataclass(frozen=True)
class Answer:
    """What is answered to a C-STORE request; the comment is for people, without header values."""

    status: int = SUCCESS
    comment: str = ""


def store_request(command: bytes) -> StoreRequest | None:
    """The request in a command set; ``None`` for any other command, and for what is malformed.

    >>> store_request(b"nonsense") is None
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


def store_response(request: StoreRequest, answer: Answer) -> bytes:
    """The command set that answers a request."""
    elements = [
        (0x0002, _padded(request.sop_class, b"\0")),
        (0x0100, _STORE_RESPONSE.to_bytes(2, "little")),
        (0x0120, request.message_id.to_bytes(2, "little")),
        (0x0800, _NO_DATA_SET.to_bytes(2, "little")),
        (0x0900, answer.status.to_bytes(2, "little")),
    ]
    if answer.comment:
        elements.append((0x0902, _padded(answer.comment[:_COMMENT_LENGTH], b" ")))
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
        raise ValueError("two bytes are expected")
    return int.from_bytes(raw, "little")


def _uid(raw: bytes) -> str:
    return raw.decode("ascii").strip(" \0")


def _padded(text: str, padding: bytes) -> bytes:
    raw = text.encode("ascii", "replace")
    return raw + padding * (len(raw) % 2)


#: Message control header (PS3.8 section E.2): whether a fragment is of the command, and the last one.
_COMMAND, _LAST = 1, 2


class Arriving(Protocol):
    """One image on its way in."""

    def write(self, piece: memoryview) -> None:
        """The next bytes of the data set. Never raises; what goes wrong is answered by :meth:`finish`."""

    def finish(self) -> Answer:
        """All bytes have come. With the answer ``SUCCESS`` the image is on the disk for good."""

    def drop(self) -> None:
        """The rest will never come. May be called at any time, also after :meth:`finish`."""


class Sink(Protocol):
    """Where images go."""

    def begin(self, association: Association, request: StoreRequest, transfer_syntax: str) -> Arriving:
        """An image begins to come in."""


class StoreProvider(DIMSEServiceProvider):
    """The messages of one association."""

    def __init__(self, association: Association, sink: Sink) -> None:
        super().__init__(association)
        self._sink = sink
        self._command, self._held = b"", list[Any]()
        self._request: StoreRequest | None = None
        self._arriving: Arriving | None = None
        self._context = 0

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take fragments; those of other messages than C-STORE are passed on as they are."""
        if self._arriving is None and self.message is not None:  # amidst a message of the library's
            super().receive_primitive(primitive)
            return
        for context, data in primitive.presentation_data_value_list:
            if not self._take(context, data):
                held, self._held, self._command = [*self._held, (context, data)], [], b""
                for item in held:
                    super().receive_primitive(_fragment(*item))

    def drop(self) -> None:
        """The association has ended, perhaps amidst an image."""
        arriving, self._arriving = self._arriving, None
        if arriving:
            arriving.drop()

    def _take(self, context: int, data: bytes) -> bool:
        """Whether the fragment is of a C-STORE request, or may be."""
        control = data[0] if data else 0
        if self._arriving is not None and self._request is not None:
            if control & _COMMAND or context != self._context:
                self.drop()  # the library ends the association for this
                return False
            self._arriving.write(memoryview(data)[1:])
            if control & _LAST:
                self._answer(self._arriving.finish())
            return True
        if not control & _COMMAND or self.message is not None:
            return False
        self._command += data[1:]
        if not control & _LAST:
            self._held.append((context, data))
            return True
        return self._begin(context)

    def _begin(self, context: int) -> bool:
        request = store_request(self._command)
        accepted = next((item for item in self.assoc.accepted_contexts if item.context_id == context), None)
        if request is None or accepted is None:
            return False
        self._command, self._held, self._request, self._context = b"", [], request, context
        if not request.has_data:
            self._answer(Answer(NOT_UNDERSTOOD, "there is no data set"))
            return True
        self._arriving = self._sink.begin(self.assoc, request, str(accepted.transfer_syntax[0]))
        return True

    def _answer(self, answer: Answer) -> None:
        assert self._request is not None
        command = bytes([_COMMAND | _LAST]) + store_response(self._request, answer)
        response = _fragment(self._context, command)
        self._request = self._arriving = None
        self.dul.send_pdu(response)


def _fragment(context: int, data: bytes) -> P_DATA:
    primitive = P_DATA()
    values: Any = [[context, data]]  # it takes lists only, whatever its annotation says
    primitive.presentation_data_value_list = values
    return primitive


#: Result, source and reason of a rejection (PS3.8 table 9-21).
BAD_CALLED, BAD_CALLING, NO_REASON, TOO_MANY, CONGESTION = (1, 1, 7), (1, 1, 3), (1, 1, 1), (2, 3, 2), (2, 3, 1)


@dataclass
class Connection:
    """What the receiver knows of an open association."""

    id: int
    rule: Rule
    sender: Sender
    counts: Counter[str] = field(default_factory=Counter)
    transfer_syntaxes: set[str] = field(default_factory=set)
    sessions: set[str] = field(default_factory=set)
    end: AssociationState | None = None
    is_changed: bool = False


def admit(rules: Sequence[Rule], sender: Sender) -> tuple[Rule | None, tuple[int, int, int], str]:
    """The first rule that lets a sender in; or how its association is rejected, and why in words. Pure."""
    called = [rule for rule in rules if rule.called_ae == sender.called_ae]
    objections = [rule.admits(sender.calling_ae, sender.address) for rule in called]
    for rule, objection in zip(called, objections, strict=True):
        if not objection:
            return rule, (0, 0, 0), ""
    if not called:
        return None, BAD_CALLED, "there is no rule for the called AE title"
    if "address" in objections:
        return None, NO_REASON, "the address is not among those of the rule"
    return None, BAD_CALLING, "the calling AE title is not among those of the rule"
