"""The catalog in a real browser, without a network: what a visitor reads, and what a header value cannot do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from icf_utils.catalog.content import study_files
from icf_utils.catalog.page import read_study_page
from icf_utils.catalog.stage import catalogify_studyvisit_from_meta
from icf_utils.catalog.study import StudyPage, study_id
from icf_utils.catalog.study_index import SeriesColumns
from icf_utils.dataset.stage import deposit_visit_dataset
from icf_utils.dataset.store_address import find_store_address
from icf_utils.settings import CatalogSettings, Settings
from icf_utils.store.layout import Study, Visit
from tests.catalog.browsing import Visitor, served
from tests.catalog.conftest import STUDY, deposit, make_image, make_series, make_visit, typical_images

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


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a catalog of three visits below a path of the server, and of one with hostile values."""
    root = tmp_path_factory.mktemp("site")
    store = root / "some where" / "store"
    for at, visit in enumerate(("v001", "v002", "10")):
        deposit(store, visit, make_visit(visit, dated(typical_images(at), f"202{at}0315")))
        catalogify_studyvisit_from_meta(store, STUDY, visit)
    deposit(store, "s0", make_visit("s0", dated(typical_images(), "20200101"), study="quiet"), "quiet")
    catalogify_studyvisit_from_meta(store, "quiet", "s0", hide_dates=True)
    deposit(store, "bad", make_visit("bad", hostile_images(), study="hostile"), study="hostile")
    settings = Settings(catalog=CatalogSettings(file_names="all", name=HOSTILE[0], description=HOSTILE[1]))
    catalogify_studyvisit_from_meta(store, "hostile", "bad", settings=settings)
    with served(root) as address:
        yield f"{address}/some%20where/store"


def dated(images: list[Any], day: str) -> list[Any]:
    """As a configuration with ``allow_identifying`` has them recorded."""
    return [replace(image, tags={**image.tags, "StudyDate": day}) for image in images]


def hostile_images() -> list[Any]:
    images = [
        image
        for number, text in enumerate(HOSTILE, 1)
        for image in make_series(number, 1, text, text, ProtocolName=text)
    ]
    return [*images, *(make_image(f"a/{name}", "1.2.3", SeriesNumber=99) for name in HOSTILE_NAMES)]


def go_to_visit(site: str, visitor: Visitor, study: str, visit: str) -> None:
    visitor.open(f"{site}/{study}/catalog/")
    visitor.click(visitor.wait(lambda: [item for item in visitor.all("td a") if item.text == visit])[0])
    visitor.heading(f"{study} / {visit}")


def test_the_study_page(site: str, visitor: Visitor) -> None:
    visitor.open(f"{site}/{STUDY}/catalog/")
    visitor.heading(f"Study {STUDY}")
    assert visitor.driver.title == f"Study {STUDY}"
    assert visitor.rows() == [
        ["10", "2022-03-15", "MR, SR", "3", "18", "3.8 MB"],
        ["v001", "2020-03-15", "MR, SR", "3", "16", "3.4 MB"],
        ["v002", "2021-03-15", "MR, SR", "3", "17", "3.6 MB"],
    ]
    facts = dict(zip(visitor.texts("dt"), visitor.texts("dd"), strict=True))
    assert facts == {"Visits": "3", "Series": "9", "Images": "51", "Size": "10.7 MB"}


def test_the_plots_are_lists_of_links(site: str, visitor: Visitor) -> None:
    visitor.open(f"{site}/{STUDY}/catalog/")
    visitor.heading(f"Study {STUDY}")
    assert visitor.texts("figcaption") == ["Visits per quarter", "Visits with a modality"]
    labels = [bar.get_attribute("aria-label") for bar in visitor.all(".icf-timeline a")]
    assert labels == ["2020 Q1: 1 visit", "2021 Q1: 1 visit", "2022 Q1: 1 visit"]
    visitor.click(visitor.link("2021 Q1"))
    visitor.wait(lambda: visitor.texts(".icf-count") == ["1 of 3 visits"])
    assert [row[0] for row in visitor.rows()] == ["v002"]
    assert visitor.texts(".icf-chips a") == ["Date: 2021-01..2021-03 ×"]
    visitor.driver.back()
    visitor.wait(lambda: visitor.texts(".icf-count") == ["3 visits"])
    visitor.click(visitor.link("SR", ".icf-bars"))
    visitor.wait(lambda: visitor.texts(".icf-chips a") == ["Modality: SR ×"])


