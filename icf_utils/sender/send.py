"""Sending by DICOM C-STORE, and asking by C-ECHO whether somebody is there. Uses the network, through pynetdicom.

Data sets go out byte by byte as they are in the files: pynetdicom reads them from a file of ours that holds a header
and the encoded data set, never as elements. That file has no name on any disk.


An image as a file that pynetdicom can send. Makes unnamed files in memory, or below TMPDIR where they are large.

They are reached through ``/proc/self/fd``, so nothing is left behind whatever happens.
"""

from __future__ import annotations

import os
import socket
import ssl
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

from icf_utils.dicom.constants import IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION_SOP_CLASS
from icf_utils.dicom.part10 import write_file_meta
from icf_utils.errors import IcfError, InputRefused, RemoteFailure, storage_errors
from icf_utils.fetch.tls import client_context
from icf_utils.installation import missing_package
from icf_utils.progress import SILENT, Progress, Task
from icf_utils.sender.images import Image, Listing
from icf_utils.sender.model import ImageOutcome, SendResult, batches, context_of, may_change, outcome_of
from icf_utils.sender.peer import LARGEST_PDU, Peer
from icf_utils.sources.source import FileReader, Source

#: How often an image is sent again, and an association asked for again, after the first try failed.
RETRIES = 2
#: Seconds between the tries.
PAUSE = 5.0

_TRANSIENT = 0x02  # PS3.8 section 9.3.4: rejected-transient


class _NoAssociation(RemoteFailure):
    """The peer did not agree to an association; ``may_change`` if it may do so later."""

    def __init__(self, peer: Peer, problem: str, remedy: str, may_change: bool = False) -> None:
        self.may_change = may_change
        super().__init__(peer.name, problem, remedy)


