"""Search over a study, and the sizes that pages must bear: by hand with ICF_TRIALS=1 the figures are printed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from icf_utils.catalog import writer
from icf_utils.catalog.content import load_application, study_files, super_files
from icf_utils.catalog.records import VisitEntry
from icf_utils.catalog.stage import catalogify_studyvisit_from_meta
from icf_utils.catalog.study import StudyPage, study_id
from icf_utils.catalog.study_index import SeriesColumns
from icf_utils.outputs.listing import OUTPUTS_PATH, encode_outputs
from icf_utils.settings import CatalogSettings
from icf_utils.store.layout import Study
from tests.catalog.browsing import Visitor, served
from tests.catalog.conftest import STUDY, deposit, make_image, make_visit

VISITS, IMAGES = 5_000, 10_000

#: Read at once: tests begin without such variables.
TRIALS = os.environ.get("ICF_TRIALS")

#: How long the page needs for a search, from the key to the new list, in milliseconds.
TIMED_SEARCH = """
const [text, done] = arguments;
const field = document.querySelector("input[type=search]");
field.value = text;
const begin = performance.now();
field.dispatchEvent(new Event("input"));
document.body.offsetHeight;
done(performance.now() - begin);
"""


def entry(at: int) -> VisitEntry:
    modality = ("Modality", "CT" if at % 10 == 0 else "MR")
    first = (("EchoTime", 2.98), modality, ("ProtocolName", f"protocol {at % 40}"))
    texts = [f"t1_mprage_{at % 25}", f"free text of visit {at}", *(f"common {number}" for number in range(16))]
    kinds = tuple(
        (*(first if number == 0 else (modality,)), ("SeriesDescription", text)) for number, text in enumerate(texts)
    )
    numbers = tuple(number + at % 2 for number in range(1, 19))
    return VisitEntry(
        visit=f"sub-{at:04}",
        dataset_id=f"00000000-0000-5000-8000-{at:012}",
        version=f"{at:032x}",
        series=18,
        images=400 + at,
        size=10**8 + at * 1000,
        modalities=("CT",) if at % 10 == 0 else ("MR", "SR"),
        date=f"20{10 + at % 12}-0{1 + at % 9}-17",
        store="https://data.example.org",
        columns=SeriesColumns(kinds, numbers, (*(20,) * 17, 60 + at), (10**6,) * 18),
    )


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A study page of 5,000 visits whose pages are not there, and a visit of 10,000 images in another study."""
    root = tmp_path_factory.mktemp("large")
    study, catalog_id = Study(root, STUDY), study_id(STUDY)
    page = StudyPage(tuple(entry(at) for at in range(VISITS)))
    application = load_application(study, CatalogSettings())
    study.folder.mkdir(parents=True)
    files = {**application, **study_files(STUDY, catalog_id, page, CatalogSettings()), **super_files(catalog_id)}
    files[OUTPUTS_PATH] = encode_outputs(())
    writer.write_files(study, files, writer.Tally())
    images = [make_image(f"s/{at:05}.dcm", "1.2.3", SeriesNumber=1, SeriesDescription="all") for at in range(IMAGES)]
    images += [make_image(f"t/{at:05}.dcm", f"1.2.4.{at}", SeriesNumber=at + 2) for at in range(300)]
    deposit(root, "big", make_visit("big", images, study="big"), "big")
    catalogify_studyvisit_from_meta(root, "big", "big")
    with served(root) as address:
        yield address


def search(visitor: Visitor, text: str) -> float:
    return float(visitor.driver.execute_async_script(TIMED_SEARCH, text))


def found(visitor: Visitor, text: str) -> str:
    search(visitor, text)
    (line,) = visitor.texts(".icf-count")
    return re.sub(", .* series$", "", line)


def reported(line: str) -> None:
    if TRIALS:
        print(line)  # noqa: T201


@pytest.fixture
def study_page(large: str, visitor: Visitor) -> Visitor:
    visitor.open(f"{large}/{STUDY}/catalog/")
    visitor.heading(f"Study {STUDY}")
    return visitor


def test_five_thousand_visits_are_shown_some_at_a_time(study_page: Visitor) -> None:
    shown = study_page.driver.execute_script("return performance.now()")
    reported(f"study page of {VISITS} visits: shown {shown:.0f} ms after the browser began to load it")
    assert len(study_page.rows()) == 50
    assert len(study_page.requests()) < 25  # none for each visit
    study_page.click(study_page.link("Next"))
    study_page.wait(lambda: study_page.rows()[0][0] == "sub-0050")
    study_page.click(study_page.link("Last"))
    study_page.wait(lambda: "4,951–5,000 of 5,000" in study_page.texts(".icf-pager span"))
    assert study_page.texts(".icf-pager a") == ["First", "Previous"]
    study_page.click(study_page.link("First"))
    study_page.wait(lambda: study_page.rows()[0][0] == "sub-0000")
    study_page.click(study_page.link("Images", "th"))
    study_page.wait(lambda: study_page.texts("th[aria-sort=ascending]") == ["Images↑"])
    study_page.click(study_page.link("Images", "th"))
    study_page.wait(lambda: study_page.rows()[0][0] == "sub-4999")


def test_a_search_is_fast(study_page: Visitor) -> None:
    """The best of many tries, with more time if other programs use the processors."""
    limit = 100 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    for text in ("m", "protocol 17 ct", '"free text of visit 4711"', "description:mprage modality:mr", "nothing"):
        times = [search(study_page, again) for again in (text, "") * 5]
        reported(
            f"search for '{text}' in {VISITS} visits: {min(times[::2]):.1f} ms; all again: {min(times[1::2]):.1f} ms"
        )
        assert min(times[::2]) < limit
        assert min(times[1::2]) < limit


