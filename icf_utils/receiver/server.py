"""The DICOM receiver: admits associations by rule, and runs until it is closed.

Listens on the network, and owns the spool, the journal and the queue. Each image is on the disk before its C-STORE
request is answered with success (:mod:`icf_utils.receiver.store_scp`). How an association ended is in the journal
before its sessions can be complete, because that decides whether their images may be missing.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from types import TracebackType
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_P_ABORT

from icf_utils.dicom.ae_titles import strip_ae_title
from icf_utils.dicom.constants import VERIFICATION_SOP_CLASS
from icf_utils.errors import IcfError, printable
from icf_utils.formatting import format_count
from icf_utils.progress import Progress
from icf_utils.receiver.associations import (
    TOO_MANY,
    AssociationRejection,
    OpenAssociation,
    admit_association,
    congestion,
)
from icf_utils.receiver.identify import Sender
from icf_utils.receiver.journal import Journal
from icf_utils.receiver.model import AssociationState
from icf_utils.receiver.pynetdicom_server import (
    AssociationServer,
    IncomingImage,
    StoreRequest,
    StoreService,
    configure_pynetdicom,
)
from icf_utils.receiver.session_queue import SessionQueue
from icf_utils.receiver.sessions import SessionManager
from icf_utils.receiver.settings import Listen, ReceiverSettings, cannot_listen, check_machine, tls_context
from icf_utils.receiver.spool import Spool
from icf_utils.receiver.store_scp import StoreHandler
from icf_utils.waiting import poll

#: Seconds between two updates of the journal.
_UPDATE_INTERVAL = 0.5

#: Seconds that associations have to end when the receiver is closed.
_GRACE = 5.0

#: Connections above the limit of associations that are accepted, so that their associations can be rejected.
_MARGIN = 16

#: pynetdicom's own limit is not used: it also counts connections that are closed.
_UNLIMITED = 1 << 20


class Receiver:
    """A receiver that runs from ``with`` to the end of its block; ``port`` is the one it listens at.

    Raises :class:`~icf_utils.errors.InvalidSetting` for TLS files and addresses that cannot be used, and
    :class:`~icf_utils.errors.Busy` if another receiver uses the spool.
    """

    def __init__(self, settings: ReceiverSettings, progress: Progress) -> None:
        self._settings, self._progress = settings, progress
        self._open: dict[Association, OpenAssociation] = {}
        self._lock, self._closing = threading.Lock(), threading.Event()
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
        self._sessions = SessionManager(settings, self._journal, self._spool, progress, self._queue.notify)
        self._store_handler = StoreHandler(self._spool, self._sessions, progress, self._write_association)
        self.port: int = self._server.server_address[1]

    def __enter__(self) -> Receiver:
        self._journal.interrupt_associations()
        recovered = self._sessions.recover()
        if recovered:
            self._progress.message(f"continuing {format_count(recovered, 'session')}")
        self._queue.start()
        for task in (self._server.serve_forever, self._update_regularly):
            threading.Thread(target=task, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Abort open associations, queue running sessions again, and bring the rest to the disk."""
        self._closing.set()
        self._server.shutdown()
        for association in list(self._open):
            association.abort()
        self._queue.close()
        for _ in poll(0.01, 0.01, timeout=_GRACE):
            if not self._open:
                break
        self._update_safely()
        self._journal.interrupt_associations()
        self._journal.close()
        self._spool.close()

    def begin(self, association: Association, request: StoreRequest, transfer_syntax: str) -> IncomingImage:
        """Return what receives the image of a C-STORE request; called by the server."""
        return self._store_handler.begin(self._open[association], request, transfer_syntax)

    def _listen(self, listen: Listen) -> AssociationServer:
        configure_pynetdicom()
        entity = AE(ae_title="ICF-UTILS")
        entity.add_supported_context(VERIFICATION_SOP_CLASS)
        entity.maximum_pdu_size = listen.max_pdu
        entity.maximum_associations = _UNLIMITED
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = listen.timeout
        handlers: list[Any] = [
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_ACSE_RECV, self._on_acse_received),
            (evt.EVT_RELEASED, self._on_released),
            (evt.EVT_ABORTED, self._on_aborted),
            (evt.EVT_CONN_CLOSE, self._on_connection_closed),
        ]
        try:
            return AssociationServer(
                ae=entity,
                address=(listen.host, listen.port),
                ae_title=entity.ae_title,
                contexts=entity.supported_contexts,
                ssl_context=tls_context(listen, self._settings.source),
                evt_handlers=handlers,
                sink=self,
                max_connections=listen.max_associations + _MARGIN,
                on_failure=self._on_failed_connection,
            )
        except (OSError, UnicodeError) as error:
            raise cannot_listen(self._settings, error) from error

    # associations

    def _on_requested(self, event: evt.Event) -> None:
        """Admit or reject an association."""
        association: Any = event.assoc
        request = association.requestor.primitive
        sender = Sender(
            strip_ae_title(request.called_ae_title),
            strip_ae_title(request.calling_ae_title),
            association.requestor.address_info.address,
        )
        rejection = self._admit(association, sender)
        if rejection is None:
            return
        with suppress(IcfError):  # the journal may be what failed
            self._journal.start_association(
                sender.called_ae, sender.calling_ae, sender.address, "rejected", rejection.reason
            )
        titles = f"calling AE '{printable(sender.calling_ae)}', called AE '{printable(sender.called_ae)}'"
        self._progress.message(
            f"rejected an association from {printable(sender.address)} ({titles}): {rejection.reason}"
        )
        association.acse.send_reject(*rejection.codes)
        association.kill()

    def _admit(self, association: Association, sender: Sender) -> AssociationRejection | None:
        """Record an association that is admitted, or return why it is rejected."""
        rule = admit_association(self._settings.rules, sender)
        if isinstance(rule, AssociationRejection):
            return rule
        with self._lock:
            if len(self._open) >= self._settings.listen.max_associations:
                return TOO_MANY
            opened = self._open[association] = OpenAssociation(0, rule, sender)
        try:  # before it is accepted, since the first image, which may follow at once, needs the number
            opened.id = self._journal.start_association(sender.called_ae, sender.calling_ae, sender.address)
        except IcfError as error:
            self._open.pop(association, None)
            return congestion(str(error))
        return None

    def _on_acse_received(self, event: evt.Event) -> None:
        if isinstance(getattr(event, "primitive", None), A_P_ABORT):
            self._set_end(event.assoc, "lost")

    def _on_released(self, event: evt.Event) -> None:
        self._set_end(event.assoc, "released")
        self._end_association(event.assoc)

    def _on_aborted(self, event: evt.Event) -> None:
        self._set_end(event.assoc, "aborted")
        self._end_association(event.assoc)

    def _on_connection_closed(self, event: evt.Event) -> None:
        if isinstance(event.assoc.dimse, StoreService):
            event.assoc.dimse.discard_image()

    def _set_end(self, association: Association, end: AssociationState) -> None:
        """Remember how an association ends; the first event decides."""
        opened = self._open.get(association)
        if opened and opened.end is None:
            opened.end = end

    def _end_association(self, association: Association) -> None:
        with self._lock:
            opened = self._open.pop(association, None)
        if opened is None:
            return
        if isinstance(association.dimse, StoreService):
            association.dimse.discard_image()
        end = opened.end or "lost"
        try:
            if opened.id:
                self._write_association(opened)
                self._journal.end_association(opened.id, end)
        finally:
            self._sessions.end_association(opened.id)
        if opened.id and end != "released":
            self._progress.message(f"an association of {printable(opened.sender.calling_ae)} was {end}")

    def _on_failed_connection(self, address: str, reason: str) -> None:
        self._journal.start_association("", "", address, "rejected", reason)
        self._progress.message(f"no association with {printable(address)}: {reason}")

    # journal

    def _update_regularly(self) -> None:
        while not self._closing.wait(_UPDATE_INTERVAL):
            self._update_safely()

    def _update_safely(self) -> None:
        try:
            self._update()
        except IcfError as error:  # such as a full disk; the next update may succeed
            self._progress.message(str(error))

    def _update(self) -> None:
        for association, opened in list(self._open.items()):
            if opened.has_changed:
                opened.has_changed = False
                self._write_association(opened)
            if not association.is_alive():  # it ended without an event
                self._end_association(association)
        self._sessions.update()

    def _write_association(self, opened: OpenAssociation) -> None:
        counts = {name: opened.counts[name] for name in ("images", "duplicates", "quarantined", "refused", "size")}
        self._journal.update_association(
            opened.id,
            **counts,
            transfer_syntaxes=sorted(opened.transfer_syntaxes),
            sessions=sorted(opened.sessions),
        )
