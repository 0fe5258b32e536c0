"""The catalog in a real browser, without a network: what a visitor reads, and what a header value cannot do."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from icf_utils.catalog.stage import catalogify_studyvisit_from_meta
from tests.catalog.conftest import STUDY, deposit, make_image, make_series, make_visit, typical_images

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="Chromium or chromedriver is not installed")

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1300,1000",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)

#: Each of these would set ``window.stolen``, ask for ``/stolen``, or change its look if it were taken for markup.
HOSTILE = (
    "<script>window.stolen = 1</script>",
    '<img src=/stolen onerror="window.stolen = 1">',
    "{{constructor.constructor('window.stolen = 1')()}} {{1+1}}",
    "**bold** [link](javascript:window.stolen=1) &lt;b&gt;",
    "' onmouseover='window.stolen=1' \" `${window.stolen=1}`",
    "__proto__",
)
HOSTILE_NAMES = (
    "<img src=x onerror=window.stolen=1>http.dcm",
    "{{1+1}}.dcm",
    "javascript:window.stolen=1;http",
    "# &.dcm",
)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a catalog of three visits below a path of the server, and of one with hostile values."""
    root = tmp_path_factory.mktemp("site")
    store = root / "some where" / "store"
    for at, visit in enumerate(("v001", "v002", "10")):
        deposit(store, visit, make_visit(visit, typical_images(at)))
        catalogify_studyvisit_from_meta(store, STUDY, visit)
    for at in range(5):
        deposit(
            store,
            f"s{at}",
            make_visit(f"s{at}", make_series(1, 1, "d", "MR", ProtocolName=f"p{at}"), study="five"),
            "five",
        )
        catalogify_studyvisit_from_meta(store, "five", f"s{at}")
    deposit(store, "bad", make_visit("bad", hostile_images(), study="hostile"), study="hostile")
    catalogify_studyvisit_from_meta(store, "hostile", "bad")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/some%20where/store"
        server.shutdown()
        thread.join()


def hostile_images() -> list[Any]:
    images = [
        image
        for number, text in enumerate(HOSTILE, 1)
        for image in make_series(number, 1, text, text, ProtocolName=text)
    ]
    return [*images, *(make_image(f"a/{name}", "1.2.3", SeriesNumber=99) for name in HOSTILE_NAMES)]


class Visitor:
    """A browser and how to read its page."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.sent: list[str] = []

    def wait(self, condition: Callable[[], Any]) -> Any:
        return WebDriverWait(self.driver, 20).until(lambda _: condition())

    def all(self, selector: str) -> list[Any]:
        return [item for item in self.driver.find_elements(By.CSS_SELECTOR, selector) if item.is_displayed()]

    def texts(self, selector: str) -> list[str]:
        return [item.text.strip() for item in self.all(selector)]

    def open(self, address: str) -> None:
        self.driver.get("about:blank")  # another part after '#' alone loads no page
        self.driver.get(address)

    def click(self, item: Any) -> None:
        self.driver.execute_script("arguments[0].click()", item)

    def tab(self, name: str) -> None:
        (tab,) = self.wait(lambda: [item for item in self.all("[role=tab]") if name in item.text])
        self.click(tab)
        self.wait(lambda: tab.get_attribute("aria-selected") == "true" and self.all("[role=tabpanel].active"))

    def table(self) -> list[list[str]]:
        rows = self.wait(lambda: self.all("[role=tabpanel].active table tr"))
        return [[cell.text for cell in row.find_elements(By.CSS_SELECTOR, "th, td")] for row in rows]

    def title_is(self, title: str) -> None:
        self.wait(lambda: self.texts(".dataset-title") == [title])

    def selected_tab(self) -> str:
        return " ".join(self.texts("[role=tab][aria-selected=true]"))

    def requests(self) -> list[str]:
        """Addresses on the network that the browser has asked for."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
        urls = [params["request"]["url"] for params in sent]
        self.sent += [url for url in urls if urlsplit(url).scheme not in ("data", "chrome", "about", "blob")]
        return self.sent


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(str(CHROMEDRIVER)))
    yield browser
    browser.quit()


