"""What readers come for, by nothing but clicks on what the pages show, and each in a few of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from icf_utils.catalog.stage import catalogify_studyvisit_from_meta
from icf_utils.dicom.values import Value
from tests.catalog.browsing import DESKTOP, Visitor, served
from tests.catalog.conftest import STUDY, deposit, make_series, make_visit

DESCRIPTION = """
[study]
name = "Memory"
doi = "10.1234/memory"

[[study.authors]]
name = "Doe, Jane"
"""
WITHOUT_FIELD_MAP = {2, 7}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Ten visits of two years; two have no field map, and one has another echo time."""
    root = tmp_path_factory.mktemp("store")
    for at in range(10):
        tags: dict[str, Value] = {"StudyDate": f"{2022 + at % 2}0301", "RepetitionTime": 2300}
        images = make_series(1, 4, "t1_mprage", "MR", ProtocolName="MPRAGE", EchoTime=3.1 if at == 4 else 2.98, **tags)
        if at not in WITHOUT_FIELD_MAP:
            images += make_series(2, 2, "gre_field_mapping", "MR", ProtocolName="fieldmap", EchoTime=4.9, **tags)
        deposit(root, f"sub-{at:02}", make_visit(f"sub-{at:02}", images))
    (root / STUDY / "icf.toml").write_text(DESCRIPTION, encoding="utf-8")
    for at in range(10):
        catalogify_studyvisit_from_meta(root, STUDY, f"sub-{at:02}")
    with served(root) as address:
        yield f"{address}/{STUDY}/catalog/index.html"


@pytest.fixture
def reader(site: str, visitor: Visitor) -> Visitor:
    visitor.width(DESKTOP)
    visitor.open(site)
    visitor.heading("Memory")
    return visitor


def choose(reader: Visitor, facet: str, value: str, link: str = ".icf-facet-value") -> None:
    """Click a value of a filter, or what is next to it."""
    script = """
        const [facet, value, link] = arguments;
        const box = [...document.querySelectorAll("fieldset")].find(one => one.innerText.startsWith(facet));
        const item = [...box.querySelectorAll("li")].find(one => one.innerText.includes(value));
        return item.querySelector(link)"""
    reader.click(reader.driver.execute_script(script, facet, value, link))


def copied(reader: Visitor, site: str) -> str:
    permissions = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    origin = "/".join(site.split("/")[:3])
    reader.driver.execute_cdp_cmd("Browser.grantPermissions", {"origin": origin, "permissions": permissions})
    reader.click(reader.button("Copy the identifiers"))
    reader.wait(lambda: "Copied" in reader.texts(".icf-said"))
    script = "navigator.clipboard.readText().then(arguments[0], error => arguments[0](String(error)))"
    return str(reader.driver.execute_async_script(script))


def test_the_identifiers_of_a_protocol_and_a_year(reader: Visitor, site: str) -> None:
    choose(reader, "Protocol", "MPRAGE")
    reader.wait(lambda: reader.texts(".icf-chips li"))
    choose(reader, "Year", "2023")
    reader.wait(lambda: len(reader.rows()) == 5)
    reader.click(reader.one(".icf-takeaway summary"))
    assert copied(reader, site).split() == [f"sub-{at:02}" for at in range(1, 10, 2)]


def test_who_lacks_the_field_map(reader: Visitor) -> None:
    choose(reader, "Protocol", "fieldmap", ".icf-without")
    reader.wait(lambda: [row[0] for row in reader.rows()] == ["sub-02", "sub-07"])


def test_whether_parameters_are_the_same_everywhere(reader: Visitor) -> None:
    reader.click(reader.link("Parameters"))
    rows = reader.wait(lambda: [row for row in reader.rows() if row[0] in ("MPRAGE", "fieldmap")])
    assert {row[0]: row[3] for row in rows} == {"MPRAGE": "no", "fieldmap": "yes"}
    reader.click(reader.link("3.1 ms"))
    reader.wait(lambda: [row[0] for row in reader.rows()] == ["sub-04"])


def test_one_series_is_downloaded_by_one_command(reader: Visitor) -> None:
    reader.click(reader.link("sub-03"))
    reader.heading(f"{STUDY} / sub-03")
    reader.click(reader.link("Series 2"))
    commands = reader.wait(lambda: reader.texts(".icf-series-body pre"))
    assert commands[0].endswith(f"--id {STUDY} sub-03 --series 2 -d sub-03-images")


def test_how_to_cite_the_study(reader: Visitor) -> None:
    reader.click(next(item for item in reader.all("summary") if item.text == "Cite"))
    (text,) = reader.texts(".icf-study-about pre")
    assert text.startswith("@misc{proj-1,")
    assert "doi = {10.1234/memory}" in text
    assert [link.text for link in reader.all(".icf-study-about a")] == ["BibTeX", "RIS", "DataCite JSON"]
