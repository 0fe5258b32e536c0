"""Who reads the catalog on a phone, in the dark, without a mouse or by ear: contrast, names, keyboard, width."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from icf_utils.catalog.index_html import StudyLine, index_bytes, other_files
from icf_utils.catalog.index_page import build_index
from icf_utils.catalog.stage import catalogify_studyvisit_from_meta
from tests.catalog.browsing import DESKTOP, PHONE, Visitor, served
from tests.catalog.conftest import STUDY, deposit, make_image, make_series, make_visit

#: Texts whose contrast with what is behind them is too low (WCAG 2.2, 1.4.3), with that contrast.
LOW_CONTRAST = """
const parse = text => {
  const parts = text.match(/[\\d.]+(e-?\\d+)?/g).map(Number);
  const scale = text.startsWith("color(") ? 1 : 255;
  return { rgb: parts.slice(0, 3).map(part => part / scale), alpha: parts.length > 3 ? parts[3] : 1 };
};
const luminance = rgb => {
  const [r, g, b] = rgb.map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = element => {
  for (let at = element; at; at = at.parentElement) {
    const colour = parse(getComputedStyle(at).backgroundColor);
    if (colour.alpha === 1) return colour.rgb;
  }
  return [1, 1, 1];
};
const bad = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
let seen = 0;
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
  if (element.closest("script, style, noscript, :disabled, title")) continue;
  seen += 1;
  const style = getComputedStyle(element);
  const colour = element.closest("svg") ? style.fill : style.color;
  const [light, dark] = [luminance(parse(colour).rgb), luminance(behind(element))].sort((a, b) => b - a);
  const ratio = (light + 0.05) / (dark + 0.05);
  if (ratio < 4.5) bad.push([walker.currentNode.data.trim().slice(0, 40), ratio]);
}
return [seen, bad];
"""

#: Controls without a name for a reader's program.
NAMELESS = """
return [...document.querySelectorAll("a, button, input, select, img, svg[role=img]")]
  .filter(one => one.checkVisibility())
  .filter(one => !(one.innerText || one.getAttribute("aria-label") || one.getAttribute("alt")
                   || one.querySelector("img[alt]") || (one.labels && one.labels.length)))
  .map(one => one.outerHTML.slice(0, 80));
"""

#: How many stops the keyboard has, and those that nobody sees: without extent, hidden, or cut off by what they are in.
UNSEEN_STOPS = """
const stops = [...document.querySelectorAll("a[href], button, input, select, [tabindex='0']")]
  .filter(one => !one.disabled && one.checkVisibility({ visibilityProperty: true }) && !one.matches(".icf-skip"));
