"""How soon pages are shown on a slow connection, what moves while they load, and what they do without.

The times are measured by hand with ICF_TRIALS=1; the rest is always tested.
"""

from __future__ import annotations

import gzip
import http.server
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from icf_utils.catalog import writer
from icf_utils.catalog.content import load_application, study_files, super_files
from icf_utils.catalog.stage import catalogify_studyvisit_from_meta
from icf_utils.catalog.study import StudyPage, study_id
from icf_utils.outputs.listing import OUTPUTS_PATH, encode_outputs
from icf_utils.settings import CatalogSettings
from icf_utils.store.layout import Study
from tests.catalog.browsing import DESKTOP, PHONE, Visitor, served
from tests.catalog.conftest import STUDY, deposit, make_visit, typical_images
from tests.catalog.test_browser_search import entry, reported

#: Read at once: tests begin without such variables.
TRIALS = os.environ.get("ICF_TRIALS")

#: A connection of 1.6 Mbit/s with a round trip of 150 ms.
SLOW = {"offline": False, "latency": 150, "downloadThroughput": 200_000, "uploadThroughput": 90_000}
FAST = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
SHIFTS = """
window.shifts = 0;
new PerformanceObserver(list => {
  for (const one of list.getEntries()) if (!one.hadRecentInput) window.shifts += one.value;
}).observe({type: "layout-shift", buffered: true});
"""


class Compressing(http.server.SimpleHTTPRequestHandler):
    """Compresses JSON, scripts and styles, as the examples for web servers do."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        path = path / "index.html" if path.is_dir() else path
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(path))
        if path.suffix in (".json", ".js", ".css"):
            data = gzip.compress(data, 6)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


def write_study(root: Path, visits: int) -> None:
    study, catalog_id = Study(root, STUDY), study_id(STUDY)
    page = StudyPage(tuple(entry(at) for at in range(visits)))
    files = {**load_application(study, CatalogSettings()), **study_files(STUDY, catalog_id, page, CatalogSettings())}
    study.folder.mkdir(parents=True)
    outputs = {OUTPUTS_PATH: encode_outputs(())}
    writer.write_files(study, {**files, **super_files(catalog_id), **outputs}, writer.Tally())


@pytest.mark.skipif(not TRIALS, reason="measures times; set ICF_TRIALS=1")
@pytest.mark.parametrize(("visits", "seconds"), [(300, 2.0), (5_000, 4.0)])
def test_a_study_is_shown_soon_on_a_slow_connection(
    tmp_path: Path, visitor: Visitor, visits: int, seconds: float
) -> None:
    write_study(tmp_path, visits)
    with served(tmp_path, Compressing) as address:
        visitor.driver.execute_cdp_cmd("Network.enable", {})
        visitor.driver.execute_cdp_cmd("Network.clearBrowserCache", {})
        visitor.driver.execute_cdp_cmd("Network.emulateNetworkConditions", SLOW)
        try:
            visitor.open(f"{address}/{STUDY}/catalog/")
            visitor.wait(lambda: visitor.driver.execute_script("return document.querySelectorAll('td a').length > 40"))
            shown = "return Math.max(...performance.getEntriesByType('resource').map(one => one.responseEnd))"
            took = float(visitor.driver.execute_script(shown)) / 1000
            ready = float(visitor.driver.execute_script("return performance.now()")) / 1000
        finally:
            visitor.driver.execute_cdp_cmd("Network.emulateNetworkConditions", FAST)
    reported(f"{visits} visits at 1.6 Mbit/s: last byte after {took:.2f} s, list seen after {ready:.2f} s")
    assert ready < seconds


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A study of three visits, and its catalog's folder."""
    root = tmp_path_factory.mktemp("small")
    for at, visit in enumerate(("v001", "v002", "v003")):
        deposit(root, visit, make_visit(visit, typical_images(at)))
        catalogify_studyvisit_from_meta(root, STUDY, visit)
    with served(root, Compressing) as address:
        yield Study(root, STUDY).catalog, f"{address}/{STUDY}/catalog/"


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
@pytest.mark.parametrize("rest", ["", "#/visit/v002"])
def test_nothing_moves_while_a_page_loads(site: tuple[Path, str], visitor: Visitor, rest: str, width: int) -> None:
    visitor.width(width)
    driver = visitor.driver
    found = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": SHIFTS})
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd("Network.clearBrowserCache", {})
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", {**SLOW, "latency": 50, "downloadThroughput": 2_000_000})
    try:
        visitor.open(site[1] + rest)
        visitor.wait(lambda: visitor.rows() and (not rest.startswith("#/visit") or visitor.texts(".icf-neighbours a")))
        time.sleep(0.3)  # shifts are reported after the frame in which they happen
        assert float(driver.execute_script("return window.shifts")) < 0.1
    finally:
        driver.execute_cdp_cmd("Network.emulateNetworkConditions", FAST)
        driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", found)


@pytest.mark.parametrize("name", ["visits", "protocols", "outputs"])
def test_a_page_is_shown_without_what_only_completes_it(site: tuple[Path, str], visitor: Visitor, name: str) -> None:
    path = site[0] / "data" / f"{name}.json"
    before = path.read_bytes()
    try:
        path.write_bytes(b"[")
        for rest in ("", "#/visit/v002"):
            visitor.driver.execute_cdp_cmd("Network.clearBrowserCache", {})
            visitor.open(site[1] + rest)
            visitor.wait(visitor.rows)
            assert len(visitor.rows()) == 3
            assert visitor.texts("[role=alert]") == []
    finally:
        path.write_bytes(before)
