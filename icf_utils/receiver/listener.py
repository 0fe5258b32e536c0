"""Accepts connections and serves each in a thread, up to a limit. Listens on the network.

Several threads wait for connections, and each serves the one that it has accepted: nothing has to be started or handed
over before a peer is answered. While all are busy, there is always one more.

A connection counts as *pending* until its association is admitted. An address may have a few pending ones, and there is
a limit for all. Where a limit is reached, the oldest pending connection gives way to a new one if it has been pending
for :data:`FRESH` seconds: an honest peer requests its association at once, so that only those are cut which hold a
place without using it. However fast connections come, there are never more than :data:`PENDING_AT_MOST`.
"""

from __future__ import annotations

import errno
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from icf_utils.receiver.association import Association, AssociationUser
from icf_utils.receiver.link import ConnectionLost, Limits, Link, TooSlow

#: Connections that wait in the system until they are accepted.
_BACKLOG = 128

#: Pending connections from which on the oldest gives way: of one address, and of all. Seconds for which it is spared.
PENDING_PER_ADDRESS, PENDING, FRESH = 16, 64, 2.0

#: The most pending connections, however fresh they are.
PENDING_AT_MOST = 256

#: Threads that wait for a connection, at most.
_WAITING = 8

#: Seconds before another connection is accepted when the process has too many files open.
_PAUSE = 0.2


def listen_at(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ``OSError``, and ``UnicodeError`` for a malformed host name."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


class Listener:
    """Accepts connections from :meth:`start` to :meth:`stop`."""

    def __init__(
        self,
        listening: socket.socket,
        limits: Limits,
        tls: ssl.SSLContext | None,
        user: AssociationUser,
        report: Callable[[str], None],
    ) -> None:
        """``report`` gets a line about what prevents connections from being accepted."""
        self._listening, self._limits, self._tls, self._user, self._report = listening, limits, tls, user, report
        self._connections: dict[Association, Link] = {}  # in the order in which they came
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._waiting = 0
        self.counts: Counter[str] = Counter()
        self.port: int = listening.getsockname()[1]

    def start(self) -> None:
        """Accept connections, in threads."""
        for _ in range(_WAITING):
            self._add_thread()

    def stop(self) -> None:
        """Accept no more, and abort every association."""
        self._stopped.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # which ends a waiting accept()
        self._listening.close()
        for association in self.associations():
            association.abort("the receiver was stopped")

    def associations(self) -> list[Association]:
        """The associations of all connections, those that are not admitted yet included."""
        with self._lock:
            return list(self._connections)

    def _add_thread(self) -> bool:
        """Let one more thread wait for connections; false if the system has no more threads."""
        with self._lock:
            self._waiting += 1
        try:
            threading.Thread(target=self._accept_all, daemon=True).start()
        except RuntimeError:
            with self._lock:
                self._waiting -= 1
            return False
        return True

    def _accept_all(self) -> None:
        """Serve one connection after the other, until enough other threads wait for them."""
        while not self._stopped.is_set():
            try:
                connection, address = self._listening.accept()
            except OSError as error:
                if self._stopped.is_set():
                    return
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                    self._report(f"cannot accept a connection: {error.strerror}")
                    self._stopped.wait(_PAUSE)
                continue
            with self._lock:
                self._waiting -= 1
                is_last = not self._waiting
                self.counts["connections"] += 1
            if is_last and not self._add_thread():
                self._report("cannot serve a connection: too many threads")
                connection.close()
            else:
                self._serve(connection, str(address[0]))
            with self._lock:
                if self._waiting >= _WAITING:
                    return
                self._waiting += 1

    def _serve(self, connection: socket.socket, address: str) -> None:
        with suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = Link(connection, self._limits)
        association = Association(link, address, self._user)
        self._make_room(address)
        with self._lock:
            self._connections[association] = link
        self._serve_association(association, link)

    def _make_room(self, address: str) -> None:
        """Abort the oldest pending connection where a limit is reached."""
        with self._lock:
            pending = [item for item in self._connections if item.is_pending]
        own = [item for item in pending if item.address == address]
        for found, most in ((own, PENDING_PER_ADDRESS), (pending, PENDING)):
            if len(found) >= most and (found[0].age > FRESH or len(pending) >= PENDING_AT_MOST):
                self.counts["evicted"] += 1
                found[0].abort("too many connections without an association")
                return

    def _serve_association(self, association: Association, link: Link) -> None:
        try:
            link.expect_request()
            if self._tls is not None:
                link.start_tls(self._tls)
            association.serve()
        except (ConnectionLost, TooSlow) as error:  # of the TLS handshake
            self._user.fail(association.address, association.abort_reason or str(error))
        except Exception as error:  # noqa: BLE001 - a bug costs one association, and its text could contain anything
            self._report(f"an association ended by an internal error ({type(error).__name__})")
        finally:
            self._remove(association, link)

    def _remove(self, association: Association, link: Link) -> None:
        with self._lock:
            self._connections.pop(association, None)
        link.close()