def test_dates_can_be_hidden(site: str, visitor: Visitor) -> None:
    visitor.open(f"{site}/quiet/catalog/")
    visitor.heading("Study quiet")
    assert visitor.texts("#icf-q-help code")[0] == "protocol:aahead"
    visitor.search("date:2020")
    assert "“date” is not recorded" in visitor.one(".icf-unknown").text
    visitor.click(visitor.button("Clear"))
    visitor.wait(lambda: visitor.texts(".icf-count") == ["1 visit"])
    assert not [text for text in visitor.texts("th") if "Date" in text]
    assert visitor.rows() == [["s0", "MR, SR", "3", "16", "3.4 MB"]]
    assert visitor.texts("figcaption") == ["Visits with a modality"]


def test_the_day_of_a_visit_is_that_of_the_study_page(site: str, visitor: Visitor) -> None:
    """Also where the visit's page is opened first; what is hidden on the one is hidden on the other."""
    visitor.open(f"{site}/{STUDY}/catalog/#/visit/v001")
    visitor.wait(lambda: "2020-03-15" in visitor.texts("dd"))
    visitor.open(f"{site}/quiet/catalog/#/visit/s0")
    visitor.heading("quiet / s0")
    asked = "return performance.getEntriesByType('resource').filter(one => one.name.includes('visits.json')).length"
    visitor.wait(lambda: visitor.driver.execute_script(asked))
    visitor.wait(lambda: "Date" not in visitor.texts("dt"))
    assert "2020" not in visitor.one("main").text


def test_a_visits_page_loads_neither_the_study_nor_other_visits(site: str, visitor: Visitor) -> None:
    visitor.open(f"{site}/{STUDY}/catalog/#/visit/v001")
    visitor.heading(f"{STUDY} / v001")
    visitor.wait(lambda: any(url.endswith("/protocols.json") for url in visitor.requests()))
    asked = [url.rsplit("/catalog/")[1] for url in visitor.requests() if url.endswith(".json")]
    assert sorted(asked) == ["data/outputs.json", "data/protocols.json", "data/visits.json", "data/visits/v001.json"]


def test_a_page_opened_as_a_file_says_how_to_view_it(driver: Any, tmp_path: Path) -> None:
    """And asks for nothing: browsers do not let such a page read its own data."""
    deposit(tmp_path / "my store", "v001", make_visit("v001", typical_images()))
    catalogify_studyvisit_from_meta(tmp_path / "my store", STUDY, "v001")
    catalog = tmp_path / "my store" / STUDY / "catalog"
    visitor = Visitor(driver)
    try:
        visitor.open((catalog / "index.html").as_uri())
        assert visitor.texts("#icf-local") == [
            "A browser cannot show this catalog from a file; to see it, run "
            f"icf-utils catalog serve '{catalog}' and open the address that it prints."
        ]
        asked = visitor.requests()
        assert {urlsplit(url).scheme for url in asked} == {"file"}
        assert not [url for url in asked if url.endswith(".json")]
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []
    finally:
        driver.get("about:blank")


