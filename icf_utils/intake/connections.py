"""DICOM connections of the receiver: a pynetdicom server whose connections wait for events instead of polling.

pynetdicom looks every millisecond whether something has come or is to be sent, reads 4 kB at a time, does TLS
handshakes one after the other, and takes PDUs of any announced length. Its server, request handler and socket are
classes that a program may replace; these do, and leave negotiation, messages and the state machine to pynetdicom.
"""

from __future__ import annotations

import os
import queue
import select
import socket
import ssl
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from socketserver import TCPServer
from typing import Any

from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from icf_utils.errors import shown
from icf_utils.intake.storing import Sink, StoreProvider

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
            raise OSError(f"a PDU of {nr_bytes} bytes is announced, at most {self._longest} are taken")
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
        self._on_failure(str(client_address[0]), f"the connection failed: {shown(reason)}")

    def shutdown(self) -> None:
        """Take no more connections."""
        TCPServer.shutdown(self)  # pynetdicom's also takes it from a list that it is not in
        self.server_close()
