"""Series as the unit of search: operators, facets, the protocol matrix, and what can be taken away."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from icf_utils.catalog.rebuild import build_catalog
from icf_utils.dataset.stage import deposit_visit_dataset
from tests.catalog.browsing import Visitor, served
from tests.catalog.conftest import STUDY, deposit, make_series, make_visit

VISITS = 30
NAMES = [f"sub-{at:02}" for at in range(1, VISITS + 1)]


def images_of(at: int) -> list[Any]:
    """Visit ``at`` (from 1): 3 lacks the field map, 5 repeats the T1, 7 has too few images, 9 has another TE."""
    common: dict[str, Any] = {
        "ManufacturerModelName": "Prisma" if at % 3 else "Skyra",
        "MagneticFieldStrength": 3 if at % 3 else 1.5,
        "StudyDate": f"{2022 + at % 2}{1 + at % 6:02}15",
    }
    t1: dict[str, Any] = {"ProtocolName": "MPRAGE", "EchoTime": 2.98 if at != 9 else 3.5, "RepetitionTime": 2300}
    bold: dict[str, Any] = {"ProtocolName": "BOLD rest", "EchoTime": 30, "RepetitionTime": 2000}
    field: dict[str, Any] = {"ProtocolName": "field map", "EchoTime": 3, "RepetitionTime": 400}
    return [
        *make_series(2, 4 if at != 7 else 3, "t1_mprage", **common, **t1),
        *make_series(5, 3, "ep2d_bold", **common, **bold),
        *(make_series(6, 2, "gre_field", **common, **field) if at != 3 else []),
        *(make_series(8, 4, "t1_mprage", **common, **t1) if at == 5 else []),
        *(make_series(9, 1, "special", **common, ProtocolName="=test") if at == 2 else []),
    ]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("series")
    for at, visit in enumerate(NAMES, 1):
        images = images_of(at)
        deposit(root, visit, make_visit(visit, images))
        if at < 10 and at != 4:
            day = str(images[0].tags["StudyDate"])
            date = f"{day[:4]}-{day[4:6]}-{day[6:]}"
            deposit_visit_dataset(root, STUDY, visit, store_url="https://data.example.org", commit_date=date)
    build_catalog(root, STUDY, store_url="https://data.example.org")
    with served(root) as address:
        yield f"{address}/{STUDY}/catalog/"


@pytest.fixture
def page(site: str, visitor: Visitor) -> Visitor:
    visitor.open(site)
    visitor.wait(lambda: visitor.texts(".icf-count") == [f"{VISITS} visits"])
    return visitor


def hits(visitor: Visitor, text: str) -> int:
    visitor.search(text)
    (said,) = visitor.texts(".icf-count")
    assert not visitor.all(".icf-unknown"), said
    return int(said.split(" of ")[0]) if " of " in said else VISITS


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("protocol:mprage echotime:30", 0),  # values of two series
        ("protocol:mprage te:2.98", 29),
        ("mprage bold", 0),
        ("mprage AND bold", 30),
        ("mprage OR bold", 30),
        ("te:3", 29),
        ("te:3.0", 29),
        ("te:30", 30),
        ("te:0", 0),
        ("protocol:mprage te:<3", 29),
        ("protocol:mprage te:>3", 1),
        ("protocol:mprage te:3..4", 1),
        ("protocol:mprage te:!=2.98", 1),
        ("protocol:mprage -te:3.5", 29),
        ("-field", 1),
        ("NOT field", 1),
        ("NOT (field OR bold)", 0),
        ("(mprage OR field) te:<=2.98", 29),
        ("-special -(images:3 protocol:mprage)", 28),
        ('protocol:="BOLD rest"', 30),
        ("protocol:=BOLD", 0),
        ("number:8", 1),
        ("images:<4 protocol:mprage", 1),
        ("date:2022", 15),
        ("date:2022-01..2022-03", 10),
        ("date:>=2023-02", 15),
        ("date:<2023", 15),
        ("series:>3", 2),
        ("size:>100MB", 0),
        ("visit:sub-0", 9),
        ("visit:=sub-07", 1),
        ("field:3", 20),
        ("model:prisma field:1.5", 0),
    ],
)
def test_what_a_query_selects(page: Visitor, query: str, expected: int) -> None:
    assert hits(page, query) == expected


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("te:~30", "“~” after “te:” is not an operator. There are =, !=, <, <=, >, >="),
        ("te:=>30", "“=>” after “te:” is not an operator"),
        ("te:<abc", "“abc” after “te:” is not a number"),
        ("protocol:<b", "“b” after “protocol:” is not a number"),
        ("date:2023-13", "“2023-13” after “date:” is not a date"),
        ("date:soon", "is not a date"),
        ("size:>3XB", "“XB” is not a unit of size"),
        ("OR t1", "OR needs something to search for on both sides"),
        ("t1 AND", "AND needs something to search for on both sides"),
        ("(t1", "A parenthesis “(” is not closed"),
        ("NOT", "NOT needs something to search for after it"),
        ("bogus:1", "“bogus” is not recorded in this catalog, which has: visit, date"),
    ],
)
def test_what_is_not_understood_is_explained(page: Visitor, query: str, said: str) -> None:
    page.search(query)
    assert said in page.one(".icf-unknown").text


def facet(visitor: Visitor, text: str) -> Any:
    return next(item for item in visitor.all(".icf-facet-value") if text in item.text)


def test_facets_count_and_narrow(page: Visitor) -> None:
    legends = page.texts("legend")
    assert legends == ["Protocol", "Scanner", "Field strength", "Year"]
    page.click(facet(page, "Skyra"))
    page.wait(lambda: page.texts(".icf-count") == ["10 of 30 visits, 29 series"])
    assert page.texts("dd")[:2] == ["10", "29"]  # the totals follow
    assert page.texts(".icf-bars .icf-number") == ["10"]
    page.click(facet(page, "Prisma"))
    page.wait(lambda: page.texts(".icf-count") == ["30 of 30 visits, 91 series"])
    page.driver.back()
    page.wait(lambda: page.texts(".icf-count") == ["10 of 30 visits, 29 series"])
    page.click(page.link("Remove: Scanner: Skyra"))
    page.wait(lambda: page.texts(".icf-count") == ["30 visits"])


def test_visits_without_a_protocol_are_one_click_away(page: Visitor) -> None:
    page.click(page.link("Visits without field map"))
    page.wait(lambda: page.texts(".icf-count") == ["1 of 30 visits"])
    assert [row[0] for row in page.rows()] == ["sub-03"]


def test_everything_is_in_the_address_and_back_restores_it(page: Visitor) -> None:
    page.search("te:<40")
    page.wait(lambda: "q=te" in page.driver.current_url)
    page.click(page.link("Series", ".icf-views"))
    page.wait(lambda: page.all(".icf-series-list"))
    page.click(page.link("Images", "th"))
    page.wait(lambda: page.texts("th[aria-sort=ascending]") == ["Images↑"])
    page.click(page.link("Next"))
    page.wait(lambda: "51–" in page.one(".icf-pager").text)
    address, rows = page.driver.current_url, page.rows()
    page.open(address)
    page.wait(lambda: page.rows() == rows)
    assert page.driver.execute_script("return document.querySelector('#icf-q').value") == "te:<40"
    page.click(page.link("sub-", "td"))
    page.wait(lambda: page.texts("h1") != [f"Study {STUDY}"])
    page.driver.back()
    page.wait(lambda: page.rows() == rows)


def test_columns_are_chosen_and_stay_in_the_address(page: Visitor) -> None:
    page.click(page.one(".icf-chooser summary"))
    box = next(label for label in page.all(".icf-boxes label") if "Scanner" in label.text)
    page.click(box.find_element("tag name", "input"))
    page.wait(lambda: "columns=" in page.driver.current_url)
    page.wait(lambda: page.rows()[0][-1] == "Prisma")
    page.open(page.driver.current_url)
    page.wait(lambda: page.rows() and page.rows()[0][-1] == "Prisma")


def matrix(visitor: Visitor) -> dict[str, list[str]]:
    """The cells of the matrix by visit, as a reader sees them."""
    script = """
        return [...document.querySelectorAll(".icf-matrix tbody tr")].map(row => [...row.cells].map(cell => {
            const copy = cell.cloneNode(true);
            copy.querySelectorAll(".icf-unseen").forEach(one => one.remove());
            return copy.textContent.trim();
        }))"""
    return {row[0]: row[1:] for row in visitor.driver.execute_script(script)}


def test_the_matrix_says_who_lacks_what(site: str, visitor: Visitor) -> None:
    visitor.open(f"{site}#/?view=matrix")
    visitor.wait(lambda: matrix(visitor))
    heads = visitor.texts(".icf-matrix thead tr:first-child th")
    assert heads == ["Visit", "Date", "Marked", "MPRAGE", "BOLD rest", "field map", "=test"]
    cells = matrix(visitor)
    assert cells["sub-01"][1:] == ["0", "4", "3", "2", "·"]
    assert cells["sub-02"][1:] == ["1", "4", "3", "2", "1 +"]
    assert cells["sub-03"][1:] == ["1", "4", "3", "✕", "·"]
    assert cells["sub-05"][1:] == ["1", "2 × 4 ↻", "3", "2", "·"]
    assert cells["sub-07"][1:] == ["1", "3 ◔", "3", "2", "·"]
    assert cells["sub-09"][1:] == ["1", "4 ≠", "3", "2", "·"]
    title = visitor.one(".icf-matrix td.icf-deviating").get_attribute("title")
    assert title == "deviating; series 2: TE 3.5 ms, usually 2.98 ms"
    assert visitor.texts(".icf-lacking td") == ["0", "0", "1", "29"]
    assert [text.split() for text in visitor.texts(".icf-legend a")] == [
        ["✕", "missing", "1"],
        ["◔", "incomplete", "1"],
        ["↻", "repeated", "1"],
        ["≠", "deviating", "1"],
        ["+", "extra", "1"],
    ]
    visitor.click(visitor.link("≠ deviating", ".icf-legend"))
    visitor.wait(lambda: list(matrix(visitor)) == ["sub-09"])
    visitor.driver.back()
    visitor.wait(lambda: len(matrix(visitor)) == VISITS)
    visitor.click(visitor.link("Marked", ".icf-matrix th"))
    visitor.click(visitor.wait(lambda: visitor.link("Marked ↑", ".icf-matrix th")))
    visitor.wait(lambda: list(matrix(visitor))[:5] == ["sub-02", "sub-03", "sub-05", "sub-07", "sub-09"])
    visitor.click(visitor.link("1 visit without field map"))
    visitor.wait(lambda: list(matrix(visitor)) == ["sub-03"])
    visitor.open(f"{site}#/?view=matrix&by=description")
    visitor.wait(lambda: "ep2d_bold" in visitor.texts(".icf-matrix thead tr:first-child th"))


def test_the_parameters_of_each_protocol(site: str, visitor: Visitor) -> None:
    visitor.open(f"{site}#/?view=parameters")
    rows = visitor.wait(lambda: visitor.rows(".icf-parameter-table table"))
    found = {row[0]: row[1:] for row in rows}
    assert found["BOLD rest"] == ["ep2d_bold", "30", "yes", "2000 ms", "30 ms"]
    assert found["MPRAGE"] == ["t1_mprage", "30", "no", "2300 ms", "2.98 ms in 30\n3.5 ms in 1"]
    visitor.click(visitor.link("3.5 ms", "td"))
    visitor.wait(lambda: visitor.texts(".icf-count") == ["1 of 30 visits, 1 series"])
    assert visitor.rows(".icf-series-list table")[0][0] == "sub-09"


#: Catch what is saved as a file, and what is copied.
CATCH = """
window.saved = {};
icfSave = (name, text) => { window.saved[name] = text; };
icfCopy = async text => { window.copied = text; return true; };
"""


def save(visitor: Visitor, button: str) -> dict[str, str]:
    visitor.driver.execute_script(CATCH)
    visitor.click(visitor.one(".icf-takeaway summary"))
    visitor.click(visitor.button(button, ".icf-takeaway"))
    return dict(visitor.driver.execute_script("return window.saved"))


def test_tables_are_taken_away(site: str, visitor: Visitor) -> None:
    visitor.open(f"{site}#/?q=protocol%3Amprage+te%3A%3E3")
    visitor.wait(lambda: visitor.texts(".icf-count") == ["1 of 30 visits, 1 series"])
    assert visitor.texts(".icf-takeaway summary") == ["Take away 1 visit, 840.0 kB"]
    (text,) = save(visitor, "CSV").values()
    assert list(csv.reader(io.StringIO(text))) == [
        ["visit", "date", "modalities", "series", "images", "bytes"],
        ["sub-09", "2023-04-15", "MR", "3", "9", "1900240"],
    ]
    visitor.open(f"{site}#/?view=series&q=number%3A9")
    visitor.wait(lambda: visitor.all(".icf-series-list"))
    (text,) = save(visitor, "TSV").values()
    assert text.split("\r\n")[1].split("\t")[:5] == ["sub-02", "9", "special", "'=test", "MR"]
    visitor.open(f"{site}#/?view=matrix&show=missing")
    visitor.wait(lambda: visitor.all(".icf-matrix"))
    (text,) = save(visitor, "CSV").values()
    assert text.split("\r\n")[1] == "sub-03,2023-04-15,1,4,3,[missing],"


def test_identifiers_scripts_and_commands_are_taken_away(site: str, visitor: Visitor) -> None:
    visitor.open(f"{site}#/?q=protocol%3Amprage+visit%3Asub-0")
    visitor.wait(lambda: visitor.texts(".icf-count") == ["9 of 30 visits, 10 series"])
    save(visitor, "Copy the identifiers")
    assert visitor.driver.execute_script("return window.copied").split() == NAMES[:9]
    assert visitor.texts(".icf-takeaway pre")[1].endswith(f"{STUDY}/sub-05 --series 2 --series 8 -d {STUDY}-images")
    script = "document.querySelectorAll('.icf-takeaway button').forEach(one => one.click()); return window.saved;"
    saved = visitor.driver.execute_script(script)
    assert saved[f"{STUDY}-selection.tsv"].split("\r\n")[:2] == ["study\tvisit\tseries", f"{STUDY}\tsub-01\t2"]
    assert len(saved[f"{STUDY}-selection.tsv"].split()) == 3 + 3 * 10
    clone = saved[f"{STUDY}-clone.sh"].splitlines()
    assert len([line for line in clone if "datalad clone" in line]) == 8
    assert "url=https://data.example.org/proj-1/sub-01_{{annex_key}}' sub-01" in clone[3]
    assert "echo 'sub-04: has no dataset; its archive can be downloaded' >&2" in clone
    assert saved[f"{STUDY}-archives.txt"].splitlines()[0] == "https://data.example.org/proj-1/sub-01_dicom.tar"
    retrieve = saved[f"{STUDY}-retrieve.sh"].splitlines()
    assert retrieve[3].startswith("icf-utils retrieve --store https://data.example.org proj-1/sub-01 proj-1/sub-02 ")


def test_the_visits_page_marks_what_deviates(site: str, visitor: Visitor) -> None:
    visitor.open(f"{site}#/visit/sub-09")
    # the page before may still be shown
    titles = "return [...document.querySelectorAll('td .icf-marked')].map(e => e.title)"
    visitor.wait(lambda: visitor.driver.execute_script(titles) == ["usually 2.98 ms"])
    visitor.open(f"{site}#/visit/sub-07?series=2")
    visitor.wait(lambda: "TR\n2300 ms" in visitor.one(".icf-parameters").text)
    assert visitor.texts("td .icf-marked")[0].startswith("3")
    assert "git -C sub-07 annex get --metadata seriesnumber=2" in visitor.texts(".icf-folder pre")
    assert visitor.texts(".icf-neighbours a") == ["Previous visit: sub-06", "Next visit: sub-08"]


def test_a_damaged_or_missing_file_is_named(site: str, tmp_path: Path, visitor: Visitor) -> None:
    deposit(tmp_path, "v1", make_visit("v1", images_of(1)))
    build_catalog(tmp_path, STUDY)
    data = tmp_path / STUDY / "catalog" / "data"
    with served(tmp_path) as address:
        (data / "study.json").write_bytes((data / "study.json").read_bytes()[:-50])
        visitor.open(f"{address}/{STUDY}/catalog/")
        said = visitor.one("[role=alert]").text
        assert "The file data/study.json is incomplete or damaged." in said
        assert f"icf-utils catalog build -o STORE {STUDY}" in said
        (data / "study.json").unlink()
        visitor.open(f"{address}/{STUDY}/catalog/")
        visitor.wait(lambda: "data/study.json, is missing" in visitor.one("[role=alert]").text)
        visitor.driver.get_log("browser")


def test_without_scripts_visits_and_series_are_listed(site: str, visitor: Visitor) -> None:
    visitor.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        visitor.driver.get(site)
        text = visitor.driver.find_element("tag name", "body").text
        assert "sub-30, 2022-01-15, 3 series, 9 images, 1.9 MB" in text
        link = visitor.driver.find_element("link text", "sub-01 to sub-30")
        visitor.driver.get(str(link.get_attribute("href")))
        listed = visitor.driver.find_element("tag name", "body").text
        assert "2, t1_mprage, MPRAGE, MR, 4 images" in listed
    finally:
        visitor.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.fixture(scope="module")
def real_paths(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A visit with a dataset: a folder for each of two series, one of whose numbers is given twice, and a third."""
    root = tmp_path_factory.mktemp("paths")
    images = []
    for at, (number, folder) in enumerate(((4, "MR4"), (5, "MR5"), (5, "JANE"))):
        series = make_series(number, 2, "ศีรษะ", ("MR", "CT", "MR")[at], ProtocolName="मस्तिष्क")
        for image in series:
            name = image.path.rpartition("/")[2]
            uids = {**image.uids, "SeriesInstanceUID": f"1.2.3.{at}", "SOPInstanceUID": f"1.2.3.{at}.{name[5:8]}"}
            images.append(replace(image, path=f"{folder}/{name}", uids=uids))
    images[3] = replace(images[3], tags={**images[3].tags, "Modality": "PT"})
    deposit(root, "v001", make_visit("v001", images))
    deposit_visit_dataset(root, STUDY, "v001", store_url="https://data.example.org", commit_date="2020-01-02")
    build_catalog(root, STUDY, store_url="https://data.example.org")
    with served(root) as address:
        yield f"{address}/{STUDY}/catalog/"


