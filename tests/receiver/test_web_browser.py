"""The pages in a real browser, on a desktop and on a phone, with hostile values.

With ``ICF_SCREENSHOTS`` set to a folder, screenshots are saved there: ``sessions.png`` is the one of the documentation.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.catalog.browsing import CHROMEDRIVER, CHROMIUM, FLAGS
from tests.receiver.pages import HOSTILE, TOKEN, fill, served

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
pytest.importorskip("flask", reason="flask is not installed")

from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

#: Read before the tests clear the environment.
SCREENSHOTS = os.environ.get("ICF_SCREENSHOTS", "")

pytestmark = pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="Chromium or chromedriver is not installed")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("pages")
    journal = fill(root)
    with served(root, journal) as (url, _):
        yield url.replace("http://", f"http://me:{TOKEN}@")
    journal.close()


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(str(CHROMEDRIVER)))
    yield browser
    browser.quit()


def look(driver: Any, page: str, width: int, scheme: str, name: str) -> str:
    """Open a page and check what must hold everywhere; gives its text."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    driver.get(page)
    assert driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth"), "too wide"
    assert driver.title != "stolen"
    assert [entry for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    if SCREENSHOTS:
        driver.save_screenshot(str(Path(SCREENSHOTS) / f"{name}.png"))
    return str(driver.find_element(By.TAG_NAME, "body").text)


@pytest.mark.parametrize("width", [1300, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_list_of_sessions_is_readable(address: str, driver: Any, width: int, scheme: str) -> None:
    text = look(driver, f"{address}/", width, scheme, f"sessions-{width}-{scheme}")
    for words in ("all 6", "success 1", "study-a/visit-01", "SCANNER1 to ARCHIVE", "7 of 9", "7.0 kB"):
        assert words in " ".join(text.split()), words
    ground = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(18, 22, 28)") is (scheme == "dark")
    page = look(driver, f"{address}/view/s000003", width, scheme, f"session-{width}-{scheme}")
    assert f"2 images are missing {HOSTILE}" in page


def test_the_screenshot_of_the_documentation(driver: Any, tmp_path: Path) -> None:
    journal = fill(tmp_path, "input is refused; nothing was written: '003/0001.dcm' is cut off")
    with served(tmp_path, journal) as (url, _):
        look(driver, url.replace("http://", f"http://me:{TOKEN}@"), 1300, "light", "sessions")
    journal.close()


def test_a_state_is_chosen_and_a_session_deleted(address: str, driver: Any) -> None:
    look(driver, f"{address}/", 1300, "light", "all")
    driver.find_element(By.PARTIAL_LINK_TEXT, "failed").click()
    rows = driver.find_elements(By.CSS_SELECTOR, "tbody tr")
    assert [HOSTILE in row.text for row in rows] == [True]
    driver.find_element(By.LINK_TEXT, "study-a/visit-02").click()
    driver.find_element(By.CSS_SELECTOR, "form.delete button").click()
    assert driver.current_url.endswith("/view/s000002")  # the box was not ticked
    driver.find_element(By.NAME, "sure").click()
    driver.find_element(By.CSS_SELECTOR, "form.delete button").click()
    WebDriverWait(driver, 20).until(lambda _: "/view/" not in driver.current_url)
    assert "all 5" in driver.find_element(By.TAG_NAME, "body").text