class _NothingAccepted(RemoteFailure):
    """The peer agreed to an association, and to none of the presentation contexts."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(peer.name, "it takes nothing of what was offered", "check what this receiver is for")


def echo(peer: Peer) -> float:
    """Ask a node whether it is there (C-ECHO, PS3.4 annex A); returns the seconds that its answer took.

    Raises :class:`~icf_utils.errors.RemoteFailure`, which says why there was no good answer.
    """
    with _association(peer, [(VERIFICATION_SOP_CLASS, IMPLICIT_VR_LITTLE_ENDIAN)]) as association:
        started = time.monotonic()
        status = _status(association.send_c_echo())
        if status != 0:
            found = "no answer" if status is None else f"status 0x{status:04X}"
            raise RemoteFailure(peer.name, f"C-ECHO: expected success, found {found}", "look into its log")
        return time.monotonic() - started


def send(
    source: Source,
    listing: Listing,
    peer: Peer,
    *,
    retries: int = RETRIES,
    pause: float = PAUSE,
    progress: Progress = SILENT,
) -> SendResult:
    """Send images of an open input through one association, each as it is; failed ones are sent again.

    A further association is made where more than 128 presentation contexts are needed, and after one has ended early.
    What failed is part of the result. Raises :class:`~icf_utils.errors.RemoteFailure` where there was no association
    at all, and :class:`~icf_utils.errors.MissingRequirement` without pynetdicom.
    """
    started = time.monotonic()
    run = _Run(source, peer, retries, pause)
    with progress.task("sending", sum(image.entry.size for image in listing.images), "B") as task:
        for batch in batches(listing.images):
            run.send(batch, task)
    damaged = [ImageOutcome(name, "failed", None, reason, 0) for name, reason in listing.damaged]
    outcomes = (*(run.outcomes[image.entry.name] for image in listing.images), *damaged)
    seconds = time.monotonic() - started
    return SendResult(peer.name, outcomes, listing.skipped, run.size, seconds, run.associations)


class _Run:
    """Everything that was sent so far: the last outcome of each image by name."""

    def __init__(self, source: Source, peer: Peer, retries: int, pause: float) -> None:
        self._source, self._peer, self._retries, self._pause = source, peer, retries, pause
        self._hopeless: set[str] = set()
        self.outcomes: dict[str, ImageOutcome] = {}
        self.size = self.associations = self._answers = 0

    def send(self, images: Sequence[Image], task: Task) -> None:
        """Send images whose contexts fit into one association, until all arrived or were tried often enough.

        A receiver that says nothing at all is asked no more often, however many images there are.
        """
        pending, idle = list(images), 0
        while pending:
            answers = self._answers
            try:
                self._once(pending, task)
            except _NothingAccepted:
                self._note_refused(pending)
            except _NoAssociation as problem:
                if not self.associations and not (problem.may_change and idle < self._retries):
                    raise
                self._note_unsent(pending, problem)
            idle = idle + 1 if self._answers == answers else 0
            pending = [image for image in pending if self._is_worth_another(image)]
            if idle > self._retries:
                break
            if pending:
                time.sleep(self._pause)

    def _is_worth_another(self, image: Image) -> bool:
        outcome = self.outcomes[image.entry.name]
        if outcome.state != "failed" or image.entry.name in self._hopeless:
            return False
        return outcome.tries <= self._retries and (outcome.status is None or may_change(outcome.status))

    def _once(self, pending: Sequence[Image], task: Task) -> None:
        """One association: each image once, as long as it holds."""
        contexts = list(dict.fromkeys(map(context_of, pending)))
        with _association(self._peer, contexts) as association:
            self.associations += 1
            accepted = {
                (str(item.abstract_syntax), str(item.transfer_syntax[0])) for item in association.accepted_contexts
            }
            for number, image in enumerate(pending, 1):
                outcome = self._send_one(association, image, context_of(image) in accepted, number)
                self.outcomes[image.entry.name] = outcome
                if outcome.state != "failed":
                    self.size += image.entry.size
                    task.advance(image.entry.size)

    def _send_one(self, association: Any, image: Image, is_accepted: bool, number: int) -> ImageOutcome:
        name, before = image.entry.name, self.outcomes.get(image.entry.name)
        tries = before.tries if before else 0
        if not is_accepted:
            return self._give_up(name, _NOT_ACCEPTED, tries)
        if not association.is_established:
            return ImageOutcome(name, "failed", None, _ENDED, tries)
        try:
            with spooled(self._source, image) as path:
                status = _store(association, path, number)
        except InputRefused as error:
            return self._give_up(name, f"cannot be read: {error.refusals[0][1]}", tries)
        except IcfError as error:
            return self._give_up(name, str(error), tries)
        if status is None:
            return ImageOutcome(name, "failed", None, _NO_ANSWER, tries + 1)
        self._answers += 1
        return outcome_of(name, status, tries + 1)

    def _give_up(self, name: str, reason: str, tries: int) -> ImageOutcome:
        self._hopeless.add(name)
        return ImageOutcome(name, "failed", None, reason, tries)

    def _note_refused(self, images: Sequence[Image]) -> None:
        self.associations += 1
        for image in images:
            tries = self.outcomes[image.entry.name].tries if image.entry.name in self.outcomes else 0
            self.outcomes[image.entry.name] = self._give_up(image.entry.name, _NOT_ACCEPTED, tries)

    def _note_unsent(self, images: Sequence[Image], problem: _NoAssociation) -> None:
        for image in images:
            before = self.outcomes.get(image.entry.name)
            if before is None or before.status is None:
                tries = before.tries if before else 0
                self.outcomes[image.entry.name] = ImageOutcome(image.entry.name, "failed", None, problem.problem, tries)


_NOT_ACCEPTED = "the receiver does not take this SOP class in the file's transfer syntax"
_ENDED = "the association ended before it was sent"
_NO_ANSWER = "the receiver gave no answer, or ended the association"


def _store(association: Any, path: str, number: int) -> int | None:
    """Send a file; the status of the answer, if there was one."""
    # while its thread still rests for the image before, it would take the next answer for a request
    while association.is_established and association._is_paused:
        time.sleep(0.0001)
    try:
        return _status(association.send_c_store(path, msg_id=number % 65535 or 1))
    except RuntimeError:  # pynetdicom's word for an association that has just ended
        return None


def _status(response: Any) -> int | None:
    """The status of a response; ``None`` where pynetdicom has none to report."""
    status = getattr(response, "Status", None)
    return None if status is None else int(status)


@contextmanager
def _association(peer: Peer, contexts: Sequence[tuple[str, str]]) -> Iterator[Any]:
    """An established association, released in the end, aborted when the block fails."""
    tls, wire = client_context(peer.tls) if peer.tls else None, _Wire()
    try:
        association = _associate(peer, contexts, tls, wire)
    except OSError as error:  # the name of the host leads nowhere
        raise _NoAssociation(peer, f"cannot find the host ({error.strerror})", "check the host's name") from error
    try:
        if not association.is_established:
            if association.rejected_contexts and not association.accepted_contexts:
                raise _NothingAccepted(peer)
            raise _refusal(peer, association, tls)
        yield association
        if association.is_established:
            association.release()
    except BaseException:
        with suppress(Exception):
            association.abort()
        raise
    finally:
        wire.close()


def _associate(peer: Peer, contexts: Sequence[tuple[str, str]], tls: ssl.SSLContext | None, wire: _Wire) -> Any:
    """The association, whether it came about or not; one context for each pair, as each needs an answer."""
    try:
        from pynetdicom import AE, _config, build_context, evt
    except ImportError as error:
        raise missing_package("pynetdicom", "intake") from error
    # documented there as the way to send a file without decoding it
    _config.STORE_SEND_CHUNKED_DATASET = True
    entity = AE(ae_title=peer.calling_title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = peer.timeout
    with warnings.catch_warnings():  # it leaves the closing of a socket that was never connected to Python
        warnings.simplefilter("ignore", ResourceWarning)
        return entity.associate(
            peer.host,
            peer.port,
            [build_context(sop_class, [syntax]) for sop_class, syntax in contexts],
            ae_title=peer.called_title,
            max_pdu=LARGEST_PDU,
            tls_args=(tls, peer.host) if tls else None,
            evt_handlers=[(evt.EVT_CONN_OPEN, wire.opened), (evt.EVT_DATA_SENT, wire.hurry)],
        )


class _Wire:
    """What pynetdicom leaves to others about its sockets: speed, and closing those that the peer has broken off."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def opened(self, event: Any) -> None:
        """Keep a socket that was just connected."""
        with suppress(AttributeError):
            self._sockets.append(event.assoc.dul.socket.socket)
        self.hurry(event)

    def hurry(self, _event: Any) -> None:
        """Let no small piece wait for an answer to the one before, on neither side, which costs 40 ms an image.

        Nagle's algorithm is switched off on ours; the peer, where it is on, gets its acknowledgements without delay,
        which the system forgets again (tcp(7), TCP_QUICKACK).
        """
        for own in self._sockets:
            with suppress(OSError):
                own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                own.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def close(self) -> None:
        """Close what is still open."""
        for own in self._sockets:
            with suppress(OSError):
                own.close()


