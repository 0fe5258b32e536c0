"""C-STORE requests of an association: each goes to a sink piece by piece, as it comes, and is answered at once.

Everything but C-STORE is left to pynetdicom. The thread that reads from the network serves the request, so nothing of
an image is held in memory. Touches nothing but what the sink touches.
"""

from __future__ import annotations

from typing import Any, Protocol

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.pdu_primitives import P_DATA

from icf_utils.intake.dimse import NOT_UNDERSTOOD, Answer, StoreRequest, store_request, store_response

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
