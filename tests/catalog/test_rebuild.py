"""A study's catalog made anew: the same as by additions, complete or not at all, without visits that are gone."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from icf_utils.catalog import swap
from icf_utils.catalog.index_page import build_index
from icf_utils.catalog.page import read_study_page
from icf_utils.catalog.rebuild import CatalogBuildResult, build_catalog
from icf_utils.catalog.stage import catalogify_studyvisit_from_meta
from icf_utils.errors import DepositMissing, ExistingFileDiffers, InvalidSetting
from icf_utils.store.layout import Study, Visit
from tests.catalog.conftest import STUDY, deposit, make_visit, typical_images

Snapshot = Callable[[Path], dict[str, bytes]]
VISITS = ("v001", "v002", "v003")


def build(store: Path, **options: Any) -> CatalogBuildResult:
    return build_catalog(store, STUDY, **options)


def catalog_of(store: Path) -> Path:
    return Study(store, STUDY).catalog


@pytest.fixture
def catalogued(three_visits: Path) -> Path:
    for visit in VISITS:
        catalogify_studyvisit_from_meta(three_visits, STUDY, visit)
    return three_visits


def test_it_is_what_additions_give(catalogued: Path, snapshot: Snapshot) -> None:
    before = snapshot(catalogued)
    for missing in (False, True):
        if missing:
            shutil.rmtree(catalog_of(catalogued))
        result = build(catalogued)
        assert (result.visits, result.images, result.dropped, result.unusable) == (3, 51, (), ())
        assert snapshot(catalogued) == before


def test_what_others_set_stays(catalogued: Path) -> None:
    """Rights, and files such as .htaccess, of the catalog's folder and of folders and files in it."""
    catalog = catalog_of(catalogued)
    before = (catalog / "index.html").read_bytes()
    (catalog / ".htaccess").write_text("Require valid-user\n")
    (catalog / "data" / ".htaccess").write_text("Require all denied\n")
    (catalog / "robots.txt").write_text("Disallow: /\n")
    (catalog / "notes").mkdir()
    (catalog / "notes" / "a.txt").write_text("x")
    modes = {".": 0o2750, ".htaccess": 0o640, "index.html": 0o640, "data": 0o700, "robots.txt": 0o604, "notes": 0o711}
    group = 100 if os.getuid() == 0 else os.getgid()
    for name, mode in modes.items():
        if os.getuid() == 0:
            os.chown(catalog / name, 0, group)
        (catalog / name).chmod(mode)
    build(catalogued)
    found = {name: (catalog / name).stat() for name in modes}
    assert {name: stat.S_IMODE(status.st_mode) for name, status in found.items()} == modes
    assert {status.st_gid for status in found.values()} == {group}
    assert (catalog / "data" / ".htaccess").read_text() == "Require all denied\n"
    assert (catalog / "notes" / "a.txt").read_text() == "x"
    assert (catalog / "index.html").read_bytes() == before


def test_visits_that_are_gone_are_dropped(catalogued: Path, tmp_path: Path, snapshot: Snapshot) -> None:
    (gone,) = {entry.dataset_id for entry in read_study_page(Study(catalogued, STUDY)).entries if entry.visit == "v002"}
    place = Visit(catalogued, STUDY, "v002")
    for path in (place.dicoms_json, place.tarball_json):
        path.unlink()
    assert build(catalogued).dropped == ("v002",)
    assert gone.encode() not in b"".join([*snapshot(catalog_of(catalogued)).values()])
    assert not (catalog_of(catalogued) / "metadata" / gone).exists()


def test_a_visit_without_metadata_is_left_out_and_named(catalogued: Path) -> None:
    Visit(catalogued, STUDY, "v009").archive.write_bytes(b"")
    result = build(catalogued)
    assert [(notice.code, notice.subject) for notice in result.notices] == [("not-in-catalog", "v009")]
    assert result.visits == 3


def test_with_an_unusable_visit_the_old_catalog_stays(catalogued: Path, snapshot: Snapshot) -> None:
    Visit(catalogued, STUDY, "v001").dicoms_json.unlink()
    Visit(catalogued, STUDY, "v003").tarball_json.write_bytes(b"{")
    before = snapshot(catalogued)
    result = build(catalogued)
    assert [one.visit for one in result.unusable] == ["v001", "v003"]
    assert snapshot(catalogued) == before