def _refusal(peer: Peer, association: Any, tls: ssl.SSLContext | None) -> _NoAssociation:
    """Why there is no association, as far as it can be known."""
    if association.is_rejected:
        answer = association.acceptor.primitive
        reason = f"it rejected the association: {answer.reason_str.lower()}"
        remedy = "check the AE titles (--aec, --aet), and whether it knows this sender"
        return _NoAssociation(peer, reason, remedy, may_change=answer.result == _TRANSIENT)
    try:
        with socket.create_connection((peer.host, peer.port), timeout=peer.timeout) as plain:
            if tls:
                tls.wrap_socket(plain, server_hostname=peer.host).close()
    except ssl.SSLCertVerificationError as error:
        return _NoAssociation(
            peer, f"its certificate is refused ({error.verify_message})", "check --ca and the host's name"
        )
    except ssl.SSLError as error:
        return _NoAssociation(peer, f"no TLS connection ({error.reason})", "check that it expects TLS, and --cert")
    except TimeoutError:
        return _NoAssociation(peer, f"no connection within {peer.timeout:g} s", "check host, port and firewalls", True)
    except OSError as error:
        return _NoAssociation(peer, f"no connection ({error.strerror})", "check host and port, and whether it runs")
    problem = "it broke off the association, or did not answer, before it had agreed"
    return _NoAssociation(peer, problem, "check whether it expects TLS, and look into its log", may_change=True)


#: Up to this size in bytes an image is held in memory.
_IN_MEMORY = 64 << 20
_CHUNK = 1 << 20


@contextmanager
def spooled(source: Source, image: Image) -> Iterator[str]:
    """The path of a file that holds the image's data set, byte by byte, behind a header of ours.

    Raises :class:`~icf_utils.errors.InputRefused` or :class:`~icf_utils.errors.StorageFailure`.
    """
    with _unnamed(image.entry.size) as file:
        with source.open(image.entry) as reader, storage_errors(tempfile.gettempdir(), "write a temporary file below"):
            file.write(write_file_meta(image.sop_class, image.sop_instance, image.transfer_syntax))
            length = _copy(reader, image.dataset_at, file)
            file.write(bytes(length % 2))  # of deflated ones only: a zero behind the stream (PS3.5 section A.5)
            file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


def _unnamed(size: int) -> BinaryIO:
    if size <= _IN_MEMORY and hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("icf-utils"), "w+b")
    return tempfile.TemporaryFile()


def _copy(reader: FileReader, skip: int, target: BinaryIO) -> int:
    """Copy all but the first ``skip`` bytes; returns how many these were."""
    length = 0
    while block := reader.read(_CHUNK):
        length += target.write(block[skip:])
        skip = max(0, skip - len(block))
    return length
