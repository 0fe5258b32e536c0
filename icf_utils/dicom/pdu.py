"""The PDUs of the DICOM upper layer (PS3.8 section 9.3), read and written as bytes. Pure.

Reading is as lenient as dcmtk and Orthanc are: titles may be padded with NUL, blank, or have 8-bit characters; version
names may be too long; UIDs may have padding; items that this module does not know are passed over. Only what cannot be
parsed is malformed. What the reply has to repeat (both titles and the 32 reserved bytes) is kept as it came.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from icf_utils.dicom.ae_titles import strip_ae_title
from icf_utils.dicom.constants import APPLICATION_CONTEXT, IMPLICIT_VR_LITTLE_ENDIAN
from icf_utils.dicom.part10 import IMPLEMENTATION_UID

#: Types of PDUs.
ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)

#: Bytes in front of each PDU's content: type, a reserved byte, length.
HEADER_SIZE = 6

#: The longest association request that is read: 128 presentation contexts with many transfer syntaxes have 100 kB.
LONGEST_REQUEST = 1 << 20

# -- types of items (PS3.8 section 9.3.2, PS3.7 annex D.3.3)
_APPLICATION_CONTEXT, _PROPOSED_CONTEXT, _ACCEPTED_CONTEXT = 0x10, 0x20, 0x21
_ABSTRACT_SYNTAX, _TRANSFER_SYNTAX, _USER_INFORMATION = 0x30, 0x40, 0x50
_MAXIMUM_LENGTH, _IMPLEMENTATION_UID, _ROLE, _IMPLEMENTATION_VERSION = 0x51, 0x52, 0x54, 0x55

#: Sent in reply to a request, with :data:`~icf_utils.dicom.part10.IMPLEMENTATION_UID`.
_OWN_VERSION = b"ICF-UTILS"

#: Message control header (PS3.8 section E.2): the fragment belongs to the command set; it is the last one.
COMMAND, LAST = 1, 2

#: Bytes in front of the content of a presentation data value: its length, the context's ID, the control header.
PDV_HEADER = struct.Struct(">LBB")


class MalformedPdu(ValueError):
    """Bytes that cannot be parsed; the text says why, without values."""


class ProposedContext(NamedTuple):
    """A presentation context that the requestor proposes."""

    id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


class AcceptedContext(NamedTuple):
    """The reply to a proposed context. ``result`` is 0 if it is accepted (PS3.8 table 9-18)."""

    id: int
    result: int
    abstract_syntax: str
    transfer_syntax: str


class Role(NamedTuple):
    """SCP/SCU role selection for an abstract syntax (PS3.7 section D.3.3.4)."""

    abstract_syntax: str
    scu: bool
    scp: bool


@dataclass(frozen=True)
class AssociateRequest:
    """An A-ASSOCIATE-RQ. ``max_pdu`` is the longest that the peer receives, 0 for no limit.

    ``called_ae`` and ``calling_ae`` are without padding; ``titles`` are the bytes that the reply repeats.
    """

    protocol_version: int
    called_ae: str
    calling_ae: str
    titles: bytes
    application_context: str
    contexts: tuple[ProposedContext, ...]
    roles: tuple[Role, ...]
    max_pdu: int
    implementation: str


@dataclass(frozen=True)
class AssociateAccept:
    """An A-ASSOCIATE-AC: the transfer syntax of each accepted context by its ID, and the longest PDU of the peer."""

    syntaxes: dict[int, str]
    max_pdu: int


class RejectionCodes(NamedTuple):
    """Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21)."""

    result: int
    source: int
    reason: int


# -- read


def parse_associate_request(body: bytes) -> AssociateRequest:
    """Read the content of an A-ASSOCIATE-RQ (PS3.8 section 9.3.2). Raises :class:`MalformedPdu`."""
    if len(body) < 68:
        raise MalformedPdu("the association request is shorter than its fixed fields")
    contexts: list[ProposedContext] = []
    user: dict[int, list[bytes]] = {}
    application_context = ""
    for kind, value in _items(body[68:]):
        if kind == _APPLICATION_CONTEXT:
            application_context = _text(value)
        elif kind == _PROPOSED_CONTEXT:
            contexts.append(_proposed_context(value))
        elif kind == _USER_INFORMATION:
            for inner, content in _items(value):
                user.setdefault(inner, []).append(content)
    return AssociateRequest(
        protocol_version=int.from_bytes(body[:2], "big"),
        called_ae=_title(body[4:20]),
        calling_ae=_title(body[20:36]),
        titles=body[4:68],
        application_context=application_context,
        contexts=tuple(contexts),
        roles=tuple(filter(None, map(_role, user.get(_ROLE, ())))),
        max_pdu=int.from_bytes(user.get(_MAXIMUM_LENGTH, [b""])[0][:4], "big"),
        implementation=_title(user.get(_IMPLEMENTATION_VERSION, [b""])[0]),
    )


def parse_associate_accept(body: bytes) -> AssociateAccept:
    """Read the content of an A-ASSOCIATE-AC (PS3.8 section 9.3.3). Raises :class:`MalformedPdu`."""
    syntaxes: dict[int, str] = {}
    max_pdu = 0
    for kind, value in _items(body[68:]):
        if kind == _ACCEPTED_CONTEXT and len(value) >= 4 and not value[2]:
            syntaxes[value[0]] = next((_text(raw) for inner, raw in _items(value[4:]) if inner == _TRANSFER_SYNTAX), "")
        elif kind == _USER_INFORMATION:
            lengths = [raw for inner, raw in _items(value) if inner == _MAXIMUM_LENGTH]
            max_pdu = int.from_bytes(lengths[0][:4], "big") if lengths else 0
    return AssociateAccept(syntaxes, max_pdu)


def _items(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and content of each item."""
    at = 0
    while at < len(body):
        if at + 4 > len(body):
            raise MalformedPdu("an item of the association request is cut off")
        kind, length = body[at], int.from_bytes(body[at + 2 : at + 4], "big")
        at += 4
        if at + length > len(body):
            raise MalformedPdu("an item of the association request is longer than the request")
        yield kind, body[at : at + length]
        at += length


