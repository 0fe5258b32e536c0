"""Reports on storage commitment: when the images of a request are in the store, its sender gets a report.

The report goes over the association of the request while that is open, and else over a new one to the address that a
``[[commitment]]`` table names for the sender (PS3.4 section J.3.3). Requests are in the journal, so that a receiver
that is started again reports on them. Uses the network, in one thread.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from icf_utils.dicom.constants import (
    IMPLICIT_VR_LITTLE_ENDIAN,
    STORAGE_COMMITMENT_PUSH_MODEL,
    STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE,
)
from icf_utils.dicom.dimse import PROCESSING_FAILURE, SUCCESS, Command, encode_event_report
from icf_utils.errors import IcfError, printable
from icf_utils.fetch.tls import TlsFiles
from icf_utils.formatting import format_count
from icf_utils.progress import Progress
from icf_utils.receiver.commitment import (
    CommitmentRequest,
    CommitmentResult,
    Reference,
    encode_report,
    find_result,
    make_report,
)
from icf_utils.receiver.identify import Sender
from icf_utils.receiver.journal import Journal, OpenCommitment
from icf_utils.receiver.settings import CommitmentPeer, ReceiverSettings, fits

#: Seconds between two looks at requests that wait for their images, before the second attempt, and at most.
_LOOK, _FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0, 3600.0

_ATTEMPTS = 12


class Connection(Protocol):
    """The association of a request (:class:`~icf_utils.receiver.association.Association`)."""

    def post(self, context: int, command: bytes, data: bytes | None) -> None:
        """Send a message of this side's own."""


class Route(NamedTuple):
    """How a report goes over the association of its request."""

    association: int
    connection: Connection
    context: int
    transfer_syntax: str


@dataclass(frozen=True)
class _Sent:
    """A report that was sent over the association of its request, and has not been answered."""

    request: OpenCommitment
    result: CommitmentResult


