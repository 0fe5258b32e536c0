"""The server of the pages: waitress, in a thread of its own or in front. Listens on the network."""

from __future__ import annotations

import threading
from typing import Any

from icf_utils.errors import MissingRequirement, StorageFailure
from icf_utils.intake.journal import Journal
from icf_utils.intake.web.settings import WebSettings
from icf_utils.progress import SILENT, Progress

#: Requests that are worked on at a time; a download takes one.
_THREADS = 8


class WebServer:
    """The pages of a journal, from :meth:`start` to :meth:`stop`; ``url`` is where they are.

    Raises :class:`~icf_utils.errors.MissingRequirement` without flask and waitress, and
    :class:`~icf_utils.errors.StorageFailure` for an address that cannot be had.
    """

    def __init__(
        self, journal: Journal, settings: WebSettings, host: str, port: int, progress: Progress = SILENT
    ) -> None:
        try:
            from waitress import create_server

            from icf_utils.intake.web.app import create_app
        except ImportError as error:
            remedy = "install it with: pip install 'icf-utils[intake]'"
            raise MissingRequirement(error.name or "flask or waitress", remedy) from error
        app = create_app(journal, settings, progress.message)
        try:
            self._server: Any = create_server(
                app,
                host=host,
                port=port,
                threads=_THREADS,
                ident="icf-utils",
                max_request_body_size=settings.upload_limit + (1 << 20),
                clear_untrusted_proxy_headers=True,
            )
        except OSError as error:
            raise StorageFailure(f"{host}:{port}", "listen at", error) from error
        shown_host = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown_host}:{self._server.effective_port}"
        self._thread: threading.Thread | None = None

    def run(self) -> None:
        """Serve until the process is asked to end."""
        try:
            self._server.run()
        finally:
            self._server.close()

    def start(self) -> None:
        """Serve in a thread."""
        self._thread = threading.Thread(target=self._serve, name="pages", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            self._server.run()
        except OSError:  # its socket was closed by stop()
            return

    def stop(self) -> None:
        """End the thread; downloads under way are cut, and can be resumed."""
        self._server.close()
        for channel in list(self._server.active_channels.values()):
            channel.handle_close()
        self._server.task_dispatcher.shutdown(timeout=1)
        if self._thread:
            self._thread.join(timeout=5)
