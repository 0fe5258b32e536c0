"""What a study says of itself: on its page, in its record, and for programs that index and cite it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from icf_utils.catalog.rebuild import build_catalog
from icf_utils.catalog.records import schema_problems
from icf_utils.catalog.stage import catalogify_studyvisit_from_meta
from icf_utils.catalog.study import study_id, study_path
from icf_utils.errors import InvalidSetting
from tests.catalog.conftest import STUDY, deposit, make_visit, typical_images

DESCRIPTION = """
[study]
name = "Memory & sleep"
description = "MRI of </script> memory."
keywords = ["memory"]
license = "CC BY 4.0"
license_url = "https://creativecommons.org/licenses/by/4.0/"
doi = "10.1234/memory"
year = "2024"
publisher = "Example University"
funding = ["Example Foundation"]
contact = "memory@example.org"
access = "On request."
access_url = "javascript:alert(1)"
ethics = "12/2021"

[[study.authors]]
name = "Doe, Jane"
orcid = "0000-0002-1825-0097"
affiliation = "Example University"

[[study.authors]]
name = "Roe, R_1"

[[study.publications]]
title = "Memory"
doi = "10.1234/sleep"
authors = ["Doe, Jane"]
"""


@pytest.fixture
def catalog(store: Path) -> Path:
    for visit in ("v001", "v002"):
        deposit(store, visit, make_visit(visit, typical_images()))
    (store / STUDY / "icf.toml").write_text(DESCRIPTION)
    return build_catalog(store, STUDY).catalog


def test_the_record_has_it_and_its_schema_accepts_it(catalog: Path) -> None:
    record = json.loads((catalog / study_path(study_id(STUDY))).read_text())
    assert schema_problems(record) == []
    assert (record["name"], record["doi"]) == ("Memory & sleep", "https://doi.org/10.1234/memory")
    assert record["license"] == {"name": "CC BY 4.0", "url": "https://creativecommons.org/licenses/by/4.0/"}
    assert [author["name"] for author in record["authors"]] == ["Doe, Jane", "Roe, R_1"]
    assert record["keywords"][0] == "memory"
    assert record["access_request_contact"]["email"] == "memory@example.org"
    assert record["publications"][0]["authors"] == [{"name": "Doe, Jane"}]


def test_the_page_has_it_as_text_and_as_json_ld(catalog: Path) -> None:
    page = (catalog / "index.html").read_text()
    assert "<title>Memory &amp; sleep</title>" in page
    assert '<a href="https://orcid.org/0000-0002-1825-0097" rel="noopener">Doe, Jane</a> (Example University)' in page
    assert 'href="javascript' not in page
    (block,) = re.findall(r'<script type="application/ld\+json"[^>]*>(.*?)</script>', page)
    described = json.loads(block)
    assert (described["@type"], described["name"]) == ("Dataset", "Memory & sleep")
    assert described["description"] == "MRI of </script> memory."
    assert described["creator"][0]["@id"] == "https://orcid.org/0000-0002-1825-0097"


def test_it_can_be_cited(catalog: Path) -> None:
    bibtex = (catalog / "citation.bib").read_text()
    assert (
        "@misc{proj-1,\n  title = {{Memory \\& sleep}},\n  author = {Doe, Jane and Roe, R\\_1},\n  year = {2024}"
        in bibtex
    )
    ris = (catalog / "citation.ris").read_bytes().decode().split("\r\n")
    assert ris[:3] == ["TY  - DATA", "TI  - Memory & sleep", "AU  - Doe, Jane"]
    assert ris[-2] == "ER  - "
    datacite = json.loads((catalog / "datacite.json").read_text())
    assert datacite["creators"][0]["nameIdentifiers"][0]["nameIdentifierScheme"] == "ORCID"
    assert (datacite["publicationYear"], datacite["doi"]) == ("2024", "10.1234/memory")


def test_an_addition_gives_the_same_and_a_study_without_it_has_none(catalog: Path, store: Path) -> None:
    assert catalogify_studyvisit_from_meta(store, STUDY, "v001").files_written == 0
    (store / STUDY / "icf.toml").unlink()
    catalogify_studyvisit_from_meta(store, STUDY, "v001")
    assert "Cite" not in (catalog / "index.html").read_text()
    assert not (catalog / "citation.bib").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [("[study]\nauthor = 1\n", "did you mean 'authors'"), ("[store]\n", "unknown key"), ("[study", "TOML")],
)
def test_a_mistake_in_the_file_is_named(store: Path, text: str, said: str) -> None:
    deposit(store, "v001", make_visit("v001", typical_images()))
    (store / STUDY / "icf.toml").write_text(text)
    with pytest.raises(InvalidSetting, match=said):
        catalogify_studyvisit_from_meta(store, STUDY, "v001")
