"""Raw associations: PDUs written byte by byte, for what no library sends."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

MR, ECHO, FIND = b"1.2.840.10008.5.1.4.1.1.4", b"1.2.840.10008.1.1", b"1.2.840.10008.5.1.4.1.2.2.1"
IMPLICIT, EXPLICIT = b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1"
APPLICATION = b"1.2.840.10008.3.1.1.1"


def item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


@dataclass(frozen=True)
class Request:
    """An A-ASSOCIATE-RQ; contexts have the IDs 1, 3 ..."""

    called: bytes = b"STUDYA"
    calling: bytes = b"TESTS"
    contexts: tuple[tuple[bytes, bytes], ...] = ((MR, EXPLICIT), (ECHO, IMPLICIT), (FIND, IMPLICIT))
    application: bytes = APPLICATION
    version: int = 1
    max_pdu: int = 16384
    implementation: bytes | None = b"1.2.3.4"
    implementation_version: bytes | None = b"TESTS"
    extra: bytes = b""

    def encode(self) -> bytes:
        contexts = b"".join(
            item(0x20, bytes([2 * at + 1, 0, 0, 0]) + item(0x30, abstract) + item(0x40, syntax))
            for at, (abstract, syntax) in enumerate(self.contexts)
        )
        user = item(0x51, struct.pack(">L", self.max_pdu))
        user += item(0x52, self.implementation) if self.implementation is not None else b""
        user += item(0x55, self.implementation_version) if self.implementation_version is not None else b""
        titles = self.called.ljust(16)[:16] + self.calling.ljust(16)[:16] + bytes(32)
        body = struct.pack(">HH", self.version, 0) + titles + item(0x10, self.application) + contexts
        return pdu(1, body + item(0x50, user + self.extra))


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBL", kind, 0, len(body)) + body


def p_data(context: int, control: int, content: bytes) -> bytes:
    return pdu(4, struct.pack(">LBB", len(content) + 2, context, control) + content)


def command(sop_class: bytes, operation: int, uid: bytes = b"1.2.3", *, has_data: bool = True) -> bytes:
    elements = {
        0x2: sop_class + b"\0" * (len(sop_class) % 2),
        0x100: struct.pack("<H", operation),
        0x110: b"\1\0",
        0x800: b"\0\0" if has_data else b"\1\1",
        0x1000: uid + b"\0" * (len(uid) % 2),
    }
    body = b"".join(struct.pack("<HHL", 0, tag, len(value)) + value for tag, value in sorted(elements.items()))
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def n_action(sop_class: bytes, instance: bytes, kind: int = 1) -> bytes:
    """The command set of an N-ACTION request; a data set follows it."""
    elements = {
        0x3: sop_class + b"\0" * (len(sop_class) % 2),
        0x100: b"\x30\x01",
        0x110: b"\1\0",
        0x800: b"\0\0",
        0x1001: instance + b"\0" * (len(instance) % 2),
        0x1008: struct.pack("<H", kind),
    }
    body = b"".join(struct.pack("<HHL", 0, tag, len(value)) + value for tag, value in sorted(elements.items()))
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def read_pdu(connection: socket.socket) -> tuple[int, bytes]:
    """Type and content of the next PDU; ``(0, b"")`` where the connection was closed."""
    try:
        head = connection.recv(6, socket.MSG_WAITALL)
        length = int.from_bytes(head[2:6], "big")
        return (head[0], connection.recv(length, socket.MSG_WAITALL)) if len(head) == 6 else (0, b"")
    except ConnectionError:
        return 0, b""


def connect(port: int, request: Request | None = None) -> tuple[socket.socket, int, bytes]:
    """A connection with a request sent, and the type and content of the reply."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall((request or Request()).encode())
    return connection, *read_pdu(connection)
