"""The accepting side of one association: negotiation, C-ECHO, and the messages that others answer (PS3.8 section 9.2).

Uses the network through its :class:`~icf_utils.receiver.link.Link`, in the connection's own thread. The data set of a
C-STORE request is passed on piece by piece to an :class:`IncomingImage`; no image is held in memory. What the receiver
does not provide is answered with a status, and its data set is dropped. Commands, other data sets and PDUs have a
longest length each. Whatever a peer sends that is not a message ends its own association, with an abort, and no other.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from icf_utils.dicom.constants import STORAGE_COMMITMENT_PUSH_MODEL, VERIFICATION_SOP_CLASS
from icf_utils.dicom.dimse import (
    C_CANCEL_RQ,
    C_ECHO_RQ,
    C_STORE_RQ,
    CLASS_NOT_SUPPORTED,
    N_ACTION_RQ,
    SUCCESS,
    UNRECOGNIZED_OPERATION,
    Command,
    StoreResponse,
    encode_response,
    parse_command,
)
from icf_utils.dicom.pdu import (
    ABORT,
    ASSOCIATE_RQ,
    COMMAND,
    LAST,
    LONGEST_REQUEST,
    P_DATA,
    PDV_HEADER,
    RELEASE_REPLY,
    RELEASE_RQ,
    AcceptedContext,
    AssociateRequest,
    MalformedPdu,
    encode_abort,
    encode_associate_accept,
    encode_associate_reject,
    encode_message,
    parse_associate_request,
)
from icf_utils.receiver.admission import AssociationRejection, OpenAssociation
from icf_utils.receiver.link import ConnectionLost, Link, TooSlow
from icf_utils.receiver.negotiation import accept_contexts, accept_roles, is_storage_class

#: Bytes of the longest command, of the longest data set of a command other than C-STORE, and of one that is dropped.
LONGEST_COMMAND, LONGEST_DATA, LONGEST_DROPPED = 1 << 16, 1 << 24, 1 << 20

#: Bytes that a PDU may have beyond the negotiated length, which limits its variable part only (PS3.8 section 9.3.1).
_PDU_MARGIN = 64 * 1024

# -- reasons of an A-ABORT by the service provider (PS3.8 table 9-26)
_NOT_SPECIFIED, _UNEXPECTED_PDU, _INVALID_PARAMETER = 0, 2, 6


class IncomingImage(Protocol):
    """An image that is being received."""

    def write(self, piece: memoryview) -> None:
        """Take the next bytes of the data set. Never raises: :meth:`finish` reports what went wrong."""

    def finish(self) -> StoreResponse:
        """Take note that all bytes have come. After the status ``SUCCESS``, the image must survive a power failure."""

    def discard(self) -> None:
        """Take note that the rest will never come. May be called at any time, also after :meth:`finish`."""


class AssociationUser(Protocol):
    """What becomes of associations and their messages. All methods are called in the threads of the connections."""

    max_pdu: int

    def admit(self, association: Association, request: AssociateRequest) -> OpenAssociation | AssociationRejection:
        """Admit an association, or say why it is rejected; then it is over."""

    def record(self, opened: OpenAssociation) -> str:
        """Record an association that was accepted, while its first message is on its way.

        Returns why it cannot be served; empty if it can.
        """

    def fail(self, address: str, reason: str) -> None:
        """Take note of a connection that did not become an association."""

    def end(self, opened: OpenAssociation, state: EndState, reason: str) -> None:
        """Take note of the end of an association that was admitted."""

    def begin_image(self, opened: OpenAssociation, request: Command, transfer_syntax: str) -> IncomingImage:
        """Return what receives the image of a C-STORE request."""

    def request_commitment(
        self, opened: OpenAssociation, request: Command, data: bytes, context: AcceptedContext
    ) -> int:
        """Take a request for storage commitment (PS3.4 section J.3.2); returns the status of the response."""

    def take_response(self, opened: OpenAssociation, response: Command) -> None:
        """Take the response to a message of this side."""


EndState = Literal["released", "aborted", "lost"]


class _End(NamedTuple):
    """How an association ended, why, and what is still to be sent."""

    state: EndState
    reason: str = ""
    last_pdu: bytes = b""


@dataclass
class _Message:
    """A message whose data set is being received; ``image`` is where it goes, or else ``data`` collects it.

    ``longest`` is the number of bytes of ``data``; what is longer ends the association. Nothing is kept of what is
    ``dropped``.
    """

    command: Command
    context: AcceptedContext
    image: IncomingImage | None = None
    data: bytearray | None = None
    longest: int = 0
    length: int = 0

    def write(self, piece: memoryview) -> None:
        if self.image is not None:
            self.image.write(piece)
            return
        self.length += len(piece)
        if self.length > self.longest:
            raise MalformedPdu(f"the data set of a command has more than {self.longest} bytes")
        if self.data is not None:
            self.data += piece


class Association:
    """An association from its request to its end."""

    def __init__(self, link: Link, address: str, user: AssociationUser) -> None:
        self.address, self._link, self._user = address, link, user
        self.opened: OpenAssociation | None = None
        self._request: AssociateRequest | None = None
        self._contexts: dict[int, AcceptedContext] = {}
        self._command = bytearray()
        self._message: _Message | None = None
        self._outgoing: deque[tuple[int, bytes, bytes | None]] = deque()
        self.abort_reason, self._is_pending, self._started = "", True, time.monotonic()

    # for other threads

    @property
    def is_pending(self) -> bool:
        """Whether the connection has no association: not yet, or no longer."""
        return self._is_pending and not self.abort_reason

    @property
    def age(self) -> float:
        """Seconds since the connection was accepted."""
        return time.monotonic() - self._started

    def abort(self, reason: str) -> None:
        """End the association, or the connection that is none yet."""
        self.abort_reason = self.abort_reason or reason
        self._link.interrupt()

    def post(self, context: int, command: bytes, data: bytes | None) -> None:
        """Send a message of this side's own as soon as no other is being received.

        Only after :meth:`expect_outgoing`.
        """
        self._outgoing.append((context, command, data))
        self._link.wake()

    # the connection's thread

    def expect_outgoing(self) -> None:
        """Take note that there may be messages to :meth:`post`."""
        self._link.enable_wake_up()

    def serve(self) -> None:
        """Serve the association until its end."""
        request = self._try_to_read_request()
        opened = self._admit(request) if request is not None else None
        if request is None or opened is None:
            return
        end = _End("lost")
        try:
            end = self._converse(request, opened)
        finally:
            if self._message is not None and self._message.image is not None:
                self._message.image.discard()
            self._is_pending = True
            self._user.end(opened, end.state, end.reason)
        if end.last_pdu:
            self._link.send_last(end.last_pdu)

    def _try_to_read_request(self) -> AssociateRequest | None:
        """The request, or ``None`` after what came was refused."""
        try:
            return self._read_request()
        except (ConnectionLost, TooSlow, MalformedPdu) as error:
            has_sent = self._link.bytes_received or isinstance(error, TooSlow)
            if has_sent or self.abort_reason:  # otherwise the peer only looked whether somebody listens
                self._user.fail(self.address, self.abort_reason or str(error))
                self._link.send_last(encode_abort(_UNEXPECTED_PDU))
            return None

    def _read_request(self) -> AssociateRequest:
        kind, length = self._link.read_header()
        if kind != ASSOCIATE_RQ:
            raise MalformedPdu("what came is not an association request")
        self._link.check_length(length, LONGEST_REQUEST)
        return parse_associate_request(self._link.read(length))

    def _admit(self, request: AssociateRequest) -> OpenAssociation | None:
        self._link.expect_message()
        decision = self._user.admit(self, request)
        if isinstance(decision, AssociationRejection):
            self._link.send_last(encode_associate_reject(decision.codes))
            return None
        self._request, self.opened, self._is_pending = request, decision, False
        return decision

    def _converse(self, request: AssociateRequest, opened: OpenAssociation) -> _End:
        """Accept the association, and serve messages until it ends."""
        contexts = accept_contexts(request)
        for context in contexts:
            if context.result == 0:
                self._contexts.setdefault(context.id, context)
        try:
            self._link.send(encode_associate_accept(request, contexts, accept_roles(request), self._user.max_pdu))
            if problem := self._user.record(opened):
                return _End("aborted", problem, encode_abort(_NOT_SPECIFIED))
            return self._serve_messages()
        except MalformedPdu as error:
            return _End("aborted", str(error), encode_abort(_INVALID_PARAMETER))
        except TooSlow as error:
            return _End("aborted", str(error), encode_abort(_NOT_SPECIFIED))
        except ConnectionLost as error:
            if self.abort_reason:
                return _End("aborted", self.abort_reason, encode_abort(_NOT_SPECIFIED))
            return _End("lost", str(error))

    def _serve_messages(self) -> _End:
        while True:
            if not self._link.wait():
                self._send_outgoing()
                continue
            kind, length = self._link.read_header()
            if kind == P_DATA:
                self._link.check_length(length, self._user.max_pdu + _PDU_MARGIN)
                self._take_data(length)
            elif kind == RELEASE_RQ:
                return _End("released", "", RELEASE_REPLY)
            elif kind == ABORT:
                return _End("aborted", "by the sender")
            else:
                raise MalformedPdu("a PDU came that does not belong here")

    def _send_outgoing(self) -> None:
        while self._outgoing and self._message is None and not self._command:
            self._send(*self._outgoing.popleft())

    def _send(self, context: int, command: bytes, data: bytes | None = None) -> None:
        assert self._request is not None
        self._link.send(encode_message(context, command, data, self._request.max_pdu))

    # P-DATA

    def _take_data(self, length: int) -> None:
        """Take the presentation data values of a P-DATA-TF PDU (PS3.8 section 9.3.5)."""
        while length:
            if length < PDV_HEADER.size:
                raise MalformedPdu("a presentation data value is cut off")
            size, context, control = PDV_HEADER.unpack(self._link.read(PDV_HEADER.size))
            size -= 2
            length -= PDV_HEADER.size + size
            if size < 0 or length < 0:
                raise MalformedPdu("a presentation data value is longer than its PDU")
            if control & COMMAND:
                self._take_command(context, control, size)
            else:
                self._take_data_set(context, control, size)

    def _take_command(self, context: int, control: int, size: int) -> None:
        if self._message is not None:
            raise MalformedPdu("a command came before the data set of the last one was complete")
        if not self._command:
            self._link.expect_command()
        if len(self._command) + size > LONGEST_COMMAND:
            raise MalformedPdu(f"a command has more than {LONGEST_COMMAND} bytes")
        for piece in self._link.pieces(size):
            self._command += piece
        if control & LAST:
            command = parse_command(bytes(self._command))
            self._command.clear()
            if command is None:
                raise MalformedPdu("a command cannot be read")
            self._begin(context, command)

    def _take_data_set(self, context: int, control: int, size: int) -> None:
        message = self._message
        if message is None or context != message.context.id:
            raise MalformedPdu("a part of a data set came without its command")
        for piece in self._link.pieces(size):
            message.write(piece)
        if control & LAST:
            self._finish(message)

    def _begin(self, context: int, command: Command) -> None:
        accepted = self._contexts.get(context)
        if accepted is None or self.opened is None:
            raise MalformedPdu("a command came in a presentation context that was not accepted")
        message = _Message(command, accepted, longest=LONGEST_DROPPED)
        if not command.has_data:
            self._finish(message)
            return
        if command.operation == C_STORE_RQ and is_storage_class(accepted.abstract_syntax):
            message.image = self._user.begin_image(self.opened, command, accepted.transfer_syntax)
        elif self._is_commitment(message):
            message.data, message.longest = bytearray(), LONGEST_DATA
        self._message = message
        self._link.expect_data()

    def _is_commitment(self, message: _Message) -> bool:
        is_action = message.command.operation == N_ACTION_RQ
        return is_action and message.context.abstract_syntax == STORAGE_COMMITMENT_PUSH_MODEL

    def _finish(self, message: _Message) -> None:
        """Answer a message that is complete."""
        self._message = None
        assert self.opened is not None
        command = message.command
        if command.is_response:
            self._user.take_response(self.opened, command)
        elif command.operation != C_CANCEL_RQ:  # which has no response, and there is nothing to cancel
            response = self._respond(self.opened, message)
            raw = encode_response(command, response.status, response.comment)
            self._send(message.context.id, raw)
        self._link.expect_message()
        self._send_outgoing()

    def _respond(self, opened: OpenAssociation, message: _Message) -> StoreResponse:
        command, syntax = message.command, message.context.abstract_syntax
        if message.image is not None:
            return message.image.finish()
        if command.operation == C_ECHO_RQ and syntax == VERIFICATION_SOP_CLASS:
            return StoreResponse(SUCCESS)
        if message.data is not None:
            context = message.context
            return StoreResponse(self._user.request_commitment(opened, command, bytes(message.data), context))
        if command.operation == C_STORE_RQ:
            if is_storage_class(syntax):  # an image without a data set, which is refused as any other malformed one
                return self._user.begin_image(opened, command, message.context.transfer_syntax).finish()
            return StoreResponse(CLASS_NOT_SUPPORTED, "not a presentation context for images")
        return StoreResponse(UNRECOGNIZED_OPERATION, "not provided by this receiver")