def test_one_series_is_got_by_its_real_folder(real_paths: str, visitor: Visitor) -> None:
    visitor.open(f"{real_paths}#/visit/v001?series=4")
    assert visitor.wait(lambda: visitor.texts(".icf-paths")) == [
        f"In the archive and in a clone, these files are in {STUDY}_v001/MR4/."
    ]
    assert visitor.texts(".icf-folder pre") == [
        f"icf-utils retrieve --store https://data.example.org --id {STUDY} v001 --series 4 -d v001-images",
        f"git -C v001 annex get {STUDY}_v001/MR4",
        "git -C v001 annex get --metadata seriesnumber=4",
    ]
    assert visitor.texts(".icf-file .icf-name") == ["s04_0001.dcm", "s04_0002.dcm"]


def test_folders_with_names_are_not_shown_and_a_number_given_twice_is_said(real_paths: str, visitor: Visitor) -> None:
    visitor.open(f"{real_paths}#/visit/v001")
    for summary in visitor.wait(lambda: visitor.all(".icf-folder > summary"))[1:]:
        visitor.click(summary)
    shown, hidden = visitor.wait(lambda: (found := visitor.texts(".icf-paths")) and len(found) == 2 and found)
    assert shown.endswith("/MR5/.")
    assert hidden.startswith("The folders of these files are not shown, because their names may identify somebody.")
    assert "git annex find --anything --metadata seriesnumber=5" in hidden
    assert "JANE" not in visitor.driver.page_source
    page = visitor.driver.find_element("tag name", "main").text
    assert page.count("2 series of this visit have the number 5: commands with this number get all of them.") == 2