@pytest.mark.parametrize("exchange", [True, False])
def test_the_new_catalog_comes_at_once(catalogued: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool) -> None:
    """Also where the system cannot exchange two names."""
    if not exchange:
        monkeypatch.setattr(swap, "_exchanged", lambda *_: False)
    deposit(catalogued, "v004", make_visit("v004", typical_images()))
    old = os.stat(catalog_of(catalogued)).st_ino
    assert build(catalogued).visits == 4
    assert os.stat(catalog_of(catalogued)).st_ino != old
    assert not (catalogued / STUDY / ".icf").exists()


def test_an_interrupted_exchange_is_repaired(catalogued: Path, snapshot: Snapshot) -> None:
    """As a machine leaves it that stops between two renames."""
    study, before = Study(catalogued, STUDY), snapshot(catalogued)
    study.workdir.mkdir()
    os.rename(study.catalog, study.workdir / "catalog+old")
    (study.workdir / "catalog+new").mkdir()
    catalogify_studyvisit_from_meta(catalogued, STUDY, "v001")
    build(catalogued)
    assert snapshot(catalogued) == before


def test_a_failure_leaves_nothing_behind(catalogued: Path, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(catalogued)

    def full(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(swap, "publish_new_folder", full)
    with pytest.raises(KeyboardInterrupt):
        build(catalogued)
    assert snapshot(catalogued) == before


def test_hidden_dates_stay_hidden_until_they_are_shown_again(three_visits: Path) -> None:
    study = Study(three_visits, STUDY)
    catalogify_studyvisit_from_meta(three_visits, STUDY, "v001", hide_dates=True)
    catalogify_studyvisit_from_meta(three_visits, STUDY, "v002")
    build(three_visits)
    assert read_study_page(study).hides_dates
    build(three_visits, hide_dates=False)
    assert not read_study_page(study).hides_dates


@pytest.mark.parametrize("damage", ["cut", "gone"])
@pytest.mark.parametrize("remedy", ["build", "stage"])
def test_hidden_dates_stay_hidden_without_the_page(three_visits: Path, damage: str, remedy: str) -> None:
    """Also where the page, which has the wish as well, is lost."""
    for visit in ("v001", "v002", "v003"):
        catalogify_studyvisit_from_meta(three_visits, STUDY, visit, hide_dates=visit == "v002")
    (page,) = catalog_of(three_visits).glob("metadata/*/latest/*/*.json")
    before = page.read_bytes()
    assert b'"hides":["dates"]' in before
    page.write_bytes(b"{") if damage == "cut" else page.unlink()
    if remedy == "build" or damage == "cut":
        build(three_visits)
    else:
        for visit in ("v001", "v002", "v003"):
            catalogify_studyvisit_from_meta(three_visits, STUDY, visit)
    assert page.read_bytes() == before
    build(three_visits, hide_dates=False)
    assert not read_study_page(Study(three_visits, STUDY)).hides_dates


def test_a_foreign_folder_is_not_changed(three_visits: Path) -> None:
    catalog_of(three_visits).mkdir()
    (catalog_of(three_visits) / "mine").write_text("mine")
    with pytest.raises(ExistingFileDiffers):
        build(three_visits)
    assert (catalog_of(three_visits) / "mine").read_text() == "mine"


def test_a_study_that_is_not_there_is_not_made(store: Path) -> None:
    with pytest.raises(DepositMissing):
        build(store)
    assert list(store.iterdir()) == []


def test_a_folder_without_visits_is_not_a_study(store: Path) -> None:
    (store / "empty").mkdir(parents=True)
    (store / "file").write_bytes(b"")
    for name in ("empty", "file"):
        with pytest.raises(InvalidSetting, match="it has no visits"):
            build_catalog(store, name)
    with pytest.raises(InvalidSetting, match="it contains no study"):
        build_index(store / "empty")
    assert list((store / "empty").iterdir()) == []


def test_a_catalog_is_not_emptied_because_metadata_are_lost(catalogued: Path, snapshot: Snapshot) -> None:
    for visit in ("v001", "v002", "v003"):
        place = Visit(catalogued, STUDY, visit)
        place.archive.write_bytes(b"")
        place.dicoms_json.unlink()
        place.tarball_json.unlink()
    before = snapshot(catalogued)
    result = build(catalogued)
    assert [one.visit for one in result.unusable] == ["v001", "v002", "v003"]
    assert all("deposit_visit_metadata" in one.problem for one in result.unusable)
    assert snapshot(catalogued) == before