const cut = one => {
  const own = one.getBoundingClientRect();
  if (own.width < 4 || own.height < 4) return true;
  for (let at = one; at && at !== document.body; at = at.parentElement) {
    const box = at.getBoundingClientRect();
    if (getComputedStyle(at).overflow === "hidden" && (box.width < 4 || box.height < 4)) return true;
  }
  return false;
};
return [stops.length, stops.filter(cut).map(one => one.outerHTML.slice(0, 80))];
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A study of sixty visits, one of them with long texts."""
    root = tmp_path_factory.mktemp("site")
    long = make_series(2, 260, "a_description_without_any_space_" * 8, ProtocolName="long words " * 20)
    for at in range(60):
        images = long if at == 0 else [make_image("1.dcm", "1.2", SeriesNumber=1, Modality="MR")]
        deposit(root, f"v{at:02}", make_visit(f"v{at:02}", [*images, *make_series(3, 2, "t1")]))
        catalogify_studyvisit_from_meta(root, STUDY, f"v{at:02}")
    build_index(root)
    with served(root) as address:
        yield address


def open_page(site: str, visitor: Visitor, kind: str) -> None:
    if kind == "index":
        visitor.open(f"{site}/index.html")
        visitor.heading("Studies")
        return
    visitor.open(f"{site}/{STUDY}/catalog/")
    visitor.heading(f"Study {STUDY}")
    if kind == "search":
        visitor.search("long modality:mr")
        visitor.wait(lambda: visitor.texts(".icf-reasons"))
    if kind in ("matrix", "parameters", "series"):
        visitor.open(f"{site}/{STUDY}/catalog/#/?view={kind}")
        visitor.wait(lambda: visitor.all(".icf-results td"))
        visitor.click(visitor.one(".icf-takeaway summary"))
    if kind in ("visit", "files"):
        visitor.click(visitor.wait(lambda: visitor.all("td a"))[0])
        visitor.heading(f"{STUDY} / v00")
    if kind == "files":
        visitor.click(visitor.wait(lambda: visitor.all(".icf-folder > summary"))[0])
        visitor.wait(lambda: visitor.texts(".icf-more"))


@pytest.mark.parametrize("kind", ["study", "search", "matrix", "parameters", "series", "files", "index"])
def test_pages_on_screens_of_both_sizes_in_light_and_dark(site: str, visitor: Visitor, kind: str) -> None:
    open_page(site, visitor, kind)
    for pixels in (DESKTOP, PHONE):
        for scheme in ("light", "dark"):
            visitor.width(pixels)
            visitor.scheme(scheme)
            seen, low = visitor.driver.execute_script(LOW_CONTRAST)
            assert seen > 5
            assert low == [], (kind, pixels, scheme)
            wide = visitor.driver.execute_script("return document.documentElement.scrollWidth")
            assert wide <= pixels, (kind, pixels)
            assert visitor.driver.execute_script(NAMELESS) == []


def test_the_check_of_contrast_finds_what_is_too_pale(site: str, visitor: Visitor) -> None:
    open_page(site, visitor, "study")
    visitor.driver.execute_script("document.querySelector('h1').style.color = '#999'")
    _, low = visitor.driver.execute_script(LOW_CONTRAST)
    assert [text for text, _ in low] == [f"Study {STUDY}"]


def test_the_dark_page_is_dark(site: str, visitor: Visitor) -> None:
    open_page(site, visitor, "study")
    script = "return getComputedStyle(document.body).backgroundColor"
    visitor.scheme("light")
    light = visitor.driver.execute_script(script)
    visitor.scheme("dark")
    assert (light, visitor.driver.execute_script(script)) == ("rgb(244, 246, 248)", "rgb(16, 21, 27)")


def press(visitor: Visitor, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    for key in keys:
        ActionChains(visitor.driver).send_keys(key).perform()


def focused(visitor: Visitor) -> Any:
    return visitor.driver.switch_to.active_element


def tab_to(visitor: Visitor, text: str) -> None:
    from selenium.webdriver.common.keys import Keys

    for _ in range(60):
        press(visitor, Keys.TAB)
        name = focused(visitor).accessible_name
        if text in name:
            return
        outline = visitor.driver.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or name == "", name
    pytest.fail(f"the keyboard does not lead to {text}")


def test_everything_by_keyboard(site: str, visitor: Visitor) -> None:
    from selenium.webdriver.common.keys import Keys

    open_page(site, visitor, "study")
    press(visitor, Keys.TAB)
    assert focused(visitor).text == "Skip to the content"
    press(visitor, Keys.ENTER)
    assert focused(visitor).get_attribute("id") == "icf-main"
    tab_to(visitor, "Search series and visits")
    press(visitor, "v00")
    visitor.wait(lambda: visitor.texts(".icf-count") == ["1 of 60 visits"])
    tab_to(visitor, "Images")
    press(visitor, Keys.ENTER)
    visitor.wait(lambda: visitor.texts("th[aria-sort=ascending]") == ["Images↑"])
    tab_to(visitor, "v00")
    press(visitor, Keys.ENTER)
    visitor.heading(f"{STUDY} / v00")
    visitor.wait(lambda: focused(visitor).tag_name == "h1")
    tab_to(visitor, "Series 2:")
    press(visitor, Keys.ENTER)
    visitor.wait(lambda: len(visitor.texts(".icf-folder .icf-file")) == 200)
    tab_to(visitor, "Show more")
    press(visitor, Keys.ENTER)
    visitor.wait(lambda: len(visitor.texts(".icf-folder .icf-file")) == 260)


def test_a_phone_chooses_the_order_from_a_list(site: str, visitor: Visitor) -> None:
    open_page(site, visitor, "study")
    visitor.width(PHONE)
    from selenium.webdriver.support.ui import Select

    by, _ = map(Select, visitor.all(".icf-sorting select"))
    by.select_by_visible_text("Images")
    visitor.wait(lambda: visitor.rows()[0][0] == "v01")
    _, order = map(Select, visitor.all(".icf-sorting select"))
    assert order.first_selected_option.text == "ascending"
    order.select_by_visible_text("descending")
    visitor.wait(lambda: visitor.rows()[0][0] == "v00")
    _, order = map(Select, visitor.all(".icf-sorting select"))
    assert order.first_selected_option.text == "descending"


@pytest.mark.parametrize("kind", ["study", "visit", "index"])
@pytest.mark.parametrize("pixels", [320, 360])
def test_the_keyboard_goes_nowhere_unseen_on_a_phone(site: str, visitor: Visitor, kind: str, pixels: int) -> None:
    """WCAG 2.4.7: of all stops of the keyboard there is something to see; the headings still have their names."""
    open_page(site, visitor, kind)
    visitor.width(pixels)
    stops, unseen = visitor.driver.execute_script(UNSEEN_STOPS)
    assert stops > 0
    assert unseen == []
    names = visitor.driver.execute_script(
        "return [...document.querySelectorAll('th')].map(one => one.innerText.trim())"
    )
    assert len(names) >= 5
    assert all(names)


@pytest.mark.parametrize("pixels", [320, 360])
def test_all_studies_on_a_phone(tmp_path: Path, visitor: Visitor, pixels: int) -> None:
    """All that the table says can be read without moving it sideways, with the names of the columns."""
    lines = [
        StudyLine(
            "a_study_with_quite_a_long_name_2", "Kidneys & livers", 1200, 345678, 10**12, ("CT", "MR"), "2019–2024"
        ),
        StudyLine("b", "Study b", 1, 1, 1, ("MR",), ""),
    ]
    for name, data in {**other_files(lines, ""), "index.html": index_bytes(lines)}.items():
        (tmp_path / name).write_bytes(data)
    with served(tmp_path) as address:
        visitor.open(f"{address}/index.html")
        visitor.heading("Studies")
        visitor.width(pixels)
        script = """
            return [...document.querySelectorAll("td")].filter(one => one.checkVisibility()).map(one => {
              const { left, right } = one.getBoundingClientRect();
              const label = getComputedStyle(one, "::before").content;
              return [one.innerText, label, left >= 0 && right <= innerWidth && one.scrollWidth <= one.clientWidth];
            })"""
        cells = visitor.driver.execute_script(script)
    assert all(fits for *_, fits in cells), cells
    labels = [label.strip('" ') for _, label, _ in cells]
    assert labels == ["none", "Years", "Modalities", "Visits", "Images", "Size", "none", *labels[2:6]]
    assert [text for text, *_ in cells][1:6] == ["2019–2024", "CT, MR", "1,200", "345,678", "1.0 TB"]


def test_an_address_with_user_and_password(site: str, visitor: Visitor) -> None:
    """Browsers refuse to load data by such an address."""
    visitor.open(f"{site.replace('://', '://alice:secret@')}/{STUDY}/catalog/")
    visitor.wait(visitor.rows)
    visitor.click(visitor.one("main td a"))
    visitor.wait(lambda: visitor.texts(".icf-neighbours a"))
    assert visitor.texts("[role=alert]") == []
    visitor.open(f"{site.replace('://', '://alice:secret@')}/index.html")
    visitor.one("input[type=search]").send_keys("x")
    visitor.wait(lambda: visitor.driver.current_url.endswith("/index.html?q=x"))
    assert visitor.driver.get_log("browser") == []


def test_the_page_of_all_studies_leads_to_a_catalog(site: str, visitor: Visitor) -> None:
    open_page(site, visitor, "index")
    assert visitor.rows() == [[STUDY, "", "MR", "60", "439", "80.5 MB"]]
    visitor.click(visitor.one("td a"))
    visitor.heading(f"Study {STUDY}")


@pytest.mark.parametrize("kind", ["study", "search", "matrix", "parameters", "series", "visit", "files", "index"])
def test_what_axe_finds(site: str, visitor: Visitor, kind: str) -> None:
    """Of another version: ``npm pack axe-core``, unpack, ``ICF_AXE=package/axe.min.js pytest ...``."""
    open_page(site, visitor, kind)
    for pixels in (DESKTOP, PHONE):
        for scheme in ("light", "dark"):
            visitor.width(pixels)
            visitor.scheme(scheme)
            assert visitor.axe_violations() == [], (pixels, scheme)
