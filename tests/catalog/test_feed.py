"""What is new in a study: the feed, and the badges in a real browser."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from icf_utils.catalog.feed import feed_bytes
from icf_utils.catalog.stage import catalogify_studyvisit_from_meta
from icf_utils.catalog.study import study_id
from icf_utils.catalog.study_index import NO_SERIES, IndexedVisit
from tests.catalog.browsing import Visitor, served
from tests.catalog.conftest import STUDY, deposit, make_series, make_visit

ATOM = "{http://www.w3.org/2005/Atom}"


def feed(*visits: tuple[str, str, int]) -> ElementTree.Element:
    lines = [IndexedVisit(visit, date, 1000, "", True, NO_SERIES, version=version) for visit, date, version in visits]
    return ElementTree.fromstring(feed_bytes("A <study>", study_id(STUDY), lines))


def texts(found: ElementTree.Element, name: str) -> list[str]:
    return [item.findtext(f"{ATOM}{name}", "") for item in found.iter(f"{ATOM}entry")]


def test_the_feed_has_the_latest_visits_first_in_any_order() -> None:
    visits = [("v1", "2023-01-02", 1), ("v2", "2024-05-06", 2), ("v3", "2023-01-02", 1)]
    found = feed(*visits)
    assert found.findtext(f"{ATOM}title") == "A <study>"
    assert found.findtext(f"{ATOM}updated") == "2024-05-06T00:00:00Z"
    assert texts(found, "title") == ["v2, version 2", "v1", "v3"]
    assert texts(found, "updated")[:2] == ["2024-05-06T00:00:00Z", "2023-01-02T00:00:00Z"]
    assert ElementTree.tostring(feed(*reversed(visits))) == ElementTree.tostring(found)


def test_a_new_version_is_a_new_entry() -> None:
    (first,), (second,) = texts(feed(("v1", "2023-01-02", 1)), "id"), texts(feed(("v1", "2023-01-02", 2)), "id")
    assert first != second
    assert first.startswith("urn:uuid:")


def test_a_feed_without_dates() -> None:
    found = feed(("v1", "", 1))
    assert texts(found, "updated") == [found.findtext(f"{ATOM}updated")] == ["1970-01-01T00:00:00Z"]
    assert "1970" not in texts(found, "summary")[0]


def add(root: Path, visit: str) -> None:
    deposit(root, visit, make_visit(visit, make_series(1, 3, "t1")))
    catalogify_studyvisit_from_meta(root, STUDY, visit)


def test_a_reader_sees_what_is_new(store: Path, visitor: Visitor) -> None:
    add(store, "v1")
    add(store, "v2")
    with served(store) as address:
        page = f"{address}/{STUDY}/catalog/index.html"
        visitor.driver.get(page)
        visitor.driver.execute_script("localStorage.clear(); sessionStorage.clear()")
        visitor.open(page)
        visitor.heading(f"Study {STUDY}")
        assert visitor.texts(".icf-badge") == []
        visitor.wait(lambda: visitor.driver.execute_script("return localStorage.length"))
        add(store, "v3")
        visitor.open(page)
        visitor.wait(lambda: visitor.texts(".icf-badge") == ["new visit"])
        assert "new visit" in visitor.texts(".icf-facet-value")[0]
        visitor.click(visitor.all(".icf-facet-value")[0])
        visitor.wait(lambda: [row[0].split() for row in visitor.rows()] == [["v3", "new", "visit"]])
        visitor.open(page)
        visitor.wait(lambda: visitor.texts(".icf-badge") == ["new visit"])  # until the tab is closed
        visitor.wait(lambda: "v3" in visitor.driver.execute_script("return Object.values(localStorage).join()"))
        visitor.driver.execute_script("sessionStorage.clear()")
        visitor.open(page)
        visitor.heading(f"Study {STUDY}")
        assert visitor.texts(".icf-badge") == []
    assert (store / STUDY / "catalog" / "feed.xml").read_text().count("<entry>") == 3
