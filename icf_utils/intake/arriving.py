"""One image on its way in. Writes its file by the spool."""

from __future__ import annotations

from typing import Protocol

from icf_utils.intake.admission import Connection
from icf_utils.intake.dimse import Answer, StoreRequest
from icf_utils.intake.header import file_meta
from icf_utils.intake.rules import Rule
from icf_utils.intake.spool import Part


class Taker(Protocol):
    """Who gives out files for images, and takes the images."""

    def new_part(self, rule: Rule) -> Part | None:
        """Where an image is written; nothing where the disk's reserve is reached."""

    def no_room(self, connection: Connection) -> Answer:
        """What is answered to an image that nothing was written of."""

    def take(self, connection: Connection, request: StoreRequest, part: Part) -> Answer:
        """An image that has come as a whole."""


class ArrivingImage:
    """An image that comes piece by piece; see :class:`~icf_utils.intake.storing.Arriving`."""

    def __init__(self, receiver: Taker, connection: Connection, request: StoreRequest, transfer_syntax: str) -> None:
        self._receiver, self._connection, self._request = receiver, connection, request
        self._part = receiver.new_part(connection.rule)
        if self._part:
            self._part.write(file_meta(request.sop_class, request.sop_instance, transfer_syntax))

    def write(self, piece: memoryview) -> None:
        if self._part:
            self._part.write(piece)

    def finish(self) -> Answer:
        if self._part:
            return self._receiver.take(self._connection, self._request, self._part)
        return self._receiver.no_room(self._connection)

    def drop(self) -> None:
        if self._part:
            self._part.discard()
