from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from icf_utils.catalog.check import check_catalog
from icf_utils.catalog.stage import catalogify_studyvisit_from_meta
from icf_utils.catalog.study import study_id, study_path
from icf_utils.catalog.visit_data import visit_path
from icf_utils.dataset.store_address import address_from_settings
from icf_utils.metadata.records import read_visit_metadata
from icf_utils.settings import CatalogSettings, Settings
from icf_utils.store.layout import Study, Visit
from tests.catalog.conftest import STUDY, deposit, make_visit, typical_images


@pytest.fixture
def catalogued(three_visits: Path) -> Path:
    for visit in ("v001", "v002", "v003"):
        catalogify_studyvisit_from_meta(three_visits, STUDY, visit)
    return three_visits


def check(store: Path, visit: str = "v002", settings: CatalogSettings | None = None) -> list[tuple[str, str]]:
    place = Visit(store, STUDY, visit)
    settings = settings or CatalogSettings()
    where = address_from_settings(place, Settings(), None, None)
    found = check_catalog(place, read_visit_metadata(place), where, settings)
    catalog = place.of_study.catalog
    return [(Path(path).relative_to(catalog).as_posix(), problem) for path, problem in found]


def study_page(store: Path) -> Path:
    return Study(store, STUDY).catalog / study_path(study_id(STUDY))


def test_a_sound_catalog_has_no_problems(catalogued: Path) -> None:
    assert check(catalogued) == []


def test_every_file_of_the_visit_and_the_application_is_covered(catalogued: Path) -> None:
    catalog = Study(catalogued, STUDY).catalog
    other = {path for visit in ("v001", "v003") for path in _nodes(catalogued, visit)}
    for path in sorted(path for path in catalog.rglob("*") if path.is_file() and path not in other):
        name, content = path.relative_to(catalog).as_posix(), path.read_bytes()
        path.write_bytes(content[:-1] + b"?")
        assert {found for found, _ in check(catalogued)} == {name}
        path.unlink()
        assert (name, "is missing") in check(catalogued)
        path.write_bytes(content)
    assert check(catalogued) == []


def _nodes(store: Path, visit: str) -> list[Path]:
    result = catalogify_studyvisit_from_meta(store, STUDY, visit)
    return [path for path in (result.catalog / "metadata" / result.dataset_id).rglob("*") if path.is_file()] + [
        result.catalog / visit_path(visit)
    ]


def test_a_visit_that_was_never_added(catalogued: Path) -> None:
    deposit(catalogued, "v004", make_visit("v004", typical_images()))
    problems = check(catalogued, "v004")
    assert "does not show visit v004" in [problem for _, problem in problems]
    assert [problem for _, problem in problems].count("is missing") == 6


def test_a_visit_that_changed_since(catalogued: Path) -> None:
    deposit(catalogued, "v002", make_visit("v002", typical_images(7)))
    problems = [problem for _, problem in check(catalogued)]
    assert "does not show visit v002 as its metadata describes it" in problems
    assert "is left over from an earlier version of this visit" in problems


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda entries: entries[::-1], "does not list the visits in order"),
        (lambda entries: [entries[0], *entries], "shows a visit more than once"),
        (lambda entries: entries[:1], "does not show visit v002"),
    ],
)
def test_a_study_page_that_is_out_of_order(catalogued: Path, change, problem: str) -> None:  # type: ignore[no-untyped-def]
    page = study_page(catalogued)
    record = json.loads(page.read_bytes())
    page.write_text(json.dumps({**record, "subdatasets": change(record["subdatasets"])}))
    assert [found for _, found in check(catalogued)] == [problem]


def test_totals_that_are_wrong(catalogued: Path) -> None:
    page = study_page(catalogued)
    page.write_bytes(page.read_bytes().replace(b'"value":51', b'"value":52'))
    ((name, problem),) = check(catalogued)
    assert name.endswith(page.name)
    assert "not what the metadata gives" in problem


def test_files_that_belong_to_nothing(catalogued: Path) -> None:
    (config,) = (path for path in _nodes(catalogued, "v002") if path.name == "config.json")
    (config.parents[1] / "old").mkdir()
    shutil.copy(config, config.parents[1] / "old" / "node.json")
    (Study(catalogued, STUDY).catalog / "assets" / "old.js").write_text("old")
    assert [problem for _, problem in check(catalogued)] == [
        "is left over from an earlier version of this visit",
        "is left over from an earlier version of the catalog",
    ]


def test_other_settings_are_noticed(catalogued: Path) -> None:
    names = {name for name, _ in check(catalogued, settings=CatalogSettings(name="Other"))}
    assert names == {
        "index.html",
        "feed.xml",
        "list/1.html",
        "config.json",
        study_page(catalogued).relative_to(Study(catalogued, STUDY).catalog).as_posix(),
    }


def test_without_a_catalog_everything_is_missing(three_visits: Path) -> None:
    assert {problem for _, problem in check(three_visits)} == {"is missing"}
    assert not Study(three_visits, STUDY).catalog.exists()


def test_unexpected_files_are_reported(catalogued: Path) -> None:
    """A web server would show them; hidden files are its own."""
    catalog = Study(catalogued, STUDY).catalog
    (catalog / "evil.html").write_text("x")
    (catalog / ".htaccess").write_text("x")
    (catalog / "metadata" / "zzz").mkdir()
    assert [name for name, problem in check(catalogued) if "does not belong to this catalog" in problem] == [
        "evil.html",
        "metadata/zzz",
    ]
