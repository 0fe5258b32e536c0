"""The DICOM receiver: associations are admitted by rule, their images stored for good before they are answered.

Listens on the network, and writes spool and journal by the modules beside.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Any

from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_P_ABORT

from icf_utils.dicom.ae_titles import AE_TITLE_RULE, is_ae_title, strip_ae_title
from icf_utils.dicom.constants import VERIFICATION_SOP_CLASS
from icf_utils.errors import IcfError, StorageFailure, printable
from icf_utils.progress import Progress
from icf_utils.receiver.identify import Objection, Sender, identify, read_header
from icf_utils.receiver.journal import Journal
from icf_utils.receiver.model import AssociationState
from icf_utils.receiver.pynetdicom_server import (
    CONGESTION,
    CONTRADICTION,
    NO_IDENTIFIER,
    NOT_UNDERSTOOD,
    OUT_OF_RESOURCES,
    SUCCESS,
    TOO_MANY,
    Answer,
    Arriving,
    Connection,
    Server,
    StoreProvider,
    StoreRequest,
    admit,
)
from icf_utils.receiver.session_queue import SessionQueue
from icf_utils.receiver.sessions import ArrivingImage, Reception
from icf_utils.receiver.settings import Listen, ReceiverSettings, Rule, cannot_listen, check_machine, tls_context
from icf_utils.receiver.spool import Part, Spool, is_full

#: Seconds between two looks at what is complete.
_TICK = 0.5

#: Seconds that associations have to end when the receiver does.
_GRACE = 5.0

#: Connections beyond the limit of associations that may be open to be told so.
_WAITING_ROOM, _UNLIMITED = 16, 1 << 20


class Receiver:
    """A receiver that runs from ``with`` to the end of its block; ``port`` is where it listens.

    Raises :class:`~icf_utils.errors.InvalidSetting` for TLS files and addresses that cannot be used,
    :class:`~icf_utils.errors.Busy` where another receiver has the spool.
    """

    def __init__(self, settings: ReceiverSettings, progress: Progress) -> None:
        self._settings, self._progress = settings, progress
        self._connections: dict[Association, Connection] = {}
        self._lock, self._ended = threading.Lock(), threading.Event()
        listen = settings.listen
        check_machine(settings)  # before the spool is touched
        self._spool = Spool(settings.spool, listen.reserve * 1_000_000, listen.durable)
        try:
            self._server = self._listen(listen)
            self._journal = Journal(settings.spool)
            self._queue = SessionQueue(settings, self._journal, progress)
        except BaseException:
            self._spool.close()
            raise
        self._reception = Reception(settings, self._journal, self._spool, progress, self._queue.notify)
        self.port: int = self._server.server_address[1]

    def __enter__(self) -> Receiver:
        self._journal.interrupt_associations()
        recovered = self._reception.recover()
        if recovered:
            self._progress.message(f"going on with {recovered} visits that were being received")
        self._queue.start()
        for task in (self._server.serve_forever, self._watch):
            threading.Thread(target=task, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End: open associations are aborted, what is processed is queued again, everything else is on the disk."""
        self._ended.set()
        self._server.shutdown()
        for association in list(self._connections):
            association.abort()
        self._queue.close()
        limit = time.monotonic() + _GRACE
        while self._connections and time.monotonic() < limit:
            time.sleep(0.01)
        self._look_safely()
        self._journal.interrupt_associations()
        self._journal.close()
        self._spool.close()

    def begin(self, association: Association, request: StoreRequest, transfer_syntax: str) -> Arriving:
        """An image begins to come in."""
        connection = self._connections[association]
        connection.transfer_syntaxes.add(transfer_syntax)
        return ArrivingImage(self, connection, request, transfer_syntax)

    def _listen(self, listen: Listen) -> Server:
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)  # tracebacks of what a peer did wrong
        _config.LOG_HANDLER_LEVEL = "none"
        _config.VALIDATORS["AE"] = _validate_ae_title
        _config.UNRESTRICTED_STORAGE_SERVICE = True  # storage classes that nobody has heard of, too
        entity = AE(ae_title="ICF-UTILS")
        entity.add_supported_context(VERIFICATION_SOP_CLASS)
        entity.maximum_pdu_size = listen.max_pdu
        entity.maximum_associations = _UNLIMITED  # it counts connections that are closed, too
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = listen.timeout
        handlers: list[Any] = [
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_ACSE_RECV, self._on_control),
            (evt.EVT_RELEASED, self._on_released),
            (evt.EVT_ABORTED, self._on_aborted),
            (evt.EVT_CONN_CLOSE, self._on_closed),
        ]
        try:
            return Server(
                ae=entity,
                address=(listen.host, listen.port),
                ae_title=entity.ae_title,
                contexts=entity.supported_contexts,
                ssl_context=tls_context(listen, self._settings.source),
                evt_handlers=handlers,
                sink=self,
                most=listen.max_associations + _WAITING_ROOM,
                on_failure=self._on_failure,
            )
        except (OSError, UnicodeError) as error:
            raise cannot_listen(self._settings, error) from error

    def _on_requested(self, event: evt.Event) -> None:
        """Admit an association, or reject it."""
        association: Any = event.assoc
        request = association.requestor.primitive
        address = association.requestor.address_info.address
        titles = (strip_ae_title(request.called_ae_title), strip_ae_title(request.calling_ae_title))
        sender = Sender(*titles, address)
        rule, result, reason = admit(self._settings.rules, sender)
        with self._lock:
            if rule and len(self._connections) >= self._settings.listen.max_associations:
                rule, result, reason = None, TOO_MANY, "too many associations are open"
            if rule:
                connection = self._connections[association] = Connection(0, rule, sender)
        if rule:
            try:  # before it is accepted, since the first image may come on the heels of that, and needs the number
                connection.id = self._journal.start_association(sender.called_ae, sender.calling_ae, address)
            except IcfError as error:
                self._connections.pop(association, None)
                rule, result, reason = None, CONGESTION, str(error)
        if rule is None:
            with suppress(IcfError):  # that the journal cannot be written may be the reason
                self._journal.start_association(sender.called_ae, sender.calling_ae, address, "rejected", reason)
            named = f"calling AE '{printable(sender.calling_ae)}', called AE '{printable(sender.called_ae)}'"
            self._progress.message(f"rejected an association from {printable(address)} ({named}): {reason}")
            association.acse.send_reject(*result)
            association.kill()

    def _on_control(self, event: evt.Event) -> None:
        if isinstance(getattr(event, "primitive", None), A_P_ABORT):
            self._set_end(event.assoc, "lost")

    def _on_released(self, event: evt.Event) -> None:
        self._set_end(event.assoc, "released")
        self._close(event.assoc)

    def _on_aborted(self, event: evt.Event) -> None:
        self._set_end(event.assoc, "aborted")
        self._close(event.assoc)

    def _on_closed(self, event: evt.Event) -> None:
        """The network connection has ended; what has been said before this counts."""
        if isinstance(event.assoc.dimse, StoreProvider):
            event.assoc.dimse.drop()

    def _set_end(self, association: Association, end: AssociationState) -> None:
        connection = self._connections.get(association)
        if connection and connection.end is None:
            connection.end = end

    def _close(self, association: Association) -> None:
        """An association has ended."""
        with self._lock:
            connection = self._connections.pop(association, None)
        if connection is None:
            return
        if isinstance(association.dimse, StoreProvider):
            association.dimse.drop()
        end = connection.end or "lost"
        try:
            if connection.id:
                self._write(connection)
                self._journal.end_association(connection.id, end)
        finally:  # how it ended must be known before its sessions can be complete
            self._reception.close_association(connection.id)
        if connection.id and end != "released":
            self._progress.message(f"an association of {printable(connection.sender.calling_ae)} was {end}")

    def _on_failure(self, address: str, reason: str) -> None:
        self._journal.start_association("", "", address, "rejected", reason)
        self._progress.message(f"a connection from {printable(address)} came to nothing: {reason}")

    def _watch(self) -> None:
        while not self._ended.wait(_TICK):
            self._look_safely()

    def _look_safely(self) -> None:
        try:
            self._look()
        except IcfError as error:  # such as a full disk: it may pass
            self._progress.message(str(error))

    def _look(self) -> None:
        for association, connection in list(self._connections.items()):
            if connection.is_changed:
                connection.is_changed = False
                self._write(connection)
            if not association.is_alive():  # it ended in a way that nobody has told of
                self._close(association)
        self._reception.tick()

    def _write(self, connection: Connection) -> None:
        counts = {name: connection.counts[name] for name in ("images", "duplicates", "quarantined", "refused", "size")}
        self._journal.update_association(
            connection.id,
            **counts,
            transfer_syntaxes=sorted(connection.transfer_syntaxes),
            sessions=sorted(connection.sessions),
        )

    def new_part(self, rule: Rule) -> Part | None:
        """Where an image is written; nothing where the disk's reserve is reached."""
        try:
            return self._spool.new_part(rule.name) if self._spool.has_room() else None
        except OSError:
            return None

    def no_room(self, connection: Connection) -> Answer:
        """What is answered to an image that nothing was written of."""
        connection.counts["refused"] += 1
        connection.is_changed = True
        return self._refused(OUT_OF_RESOURCES, "the disk's reserve is reached")

    def take(self, connection: Connection, request: StoreRequest, part: Part) -> Answer:
        """An image that has come as a whole."""
        try:
            answer = self._take(connection, request, part)
        except StorageFailure as error:
            answer = self._failed(error.errno, str(error))
        except OSError as error:
            answer = self._failed(error.errno, f"cannot store an image: {error.strerror}")
        except Exception as error:  # noqa: BLE001 - a fault of ours must not end the association
            answer = self._failed(None, f"internal error ({type(error).__name__})")
        if answer.status not in (SUCCESS, CONTRADICTION):
            connection.counts["refused"] += 1
            part.discard()
        connection.is_changed = True
        return answer

    def _take(self, connection: Connection, request: StoreRequest, part: Part) -> Answer:
        if part.error:
            return self._failed(part.error.errno, f"cannot write to the spool: {part.error.strerror}")
        found = read_header(part.read_at, part.size, connection.rule)
        if found is None:
            return self._refused(NOT_UNDERSTOOD, "the data set cannot be parsed")
        identity = identify(found, connection.rule, connection.sender, request.sop_class, request.sop_instance)
        if isinstance(identity, Objection):
            return self._refused(NO_IDENTIFIER if identity.is_nameless else NOT_UNDERSTOOD, identity.reason)
        part.sync()
        if part.error:
            raise part.error
        session, verdict = self._reception.take(connection.rule, connection.sender, connection.id, identity, part)
        connection.counts[verdict] += 1
        connection.counts["size"] += part.size
        if session not in connection.sessions:  # after a kill, this tells which sessions may lack images
            connection.sessions.add(session)
            self._write(connection)
        if verdict == "quarantined":
            return Answer(CONTRADICTION, "other content under a known SOPInstanceUID; kept apart")
        return Answer()

    def _refused(self, status: int, reason: str) -> Answer:
        self._progress.message(f"refused an image with 0x{status:04X}: {reason}")
        return Answer(status, reason)

    def _failed(self, number: int | None, reason: str) -> Answer:
        full = number is not None and is_full(OSError(number, ""))
        return self._refused(OUT_OF_RESOURCES, "the disk is full" if full else reason)


def _validate_ae_title(text: str) -> tuple[bool, str]:
    """In place of pynetdicom's rule, which aborts an association whose titles are padded with NUL."""
    is_title = is_ae_title(text)
    return is_title, "" if is_title else AE_TITLE_RULE