def _proposed_context(value: bytes) -> ProposedContext:
    if len(value) < 4:
        raise MalformedPdu("a presentation context is cut off")
    abstract, syntaxes = "", []
    for kind, content in _items(value[4:]):
        if kind == _ABSTRACT_SYNTAX:
            abstract = _text(content)
        elif kind == _TRANSFER_SYNTAX:
            syntaxes.append(_text(content))
    return ProposedContext(value[0], abstract, tuple(filter(None, syntaxes)))


def _role(value: bytes) -> Role | None:
    """A role selection; one that is malformed is passed over, as the default roles then apply."""
    length = int.from_bytes(value[:2], "big")
    if len(value) < length + 4:
        return None
    return Role(_text(value[2 : 2 + length]), bool(value[2 + length]), bool(value[3 + length]))


def _text(raw: bytes) -> str:
    """A UID without its padding; what is not ASCII becomes escapes."""
    return raw.decode("ascii", "backslashreplace").strip(" \0")


def _title(raw: bytes) -> str:
    """An AE title or version name: UTF-8 where it is that, else Latin-1, without padding."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return strip_ae_title(text)


# -- write


def encode_associate_request(
    called_ae: str, calling_ae: str, contexts: Iterable[tuple[int, str, str]], max_pdu: int
) -> bytes:
    """Write an A-ASSOCIATE-RQ (PS3.8 section 9.3.2); ``contexts`` are ID, abstract and transfer syntax of each."""
    items = _item(_APPLICATION_CONTEXT, APPLICATION_CONTEXT.encode("ascii"))
    for number, abstract, syntax in contexts:
        inner = _item(_ABSTRACT_SYNTAX, abstract.encode("ascii")) + _item(_TRANSFER_SYNTAX, syntax.encode("ascii"))
        items += _item(_PROPOSED_CONTEXT, bytes([number, 0, 0, 0]) + inner)
    user = _item(_MAXIMUM_LENGTH, struct.pack(">L", max_pdu))
    user += _item(_IMPLEMENTATION_UID, IMPLEMENTATION_UID.encode("ascii"))
    user += _item(_IMPLEMENTATION_VERSION, _OWN_VERSION)
    titles = b"".join(title.encode("ascii").ljust(16) for title in (called_ae, calling_ae))
    return _pdu(ASSOCIATE_RQ, struct.pack(">HH", 1, 0) + titles + bytes(32) + items + _item(_USER_INFORMATION, user))


def encode_associate_accept(
    request: AssociateRequest, contexts: Iterable[AcceptedContext], roles: Iterable[Role], max_pdu: int
) -> bytes:
    """Write the A-ASSOCIATE-AC that answers a request (PS3.8 section 9.3.3)."""
    items = _item(_APPLICATION_CONTEXT, APPLICATION_CONTEXT.encode("ascii"))
    for context in contexts:
        syntax = (context.transfer_syntax or IMPLICIT_VR_LITTLE_ENDIAN).encode("ascii", "replace")
        items += _item(_ACCEPTED_CONTEXT, bytes([context.id, 0, context.result, 0]) + _item(_TRANSFER_SYNTAX, syntax))
    user = _item(_MAXIMUM_LENGTH, struct.pack(">L", max_pdu))
    user += _item(_IMPLEMENTATION_UID, IMPLEMENTATION_UID.encode("ascii"))
    for role in roles:
        uid = role.abstract_syntax.encode("ascii", "replace")
        user += _item(_ROLE, struct.pack(">H", len(uid)) + uid + bytes([role.scu, role.scp]))
    user += _item(_IMPLEMENTATION_VERSION, _OWN_VERSION)
    return _pdu(ASSOCIATE_AC, struct.pack(">HH", 1, 0) + request.titles + items + _item(_USER_INFORMATION, user))


def encode_associate_reject(codes: RejectionCodes) -> bytes:
    """Write an A-ASSOCIATE-RJ (PS3.8 section 9.3.4)."""
    return _pdu(ASSOCIATE_RJ, bytes([0, *codes]))


def encode_abort(reason: int, source: int = 2) -> bytes:
    """Write an A-ABORT (PS3.8 section 9.3.8); source 2 is the service provider, 0 the user."""
    return _pdu(ABORT, bytes([0, 0, source, reason]))


#: The A-RELEASE-RQ (PS3.8 section 9.3.6).
RELEASE_REQUEST = struct.pack(">BBLL", RELEASE_RQ, 0, 4, 0)

#: The A-RELEASE-RP (PS3.8 section 9.3.7).
RELEASE_REPLY = struct.pack(">BBLL", RELEASE_RP, 0, 4, 0)


def encode_message(context: int, command: bytes, data: bytes | None, max_pdu: int) -> bytes:
    """Write a DIMSE message as P-DATA-TF PDUs that are no longer than the peer receives (0: no limit)."""
    pdus = list(_fragments(context, command, COMMAND, max_pdu))
    if data is not None:
        pdus += _fragments(context, data, 0, max_pdu)
    return b"".join(pdus)


def _fragments(context: int, content: bytes, control: int, max_pdu: int) -> Iterator[bytes]:
    # a peer that says less than any message needs gets it in pieces of a sensible size nevertheless
    size = max(max_pdu - PDV_HEADER.size, 64) if max_pdu else len(content) or 1
    for at in range(0, len(content) or 1, size):
        piece = content[at : at + size]
        flags = control | (LAST if at + size >= len(content) else 0)
        yield _pdu(P_DATA, PDV_HEADER.pack(len(piece) + 2, context, flags) + piece)


def _item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(content)) + content


def _pdu(kind: int, content: bytes | Sequence[int]) -> bytes:
    return struct.pack(">BBL", kind, 0, len(content)) + bytes(content)
