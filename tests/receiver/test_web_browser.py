"""The pages in a real browser, on a desktop and on a phone, with hostile values.

With ``ICF_SCREENSHOTS`` set to a folder, screenshots are saved there: ``sessions.png`` is the one of the documentation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from icf_utils.catalog.stage import catalogify_studyvisit_from_meta
from icf_utils.receiver.journal import Journal
from tests.catalog.browsing import DESKTOP, PHONE, Visitor
from tests.data.make_dicom import write_visit
from tests.receiver.pages import HOSTILE, TOKEN, begin, end, fill, served

pytest.importorskip("flask", reason="flask is not installed")

LAPTOP = 1024
STORE_URL = "https://data.example.org"

#: Texts of a session that reach beyond the frame around them.
OUTSIDE = """
return [...document.querySelectorAll("dl")].flatMap(box => [...box.querySelectorAll("time")]
  .filter(one => one.getBoundingClientRect().right > box.getBoundingClientRect().right - 8)
  .map(one => one.textContent))
"""


@dataclass
class Pages:
    """The pages of a receiver, and who reads them."""

    url: str
    journal: Journal
    visitor: Visitor

    def go(self, address: str = "/") -> None:
        self.visitor.open(f"{self.url}{address}")

    def update(self) -> None:
        """What happens every ten seconds, now; waits until the page has changed."""
        before = self.visitor.driver.find_element("css selector", "#list, #session")
        self.visitor.driver.execute_script("document.dispatchEvent(new Event('visibilitychange'))")
        self.visitor.wait(lambda: self.visitor.driver.find_element("css selector", "#list, #session") != before)


@pytest.fixture
def pages(tmp_path: Path, visitor: Visitor) -> Iterator[Pages]:
    journal = fill(tmp_path)
    catalogify_studyvisit_from_meta(tmp_path / "store", "study-a", "visit-01", store_url=STORE_URL)
    with served(tmp_path, journal, store_url=STORE_URL) as (url, _):
        visitor.width(DESKTOP)
        yield Pages(url.replace("http://", f"http://me:{TOKEN}@"), journal, visitor)
    journal.close()


def text_of(pages: Pages) -> str:
    return " ".join(pages.visitor.driver.find_element("css selector", "body").text.split())


@pytest.mark.parametrize("address", ["/", "/view/s000002", "/view/s000003", "/view/s000099"])
def test_the_pages_on_each_screen(pages: Pages, address: str) -> None:
    pages.go(address)
    if address == "/view/s000099":  # the browser logs the status 404 as an error
        assert "404" in pages.visitor.driver.get_log("browser")[0]["message"]
    for pixels in (DESKTOP, LAPTOP, PHONE):
        for scheme in ("light", "dark"):
            pages.visitor.width(pixels)
            pages.visitor.scheme(scheme)
            script = "return document.documentElement.scrollWidth <= innerWidth"
            assert pages.visitor.driver.execute_script(script), (pixels, "too wide")
            assert pages.visitor.driver.execute_script(OUTSIDE) == [], (pixels, "outside of its box")
            pages.visitor.save_picture(f"receiver{address.replace('/', '-')}-{pixels}-{scheme}")
            assert pages.visitor.axe_violations() == [], (pixels, scheme)
    ground = pages.visitor.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(18, 22, 28)"
    assert pages.visitor.driver.title != "stolen"


def test_what_the_pages_say(pages: Pages) -> None:
    pages.go()
    for words in ("all 6", "success 1", "study-a/visit-01", "SCANNER1 to ARCHIVE", "7 of 9", "7.0 kB", "s000003"):
        assert words in text_of(pages), words
    pages.go("/view/s000003")
    assert f"2 images are missing {HOSTILE}" in text_of(pages)


def test_the_screenshot_of_the_documentation(tmp_path: Path, visitor: Visitor) -> None:
    journal = fill(tmp_path, "input is refused; nothing was written: '003/0001.dcm' is cut off")
    with served(tmp_path, journal) as (url, _):
        visitor.width(DESKTOP)
        visitor.open(url.replace("http://", f"http://me:{TOKEN}@"))
        visitor.save_picture("sessions")
        assert "is cut off" in visitor.texts("main")[0]
    journal.close()


def test_a_state_is_chosen_and_a_session_deleted(pages: Pages) -> None:
    pages.go()
    pages.visitor.click(pages.visitor.link("failed"))
    assert [HOSTILE in text for text in pages.visitor.texts(".sessions tbody tr")] == [True]
    pages.visitor.click(pages.visitor.link("study-a/visit-02"))
    pages.visitor.one("form.delete button").click()
    assert pages.visitor.driver.current_url.endswith("/view/s000002")  # the box was not ticked
    pages.visitor.one("form.delete input[name=sure]").click()
    pages.visitor.one("form.delete button").click()
    pages.visitor.wait(lambda: "/view/" not in pages.visitor.driver.current_url)
    assert "all 5" in text_of(pages)


def test_an_update_keeps_what_is_typed_and_chosen(pages: Pages) -> None:
    pages.go()
    driver = pages.visitor.driver
    driver.find_element("css selector", "input[value=s000002]").click()
    field = driver.find_element("css selector", "input[name=visit]")
    field.send_keys("visit-0")
    running = pages.journal.session("s000006")
    assert running is not None
    pages.journal.update_session(running.id, images=3, size=3000)
    pages.update()
    assert "3 of 4" in text_of(pages)
    assert driver.switch_to.active_element == field
    field.send_keys("2")
    assert field.get_attribute("value") == "visit-02"
    assert driver.execute_script("return [...document.querySelectorAll('input:checked')].map(one => one.value)") == [
        "s000002"
    ]
    link = pages.visitor.link("study-a/visit-03")
    driver.execute_script("arguments[0].focus()", link)
    pages.update()
    assert driver.switch_to.active_element.text == "study-a/visit-03"  # the link is new, the focus is on it


def test_a_session_that_ends_gets_its_buttons(pages: Pages) -> None:
    pages.go("/view/s000004")
    assert pages.visitor.texts("form") == []
    pages.journal.change_state("s000004", "failed", "archive: no space")
    pages.visitor.driver.execute_script("document.dispatchEvent(new Event('visibilitychange'))")
    pages.visitor.wait(lambda: pages.visitor.texts("form.retry"))
    assert "archive: no space" in text_of(pages)


def test_times_are_local_with_utc_and_age(pages: Pages) -> None:
    pages.visitor.driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Kolkata"})
    try:
        pages.go("/view/s000001")
        shown, utc = pages.visitor.driver.execute_script(
            "const found = document.querySelector('dl time'); return [found.textContent, found.title]"
        )
        assert (
            pages.visitor.driver.execute_script(
                "return new Date(arguments[0].replace(' ', 'T') + '+05:30') - new Date(arguments[1].replace(' ', 'T')"
                ".replace(' UTC', 'Z'))",
                shown,
                utc,
            )
            == 0
        )
        assert pages.visitor.texts(".age")[0].endswith(" s ago")
    finally:
        pages.visitor.driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": ""})


def test_the_visit_in_the_catalog(pages: Pages) -> None:
    pages.go()
    assert pages.visitor.link("catalog").get_attribute("href") == f"{STORE_URL}/study-a/catalog/#/visit/visit-01"
    pages.go("/view/s000001")
    assert pages.visitor.link("Catalog page").get_attribute("href").endswith("/study-a/catalog/#/visit/visit-01")


def test_sessions_are_filtered_by_visit_and_rule(pages: Pages) -> None:
    pages.go()
    pages.visitor.driver.find_element("css selector", "input[name=visit]").send_keys("*-03")
    pages.visitor.driver.find_element("css selector", "select[name=rule] option:last-child").click()
    pages.visitor.one(".filter button").click()
    pages.visitor.wait(lambda: "rule=ARCHIVE" in pages.visitor.driver.current_url)
    assert len(pages.visitor.rows(".sessions")) == 1
    pages.visitor.click(pages.visitor.link("Show all"))
    pages.visitor.wait(lambda: len(pages.visitor.rows(".sessions")) == 6)


def test_many_sessions_are_retried_and_deleted(pages: Pages, tmp_path: Path) -> None:
    ready, other = begin(pages.journal, "visit-07", "S", 1), begin(pages.journal, "visit-08", "S", 1)
    for session in (ready, other):
        write_visit(session.input, {1: ("a", 1)})
        end(pages.journal, session, "failed", "archive: no space")
    pages.go("/?state=failed,running")
    pages.visitor.one(".choose-all").click()
    pages.visitor.button("Retry").click()
    pages.visitor.wait(lambda: pages.visitor.texts("h1") == ["2 sessions queued again"])
    assert "s000004 (study-a/visit-04): not queued again, because it is running" in text_of(pages)
    assert "no images" in text_of(pages)  # s000002 has none left
    pages.visitor.click(pages.visitor.link("Back to the list"))
    pages.visitor.wait(lambda: pages.visitor.driver.current_url.endswith("state=running%2Cfailed"))
    for name in ("s000002", "s000004"):
        pages.visitor.one(f"input[value={name}]").click()
    pages.visitor.button("Delete").click()
    pages.visitor.wait(lambda: pages.visitor.texts("h1") == ["Nothing was deleted: tick the box to confirm"])
    pages.go("/?state=failed,running")
    for name in ("s000002", "s000004"):
        pages.visitor.one(f"input[value={name}]").click()
    pages.visitor.one("input[name=sure]").click()
    pages.visitor.button("Delete").click()
    pages.visitor.wait(lambda: pages.visitor.texts("h1") == ["1 session deleted"])
    states = {session.id: session.state for session in pages.journal.sessions()}
    assert "s000002" not in states
    assert [states[name] for name in ("s000004", ready.id, other.id)] == ["running", "queued", "queued"]
