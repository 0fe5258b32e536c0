"""The commands of C-STORE as bytes (PS3.7 sections 6.3 and 9.3.1): implicit VR little endian, few elements. Pure.

pynetdicom reads and writes them through general data sets, which for small images takes longer than storing them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

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
