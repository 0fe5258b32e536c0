"""Peers that do not answer as they should: each ends the sending with a reason, and nothing hangs."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO

import pytest

from icf_utils.dicom.dimse import encode_response, parse_command
from icf_utils.dicom.pdu import RELEASE_REPLY, RELEASE_REQUEST, encode_abort, encode_message
from icf_utils.sender.association import NoAssociation, NoContextAccepted
from icf_utils.sender.peer import Peer
from icf_utils.sender.store_scu import open_store_association

_CONTEXT = ("1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.2.1")
_DATA = bytes(range(256)) * 500


def pdu(kind: int, content: bytes) -> bytes:
    return struct.pack(">BBL", kind, 0, len(content)) + content


def item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(content)) + content


def accept(max_pdu: int = 16384, result: int = 0) -> bytes:
    context = item(0x21, bytes([1, 0, result, 0]) + item(0x40, _CONTEXT[1].encode()))
    user = item(0x50, item(0x51, struct.pack(">L", max_pdu)))
    return pdu(2, struct.pack(">HH", 1, 0) + bytes(64) + context + user)


def read(connection: socket.socket) -> tuple[int, bytes]:
    head = connection.recv(6, socket.MSG_WAITALL)
    return head[0], connection.recv(int.from_bytes(head[2:], "big"), socket.MSG_WAITALL)


def read_message(connection: socket.socket) -> tuple[bytes, bytes, int]:
    """Command and data set of a message, and the length of its longest PDU."""
    parts, longest, is_complete = {0: b"", 1: b""}, 0, False
    while not is_complete:
        _, body = read(connection)
        longest = max(longest, len(body))
        control = body[5]
        parts[control & 1] += body[6:]
        is_complete = control == 2
    return parts[1], parts[0], longest


@contextmanager
def peer(serve: Callable[[socket.socket], None], timeout: float = 0.5) -> Iterator[Peer]:
    """A peer of which ``serve`` answers the first connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def run() -> None:
            connection, _ = listening.accept()
            with connection, suppress(OSError):
                serve(connection)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield Peer("127.0.0.1", listening.getsockname()[1], "PEER", timeout=timeout)
        finally:
            thread.join()


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (b"", "closed the connection, or did not respond"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "closed the connection, or did not respond"),
        (pdu(2, bytes(20)), "accepted none of the proposed presentation contexts"),
        (pdu(2, bytes(68) + item(0x21, b"\1\0\0\0\0\0\xff\xff")), "closed the connection, or did not respond"),
        (accept(result=3), "accepted none of the proposed presentation contexts"),
        (pdu(3, bytes([0, 1, 1, 7])), "it rejected the association: called ae title not recognised"),
        (pdu(3, bytes([0, 2, 3, 2])), "it rejected the association: local limit exceeded"),
        (pdu(3, b""), "closed the connection, or did not respond"),
        (encode_abort(0), "closed the connection, or did not respond"),
        (b"\2\0\xff\xff\xff\xff", "closed the connection, or did not respond"),
        (b"\2\0\0\0\0\x64abc", "closed the connection, or did not respond"),
    ],
)
def test_no_association(reply: bytes, problem: str) -> None:
    def serve(connection: socket.socket) -> None:
        read(connection)
        connection.sendall(reply)

    with (
        peer(serve) as found,
        pytest.raises((NoAssociation, NoContextAccepted), match=problem),
        open_store_association(found, [_CONTEXT]),
    ):
        pass


def send_one(reply: Callable[[socket.socket, bytes], None], max_pdu: int = 16384) -> tuple[int | None, bool]:
    """The status, and whether the association is left."""

    def serve(connection: socket.socket) -> None:
        read(connection)
        connection.sendall(accept(max_pdu))
        command, data, longest = read_message(connection)
        assert data == _DATA
        assert longest <= max(max_pdu, 70)
        reply(connection, command)
        with suppress(IndexError):
            while read(connection)[0] != 5:
                pass
            connection.sendall(RELEASE_REPLY)

    with peer(serve) as found, open_store_association(found, [_CONTEXT]) as association:
        return association.store(_CONTEXT, "1.2.3", BytesIO(_DATA), len(_DATA), 7), association.is_established


def response(command: bytes, status: int, number: int = 7) -> bytes:
    request = parse_command(command)
    assert request is not None
    assert (request.sop_instance, request.message_id) == ("1.2.3", 7)
    raw = encode_response(request, status)
    return encode_message(
        1, raw.replace(struct.pack("<HHLH", 0, 0x120, 2, 7), struct.pack("<HHLH", 0, 0x120, 2, number)), None, 0
    )


@pytest.mark.parametrize("max_pdu", [16, 100, 16384, 1 << 20])
def test_the_status_of_the_response(max_pdu: int) -> None:
    """In one PDU or several, and after a response to another message."""

    def reply(connection: socket.socket, command: bytes) -> None:
        connection.sendall(response(command, 0, number=6))
        raw = encode_message(1, response(command, 0xB000)[12:], None, 70)
        for byte in raw:
            connection.sendall(bytes([byte]))

    assert send_one(reply, max_pdu) == (0xB000, True)


@pytest.mark.parametrize(
    "answer", [b"", RELEASE_REQUEST, encode_abort(0), pdu(4, b"\0\0\0"), pdu(4, b"\0\0\0\6\1\3abcd"), pdu(9, b"x")]
)
def test_no_response_ends_the_association(answer: bytes) -> None:
    assert send_one(lambda connection, _: connection.sendall(answer)) == (None, False)


def test_a_data_set_that_becomes_shorter_ends_the_association() -> None:
    def serve(connection: socket.socket) -> None:
        read(connection)
        connection.sendall(accept())
        with suppress(IndexError):
            while True:
                read(connection)

    with peer(serve) as found, open_store_association(found, [_CONTEXT]) as association:
        assert association.store(_CONTEXT, "1.2.3", BytesIO(_DATA), len(_DATA) + 1, 1) is None
        assert not association.is_established
