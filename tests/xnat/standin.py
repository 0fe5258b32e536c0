"""A stand-in for XNAT over HTTP(S) that holds its clients to the contract; :func:`standin` runs one.

It knows the routes that are used here and no others. What XNAT would punish late or silently is in ``violations``,
which a test finds empty (:meth:`StandIn.check`): a route or parameter that does not exist, a browser's name, a body
without a length, and ``PUT /data/prearchive``, which deletes every row of the prearchive.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path

from tests.xnat.standin_http import Handler
from tests.xnat.standin_requests import ALIAS, PASSWORD, SECRET, USER, Fault, StandIn

__all__ = ["ALIAS", "PASSWORD", "SECRET", "USER", "Fault", "StandIn", "standin"]


@contextmanager
def standin(inbox: Path | None = None, certificate: Path | None = None) -> Iterator[StandIn]:
    """Run one on a free loopback port; with ``certificate`` (PEM with its key) over TLS."""
    state = StandIn(inbox)

    class Serving(Handler):
        xnat = state

    server = _Server(("127.0.0.1", 0), Serving)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    state.url = (
        f"{'https' if certificate else 'http'}://{'localhost' if certificate else '127.0.0.1'}:{server.server_port}"
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are no news."""