def test_the_command_of_a_series_is_copied_by_one_click(real_paths: str, visitor: Visitor) -> None:
    visitor.open(f"{real_paths}#/visit/v001")
    visitor.wait(visitor.rows)
    visitor.driver.execute_script(CATCH)
    visitor.click(visitor.button("Copy the command that gets series 4"))
    visitor.wait(lambda: visitor.driver.execute_script("return window.copied"))
    wanted = f"icf-utils retrieve --store https://data.example.org --id {STUDY} v001 --series 4 -d v001-images"
    assert visitor.driver.execute_script("return window.copied") == wanted


def test_a_series_of_two_modalities_counts_under_each(real_paths: str, visitor: Visitor) -> None:
    visitor.open(real_paths)
    script = """
        const box = [...document.querySelectorAll("fieldset")].find(one => one.innerText.startsWith("Modality"));
        return box && [...box.querySelectorAll(".icf-facet-text")].map(one => one.innerText)"""
    assert visitor.wait(lambda: visitor.driver.execute_script(script)) == ["CT", "MR", "PT"]
    for modality in ("ct", "pt"):
        visitor.search(f"modality:{modality} ศีรษะ")
        visitor.wait(lambda: visitor.texts(".icf-count") == ["1 of 1 visit, 1 series"])


def test_vowel_signs_are_shown_and_searched(real_paths: str, visitor: Visitor) -> None:
    visitor.open(f"{real_paths}#/?view=series")
    visitor.wait(lambda: any("ศีรษะ" in row and "मस्तिष्क" in row for row in visitor.rows()))
    visitor.search("मस्तिष्क")
    visitor.wait(lambda: visitor.texts(".icf-count") == ["1 of 1 visit, 3 series"])
    visitor.search("मसत")  # without the signs, it is another word
    visitor.wait(lambda: visitor.texts(".icf-count") and visitor.texts(".icf-count")[0].startswith("0 of 1 visit"))


def test_texts_from_right_to_left_do_not_move_the_numbers_next_to_them(real_paths: str, visitor: Visitor) -> None:
    visitor.open(f"{real_paths}#/visit/v001")
    visitor.wait(lambda: visitor.texts(".icf-folder summary"))
    script = """
        const name = document.querySelector(".icf-folder .icf-name");
        name.textContent = "Series 4: \u05de\u05d5\u05d7 T2 \u05de\u05d5\u05d7";
        const about = name.parentElement.querySelector(".icf-about");
        return [name, about].map(one => one.getBoundingClientRect().toJSON())"""
    name, count = visitor.driver.execute_script(script)
    assert count["left"] >= name["right"]
