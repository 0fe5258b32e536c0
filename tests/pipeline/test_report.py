"""The report of a run, also in a real browser, and the picture of its stages."""

from __future__ import annotations

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from icf_utils import RunConfig, RunResult, VisitOutcome, collect_visits, make_plan
from icf_utils.errors import StorageFailure
from icf_utils.pipeline.graph import (
    GraphCell,
    mermaid_graph,
    outcome_cells,
    plan_cells,
    svg_graph,
    write_graph,
)
from icf_utils.pipeline.model import RunHead, StageFailure, StageOutcome
from icf_utils.pipeline.report import json_report, write_report
from icf_utils.pipeline.report_page import html_report
from icf_utils.results import Notice
from icf_utils.settings import STAGE_NAMES
from tests.catalog.browsing import DESKTOP, PHONE, Visitor, served

HOSTILE = "<script>alert(1)</script>&\"'\u202e\n\x1b[31m"


UID = "1.2.840.113619.2.55.3"
HEAD = RunHead(1_700_000_000.0, "/data/store", "1.2", "icf-utils run -o /data/store --report report.html")


def hostile_result() -> RunResult:
    failure = StageFailure("InputRefused", HOSTILE, 3)
    notices = (Notice("no-time", HOSTILE, HOSTILE),)
    stages = (
        StageOutcome("archive", "done", (HOSTILE,), 1.5, 1234567, notices, notices),
        StageOutcome("metadata", "failed", failure=failure),
        StageOutcome("dataset", "not reached"),
        StageOutcome("catalog", "up to date"),
    )
    return RunResult((VisitOutcome("study-a", "v1", stages),), 2.5)


def large_result(visits: int) -> RunResult:
    """Visits of each kind, in the order of their names."""

    def outcome(at: int) -> VisitOutcome:
        stages = [StageOutcome(name, "done", ("not made yet",), 0.5 + at / 9, 10_000 * at) for name in STAGE_NAMES]
        subject = f"in/{UID}/IM{at}.dcm"
        if at % 10 == 3:
            failure = StageFailure("NotSettled" if at % 20 == 3 else "InputRefused", f"'{subject}' is cut off", 3)
            stages[0] = StageOutcome("archive", "failed", seconds=0.1, failure=failure)
            stages[1:] = [StageOutcome(name, "not reached") for name in STAGE_NAMES[1:]]
        elif at % 10 == 5:
            stages = [StageOutcome(name, "up to date") for name in STAGE_NAMES]
        elif at % 10 == 7:
            stages[0] = replace(stages[0], notices=(Notice("no-time", subject, "has no usable StudyDate"),) * 2)
        return VisitOutcome("study-a", f"sub-{at:04}", tuple(stages))

    return RunResult(tuple(map(outcome, range(visits))), 61.0)