def test_a_visit_is_found_by_everything_that_is_known_of_it(study_page: Visitor) -> None:
    assert found(study_page, '"free text of visit 4711"') == "1 of 5,000 visits"
    assert study_page.rows()[0][0].split("\n")[0] == "sub-4711"
    assert "Description free text of visit 4711" in study_page.texts(".icf-reasons span")
    assert found(study_page, "SUB-0042") == "1 of 5,000 visits"
    assert found(study_page, '"protocol 39"') == "125 of 5,000 visits"
    assert found(study_page, "protocol:39") == "125 of 5,000 visits"
    assert found(study_page, "description:39") != "125 of 5,000 visits"
    assert found(study_page, "ct") == "500 of 5,000 visits"
    assert found(study_page, "modality:ct visit:sub-001") == "1 of 5,000 visits"
    assert found(study_page, "echotime:2.98") == "5,000 of 5,000 visits"
    assert found(study_page, "echotime:2.99") == "0 of 5,000 visits"
    assert found(study_page, "date:2011") == "417 of 5,000 visits"
    assert found(study_page, "SeriesNumber:19") == "2,500 of 5,000 visits"
    assert found(study_page, "number:9") == "5,000 of 5,000 visits"  # 9 itself, and neither 19 nor 90
    assert found(study_page, "number:90") == "0 of 5,000 visits"
    assert found(study_page, "   ") == "5,000 visits"
    assert found(study_page, '"') == "5,000 visits"


def test_numbers_of_series_do_not_disturb_other_searches(study_page: Visitor) -> None:
    texts = [
        (one.visit, *(str(value) for kind in one.columns.kinds for _, value in kind))
        for one in map(entry, range(VISITS))
    ]
    expected = sum(any("19" in text for text in of_visit) for of_visit in texts)
    assert found(study_page, "19") == f"{expected} of 5,000 visits"


def test_a_tag_with_several_reasons_is_named_once(study_page: Visitor) -> None:
    found(study_page, '"common 1" visit:sub-0007')
    reasons = study_page.texts(".icf-reasons > span")
    assert reasons == ["Description common 1, common 10, common 11, common 12, common 13, common 14"]


def test_the_plots_write_numbers_like_the_rest_of_the_page(study_page: Visitor) -> None:
    assert study_page.texts(".icf-bars .icf-number") == ["4,500", "500"]


def test_no_request_is_made_for_a_search(study_page: Visitor) -> None:
    before = len(study_page.requests())
    found(study_page, "mprage")
    assert len(study_page.requests()) == before


def test_a_search_can_be_passed_on_as_an_address(study_page: Visitor) -> None:
    found(study_page, "sub-0042")
    study_page.wait(lambda: "q=sub-0042" in study_page.driver.current_url)
    study_page.open(study_page.driver.current_url)
    study_page.wait(lambda: study_page.texts(".icf-count") == ["1 of 5,000 visits"])
    assert study_page.texts("dd")[:2] == ["1", "18"]
    study_page.click(study_page.button("Clear"))
    study_page.wait(lambda: study_page.texts(".icf-count") == ["5,000 visits"])


def test_ten_thousand_images_in_a_visit(large: str, visitor: Visitor) -> None:
    visitor.open(f"{large}/big/catalog/")
    visitor.click(visitor.wait(lambda: visitor.all("td a"))[0])
    visitor.heading("big / big")
    assert len(visitor.rows()) == 50
    script = """
        const [done] = arguments; const begin = performance.now();
        document.querySelector(".icf-folder > summary").click();
        const look = () => document.querySelectorAll(".icf-folder .icf-file").length
            ? done(performance.now() - begin) : setTimeout(look, 5);
        look();"""
    reported(f"folder of {IMAGES} files: opened in {visitor.driver.execute_async_script(script):.0f} ms")
    assert len(visitor.texts(".icf-folder .icf-file")) == 200
    visitor.click(visitor.button("Show more (9,800 left)"))
    visitor.wait(lambda: len(visitor.texts(".icf-folder .icf-file")) == 1200)
    visitor.click(visitor.link("Series 7: parameters"))
    visitor.wait(lambda: "Series 7" in visitor.driver.switch_to.active_element.text)


def test_a_folder_far_down_is_found(large: str, visitor: Visitor) -> None:
    visitor.open(f"{large}/big/catalog/")
    visitor.click(visitor.wait(lambda: visitor.all("td a"))[0])
    visitor.heading("big / big")
    visitor.click(visitor.link("No.", "th"))
    visitor.wait(lambda: visitor.texts("th[aria-sort=ascending]"))
    visitor.click(visitor.link("No.", "th"))
    visitor.wait(lambda: visitor.rows()[0][0] == "301")
    visitor.click(visitor.link("Series 301: parameters"))
    visitor.wait(lambda: "301" in visitor.driver.switch_to.active_element.text)


def test_the_study_page_stays_small(large: str, tmp_path: Path) -> None:
    page = StudyPage(tuple(entry(at) for at in range(VISITS)))
    size = sum(map(len, study_files(STUDY, "id", page, CatalogSettings()).values()))
    reported(f"study page of {VISITS} visits: {size / 1e6:.1f} MB")
    assert size < 1600 * VISITS
