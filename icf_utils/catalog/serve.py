"""Serve catalogs on this machine's loopback address. Listens on a port; reads the store.

Only pages of catalogs are served: archives and metadata cannot be read. Only requests that name this machine as their
host are answered, so that pages of other sites cannot read through the visitor's browser.
"""

from __future__ import annotations

import io
import posixpath
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from icf_utils.catalog.html_pages import INDEX_LINK
from icf_utils.catalog.index_html import ICON_NAME, LOGO_STEM, SCRIPT_NAME, SITEMAP_NAME, STYLE_NAME
from icf_utils.catalog.index_link import INDEX_PAGE
from icf_utils.catalog.writer import MARKER
from icf_utils.errors import DepositMissing, StorageFailure

#: The address on which the server listens.
HOST = "127.0.0.1"
_NAMES = (HOST, "localhost")


class CatalogServer(ThreadingHTTPServer):
    """Serves the catalog of a study, or those of all studies of a store, until it is shut down.

    ``folder`` is a store, a study's folder, or a catalog itself, wherever it is. ``port`` 0 chooses a free one.
    Raises :class:`~icf_utils.errors.DepositMissing` without a catalog and
    :class:`~icf_utils.errors.StorageFailure` if the port cannot be used.
    """

    daemon_threads = True

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.catalog = _only_catalog(folder)
        if self.catalog is None and not _is_store(folder):
            remedy = "make the catalog first, for example with 'icf-utils catalog build'"
            raise DepositMissing(folder / "catalog", remedy)
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise StorageFailure(f"{HOST}:{port}", "listen on", error) from error

    @property
    def address(self) -> str:
        """The address for a browser."""
        return f"http://{HOST}:{self.server_port}/"

    def file_for(self, path: str) -> Path | None:
        """The file for the path of a request, if it may be read: a catalog's, or the page of all studies."""
        parts = [part for part in posixpath.normpath(unquote(path)).split("/") if part]
        if path.endswith("/") or not parts:
            parts.append(INDEX_PAGE)
        if any(part in ("..", ".") or "\0" in part for part in parts):
            return None
        if self.catalog:
            base, inner = self.catalog, parts
        elif len(parts) == 1 and _is_of_index(parts[0]):
            return self.folder / parts[0]
        elif len(parts) > 2 and parts[1] == "catalog" and (self.folder / parts[0] / "catalog" / MARKER).is_file():
            base, inner = self.folder / parts[0] / "catalog", parts[2:]
        else:
            return None
        file = base.joinpath(*inner)
        return file if file.resolve().is_relative_to(base.resolve()) else None


def _only_catalog(folder: Path) -> Path | None:
    """The folder itself if it is a catalog, or the catalog in it."""
    return next((place for place in (folder, folder / "catalog") if (place / MARKER).is_file()), None)


def _is_of_index(name: str) -> bool:
    return name in (INDEX_PAGE, STYLE_NAME, SCRIPT_NAME, ICON_NAME, SITEMAP_NAME) or Path(name).stem == LOGO_STEM


def _is_store(folder: Path) -> bool:
    return any(folder.glob(f"*/catalog/{MARKER}"))


class _Handler(SimpleHTTPRequestHandler):
    server: CatalogServer
    server_version = "icf-utils"
    sys_version = ""

    def translate_path(self, path: str) -> str:
        """Map what must not be read to a name that no file has."""
        found = self.server.file_for(urlsplit(path).path)
        return str(found) if found and found.is_file() else str(self.server.folder / MARKER / "none")

    def send_head(self):  # type: ignore[no-untyped-def] # its type is private to the base class
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        if host not in _NAMES:
            self.send_error(421, "Misdirected Request")
            return None
        path = urlsplit(self.path).path
        if not path.endswith("/") and self.server.file_for(f"{path}/") and self._is_folder(path):
            self.send_response(301)
            self.send_header("Location", f"{path}/")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        return self._without_link() or super().send_head()

    def _without_link(self) -> io.BytesIO | None:
        """Send a page without its link to the page of all studies, which does not exist where one catalog is served.

        Returns its bytes; ``None`` for everything else.
        """
        path = Path(self.translate_path(self.path))
        if not self.server.catalog or path.suffix != ".html" or not path.is_file():
            return None
        data, link = path.read_bytes(), INDEX_LINK.encode("ascii")
        if link not in data:
            return None
        data = data.replace(link, b"")
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        return io.BytesIO(data)

    def _is_folder(self, path: str) -> bool:
        index = self.server.file_for(f"{path}/")
        return index is not None and index.is_file()

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass
