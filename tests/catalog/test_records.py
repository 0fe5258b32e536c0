from __future__ import annotations

import hashlib
import json
import shlex
from typing import Any

import pytest

from icf_utils.catalog.commands import VisitAddress, clone_command, clone_rows
from icf_utils.catalog.content import study_files, visit_files
from icf_utils.catalog.records import (
    VisitPage,
    file_record,
    node_path,
    record_bytes,
    schema_problems,
    visit_entry,
    visit_node,
    visit_records,
)
from icf_utils.catalog.study import StudyPage, study_id, study_node, super_record
from icf_utils.dicom.values import Value
from icf_utils.errors import DepositDamaged
from icf_utils.metadata.records import ImageRecord
from icf_utils.settings import CatalogSettings
from tests.catalog.conftest import STUDY, UID_ROOT, make_image, make_visit, typical_images

URL = "https://data.example.org/store/"


def page_of(images: list[ImageRecord], visit: str = "v001") -> VisitPage:
    return VisitPage(STUDY, visit, URL, "11111111-2222-5333-8444-555555555555", make_visit(visit, images))


def test_nodes_lie_where_the_application_looks_for_them() -> None:
    digest = hashlib.md5(b"id-version-03_t1", usedforsecurity=False).hexdigest()
    assert node_path("id", "version", "03_t1") == f"metadata/id/version/{digest[:3]}/{digest[3:]}.json"


def test_the_page_names_counts_and_sizes() -> None:
    node = visit_node(page_of(typical_images()))
    assert node["name"] == "proj-1 / v001"
    assert node["top_display"] == [
        {"name": "Series", "value": 3},
        {"name": "Images", "value": 16},
        {"name": "Size", "value": "3.4 MB"},
        {"name": "Modalities", "value": "MR, SR"},
    ]
    assert node["keywords"] == ["AAHead_Scout", "MR", "SR", "T1w"]
    assert node["authors"] == []


def test_the_series_table_has_a_row_per_series() -> None:
    table = visit_node(page_of(typical_images()))["additional_display"][0]
    assert table["content"]["Series 2"] == {
        "Description": "t1_mprage_sag",
        "Protocol": "T1w",
        "Modality": "MR",
        "Images": 12,
        "Bytes": 2_520_000,
    }


def test_series_with_the_same_number_or_none_have_rows_of_their_own() -> None:
    numbers: list[Value] = [5, 5, "", ""]
    images = [make_image(f"{at}", f"{UID_ROOT}.{at}", SeriesNumber=number) for at, number in enumerate(numbers)]
    table = visit_node(page_of(images))["additional_display"][0]
    assert list(table["content"]) == ["Series 5", "Series 5 [2]", "Series -", "Series - [2]"]


def test_the_archive_can_be_downloaded_and_checked() -> None:
    page = page_of(typical_images())
    rows = visit_node(page)["additional_display"][1]["content"]
    assert rows["MD5"] == page.metadata.tarball.md5
    assert rows["Size in bytes"] == page.metadata.tarball.size
    assert rows["Download"]["@value"] == "https://data.example.org/store/proj-1/v001_dicom.tar"
    assert shlex.split(rows["Download command"])[-1] == rows["Download"]["@value"]


@pytest.mark.parametrize("url", ["javascript:alert(1)", "file:///store", "/store"])
def test_only_web_addresses_become_links(url: str) -> None:
    page = VisitPage(STUDY, "v001", url, "x", make_visit("v001", []))
    assert visit_node(page)["additional_display"][1]["content"]["Download"] == f"{url}/proj-1/v001_dicom.tar"


def test_the_clone_command_survives_a_shell() -> None:
    words = shlex.split(clone_command(VisitAddress("https://data.example.org/it's here", STUDY, "v001")))
    assert words[:2] == ["datalad", "clone"]
    assert words[2].endswith("&encryption=none&url=https://data.example.org/it's here/proj-1/v001_{{annex_key}}")
    assert words[3:] == ["v001"]


def test_git_annex_alone_is_offered_where_it_can_clone() -> None:
    place = VisitAddress("https://data.example.org", STUDY, "v001")
    assert not [name for name in clone_rows(place, "") if name.startswith("git-annex")]
    rows = clone_rows(place, "annex::https://data.example.org/proj-1/v001.annex?a&b")
    assert shlex.split(rows["git-annex"]) == [
        "git",
        "clone",
        "annex::https://data.example.org/proj-1/v001.annex?a&b",
        "v001",
    ]


def test_every_command_survives_a_shell() -> None:
    for command in clone_rows(VisitAddress("https://x/$(id)`id`&'", STUDY, "v001"), "annex::$(id)").values():
        lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
        assert words[0] in ("datalad", "git", "icf-utils", "(")
        assert not {"&", ";", "|"} & set(words)


def test_the_tree_has_the_archive_and_a_folder_per_series() -> None:
    page = page_of(typical_images())
    records = visit_records(page)
    children = visit_node(page)["children"]
    assert [child["type"] for child in children] == ["file", "directory", "directory", "directory"]
    assert children[0]["url"] == ["https://data.example.org/store/proj-1/v001_dicom.tar"]
    for child in children[1:]:
        node = records[node_path(child["dataset_id"], child["dataset_version"], child["path"])]
        assert {file["type"] for file in node["children"]} == {"file"}
        assert all(file["contentbytesize"] == 210_000 for file in node["children"])


def test_the_page_comes_after_what_it_refers_to() -> None:
    page = page_of(typical_images())
    assert list(visit_records(page))[-1] == node_path(page.dataset_id, page.version)


def test_every_record_meets_the_catalogs_schema() -> None:
    page = page_of([*typical_images(), make_image("odd", SeriesDescription=["a", 2, 0.5])])
    for record in visit_records(page).values():
        if record.get("type") == "dataset":
            assert schema_problems(record) == []
        for child in record.get("children", []):
            if record["type"] == "directory":
                assert schema_problems(file_record(record, child)) == []
    catalog_id = study_id(STUDY)
    assert schema_problems(study_node(STUDY, catalog_id, StudyPage((visit_entry(page),)), CatalogSettings())) == []


def test_a_record_that_breaks_the_schema_is_noticed() -> None:
    node = visit_node(page_of(typical_images()))
    assert schema_problems({**node, "keywords": ["a", "a"], "authors": 3}) == [
        "$.authors breaks the rule 'type' of the catalog's schema",
        "$.keywords breaks the rule 'uniqueItems' of the catalog's schema",
    ]


def test_an_invalid_record_is_never_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icf_utils.catalog.records.SOURCES", {})
    with pytest.raises(DepositDamaged, match="metadata_sources"):
        visit_files(page_of(typical_images()))


def test_a_visit_without_images_has_a_page() -> None:
    page = page_of([])
    node = visit_node(page)
    assert len(visit_files(page)) == 3
    assert [badge["name"] for badge in node["top_display"]] == ["Size"]
    assert [child["type"] for child in node["children"]] == ["file"]


def test_no_uid_reaches_any_record() -> None:
    images = [*typical_images(), make_image(f"f/{UID_ROOT}.9.1.dcm", f"{UID_ROOT}.7", ProtocolName=f"p {UID_ROOT}.7")]
    for data in visit_files(page_of(images)).values():
        assert UID_ROOT.encode() not in data


def test_identifying_values_that_a_configuration_added_stay_out() -> None:
    secret: dict[str, Any] = {
        "StudyDate": "20240131",
        "PatientSex": "O-secret",
        "00091001": "secret",
        "Nonsense": "secret",
    }
    page = page_of([make_image("1", "1.2", EchoTime=2.98, **secret)])
    everything = repr(visit_entry(page)).encode() + b"".join(visit_files(page).values())
    assert b"secret" not in everything
    assert b"20240131" not in everything
    (kind,) = visit_entry(page).columns.kinds
    assert ("EchoTime", 2.98) in kind


def test_a_series_has_one_value_or_a_few() -> None:
    images = [
        make_image(f"{at}", "1.2", EchoTime=at, RepetitionTime=2.0, Modality="MR", SeriesNumber=4) for at in (2, 1)
    ]
    columns = visit_entry(page_of(images)).columns
    assert columns.kinds == ((("EchoTime", (1, 2)), ("Modality", "MR"), ("RepetitionTime", 2)),)
    assert (columns.numbers, columns.images, columns.sizes) == ((4,), (2,), (2000,))
    many = [make_image(f"{at}", "1.2", EchoTime=at, Modality="MR") for at in range(1, 10)]
    assert visit_entry(page_of(many)).columns.kinds == ((("Modality", "MR"),),)


def test_a_value_to_search_by_is_limited() -> None:
    (kind,) = visit_entry(page_of([make_image("1", "1.2", ProtocolName="x" * 300)])).columns.kinds
    assert [len(str(value)) for _, value in kind] == [200]


def test_records_are_one_line_of_utf8() -> None:
    data = record_bytes({"b": "ä", "a": "\udcff"})
    assert data == '{"b":"ä","a":"\\udcff"}\n'.encode()
    assert json.loads(data) == {"b": "ä", "a": "\udcff"}


def test_the_first_page_is_the_studys() -> None:
    assert super_record(study_id(STUDY))["dataset_id"] == study_id(STUDY)
    assert study_id(STUDY) != study_id("other")


def test_the_studys_page_costs_little_per_visit() -> None:
    entry = visit_entry(page_of(typical_images()))
    one, two = (study_files(STUDY, "id", StudyPage((entry,) * count), CatalogSettings()) for count in (1, 2))
    costs = {name: len(two[name]) - len(one[name]) for name in one}
    assert costs.pop("feed.xml") <= 350  # up to 500 visits, and only feed readers load it
    assert sum(costs.values()) <= 650