def test_from_the_study_to_a_visit_and_back(site: str, visitor: Visitor) -> None:
    go_to_visit(site, visitor, STUDY, "v002")
    assert visitor.driver.title == f"{STUDY} / v002 – Study {STUDY}"
    labels = "return [...document.querySelectorAll('#icf-main .icf-plain-heading')].map(one => one.textContent)"
    assert visitor.driver.execute_script(labels) == ["No.", "Description", "Protocol", "Modality", "Images", "Size"]
    assert visitor.rows() == [
        ["1", "localizer", "AAHead_Scout", "MR", "3", "630.0 kB", "Copy"],
        ["2", "t1_mprage_sag", "T1w", "MR", "13", "2.7 MB", "Copy"],
        ["3", "Dose Report", "", "SR", "1", "210.0 kB", "Copy"],
    ]
    assert visitor.texts(".icf-total") == ["Together: 3 series, 17 images, 3.6 MB"]
    visitor.driver.back()
    visitor.heading(f"Study {STUDY}")
    visitor.driver.forward()
    visitor.heading(f"{STUDY} / v002")
    visitor.click(visitor.one(".icf-crumbs a"))
    visitor.heading(f"Study {STUDY}")


def test_the_series_can_be_sorted(site: str, visitor: Visitor) -> None:
    go_to_visit(site, visitor, STUDY, "v001")

    def wait_for(numbers: list[str]) -> None:
        visitor.wait(lambda: [row[0] for row in visitor.rows()] == numbers)

    for name, up in (("Images", ["3", "1", "2"]), ("Description", ["3", "1", "2"]), ("Protocol", ["1", "2", "3"])):
        visitor.click(visitor.link(name, "th"))
        wait_for(up)
        assert [text.rstrip("↑") for text in visitor.texts("th[aria-sort=ascending]")] == [name]
        visitor.click(visitor.link(name, "th"))
        down = up[::-1] if name != "Protocol" else ["2", "1", "3"]  # what has no protocol stays last
        wait_for(down)
        assert [text.rstrip("↓") for text in visitor.texts("th[aria-sort=descending]")] == [name]
    visitor.driver.back()
    wait_for(["1", "2", "3"])


def test_the_archive_and_the_commands(site: str, visitor: Visitor) -> None:
    go_to_visit(site, visitor, STUDY, "v001")
    assert visitor.one(".icf-download").get_attribute("href") == "https://data.inm-icf.de/proj-1/v001_dicom.tar"
    archive = dict(zip(visitor.texts(".icf-archive dt"), visitor.texts(".icf-archive dd"), strict=True))
    assert (archive["File"], archive["Size"]) == ("v001_dicom.tar", "3,370,240 bytes")
    digest = make_visit("v001", dated(typical_images(0), "20200315")).tarball.md5
    assert archive["MD5"].split()[0] == digest
    assert visitor.one(".icf-archive a").get_attribute("href").endswith("/proj-1/v001_dicom.tar.md5sum")
    commands = visitor.texts(".icf-getting pre")
    assert not [command for command in commands if command.startswith("datalad")]  # it has no dataset
    assert "no DataLad dataset" in visitor.one(".icf-getting").text
    assert "--user NAME" in visitor.one(".icf-getting").text
    assert "icf-utils retrieve --store https://data.inm-icf.de --id proj-1 v001 -d v001-images" in commands


def test_a_visit_with_a_dataset_can_be_cloned(tmp_path: Path, visitor: Visitor) -> None:
    deposit(tmp_path, "v001", make_visit("v001", typical_images()))
    deposit_visit_dataset(tmp_path, STUDY, "v001", store_url="https://data.inm-icf.de", commit_date="2020-03-15")
    catalogify_studyvisit_from_meta(tmp_path, STUDY, "v001")
    with served(tmp_path) as address:
        go_to_visit(address, visitor, STUDY, "v001")
        commands = visitor.texts(".icf-getting pre")
    assert (
        "datalad clone 'datalad-annex::?type=external&externaltype=uncurl&encryption=none"
        "&url=https://data.inm-icf.de/proj-1/v001_{{annex_key}}' v001"
    ) in commands


def test_git_annex_alone_is_shown_where_the_store_has_it(tmp_path: Path, visitor: Visitor) -> None:
    place = deposit(tmp_path, "v001", make_visit("v001", typical_images()))
    place.annex_url.write_text("annex::uuid?encryption=none\n")
    catalogify_studyvisit_from_meta(tmp_path, STUDY, "v001")
    with served(tmp_path) as address:
        go_to_visit(address, visitor, STUDY, "v001")
        commands = visitor.texts(".icf-getting pre")
    assert "git clone annex::https://data.inm-icf.de/proj-1/v001.annex v001" in commands
    assert not [command for command in commands if "allowed-url-schemes" in command]