@pytest.fixture
def visitor(driver: Any) -> Iterator[Visitor]:
    """A visitor whose browser must not have logged an error nor left the loopback interface in the end."""
    driver.get("about:blank")
    for kind in ("browser", "performance"):
        driver.get_log(kind)
    found = Visitor(driver)
    yield found
    assert [entry for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    assert {urlsplit(url).hostname for url in found.requests()} == {"127.0.0.1"}


def test_the_study_page(site: str, visitor: Visitor) -> None:
    visitor.open(f"{site}/{STUDY}/catalog/")
    visitor.title_is(f"Study {STUDY}")
    assert visitor.driver.title == f"Study {STUDY}"
    visitor.wait(lambda: visitor.selected_tab() == "Visits (3)")
    assert visitor.texts("[role=tabpanel].active h5") == ["10", "v001", "v002"]
    cards = " ".join(visitor.texts("[role=tabpanel].active .text-muted"))
    assert "Series: 3 Images: 16" in " ".join(cards.split())
    page = visitor.driver.find_element(By.ID, "mainbody").text
    for badge in ("Visits: 3", "Series: 9", "Images: 51", "Size: 10.7 MB"):
        assert badge in page
    for word in ("Binder", "NaN", "undefined", "unknown", "Subdatasets"):
        assert word not in page
    visitor.tab("Overview")
    assert visitor.table() == [
        ["Visit", "Series", "Images", "Size", "Modalities"],
        ["10", "3", "18", "3.8 MB", "MR, SR"],
        ["v001", "3", "16", "3.4 MB", "MR, SR"],
        ["v002", "3", "17", "3.6 MB", "MR, SR"],
    ]


def go_to_visit(site: str, visitor: Visitor, study: str, visit: str) -> None:
    visitor.open(f"{site}/{study}/catalog/")
    visitor.click(visitor.wait(lambda: [item for item in visitor.all("h5 a") if item.text == visit])[0])
    visitor.title_is(f"{study} / {visit}")
    visitor.wait(lambda: visitor.selected_tab() == "Series")


def test_from_the_study_to_a_visit_and_back(site: str, visitor: Visitor) -> None:
    go_to_visit(site, visitor, STUDY, "v002")
    assert visitor.texts("[role=tab]") == ["Content", "Series", "Archive", "Clone"]
    assert visitor.table() == [
        ["Series", "Description", "Modality", "Images", "Size", "Protocol"],
        ["1", "localizer", "MR", "3", "630.0 kB", "AAHead_Scout"],
        ["2", "t1_mprage_sag", "MR", "13", "2.7 MB", "T1w"],
        ["3", "Dose Report", "SR", "1", "210.0 kB", ""],
    ]
    visitor.driver.back()
    visitor.title_is(f"Study {STUDY}")
    visitor.wait(lambda: visitor.selected_tab() == "Visits (3)")


def test_the_archive_and_clone_tabs(site: str, visitor: Visitor) -> None:
    go_to_visit(site, visitor, STUDY, "v001")
    visitor.tab("Archive")
    visitor.wait(lambda: visitor.all("[role=tabpanel].active a"))
    rows = {row[0]: row[1].strip() for row in visitor.table()[1:]}
    assert rows["Size in bytes"] == "3370240"
    assert rows["Download"] == "https://data.inm-icf.de/proj-1/v001_dicom.tar"
    visitor.tab("Clone")
    clone = dict(row[:2] for row in visitor.table()[1:])["Clone"]
    assert clone == (
        "datalad clone 'datalad-annex::?type=external&externaltype=uncurl&encryption=none"
        "&url=https://data.inm-icf.de/proj-1/v001_{{annex_key}}' v001"
    )
    visitor.click(next(item for item in visitor.all("button") if "Download with" in item.text))
    assert visitor.wait(lambda: visitor.texts("#clone_code")) == [clone]


def test_the_file_tree(site: str, visitor: Visitor) -> None:
    go_to_visit(site, visitor, STUDY, "v001")
    visitor.tab("Content")
    assert visitor.wait(lambda: visitor.texts("li .bold")) == ["01_localizer", "02_t1_mprage_sag", "03_Dose_Report"]
    (archive,) = visitor.all("li.item a")
    assert archive.get_attribute("href") == "https://data.inm-icf.de/proj-1/v001_dicom.tar"
    visitor.click(visitor.all("li .bold")[0])
    files = visitor.wait(lambda: visitor.texts("li li"))
    assert [name.split() for name in files] == [[f"s01_000{at}.dcm", "210", "kB"] for at in (1, 2, 3)]


def test_visits_can_be_searched(site: str, visitor: Visitor) -> None:
    visitor.open(f"{site}/five/catalog/")
    field = visitor.wait(lambda: visitor.all("input[type=search]"))[0]
    assert visitor.texts("h5 a") == ["s0", "s1", "s2", "s3", "s4"]
    field.send_keys("3")
    visitor.wait(lambda: visitor.texts("h5 a") == ["s3"])
    visitor.click(next(item for item in visitor.all(".rounded-pill") if item.text == "p3"))
    field.send_keys("\b")
    visitor.wait(lambda: not field.get_attribute("value"))
    assert visitor.texts("h5 a") == ["s3"]  # the keyword still holds


def test_an_address_can_name_a_tab(site: str, visitor: Visitor) -> None:
    go_to_visit(site, visitor, STUDY, "v002")
    address = visitor.driver.current_url
    visitor.open(f"{address}/archive")
    visitor.wait(lambda: visitor.selected_tab() == "Archive")


def test_header_values_are_text_and_nothing_else(site: str, visitor: Visitor) -> None:
    go_to_visit(site, visitor, "hostile", "bad")
    rows = visitor.table()[1:]
    shown = [text.replace("  ", " ") for text in HOSTILE]
    assert [(row[1], row[2], row[5]) for row in rows[:-1]] == [(text,) * 3 for text in shown]
    assert set(shown) <= set(visitor.texts(".btn.disabled.rounded-pill"))
    visitor.tab("Content")
    folders = visitor.wait(lambda: visitor.all("li .bold"))
    assert len(folders) == len(HOSTILE) + 1
    for folder in folders:
        visitor.click(folder)
    count = len(HOSTILE) + len(HOSTILE_NAMES)
    visitor.wait(lambda: len(visitor.texts("li li")) == count)
    files = visitor.texts("li li")
    for name in HOSTILE_NAMES:
        assert any(text.startswith(name) for text in files)
    assert len(visitor.all("li.item a")) == 1  # the archive; no name made a link
    for tab in ("Archive", "Clone", "Series"):
        visitor.tab(tab)
    assert visitor.driver.execute_script("return window.stolen") is None
    assert not any(url.endswith(("/stolen", "/x")) for url in visitor.requests())
