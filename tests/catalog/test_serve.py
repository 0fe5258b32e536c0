"""``icf-utils catalog serve``: catalogs, and nothing else of a store; and the page of all studies."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from icf_utils.catalog.index_html import StudyLine, index_bytes
from icf_utils.catalog.index_page import build_index
from icf_utils.catalog.serve import CatalogServer
from icf_utils.catalog.stage import catalogify_studyvisit_from_meta
from icf_utils.cli.main import main
from icf_utils.errors import DepositMissing, ExistingFileDiffers, StorageFailure
from tests.catalog.conftest import STUDY, deposit, make_visit, typical_images


@pytest.fixture
def catalogued(store: Path) -> Path:
    for study in (STUDY, "other"):
        deposit(store, "v001", make_visit("v001", typical_images(), study=study), study)
        catalogify_studyvisit_from_meta(store, study, "v001")
    (store / "icf.toml").write_text("")
    return store


@pytest.fixture
def server(catalogued: Path) -> Iterator[CatalogServer]:
    build_index(catalogued)
    with CatalogServer(catalogued) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def get(server: CatalogServer, path: str, host: str = "") -> tuple[int, str]:
    """Status and location of the response; the path is sent unchanged, so that it can be malicious."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.putrequest("GET", path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{server.server_port}")
    connection.endheaders()
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, answer.headers.get("Location", "")


def read(server: CatalogServer, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request("GET", path)
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def test_one_catalog_is_served_without_a_link_to_the_page_of_studies(catalogued: Path) -> None:
    build_index(catalogued)
    for folder, is_linked in ((catalogued / STUDY, False), (catalogued, True)):
        with CatalogServer(folder) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            text = read(server, f"/{STUDY}/catalog/" if is_linked else "/")
            server.shutdown()
            thread.join()
        assert text.endswith("</html>\n")
        assert ("All studies" in text) is is_linked


def test_catalogs_and_the_page_of_studies_are_served(server: CatalogServer) -> None:
    for path in ("/", "/index.html", f"/{STUDY}/catalog/", "/other/catalog/assets/icf.css", "/other/catalog/?x#y"):
        assert get(server, path) == (200, "")
    assert get(server, f"/{STUDY}/catalog") == (301, f"/{STUDY}/catalog/")


@pytest.mark.parametrize(
    "path",
    [
        f"/{STUDY}/v001_metadata_dicoms.json",
        f"/{STUDY}/catalog/../v001_metadata_dicoms.json",
        f"/{STUDY}/catalog/%2e%2e/v001_metadata_dicoms.json",
        f"/{STUDY}/catalog/..%2fv001_metadata_dicoms.json",
        f"/{STUDY}/catalog/assets",
        f"/{STUDY}/catalog/assets/",
        f"/{STUDY}/",
        "/icf.toml",
        "/../etc/passwd",
        "//etc/passwd",
        "/%00",
        "/nothing/catalog/",
    ],
)
def test_nothing_else_is_served(server: CatalogServer, path: str) -> None:
    assert get(server, path)[0] == 404


def test_links_out_of_the_catalog_lead_nowhere(server: CatalogServer) -> None:
    (server.folder / STUDY / "catalog" / "out.json").symlink_to(server.folder / "icf.toml")
    assert get(server, f"/{STUDY}/catalog/out.json")[0] == 404


def test_pages_of_other_hosts_cannot_read_through_a_browser(server: CatalogServer) -> None:
    assert get(server, "/", "evil.example.org")[0] == 421
    assert get(server, "/", f"localhost:{server.server_port}")[0] == 200


def test_a_single_study_is_served_at_the_top(catalogued: Path) -> None:
    with CatalogServer(catalogued / STUDY) as server:
        assert server.file_for("/") == catalogued / STUDY / "catalog" / "index.html"


def test_a_catalog_itself_is_served_at_the_top_wherever_it_lies(catalogued: Path, tmp_path: Path) -> None:
    catalog = (catalogued / STUDY / "catalog").rename(tmp_path / "a copy")
    with CatalogServer(catalog) as server:
        assert server.file_for("/") == catalog / "index.html"
        assert server.file_for("/assets/icf.css") == catalog / "assets" / "icf.css"


def test_where_there_is_no_catalog(store: Path) -> None:
    with pytest.raises(DepositMissing, match="catalog build"):
        CatalogServer(store)


def test_a_port_that_is_taken(catalogued: Path, server: CatalogServer) -> None:
    with pytest.raises(StorageFailure, match="listen on"):
        CatalogServer(catalogued, server.server_port)


@pytest.mark.parametrize("more", [["."], ["catalog"], [".", "--quiet"]])
def test_the_command_says_where_and_ends_with_ctrl_c(catalogued: Path, more: list[str]) -> None:
    """The address is printed even with --quiet, since nothing else shows the port."""
    command = [sys.executable, "-m", "icf_utils.cli.main", "catalog", "serve", str(catalogued / STUDY / more[0])]
    command += more[1:]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            address = urlsplit(process.stdout.readline().split()[0])
            assert address.hostname == "127.0.0.1"
            connection = http.client.HTTPConnection("127.0.0.1", address.port or 0, timeout=10)
            connection.request("GET", "/")
            assert connection.getresponse().status == 200
            connection.close()
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_the_command_is_quiet_about_a_port_that_was_chosen(
    catalogued: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    monkeypatch.setattr(CatalogServer, "serve_forever", lambda self: None)
    assert main(["catalog", "serve", str(catalogued), "--port", port, "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["catalog", "serve", str(catalogued), "--port", port]) == 0
    assert f":{port}/" in capsys.readouterr().out


def test_the_page_of_all_studies(catalogued: Path) -> None:
    (catalogued / "plain").mkdir()
    deposit(catalogued, "v1", make_visit("v1", [], study="plain"), "plain")
    result = build_index(catalogued)
    assert (result.studies, result.changed) == (2, True)
    assert [(notice.code, notice.subject) for notice in result.notices] == [("not-in-index", "plain")]
    assert not build_index(catalogued).changed
    assert sorted(path.name for path in catalogued.iterdir()) == [
        *("icf.toml", "index-icon.svg", "index.css", "index.html", "index.js", "other", "plain", STUDY, "sitemap.xml")
    ]
    assert result.page.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_foreign_page_is_not_changed(catalogued: Path) -> None:
    (catalogued / "index.html").write_text("mine")
    with pytest.raises(ExistingFileDiffers):
        build_index(catalogued)
    assert (catalogued / "index.html").read_text() == "mine"


def test_texts_on_the_page_are_escaped() -> None:
    line = StudyLine("s", "<script>1</script>", 1, 2, 3, ("<b>", "CT"), "2020")
    page = index_bytes([line])
    assert b"<script>1" not in page
    assert b"&lt;b&gt;, CT" in page