def test_a_command_is_copied_unchanged(site: str, visitor: Visitor) -> None:
    go_to_visit(site, visitor, STUDY, "v001")
    origin = site.split("/some", maxsplit=1)[0]
    visitor.driver.execute_cdp_cmd(
        "Browser.grantPermissions", {"origin": origin, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    )
    visitor.click(visitor.button("Copy the command: Images without a clone"))
    visitor.wait(lambda: "Copied" in visitor.texts(".icf-said"))
    script = "navigator.clipboard.readText().then(arguments[0], error => arguments[0](String(error)))"
    copied = visitor.driver.execute_async_script(script)
    assert copied == next(text for text in visitor.texts(".icf-getting pre") if text.startswith("icf-utils retrieve"))


def test_each_series_has_its_files(site: str, visitor: Visitor) -> None:
    go_to_visit(site, visitor, STUDY, "v001")
    names = visitor.wait(lambda: visitor.texts(".icf-folder > summary .icf-name"))
    assert names == ["Series 1: localizer", "Series 2: t1_mprage_sag", "Series 3: Dose Report"]
    assert visitor.texts(".icf-folder > summary .icf-about")[0] == "3 images, 630.0 kB"
    folder = visitor.all(".icf-folder > summary")[0]
    visitor.click(folder)
    files = visitor.wait(lambda: visitor.texts(".icf-folder .icf-file"))
    assert [name.split() for name in files] == [[f"s01_000{at}.dcm", "210.0", "kB"] for at in (1, 2, 3)]
    visitor.click(folder)
    visitor.wait(lambda: not visitor.texts(".icf-folder .icf-file"))


def test_one_series_has_its_command_and_an_address(site: str, visitor: Visitor) -> None:
    go_to_visit(site, visitor, STUDY, "v001")
    visitor.click(visitor.link("Series 2: parameters, commands, files", "td"))
    visitor.wait(lambda: len(visitor.texts(".icf-folder .icf-file")) == 12)
    assert "t1_mprage_sag" in visitor.driver.switch_to.active_element.text
    assert visitor.driver.current_url.endswith("#/visit/v001?series=2")
    assert visitor.texts(".icf-folder pre") == [
        "icf-utils retrieve --store https://data.inm-icf.de --id proj-1 v001 --series 2 -d v001-images"
    ]
    visitor.open(visitor.driver.current_url)
    visitor.wait(lambda: len(visitor.texts(".icf-folder .icf-file")) == 12)


def test_keywords_lead_to_visits_like_this_one(site: str, visitor: Visitor) -> None:
    go_to_visit(site, visitor, STUDY, "v001")
    visitor.click(next(item for item in visitor.all(".icf-words a") if item.text == "AAHead_Scout"))
    visitor.heading(f"Study {STUDY}")
    visitor.wait(lambda: visitor.texts(".icf-chips a") == ["Protocol: AAHead_Scout ×"])
    assert visitor.texts(".icf-count") == ["3 of 3 visits, 3 series"]


def test_a_missing_page(site: str, visitor: Visitor) -> None:
    for rest, said in (("dataset/none/none", "no such page"), ("nowhere", "no such page"), ("visit/v9", "no visit v9")):
        visitor.open(f"{site}/{STUDY}/catalog/#/{rest}")
        assert said in visitor.one("[role=alert]").text
        visitor.click(visitor.link("All visits", "[role=alert]"))
        visitor.wait(lambda: visitor.texts(".icf-count"))
    visitor.driver.get_log("browser")  # the browser's own message about the file that is missing


def test_addresses_of_earlier_catalogs_lead_to_the_same_pages(site: str, visitor: Visitor) -> None:
    visitor.open(f"{site}/{STUDY}/catalog/#/dataset/{study_id(STUDY)}/latest?q=v002")
    visitor.wait(lambda: visitor.texts(".icf-count") == ["1 of 3 visits"])
    place = Visit(Path(), STUDY, "v001")
    version = "0123456789abcdef" * 2  # whatever it was
    dataset_id = find_store_address(place, Settings(), None, None).dataset_id
    visitor.open(f"{site}/{STUDY}/catalog/#/dataset/{dataset_id}/{version}/series")
    visitor.heading(f"{STUDY} / v001")


def test_header_values_are_text_and_nothing_else(site: str, visitor: Visitor) -> None:
    visitor.open(f"{site}/hostile/catalog/")
    visitor.heading(HOSTILE[0])
    assert visitor.driver.title == HOSTILE[0]
    assert visitor.texts(".icf-lead") == [HOSTILE[1]]
    visitor.search("window.stolen")
    assert any(HOSTILE[0] in text for text in visitor.wait(lambda: visitor.texts(".icf-reasons span")))
    go_to_visit(site, visitor, "hostile", "bad")
    rows = visitor.rows()
    assert [(row[1], row[2], row[3]) for row in rows[:-1]] == [(text,) * 3 for text in HOSTILE]
    assert set(HOSTILE) <= set(visitor.texts(".icf-words a"))
    folders = visitor.wait(lambda: visitor.all(".icf-folder > summary"))
    assert len(folders) == len(HOSTILE) + 1
    for folder in folders:
        visitor.click(folder)
    count = len(HOSTILE) + len(HOSTILE_NAMES)
    visitor.wait(lambda: len(visitor.texts(".icf-folder .icf-file")) == count)
    files = visitor.texts(".icf-folder .icf-file")
    for name in HOSTILE_NAMES:
        assert any(text.startswith(name) for text in files)
    assert not visitor.all(".icf-folder .icf-file a")  # no name made a link
    for word in visitor.all(".icf-words a"):
        assert "#/?f=" in word.get_attribute("href")
    assert visitor.driver.execute_script("return window.stolen") is None
    assert not any(url.endswith(("/stolen", "/x")) for url in visitor.requests())


def test_addresses_that_run_code_are_not_links(tmp_path: Path, visitor: Visitor) -> None:
    """Whatever a record says: links go to web addresses only."""
    place = deposit(tmp_path, "v001", make_visit("v001", typical_images()))
    catalogify_studyvisit_from_meta(tmp_path, STUDY, "v001", store_url="file:///srv/store")
    assert place.of_study.catalog.is_dir()
    with served(tmp_path) as address:
        go_to_visit(address, visitor, STUDY, "v001")
        assert not visitor.all(".icf-download")
        assert "file:///srv/store/proj-1/v001_dicom.tar" in visitor.one(".icf-getting").text
        assert not [item for item in visitor.all("main a") if not item.get_attribute("href").startswith("http")]


def test_a_catalog_of_an_earlier_version(tmp_path: Path, visitor: Visitor) -> None:
    """Its visits have no series in the index yet; the page shows what it has."""
    place = deposit(tmp_path, "v001", make_visit("v001", typical_images()))
    catalogify_studyvisit_from_meta(tmp_path, STUDY, "v001")
    study = Study(tmp_path, STUDY)
    (entry,) = read_study_page(study).entries
    old = StudyPage((replace(entry, columns=SeriesColumns()),))
    for name, data in study_files(STUDY, study_id(STUDY), old, CatalogSettings()).items():
        (place.of_study.catalog / name).write_bytes(data)
    with served(tmp_path) as address:
        visitor.open(f"{address}/{STUDY}/catalog/")
        visitor.heading(f"Study {STUDY}")
        visitor.search("v0")
        visitor.wait(lambda: visitor.texts(".icf-count") == ["1 of 1 visit"])


def test_a_visit_without_images(tmp_path: Path, visitor: Visitor) -> None:
    deposit(tmp_path, "v001", make_visit("v001", []))
    catalogify_studyvisit_from_meta(tmp_path, STUDY, "v001")
    with served(tmp_path) as address:
        go_to_visit(address, visitor, STUDY, "v001")
        assert "This visit has no DICOM image." in visitor.texts("main p")
        assert visitor.all(".icf-download")
