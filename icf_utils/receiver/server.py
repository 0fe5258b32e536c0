"""The DICOM receiver: admits associations by rule, and runs until it is closed.

Listens on the network, and owns the spool, the journal and the queue. Each image is on the disk before its C-STORE
request is answered with success (:mod:`icf_utils.receiver.store_scp`). How an association ended is in the journal
before its sessions can be complete, because that decides whether their images may be missing.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from math import inf
from types import TracebackType
from typing import Any

from icf_utils.dicom.dimse import PROCESSING_FAILURE, SUCCESS, Command
from icf_utils.dicom.pdu import AcceptedContext, AssociateRequest
from icf_utils.errors import IcfError, printable
from icf_utils.formatting import format_count
from icf_utils.progress import Progress, RecurringProblem
from icf_utils.receiver.admission import (
    TOO_MANY,
    TOO_MANY_OF_ADDRESS,
    AssociationRejection,
    OpenAssociation,
    admit_association,
    congestion,
)
from icf_utils.receiver.association import Association, EndState, IncomingImage
from icf_utils.receiver.commitment import parse_request
from icf_utils.receiver.commitment_queue import CommitmentQueue, Route
from icf_utils.receiver.events import EventQueue
from icf_utils.receiver.identify import Sender
from icf_utils.receiver.journal import Journal
from icf_utils.receiver.link import Limits
from icf_utils.receiver.listener import Listener, listen_at
from icf_utils.receiver.negotiation import check_protocol
from icf_utils.receiver.processings import check_processings
from icf_utils.receiver.routing import SendQueue
from icf_utils.receiver.run_session import prune_sessions, remove_old_inputs
from icf_utils.receiver.session_queue import SessionQueue
from icf_utils.receiver.sessions import SessionManager
from icf_utils.receiver.settings import Listen, ReceiverSettings, cannot_listen, check_machine, tls_context
from icf_utils.receiver.spool import Spool
from icf_utils.receiver.store_scp import StoreHandler
from icf_utils.waiting import poll

#: Seconds between two updates of the journal.
_UPDATE_INTERVAL = 0.5

#: Seconds between two searches for what need not be kept any longer.
_CLEANING_INTERVAL = 3600.0

#: Seconds that associations have to end when the receiver is closed.
_GRACE = 5.0

#: Seconds in which a peer must complete its association request, the TLS handshake included; or ``timeout`` if shorter.
_REQUEST_LIMIT = 15.0


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
        self.max_pdu = listen.max_pdu
        self._cleaned, self._problem = -inf, RecurringProblem(progress)
        self._is_journal_failing = self._is_journal_lost = False
        self._unrecorded_ends: list[tuple[OpenAssociation, EndState, str]] = []
        check_machine(settings)  # before the spool is touched
        check_processings(settings)
        self._spool = Spool(settings.spool, listen.reserve * 1_000_000, listen.durable)
        try:
            self._journal = Journal(settings.spool)
            self._queue = SessionQueue(settings, self._journal, progress)
            self._events = EventQueue(settings, self._journal, progress)
            self._listener = self._listen(listen)
        except BaseException:
            self._spool.close()
            raise
        self._commitments = CommitmentQueue(settings, self._journal, progress)
        self._sends = SendQueue(settings, self._journal, progress)
        self._sessions = SessionManager(settings, self._journal, self._spool, progress, self._queue.notify)
        self._store_handler = StoreHandler(self._spool, self._sessions, progress, self._write_association)
        self.port = self._listener.port

    def __enter__(self) -> Receiver:
        self._journal.interrupt_associations()
        self._journal.finish_deletions()
        self._report_unknown_sessions()
        recovered = self._sessions.recover()
        if recovered:
            self._progress.message(f"continuing {format_count(recovered, 'session')}")
        self._queue.start()
        self._sends.start()
        self._events.start()
        self._commitments.start()
        self._listener.start()
        threading.Thread(target=self._update_regularly, name="journal", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Abort open associations, queue running sessions again, and bring the rest to the disk."""
        self._closing.set()
        self._listener.stop()
        self._queue.close()
        self._sends.close()
        self._events.close()
        self._commitments.close()
        for _ in poll(0.01, 0.01, timeout=_GRACE):
            if not self._open:
                break
        self._update_safely()
        self._journal.interrupt_associations()
        self._journal.close()
        self._spool.close()

    def _report_unknown_sessions(self) -> None:
        """Name the images of sessions that the journal does not know: they may have been answered with success."""
        for folder in self._journal.pass_over_unknown_sessions():
            files = [*folder.rglob("*.dcm"), *folder.glob("input.*")]  # images, and what was uploaded
            if files:
                self._progress.message(
                    f"'{printable(folder)}' is not in the journal and has {format_count(len(files), 'file')}; if they "
                    "are not in the store, bring them in with 'icf-utils ingest', then remove the folder"
                )

    def _listen(self, listen: Listen) -> Listener:
        limits = Limits(min(_REQUEST_LIMIT, listen.timeout), listen.timeout, listen.min_rate)
        tls = tls_context(listen, self._settings.source)
        try:
            return Listener(listen_at(listen.host, listen.port), limits, tls, self, self._progress.message)
        except (OSError, UnicodeError) as error:
            raise cannot_listen(self._settings, error) from error

    # associations: called in the threads of the connections

    def admit(self, association: Association, request: AssociateRequest) -> OpenAssociation | AssociationRejection:
        """Record an association that is admitted, or why it is rejected."""
        sender = Sender(request.called_ae, request.calling_ae, association.address)
        problem = check_protocol(request)
        decision = AssociationRejection(*problem) if problem else self._decide(association, sender)
        if isinstance(decision, AssociationRejection):
            self._reject(sender, decision.reason)
        return decision

    def _decide(self, association: Association, sender: Sender) -> OpenAssociation | AssociationRejection:
        rules = admit_association(self._settings.rules, sender)
        if isinstance(rules, AssociationRejection):
            return rules
        try:
            if self._is_journal_lost:
                self._journal.check_on_disk()
            number = self._journal.next_association()
        except IcfError as error:
            return congestion(str(error))
        with self._lock:
            if rejection := self._has_no_place(sender.address):
                return rejection
            opened = self._open[association] = OpenAssociation(number, rules, sender)
        if self._is_journal_failing and (problem := self.record(opened)):
            self._open.pop(association, None)
            return congestion(problem)
        return opened

    def record(self, opened: OpenAssociation) -> str:
        """Record an association in the journal; returns what prevents it, or nothing.

        It is accepted before, since its sender would have to wait for this, unless the journal could not be written
        the last time.
        """
        try:
            self._write_start(opened)
        except IcfError as error:
            self._is_journal_failing = True
            return str(error)
        self._is_journal_failing = False
        return ""

    def _write_start(self, opened: OpenAssociation) -> None:
        if not opened.is_recorded:
            sender = opened.sender
            self._journal.start_association(sender.called_ae, sender.calling_ae, sender.address, number=opened.id)
            opened.is_recorded = True

    def _has_no_place(self, address: str) -> AssociationRejection | None:
        """Why one more association of an address cannot be open; the caller has the lock.

        One that has brought no image for a while, such as one that is held open by C-ECHO requests, gives way.
        """
        listen = self._settings.listen
        everybody = {item: opened for item, opened in self._open.items() if not item.abort_reason}
        own = {item: opened for item, opened in everybody.items() if item.address == address}
        for found, most, rejection in (
            (own, listen.associations_per_address, TOO_MANY_OF_ADDRESS),
            (everybody, listen.max_associations, TOO_MANY),
        ):
            if len(found) < most:
                continue
            idle = min(found, key=lambda item: self._open[item].last_image)
            if time.monotonic() - self._open[idle].last_image < listen.timeout:
                return rejection
            idle.abort(f"no image for {listen.timeout} s, and its place was needed")
        return None

    def _reject(self, sender: Sender, reason: str) -> None:
        with suppress(IcfError):  # the journal may be what failed
            self._journal.start_association(sender.called_ae, sender.calling_ae, sender.address, "rejected", reason)
        titles = f"calling AE '{printable(sender.calling_ae)}', called AE '{printable(sender.called_ae)}'"
        self._progress.message(f"rejected an association from {printable(sender.address)} ({titles}): {reason}")

    def fail(self, address: str, reason: str) -> None:
        """Report a connection that did not become an association."""
        if self._closing.is_set():
            return
        with suppress(IcfError):
            self._journal.start_association("", "", address, "rejected", reason)
        self._progress.message(f"no association with {printable(address)}: {printable(reason)}")

    def end(self, opened: OpenAssociation, state: EndState, reason: str) -> None:
        """Record the end of an association, before its sessions can be complete."""
        with self._lock:
            for association in [item for item, value in self._open.items() if value is opened]:
                del self._open[association]
        self._commitments.end_association(opened.id)
        ended = (opened, state, reason)
        try:
            self._record_end(*ended)
        except IcfError as error:  # usually a full disk; until it is recorded, its sessions are not complete
            with self._lock:
                self._unrecorded_ends.append(ended)
            self._progress.message(str(error))
        if state != "released":
            why = f" ({printable(reason)})" if reason else ""
            self._progress.message(f"an association of {printable(opened.sender.calling_ae) or '-'} was {state}{why}")

    def _record_end(self, opened: OpenAssociation, state: EndState, reason: str) -> None:
        self._write_start(opened)
        self._journal.end_association(opened.id, state, reason, **_recorded(opened))
        self._sessions.end_association(opened.id)

    def begin_image(self, opened: OpenAssociation, request: Command, transfer_syntax: str) -> IncomingImage:
        """Return what receives the image of a C-STORE request."""
        return self._store_handler.begin(opened, request, transfer_syntax)

    def request_commitment(
        self, opened: OpenAssociation, request: Command, data: bytes, context: AcceptedContext
    ) -> int:
        """Take a request for storage commitment.

        Its sender is done with the images that it has sent: they wait no longer for the end of the association.
        """
        found = parse_request(request, data, context.transfer_syntax)
        if isinstance(found, int):
            return found
        with self._lock:
            connection = next((item for item, value in self._open.items() if value is opened), None)
        if connection is None:
            return PROCESSING_FAILURE
        connection.expect_outgoing()
        try:
            route = Route(opened.id, connection, context.id, context.transfer_syntax)
            self._commitments.add(found, opened.sender, route)
        except IcfError as error:
            self._progress.message(str(error))
            return PROCESSING_FAILURE
        self._sessions.end_association(opened.id)
        return SUCCESS

    def take_response(self, opened: OpenAssociation, response: Command) -> None:
        """Take a response to a report on storage commitment."""
        self._commitments.take_response(opened.id, response)

    # journal

    def _update_regularly(self) -> None:
        while not self._closing.wait(_UPDATE_INTERVAL):
            self._update_safely()

    def _update_safely(self) -> None:
        try:
            self._update()
        except IcfError as error:  # such as a full disk; the next update may succeed
            self._problem.report(error)  # and not a line every second
        else:
            self._problem.end()

    def _update(self) -> None:
        if self._spool.update_journal_space():
            self._journal.compact()
        if time.monotonic() - self._cleaned > _CLEANING_INTERVAL:
            self._cleaned = time.monotonic()
            oldest = time.time() - self._settings.listen.keep_associations * 86_400
            self._journal.prune_associations(oldest)
            self._journal.events.prune(oldest)
            for session_id in remove_old_inputs(self._settings, self._journal, time.time()):
                self._progress.message(f"{session_id}: its input was removed, as 'keep_input' of its rule says")
            if pruned := prune_sessions(self._settings, self._journal, time.time()):
                self._progress.message(f"removed {format_count(pruned, 'session')} from the journal ('keep_sessions')")
        while self._unrecorded_ends:
            self._record_end(*self._unrecorded_ends[0])
            with self._lock:
                del self._unrecorded_ends[0]
        for opened in list(self._open.values()):
            if opened.has_changed:
                opened.has_changed = False
                try:
                    self._write_association(opened)
                except IcfError:
                    opened.has_changed = True
                    raise
        self._sessions.update()
        self._is_journal_lost = True
        self._journal.check_on_disk()
        self._is_journal_lost = False

    def _write_association(self, opened: OpenAssociation) -> None:
        self._journal.update_association(opened.id, **_recorded(opened))


def _recorded(opened: OpenAssociation) -> dict[str, Any]:
    """What the journal records of an association."""
    return {
        **{name: opened.counts[name] for name in ("images", "duplicates", "quarantined", "refused", "size")},
        "transfer_syntaxes": sorted(opened.transfer_syntaxes),
        "sessions": sorted(opened.sessions),
    }
