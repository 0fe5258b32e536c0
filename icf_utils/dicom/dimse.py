"""Command sets of DIMSE messages, read and written as bytes (PS3.7 sections 6.3, 9.3 and 10.3, annex E). Pure.

Through general data sets this would take longer than storing a small image. A command set is always implicit VR little
endian.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

# -- command fields (PS3.7 annex E)
C_STORE_RQ, C_ECHO_RQ, C_CANCEL_RQ = 0x0001, 0x0030, 0x0FFF
N_EVENT_REPORT_RQ, N_ACTION_RQ = 0x0100, 0x0130

#: The bit that makes the response of a request.
RESPONSE = 0x8000

_NO_DATA_SET = 0x0101

# -- elements of group 0000, by their second half
_AFFECTED_CLASS, _REQUESTED_CLASS, _COMMAND_FIELD = 0x0002, 0x0003, 0x0100
_MESSAGE_ID, _RESPONDED_ID, _DATA_SET_TYPE = 0x0110, 0x0120, 0x0800
_STATUS, _ERROR_COMMENT, _AFFECTED_INSTANCE, _REQUESTED_INSTANCE = 0x0900, 0x0902, 0x1000, 0x1001
_EVENT_TYPE, _ACTION_TYPE, _PRIORITY = 0x1002, 0x1008, 0x0700

#: Requests in which SOP class and instance are the *requested* ones: N-GET, N-SET, N-ACTION, N-DELETE.
_WITH_REQUESTED_UIDS = frozenset({0x0110, 0x0120, N_ACTION_RQ, 0x0150})

#: Statuses of C-STORE (PS3.4 table B.2-1); the last digits are the receiver's choice.
SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000
#: Of the range "cannot understand": no visit identifier; other content under a known SOPInstanceUID; no rule for it.
NO_IDENTIFIER, CONFLICT, NO_RULE = 0xC001, 0xC002, 0xC003

#: Statuses of any service (PS3.7 annex C).
PROCESSING_FAILURE, NO_SUCH_CLASS, INVALID_ARGUMENT = 0x0110, 0x0118, 0x0115
CLASS_NOT_SUPPORTED, NO_SUCH_ACTION, UNRECOGNIZED_OPERATION = 0x0122, 0x0123, 0x0211
NO_SUCH_INSTANCE = 0x0112

#: Characters of an error comment (PS3.7 section C.4.2).
_COMMENT_LENGTH = 64


@dataclass(frozen=True)
class Command:
    """A command set. ``operation`` is its command field; ``has_data``: a data set follows.

    ``message_id`` is, in a response, the one of the request. ``kind`` is the event or action type, 0 if there is none.
    ``status`` is that of a response.
    """

    operation: int
    message_id: int
    sop_class: str = ""
    sop_instance: str = ""
    has_data: bool = False
    kind: int = 0
    status: int = 0
    elements: Mapping[int, bytes] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_response(self) -> bool:
        return bool(self.operation & RESPONSE)


@dataclass(frozen=True)
class StoreResponse:
    """The status and error comment of a C-STORE response; the comment contains no header values."""

    status: int = SUCCESS
    comment: str = ""


def parse_command(raw: bytes) -> Command | None:
    """Read a command set; ``None`` if it is malformed or lacks what every command has.

    >>> parse_command(b"nonsense") is None
    True
    """
    elements = _elements(raw)
    try:
        number = _short(elements[_COMMAND_FIELD])
        responded = number & RESPONSE or number == C_CANCEL_RQ
        with_requested = number & ~RESPONSE in _WITH_REQUESTED_UIDS and not number & RESPONSE
        return Command(
            operation=number,
            message_id=_short(elements[_RESPONDED_ID if responded else _MESSAGE_ID]),
            sop_class=_uid(elements.get(_REQUESTED_CLASS if with_requested else _AFFECTED_CLASS, b"")),
            sop_instance=_uid(elements.get(_REQUESTED_INSTANCE if with_requested else _AFFECTED_INSTANCE, b"")),
            has_data=_short(elements.get(_DATA_SET_TYPE, b"\1\1")) != _NO_DATA_SET,
            kind=_optional_short(elements, _ACTION_TYPE) or _optional_short(elements, _EVENT_TYPE),
            status=_optional_short(elements, _STATUS),
            elements=elements,
        )
    except (KeyError, ValueError):
        return None


def encode_response(request: Command, status: int, comment: str = "") -> bytes:
    """Write the command set, without a data set, that answers a request; the comment contains no header values."""
    elements = {
        _AFFECTED_CLASS: _padded(request.sop_class, b"\0"),
        _COMMAND_FIELD: _shorts(request.operation | RESPONSE),
        _RESPONDED_ID: _shorts(request.message_id),
        _DATA_SET_TYPE: _shorts(_NO_DATA_SET),
        _STATUS: _shorts(status),
    }
    if comment:
        elements[_ERROR_COMMENT] = _padded(comment[:_COMMENT_LENGTH], b" ")
    if request.sop_instance:
        elements[_AFFECTED_INSTANCE] = _padded(request.sop_instance, b"\0")
    if request.operation == N_ACTION_RQ:
        elements[_ACTION_TYPE] = _shorts(request.kind)
    return _encode(elements)


def encode_store_request(sop_class: str, sop_instance: str, message_id: int) -> bytes:
    """Write the command set of a C-STORE request of medium priority; a data set follows it."""
    return _encode(
        {
            _AFFECTED_CLASS: _padded(sop_class, b"\0"),
            _COMMAND_FIELD: _shorts(C_STORE_RQ),
            _MESSAGE_ID: _shorts(message_id),
            _PRIORITY: _shorts(0),
            _DATA_SET_TYPE: _shorts(1),
            _AFFECTED_INSTANCE: _padded(sop_instance, b"\0"),
        }
    )


def encode_event_report(sop_class: str, sop_instance: str, message_id: int, kind: int) -> bytes:
    """Write the command set of an N-EVENT-REPORT request; a data set follows it."""
    return _encode(
        {
            _AFFECTED_CLASS: _padded(sop_class, b"\0"),
            _COMMAND_FIELD: _shorts(N_EVENT_REPORT_RQ),
            _MESSAGE_ID: _shorts(message_id),
            _DATA_SET_TYPE: _shorts(1),
            _AFFECTED_INSTANCE: _padded(sop_instance, b"\0"),
            _EVENT_TYPE: _shorts(kind),
        }
    )


def _encode(elements: Mapping[int, bytes]) -> bytes:
    body = b"".join(struct.pack("<HHL", 0, tag, len(value)) + value for tag, value in sorted(elements.items()))
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


def _optional_short(elements: Mapping[int, bytes], tag: int) -> int:
    return int.from_bytes(elements.get(tag, b"")[:2], "little")


def _shorts(number: int) -> bytes:
    return number.to_bytes(2, "little")


def _uid(raw: bytes) -> str:
    return raw.decode("ascii", "backslashreplace").strip(" \0")


def _padded(text: str, padding: bytes) -> bytes:
    raw = text.encode("ascii", "replace")
    return raw + padding * (len(raw) % 2)
