from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from icf_utils.catalog.content import study_files
from icf_utils.catalog.records import VisitEntry, record_bytes
from icf_utils.catalog.series import SeriesKind
from icf_utils.catalog.study import StudyPage, config_record, logo_target, parse_study_page, study_node, study_path
from icf_utils.catalog.study_index import INDEX_PATH, SeriesColumns
from icf_utils.errors import DepositDamaged, InvalidSetting
from icf_utils.settings import CatalogSettings


def entry(visit: str, images: int = 10, date: str = "2021-02-03") -> VisitEntry:
    kinds: tuple[SeriesKind, ...] = tuple(
        (("Modality", name), ("ProtocolName", f"for {visit}")) for name in ("CT", "MR")
    )
    columns = SeriesColumns(kinds, (1, "x"), (1, images - 1), (10, 20))
    about = (visit, f"id-{visit}", "md5", 2, images, 1_000_000, ("CT", "MR"), date)
    return VisitEntry(*about, "https://x", True, columns)


def test_visits_are_sorted_and_replaced() -> None:
    page = StudyPage().with_entry(entry("b")).with_entry(entry("a")).with_entry(entry("b", 11))
    assert [(one.visit, one.images) for one in page.entries] == [("a", 10), ("b", 11)]


def test_totals_are_shown() -> None:
    node = study_node("s", "id", StudyPage((entry("a"), entry("b", 5))), CatalogSettings())
    assert {badge["name"]: badge["value"] for badge in node["top_display"]} == {
        "Visits": 2,
        "Series": 4,
        "Images": 15,
        "Size": "2.0 MB",
    }
    assert len(node["top_display"]) <= 5
    assert node["keywords"] == ["CT", "MR"]


def test_the_page_carries_what_it_is_made_from() -> None:
    page = StudyPage((entry("a"), entry("b")))
    files = study_files("s", "id", page, CatalogSettings())
    assert parse_study_page(files[study_path("id")], "x", files[INDEX_PATH]) == page


def test_an_entry_whose_index_is_another_ones_has_no_series() -> None:
    page = StudyPage((entry("a"),))
    raw = study_files("s", "id", page, CatalogSettings())[study_path("id")]
    other = study_files("s", "id", StudyPage((replace(entry("a"), size=3),)), CatalogSettings())[INDEX_PATH]
    for index in (None, other):
        assert parse_study_page(raw, "x", index).entries == (replace(entry("a"), store="", columns=SeriesColumns()),)


@pytest.mark.parametrize(
    ("page", "settings"),
    [
        (StudyPage((entry("a"),), hides_dates=True), CatalogSettings()),
        (StudyPage((entry("a"),)), CatalogSettings(hide_dates=True)),
    ],
)
def test_dates_are_hidden_by_a_user_or_by_the_settings(page: StudyPage, settings: CatalogSettings) -> None:
    raw = record_bytes(study_node("s", "id", page, settings))
    assert not any(b"2021" in data for data in study_files("s", "id", page, settings).values())
    assert parse_study_page(raw, "x").hides_dates == page.hides_dates  # what settings say, they may take back


def test_a_page_of_an_earlier_version_is_read() -> None:
    node = study_node("s", "id", StudyPage((entry("a"),)), CatalogSettings())
    del node["subdatasets"][0]["date"]
    (found,) = parse_study_page(record_bytes(node), "x").entries
    assert (found.visit, found.date, found.columns) == ("a", "", SeriesColumns())


@pytest.mark.parametrize(
    "change",
    [
        {"subdatasets": 3},
        {"subdatasets": [{}]},
        {"subdatasets": [{"dataset_id": 3}]},
        {"subdatasets": None},
        {"hides": 3},
    ],
)
def test_a_damaged_page_is_named(change: dict[str, Any]) -> None:
    raw = record_bytes({**study_node("s", "id", StudyPage((entry("a"),)), CatalogSettings()), **change})
    with pytest.raises(DepositDamaged, match=r"study\.json"):
        parse_study_page(raw, "study.json")


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff", b"3", b"[" * 100_000])
def test_bytes_that_are_not_a_record_are_refused(raw: bytes) -> None:
    with pytest.raises(DepositDamaged, match=r"study\.json"):
        parse_study_page(raw, "study.json")


def test_the_default_look_links_to_nobody() -> None:
    config = config_record("s", CatalogSettings())
    assert config["catalog_name"] == "Study s"
    assert set(config["social_links"].values()) == {None}
    assert "datalad.org" not in json.dumps(config)


def test_settings_reach_the_application() -> None:
    settings = CatalogSettings(name="Our scans", about="https://example.org", link_color="navy", logo="look/our.PNG")
    config = config_record("s", settings)
    assert config["catalog_name"] == "Our scans"
    assert config["social_links"]["about"] == "https://example.org"
    assert config["logo_path"] == "artwork/logo.png"


@pytest.mark.parametrize(
    "settings",
    [
        CatalogSettings(link_color="red;} body{display:none"),
        CatalogSettings(link_hover_color=""),
        CatalogSettings(about="javascript:alert(1)"),
        CatalogSettings(logo="/etc/passwd"),
        CatalogSettings(logo="../logo.png"),
        CatalogSettings(logo="logo.html"),
    ],
)
def test_invalid_settings_are_refused(settings: CatalogSettings) -> None:
    with pytest.raises(InvalidSetting, match=r"\[catalog\]"):
        config_record("s", settings)


def test_no_logo_no_target() -> None:
    assert logo_target(CatalogSettings()) == ""