class CommitmentQueue:
    """Answers the open requests of the journal until it is closed. The caller holds the spool."""

    def __init__(self, settings: ReceiverSettings, journal: Journal, progress: Progress) -> None:
        self._settings, self._journal, self._progress = settings, journal, progress
        self._routes: dict[int, Route] = {}
        self._sent: dict[tuple[int, int], _Sent] = {}
        self._lock, self._wake_up, self._closing = threading.Lock(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="commitment", daemon=True)

    def start(self) -> None:
        """Start the thread; it also continues with the requests that another receiver has left."""
        if self._journal.open_commitments():
            self._wake_up.set()
        self._thread.start()

    def close(self) -> None:
        """Start no more attempts, and wait a moment for one that is running."""
        self._closing.set()
        self._wake_up.set()
        self._thread.join(5.0)

    # called in the threads of the connections

    def add(self, request: CommitmentRequest, sender: Sender, route: Route) -> None:
        """Take a request. Raises :class:`~icf_utils.errors.StorageFailure`."""
        references = json.dumps([list(reference) for reference in request.references])
        with self._lock:
            number = self._journal.add_commitment(
                request.transaction_uid, references, sender.called_ae, sender.calling_ae, sender.address
            )
            self._routes[number] = route
        self._wake_up.set()

    def take_response(self, association: int, response: Command) -> None:
        """Take the response to a report."""
        with self._lock:
            sent = self._sent.pop((association, response.message_id), None)
        if sent is None:
            return
        if response.status == SUCCESS:
            self._finish(sent.request, sent.result)
        else:
            self._postpone(sent.request, f"the report was answered with 0x{response.status:04X}")

    def end_association(self, association: int) -> None:
        """Take note that an association has ended: reports over it that were not answered go another way."""
        with self._lock:
            lost = [sent for key, sent in self._sent.items() if key[0] == association]
            self._sent = {key: sent for key, sent in self._sent.items() if key[0] != association}
            self._routes = {key: route for key, route in self._routes.items() if route.association != association}
        if lost:
            self._wake_up.set()

    # the queue's thread

    def _work(self) -> None:
        while not self._closing.is_set():
            try:
                waiting = self._serve_all()
            except IcfError as error:  # usually a disk; the next look tries again
                self._progress.message(f"storage commitment: {error}")
                waiting = True
            self._wake_up.wait(_LOOK if waiting else None)
            self._wake_up.clear()

    def _serve_all(self) -> bool:
        """Serve the requests that are due; returns whether some remain open."""
        found = self._journal.open_commitments()
        for request in found:
            with self._lock:
                is_sent = any(sent.request.id == request.id for sent in self._sent.values())
            if request.due <= time.time() and not is_sent and not self._closing.is_set():
                self._serve_safely(request)
        return bool(found)

    def _serve_safely(self, request: OpenCommitment) -> None:
        try:
            self._serve(request)
        except IcfError:  # usually a disk; the next look tries again
            raise
        except Exception as error:  # noqa: BLE001 - a bug must not end the reports on other requests
            self._postpone(request, f"internal error ({type(error).__name__})")

    def _serve(self, request: OpenCommitment) -> None:
        references = tuple(Reference(*item) for item in json.loads(request.references))
        wanted = CommitmentRequest(request.transaction_uid, references)
        result = find_result(self._journal, self._settings.store, wanted)
        if result is None:
            return
        kind, report = make_report(wanted, result)
        with self._lock:
            route = self._routes.get(request.id)
            if route is not None:
                number = request.id % 65535 or 1
                self._sent[route.association, number] = _Sent(request, result)
        if route is not None:
            command = encode_event_report(
                STORAGE_COMMITMENT_PUSH_MODEL, STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE, number, kind
            )
            route.connection.post(route.context, command, encode_report(report, route.transfer_syntax))
            return
        problem = self._report(request, kind, report)
        if problem:
            self._postpone(request, problem)
        else:
            self._finish(request, result)

    def _report(self, request: OpenCommitment, kind: int, report: object) -> str:
        """Send a report over a new association; returns why that failed."""
        from icf_utils.sender.association import open_association
        from icf_utils.sender.peer import Peer

        target = find_peer(self._settings, request.calling_ae)
        if target is None:
            return f"no [[commitment]] names the address of '{printable(request.calling_ae)}'"
        files = (target.ca, target.certificate, target.key)
        tls = TlsFiles(*(Path(name) if name else None for name in files)) if target.tls else None
        try:
            host = target.host or request.address
            peer = Peer(host, target.port, request.calling_ae, request.called_ae, tls)
            contexts = [(STORAGE_COMMITMENT_PUSH_MODEL, IMPLICIT_VR_LITTLE_ENDIAN)]
            with open_association(peer, contexts, is_scp=True) as association:
                status, _ = association.send_n_event_report(
                    report, kind, STORAGE_COMMITMENT_PUSH_MODEL, STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE
                )
                code = int(getattr(status, "Status", PROCESSING_FAILURE))
        except IcfError as error:
            return str(error)
        except (RuntimeError, ValueError) as error:  # the association has ended, or has no context
            return str(error)
        return "" if code == SUCCESS else f"the report was answered with 0x{code:04X}"

    def _finish(self, request: OpenCommitment, result: CommitmentResult) -> None:
        committed, failed = len(result.committed), len(result.failed)
        self._journal.end_commitment(request.id, "reported", committed, failed)
        with self._lock:
            self._routes.pop(request.id, None)
        name = printable(request.calling_ae)
        self._progress.message(
            f"storage commitment reported to {name}: {format_count(committed, 'image')} committed, {failed} not"
        )

    def _postpone(self, request: OpenCommitment, problem: str) -> None:
        attempts = request.attempts + 1
        with self._lock:
            self._routes.pop(request.id, None)
        if attempts >= _ATTEMPTS:
            self._journal.end_commitment(request.id, "failed", message=problem)
        else:
            pause = min(_FIRST_PAUSE * 2 ** (attempts - 1), _LONGEST_PAUSE)
            self._journal.postpone_commitment(request.id, attempts, time.time() + pause, problem)
        what = "not reported" if attempts >= _ATTEMPTS else "not reported yet"
        self._progress.message(f"storage commitment {what} to {printable(request.calling_ae)}: {problem}")


def find_peer(settings: ReceiverSettings, calling_ae: str) -> CommitmentPeer | None:
    """Where reports for a sender go. Pure."""
    return next((peer for peer in settings.commitment if fits(peer.calling_ae, calling_ae)), None)
