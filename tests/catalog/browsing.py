"""A visitor's browser: real Chromium without a network, how it is driven, and what it may never do."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")

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
    "--hide-scrollbars",
    "--window-size=1300,1000",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)

#: axe-core, the checker of accessibility, as a package for Python brings it; a newer one can be named. Read at once:
#: tests clear the environment.
AXE = os.environ.get("ICF_AXE") or (find_spec("axe_core_python") and str(files("axe_core_python") / "axe.min.js"))
#: A folder for pictures of pages.
SCREENSHOTS = os.environ.get("ICF_SCREENSHOTS", "")

PHONE, DESKTOP = 390, 1280


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files with the strictest policy that the pages have to bear."""

    def end_headers(self) -> None:
        if "/catalog/" in self.path or self.path.startswith("/index"):
            self.send_header("Content-Security-Policy", "default-src 'self'")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@contextmanager
def served(folder: Path, handler: type[http.server.SimpleHTTPRequestHandler] = Quiet) -> Iterator[str]:
    """A plain web server, and its address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def start_browser(profile: Path) -> Any:
    """A browser that reaches this machine only."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if not (CHROMIUM and CHROMEDRIVER):
        pytest.skip("Chromium or chromedriver is not installed")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(str(CHROMEDRIVER)))


class Visitor:
    """A browser and how to read its page."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.sent: list[str] = []

    def wait(self, condition: Callable[[], Any]) -> Any:
        """Wait until a condition holds. Elements that a page replaces while they are looked at are looked at again."""
        from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        passing = (NoSuchElementException, StaleElementReferenceException)
        waiting = WebDriverWait(self.driver, 30, poll_frequency=0.05, ignored_exceptions=passing)
        return waiting.until(lambda _: condition())

    def all(self, selector: str) -> list[Any]:
        return [item for item in self.driver.find_elements("css selector", selector) if item.is_displayed()]

    def one(self, selector: str) -> Any:
        return self.wait(lambda: self.all(selector))[0]

    def texts(self, selector: str) -> list[str]:
        """What a reader sees, read at once: elements may go while they are looked at one by one."""
        script = (
            "return [...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility()).map(e => e.innerText)"
        )
        return [str(text).strip() for text in self.driver.execute_script(script, selector)]

    def open(self, address: str) -> None:
        self.driver.get("about:blank")  # another part after '#' alone loads no page
        self.driver.get(address)

    def click(self, item: Any) -> None:
        self.driver.execute_script("arguments[0].click()", item)

    def button(self, name: str, within: str = "body") -> Any:
        script = """
            return [...document.querySelectorAll(arguments[0])].find(one => one.checkVisibility()
                && (one.getAttribute("aria-label") || one.innerText).includes(arguments[1]))"""
        found = self.driver.execute_script(script, f"{within} button", name)
        assert found, name
        return found

    def link(self, name: str, within: str = "body") -> Any:
        """The link of this name, or whose name begins with it."""
        script = """
            const named = [...document.querySelectorAll(arguments[0])].filter(one => one.checkVisibility())
                .map(one => [(one.getAttribute("aria-label") || one.innerText).trim(), one]);
            const found = named.find(([text]) => text === arguments[1])
                || named.find(([text]) => text.startsWith(arguments[1]));
            return found && found[1]"""
        found = self.driver.execute_script(script, f"{within} a", name)
        assert found, name
        return found

    def search(self, text: str) -> None:
        """Put a text into the field, as if it had been typed."""
        script = """
            const field = document.querySelector("input[type=search]");
            field.value = arguments[0];
            field.dispatchEvent(new Event("input"));"""
        self.driver.execute_script(script, text)

    def heading(self, text: str) -> None:
        self.wait(lambda: self.texts("h1") == [text] and not self.texts(".icf-loading"))
        self.wait(lambda: self.driver.execute_script("return !document.querySelector('#icf-app > .icf-loading')"))

    def rows(self, selector: str = "main table") -> list[list[str]]:
        """The cells of a table's body."""
        script = """
            return [...document.querySelectorAll(arguments[0] + ' tbody tr')].map(
                row => [...row.cells].map(cell => cell.innerText.trim()))"""
        return [[str(cell) for cell in row] for row in self.driver.execute_script(script, selector)]

    def width(self, pixels: int) -> None:
        size = {"width": pixels, "height": 900, "deviceScaleFactor": 1, "mobile": pixels < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def scheme(self, name: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def requests(self) -> list[str]:
        """Addresses on the network that the browser has asked for."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
        urls = [params["request"]["url"] for params in sent]
        self.sent += [url for url in urls if urlsplit(url).scheme not in ("data", "chrome", "about", "blob")]
        return self.sent

    def axe_violations(self) -> list[tuple[str, list[str]]]:
        """What axe-core finds in the page as it is now: rules and the first elements. Skips the test without it."""
        if not AXE:
            pytest.skip("axe-core-python is not installed")
        if not self.driver.execute_script("return typeof axe === 'object'"):
            self.driver.execute_script(Path(AXE).read_text(encoding="utf-8"))
        script = "axe.run().then(found => arguments[0](found.violations))"
        violations = self.driver.execute_async_script(script)
        return [(one["id"], [node["html"][:120] for node in one["nodes"]][:3]) for one in violations]

    def save_picture(self, name: str) -> None:
        """Save a picture of the window in the folder ``ICF_SCREENSHOTS``, if that is set."""
        if SCREENSHOTS:
            self.driver.save_screenshot(str(Path(SCREENSHOTS) / f"{name}.png"))

    def settle(self) -> None:
        """Back to how it was."""
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