class _Page(HTMLParser):
    """The names of elements, the text, and the content of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


def test_a_report_escapes_everything(tmp_path: Path) -> None:
    text = html_report(hostile_result(), HEAD)
    page = _Page(text)
    assert page.tags.count("script") == 1
    assert "<script>alert(1)</script>" in page.text
    assert not {"\x1b", "\u202e"} & set(text)
    assert "http" not in text
    assert "1.2 MB" in page.text
    write_report(tmp_path / "report.json", hostile_result(), HEAD)
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["counts"]["failed"] == 1
    assert report["visits"][0]["stages"][1]["failure"]["message"] == HOSTILE
    assert report["run"] == {"began": 1700000000.0, "store": "/data/store", "version": "1.2", "command": HEAD.command}


def test_a_report_says_what_was_run_and_when() -> None:
    text = " ".join(_Page(html_report(large_result(20), HEAD)).text.split())
    for words in (
        "Started 2023-11-14 22:13:20 UTC Took 1 min 1 s Store /data/store icf-utils 1.2 Command icf-utils run -o",
        "20 visits: 1 failed, 1 not settled, 16 made, 2 up to date",
        "no-time has no usable StudyDate 4 in 2 visits",
        "study-a/sub-0007: in/\N{HORIZONTAL ELLIPSIS}/IM7.dcm",
    ):
        assert words in text, words
    assert UID not in text


def test_a_report_lists_failures_first_and_a_row_for_each_visit() -> None:
    text = html_report(large_result(20), HEAD)
    names = re.findall(r"<b>study-a/(sub-\d+)</b>", text)
    assert names[:3] == ["sub-0013", "sub-0003", "sub-0000"]
    assert names[-2:] == ["sub-0005", "sub-0015"]
    assert len(names) == 20
    assert text.count('<details class="card visit') == 20
    assert '" open>' not in text


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig(tmp_path / "store")


@pytest.fixture
def report(tmp_path: Path, visitor: Visitor) -> Visitor:
    write_report(tmp_path / "report.html", large_result(40), HEAD)
    visitor.width(DESKTOP)
    with served(tmp_path) as address:
        visitor.open(f"{address}/report.html")
    return visitor


def test_the_visits_of_a_report_are_filtered(report: Visitor) -> None:
    assert len(report.texts(".visit > summary")) == 40
    report.driver.find_element("css selector", "label[for=show-failed]").click()
    assert [text.split("\n")[:2] for text in report.texts(".visit > summary")] == [
        ["failed", "study-a/sub-0013"],
        ["failed", "study-a/sub-0033"],
    ]
    assert report.texts(".count") == ["2 of 40 visits shown"]
    report.driver.find_element("css selector", "label[for=show-all]").click()
    report.driver.find_element("css selector", ".words input").send_keys("no-time sub-0017")
    assert report.texts(".visit > summary b") == ["study-a/sub-0017"]
    assert report.texts(".visit table") == []
    report.driver.find_element("css selector", "#show-all + *")
    report.all(".visit > summary")[0].click()
    assert "not made yet" in report.texts(".visit table")[0]


def test_a_report_on_each_screen(report: Visitor) -> None:
    for pixels in (DESKTOP, PHONE):
        for scheme in ("light", "dark"):
            report.width(pixels)
            report.scheme(scheme)
            assert report.driver.execute_script("return document.documentElement.scrollWidth <= innerWidth"), pixels
            report.save_picture(f"report-{pixels}-{scheme}")
            assert report.axe_violations() == [], (pixels, scheme)
    ground = report.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(18, 22, 28)"


def test_a_report_replaces_a_file_in_one_step_and_writes_into_what_is_not_a_file(tmp_path: Path) -> None:
    path, link, fifo = tmp_path / "kept.json", tmp_path / "report.json", tmp_path / "fifo.json"
    path.write_text("old", encoding="utf-8")
    path.chmod(0o640)
    link.symlink_to(path)
    with path.open(encoding="utf-8") as old:
        write_report(link, hostile_result(), HEAD)
        assert old.read() == "old"  # a program that has it open still reads the old one
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert path.read_text(encoding="utf-8") == json_report(hostile_result(), HEAD)
    os.mkfifo(fifo)
    with ThreadPoolExecutor() as pool:
        written = pool.submit(write_report, fifo, hostile_result(), HEAD)
        assert fifo.read_text(encoding="utf-8") == json_report(hostile_result(), HEAD)
        written.result()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fifo.json", "kept.json", "report.json"]


def test_graphs(inputs: Path, config: RunConfig, tmp_path: Path) -> None:
    visits = collect_visits(config.root, inputs / "visits.csv")
    cells = plan_cells(make_plan(visits, config))
    picture = ElementTree.fromstring(svg_graph(cells, config.stage_names))
    titles = [item.text for item in picture.iter("{http://www.w3.org/2000/svg}title")]
    assert titles[0] == "study-a/v1 archive: to do; not made yet"
    assert len(titles) == 12
    (hostile,) = {cell.note for cell in outcome_cells(hostile_result()) if cell.state == "failed"}
    ElementTree.fromstring(svg_graph([GraphCell("s/v", "archive", "failed", hostile)], ["archive"]))
    text = mermaid_graph(cells)
    assert text.startswith("flowchart LR\n")
    assert '  v0_archive --> v0_metadata["study-a/v1<br/>metadata: to do"]:::to_do\n' in text
    write_graph(tmp_path / "chain.mmd", cells, config.stage_names)
    assert (tmp_path / "chain.mmd").read_text(encoding="utf-8") == text
    with pytest.raises(StorageFailure):
        write_graph(tmp_path / "none" / "chain.svg", cells, config.stage_names)
