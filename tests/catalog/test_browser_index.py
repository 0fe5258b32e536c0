"""The page of all studies in a real browser: search, numbers, logo, the way back; and its other files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from icf_utils.catalog.index_page import build_index
from icf_utils.catalog.stage import catalogify_studyvisit_from_meta
from icf_utils.errors import ExistingFileDiffers
from icf_utils.store.init_store import init_store
from tests.catalog.browsing import DESKTOP, PHONE, Visitor, served
from tests.catalog.conftest import deposit, make_series, make_visit

LOGO = '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="30"><circle cx="15" cy="15" r="15"/></svg>'
STUDIES = {
    "memory": 'name = "Memory study"\ndescription = "Sleep, ageing and the hippocampus."\nkeywords = ["dementia"]\n',
    "heart": 'name = "Heart <b>"\ndescription = "Flow in the aorta."\n',
    "plain": "",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with three studies, two of which describe themselves, and its index."""
    root = tmp_path / "store"
    init_store(root, "https://data.example.org/icf/")
    with (root / "icf.toml").open("a", encoding="utf-8") as file:
        file.write('\n[catalog]\nname = "Imaging centre"\ndescription = "Studies of the centre."\nlogo = "own.svg"\n')
    (root / "own.svg").write_text(LOGO, encoding="utf-8")
    for study, text in STUDIES.items():
        deposit(root, "v1", make_visit("v1", make_series(1, 4, "t1"), study=study), study)
        if text:
            (root / study / "icf.toml").write_text(f"[study]\n{text}", encoding="utf-8")
        catalogify_studyvisit_from_meta(root, study, "v1")
    build_index(root)
    return root


@pytest.fixture
def page(root: Path, visitor: Visitor) -> Iterator[tuple[str, Visitor]]:
    with served(root) as address:
        visitor.width(DESKTOP)
        visitor.open(f"{address}/index.html")
        visitor.heading("Imaging centre")
        yield address, visitor


def names(visitor: Visitor) -> list[str]:
    return visitor.texts("tbody tr a")


def test_studies_are_found_by_name_description_and_keyword(page: tuple[str, Visitor]) -> None:
    address, visitor = page
    assert names(visitor) == ["Heart <b>", "Memory study", "plain"]
    for query, found in {"AORTA": ["Heart <b>"], "dementia hippo": ["Memory study"], "nothing": []}.items():
        visitor.search(query)
        assert names(visitor) == found, query
        assert visitor.texts(".count") == [f"{len(found)} of 3 studies"]
    visitor.open(f"{address}/index.html?q=memory")
    assert names(visitor) == ["Memory study"]
    visitor.search("")
    assert len(names(visitor)) == 3
    assert visitor.texts(".facts div") == [
        *("studies\n3", "visits\n3", "images\n12"),
        visitor.texts(".facts div")[3],
    ]


def test_the_way_to_a_study_and_back(page: tuple[str, Visitor]) -> None:
    _, visitor = page
    visitor.click(visitor.link("Memory study"))
    visitor.heading("Memory study")
    visitor.click(visitor.link("All studies"))
    visitor.heading("Imaging centre")


def test_the_page_on_each_screen(page: tuple[str, Visitor]) -> None:
    _, visitor = page
    script = "return [document.documentElement.scrollWidth <= innerWidth, document.querySelector('.logo').naturalWidth]"
    for pixels in (DESKTOP, PHONE):
        for scheme in ("light", "dark"):
            visitor.width(pixels)
            visitor.scheme(scheme)
            assert visitor.driver.execute_script(script) == [True, 90]
            visitor.save_picture(f"index-{pixels}-{scheme}")
            assert visitor.axe_violations() == [], (pixels, scheme)


def test_what_search_engines_read(root: Path) -> None:
    page = (root / "index.html").read_text(encoding="utf-8")
    found = re.search(r'<script type="application/ld\+json">(.*)</script>', page)
    assert found
    catalog = json.loads(found[1])
    assert (catalog["@type"], catalog["name"]) == ("DataCatalog", "Imaging centre")
    assert [one["name"] for one in catalog["dataset"]] == ["Heart <b>", "Memory study", "Study plain"]
    places = [item.text for item in ElementTree.parse(root / "sitemap.xml").iter() if item.tag.endswith("loc")]
    assert places[:3] == [
        "https://data.example.org/icf/",
        "https://data.example.org/icf/heart/catalog/",
        "https://data.example.org/icf/heart/catalog/list/1.html",
    ]
    assert len(places) == 7


def test_the_files_are_made_again_only_where_they_change(root: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in root.iterdir() if path.is_file()}
    own = {"index.html", "index.css", "index.js", "index-icon.svg", "index-logo.svg", "sitemap.xml"}
    assert set(before) == {"icf.toml", "own.svg", *own}
    assert not build_index(root).changed
    assert {path.name: path.stat().st_mtime_ns for path in root.iterdir() if path.is_file()} == before
    page = (root / "plain" / "catalog" / "index.html").read_bytes()
    catalogify_studyvisit_from_meta(root, "plain", "v1")
    assert (root / "plain" / "catalog" / "index.html").read_bytes() == page  # the link stays
    (root / "icf.toml").write_text('[store]\nurl = "file:///srv/icf"\n', encoding="utf-8")
    assert build_index(root).changed
    assert not {"index-logo.svg", "sitemap.xml"} & {path.name for path in root.iterdir()}
    assert (root / "own.svg").exists()


@pytest.mark.parametrize("name", ["index.css", "index.js", "sitemap.xml"])
def test_files_of_others_are_not_replaced(root: Path, name: str) -> None:
    (root / name).write_text("mine")
    with pytest.raises(ExistingFileDiffers):
        build_index(root)
    assert (root / name).read_text() == "mine"
