"""An association that sends images, as its requestor (PS3.8 section 9.2, PS3.4 annex B). Uses the network.

One thread and blocking reads with a timeout: while an image is sent there is nothing else to do. A data set is read
piece by piece. What the peer sends that is not due ends the association.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import BinaryIO

from icf_utils.dicom.dimse import C_STORE_RQ, RESPONSE, encode_store_request, parse_command
from icf_utils.dicom.pdu import (
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    COMMAND,
    HEADER_SIZE,
    LAST,
    P_DATA,
    PDV_HEADER,
    RELEASE_REPLY,
    RELEASE_REQUEST,
    RELEASE_RQ,
    MalformedPdu,
    encode_abort,
    encode_associate_request,
    encode_message,
    parse_associate_accept,
)
from icf_utils.fetch.tls import client_context
from icf_utils.sender.association import (
    NoContextAccepted,
    connection_problem,
    negotiation_problem,
    rejection_problem,
)
from icf_utils.sender.peer import MAX_PDU, Peer

#: Bytes of the longest reply that is read: to 128 proposed contexts.
_LONGEST_REPLY = 1 << 20

#: Bytes of a data set that are sent at once, within the peer's timeout, and of the data set of one PDU at most.
_BATCH, _LONGEST_PIECE = 1 << 18, 1 << 17

#: In front of the data of a P-DATA-TF PDU with one presentation data value: both headers.
_DATA_HEADER = struct.Struct(">BxLLBB")

#: Seconds that a peer has for the response to a release.
_RELEASE = 5.0


@contextmanager
def open_store_association(peer: Peer, contexts: Sequence[tuple[str, str]]) -> Iterator[StoreAssociation]:
    """An established association; released at the end of the block, aborted if the block fails.

    ``contexts`` are pairs of SOP class and transfer syntax. Raises
    :class:`~icf_utils.sender.association.NoAssociation` and :class:`~icf_utils.sender.association.NoContextAccepted`.
    """
    connection = _connect(peer)
    try:
        association = _negotiate(connection, peer, contexts)
        try:
            yield association
        except BaseException:
            association.abort()
            raise
        association.release()
    finally:
        connection.close()


def _connect(peer: Peer) -> socket.socket:
    try:
        connection = socket.create_connection((peer.host, peer.port), timeout=peer.timeout)
    except OSError as error:
        raise connection_problem(peer, error) from error
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client_context(peer.tls).wrap_socket(connection, server_hostname=peer.host) if peer.tls else connection
    except OSError as error:  # an SSLError is one
        connection.close()
        raise connection_problem(peer, error) from error
    except BaseException:
        connection.close()
        raise


def _negotiate(connection: socket.socket, peer: Peer, contexts: Sequence[tuple[str, str]]) -> StoreAssociation:
    numbers = {2 * at + 1: context for at, context in enumerate(contexts)}
    proposed = [(number, *context) for number, context in numbers.items()]
    try:
        connection.sendall(encode_associate_request(peer.called_title, peer.calling_title, proposed, MAX_PDU))
        kind, body = _read_pdu(connection, time.monotonic() + peer.timeout)
        reply = parse_associate_accept(body) if kind == ASSOCIATE_AC else None
    except (OSError, MalformedPdu) as error:
        raise negotiation_problem(peer) from error
    if kind == ASSOCIATE_RJ and len(body) >= 4:
        raise rejection_problem(peer, *body[1:4])
    if reply is None:
        raise negotiation_problem(peer)
    accepted = {numbers[number]: number for number in reply.syntaxes if number in numbers}
    association = StoreAssociation(connection, accepted, reply.max_pdu, peer.timeout)
    if not accepted:
        association.release()
        raise NoContextAccepted(peer)
    return association


class StoreAssociation:
    """An established association; ``accepted`` has the ID of each accepted pair of SOP class and transfer syntax."""

    def __init__(
        self, connection: socket.socket, accepted: dict[tuple[str, str], int], max_pdu: int, timeout: float
    ) -> None:
        self._connection, self._max_pdu, self._timeout = connection, max_pdu, timeout
        self.accepted, self.is_established = accepted, True

    def store(self, context: tuple[str, str], sop_instance: str, data: BinaryIO, size: int, number: int) -> int | None:
        """Send an image, of which ``data`` has ``size`` bytes; returns the status of the response.

        ``None`` if there was none: then the association has ended. ``number`` is the message's, from 1 to 65535.
        """
        command = encode_store_request(context[0], sop_instance, number)
        try:
            self._connection.settimeout(self._timeout)
            self._connection.sendall(encode_message(self.accepted[context], command, None, self._max_pdu))
            self._send_data(self.accepted[context], data, size)
            return self._read_status(number)
        except (OSError, MalformedPdu):
            self.abort()
            return None

    def _send_data(self, context: int, data: BinaryIO, size: int) -> None:
        most = max(self._max_pdu - PDV_HEADER.size, 64) if self._max_pdu else _LONGEST_PIECE
        most, left = min(most, _LONGEST_PIECE), size
        while left:
            block = memoryview(data.read(min(left, max(_BATCH // most, 1) * most)))
            if not block:
                raise MalformedPdu("the data set is shorter than it was")
            left -= len(block)
            parts: list[bytes | memoryview] = []
            for at in range(0, len(block), most):
                piece = block[at : at + most]
                flags = 0 if left or at + most < len(block) else LAST
                parts += [_DATA_HEADER.pack(P_DATA, len(piece) + 6, len(piece) + 2, context, flags), piece]
            self._connection.sendall(b"".join(parts))

    def _read_status(self, number: int) -> int | None:
        """The status of the response to a message."""
        command, deadline = b"", time.monotonic() + self._timeout
        with suppress(OSError):  # a peer that waits for acknowledgements (tcp(7)); the system resets this
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        while True:
            kind, body = _read_pdu(self._connection, deadline)
            if kind != P_DATA:
                self._end(kind)
                return None
            while body:
                size, _, control = PDV_HEADER.unpack(body[: PDV_HEADER.size].ljust(PDV_HEADER.size, b"\0"))
                if size < 2 or size + 4 > len(body):
                    raise MalformedPdu("a presentation data value is cut off")
                command += body[PDV_HEADER.size : size + 4] if control & COMMAND else b""
                body = body[size + 4 :]
                if control & COMMAND and control & LAST:
                    found, command = parse_command(command), b""
                    if found is None:
                        raise MalformedPdu("a command cannot be read")
                    if found.operation == C_STORE_RQ | RESPONSE and found.message_id == number:
                        return found.status

    def _end(self, kind: int) -> None:
        """The peer has ended the association: by a release, which is answered, or an abort."""
        if kind == RELEASE_RQ:
            with suppress(OSError):
                self._connection.sendall(RELEASE_REPLY)
        self.is_established = False

    def release(self) -> None:
        """Release the association, if it has not ended, and wait for the response."""
        if not self.is_established:
            return
        self.is_established = False
        with suppress(OSError, MalformedPdu):
            self._connection.sendall(RELEASE_REQUEST)
            deadline = time.monotonic() + min(_RELEASE, self._timeout)
            while _read_pdu(self._connection, deadline)[0] == P_DATA:
                pass

    def abort(self) -> None:
        """Abort the association, if it has not ended."""
        if self.is_established:
            self.is_established = False
            with suppress(OSError):
                self._connection.settimeout(1.0)
                self._connection.sendall(encode_abort(0, source=0))


def _read_pdu(connection: socket.socket, deadline: float) -> tuple[int, bytes]:
    """Type and content of the next PDU. Raises ``OSError`` and :class:`~icf_utils.dicom.pdu.MalformedPdu`."""
    head = _read(connection, HEADER_SIZE, deadline)
    length = int.from_bytes(head[2:], "big")
    if length > _LONGEST_REPLY:
        raise MalformedPdu(f"a PDU of {length} bytes")
    return head[0], _read(connection, length, deadline)


def _read(connection: socket.socket, count: int, deadline: float) -> bytes:
    found = bytearray()
    while len(found) < count:
        seconds = deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        connection.settimeout(seconds)
        block = connection.recv(count - len(found))
        if not block:
            raise ConnectionResetError
        found += block
    return bytes(found)
