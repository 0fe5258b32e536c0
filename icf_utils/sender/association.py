"""C-ECHO, associations for reports, and why there is no association. Uses the network through pynetdicom.

An association is opened for the presentation contexts that its images need, one transfer syntax in each, so that every
combination is accepted or refused by itself. Where none can be opened, the error says why.
"""

from __future__ import annotations

import socket
import ssl
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from icf_utils.dicom.constants import IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION_SOP_CLASS
from icf_utils.errors import RemoteFailure
from icf_utils.fetch.tls import client_context
from icf_utils.installation import missing_package
from icf_utils.sender.peer import MAX_PDU, Peer

_TRANSIENT = 0x02  # rejected-transient (PS3.8 section 9.3.4)


class NoAssociation(RemoteFailure):
    """No association could be opened; ``may_change`` says whether one may be possible later."""

    def __init__(self, peer: Peer, problem: str, remedy: str, may_change: bool = False) -> None:
        self.may_change = may_change
        super().__init__(peer.name, problem, remedy)


class NoContextAccepted(RemoteFailure):
    """The peer accepted none of the proposed presentation contexts."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(
            peer.name,
            "it accepted none of the proposed presentation contexts",
            "check which SOP classes and transfer syntaxes this receiver accepts",
        )


def echo(peer: Peer) -> float:
    """Verify that a node responds (C-ECHO, PS3.4 annex A); returns the seconds until the response.

    Raises :class:`~icf_utils.errors.RemoteFailure`, which says why it does not.
    """
    with open_association(peer, [(VERIFICATION_SOP_CLASS, IMPLICIT_VR_LITTLE_ENDIAN)]) as association:
        started = time.monotonic()
        status = response_status(association.send_c_echo())
        if status != 0:
            found = "no response" if status is None else f"status 0x{status:04X}"
            raise RemoteFailure(peer.name, f"C-ECHO: expected success, found {found}", "check its log")
        return time.monotonic() - started


def response_status(response: Any) -> int | None:
    """The status of a response; ``None`` if pynetdicom reports none."""
    status = getattr(response, "Status", None)
    return None if status is None else int(status)


@contextmanager
def open_association(peer: Peer, contexts: Sequence[tuple[str, str]], is_scp: bool = False) -> Iterator[Any]:
    """An established association; released at the end of the block, aborted if the block fails.

    ``contexts`` are pairs of SOP class and transfer syntax; with ``is_scp``, this side is their SCP. Raises
    :class:`NoAssociation`, :class:`NoContextAccepted` and :class:`~icf_utils.errors.MissingRequirement`.
    """
    tls, sockets = client_context(peer.tls) if peer.tls else None, _Sockets()
    try:
        association = _associate(peer, contexts, tls, sockets, is_scp)
    except OSError as error:  # the host name cannot be resolved
        raise NoAssociation(peer, f"cannot find the host ({error.strerror})", "check the host name") from error
    try:
        if not association.is_established:
            if association.rejected_contexts and not association.accepted_contexts:
                raise NoContextAccepted(peer)
            raise _failure(peer, association, tls)
        yield association
        if association.is_established:
            association.release()
    except BaseException:
        with suppress(Exception):
            association.abort()
        raise
    finally:
        sockets.close()


def _associate(
    peer: Peer, contexts: Sequence[tuple[str, str]], tls: ssl.SSLContext | None, sockets: _Sockets, is_scp: bool
) -> Any:
    """An association that may have failed, with a presentation context for each pair."""
    try:
        from pynetdicom import AE, build_context, build_role, evt
    except ImportError as error:
        raise missing_package("pynetdicom", "intake") from error
    entity = AE(ae_title=peer.calling_title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = peer.timeout
    with warnings.catch_warnings():  # it leaves a socket that was never connected to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        return entity.associate(
            peer.host,
            peer.port,
            [build_context(sop_class, [syntax]) for sop_class, syntax in contexts],
            ae_title=peer.called_title,
            max_pdu=MAX_PDU,
            ext_neg=[build_role(sop_class, scp_role=True) for sop_class, _ in contexts] if is_scp else None,
            tls_args=(tls, peer.host) if tls else None,
            evt_handlers=[(evt.EVT_CONN_OPEN, sockets.add), (evt.EVT_DATA_SENT, sockets.avoid_delays)],
        )


class _Sockets:
    """The sockets of an association: sets options for speed, and closes those that pynetdicom leaves open."""

    def __init__(self) -> None:
        self._opened: list[socket.socket] = []

    def add(self, event: Any) -> None:
        """Take note of a socket that was just connected."""
        with suppress(AttributeError):
            self._opened.append(event.assoc.dul.socket.socket)
        self.avoid_delays(event)

    def avoid_delays(self, _event: Any) -> None:
        """Switch off what would delay small messages by 40 ms for each image.

        This is Nagle's algorithm on this side, and delayed acknowledgements for a peer that uses it. The system resets
        the latter, so it is set again after each message (tcp(7), TCP_QUICKACK).
        """
        for connection in self._opened:
            with suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def close(self) -> None:
        """Close the sockets that are still open."""
        for connection in self._opened:
            with suppress(OSError):
                connection.close()


def _failure(peer: Peer, association: Any, tls: ssl.SSLContext | None) -> NoAssociation:
    """Why no association could be opened; connects once more to find out, unless it was rejected."""
    if association.is_rejected:
        answer = association.acceptor.primitive
        return rejection_problem(peer, answer.result, answer.result_source, answer.diagnostic)
    try:
        with socket.create_connection((peer.host, peer.port), timeout=peer.timeout) as plain:
            if tls:
                tls.wrap_socket(plain, server_hostname=peer.host).close()
    except OSError as error:
        return connection_problem(peer, error)
    return negotiation_problem(peer)


def connection_problem(peer: Peer, problem: OSError) -> NoAssociation:
    """Explain why there is no connection."""
    if isinstance(problem, ssl.SSLCertVerificationError):
        reason = f"its certificate is not valid ({problem.verify_message})"
        return NoAssociation(peer, reason, "check --ca and the host name")
    if isinstance(problem, ssl.SSLError):
        reason = f"no TLS connection ({problem.reason})"
        return NoAssociation(peer, reason, "check that it expects TLS, and check --cert")
    if isinstance(problem, socket.gaierror):
        return NoAssociation(peer, f"cannot find the host ({problem.strerror})", "check the host name")
    if isinstance(problem, TimeoutError):
        reason = f"no connection within {peer.timeout:g} s"
        return NoAssociation(peer, reason, "check the host, the port and firewalls", may_change=True)
    remedy = "check the host and the port, and that the receiver is running"
    return NoAssociation(peer, f"no connection ({problem.strerror or problem})", remedy)


def negotiation_problem(peer: Peer) -> NoAssociation:
    """Explain that a peer accepted the connection, but did not answer the association request."""
    problem = "it closed the connection, or did not respond, during the negotiation"
    return NoAssociation(peer, problem, "check whether it expects TLS, and check its log", may_change=True)


def rejection_problem(peer: Peer, result: int, source: int, reason: int) -> NoAssociation:
    """Explain that a peer rejected the association request, by the codes of PS3.8 table 9-21."""
    words = _REJECTIONS.get((source, reason), "no reason given")
    remedy = "check the AE titles (--aec, --aet), and whether the receiver knows this node"
    return NoAssociation(peer, f"it rejected the association: {words}", remedy, may_change=result == _TRANSIENT)


#: Source and reason of a rejection (PS3.8 table 9-21).
_REJECTIONS = {
    (1, 2): "application context name not supported",
    (1, 3): "calling ae title not recognised",
    (1, 7): "called ae title not recognised",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}
