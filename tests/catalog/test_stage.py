from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from icf_utils.catalog import writer
from icf_utils.catalog.stage import CatalogResult, catalogify_studyvisit_from_meta, catalogify_visits
from icf_utils.errors import DepositDamaged, DepositMissing, ExistingFileDiffers, InvalidIdentifier, InvalidSetting
from icf_utils.progress import SILENT, Silent
from icf_utils.settings import CatalogSettings, Settings
from icf_utils.store.layout import Study, Visit
from icf_utils.store.locks import catalog_lock
from tests.catalog.conftest import STUDY, UID_ROOT, deposit, make_visit, typical_images

Snapshot = Callable[[Path], dict[str, bytes]]
VISITS = ("v001", "v002", "v003")


def add(store: Path, visit: str, **options: Any) -> CatalogResult:
    return catalogify_studyvisit_from_meta(store, STUDY, visit, **options)


def catalog_of(store: Path) -> Path:
    return Study(store, STUDY).catalog


def states(folder: Path) -> dict[Path, tuple[int, int]]:
    found = {path: path.stat() for path in folder.rglob("*")}
    return {path: (stat.st_mtime_ns, stat.st_ino) for path, stat in found.items()}


def test_the_result_says_what_was_done(three_visits: Path) -> None:
    result = add(three_visits, "v002")
    assert (result.study, result.visit, result.series, result.images) == (STUDY, "v002", 3, 17)
    assert result.catalog == catalog_of(three_visits)
    assert result.files_written == sum(path.is_file() for path in result.catalog.rglob("*"))
    assert result.files_unchanged == 0
    assert result.notices == ()
    assert (result.catalog / "metadata" / result.dataset_id).is_dir()


def test_a_catalog_names_no_address_but_that_of_its_store(three_visits: Path) -> None:
    add(three_visits, "v001", store_url="https://data.example.org/store")
    vocabularies = ("schema.org", "json-schema.org", "datalad.org", "www.w3.org")
    for path in catalog_of(three_visits).rglob("*"):
        if path.suffix in (".html", ".json", ".js", ".css", ".xml", ".svg"):
            hosts = set(re.findall(r"https?://([\w.-]+)", path.read_text(encoding="utf-8")))
            assert hosts <= {"data.example.org", *vocabularies}, path


def test_nothing_but_the_catalog_is_left_in_the_study(three_visits: Path) -> None:
    add(three_visits, "v001")
    names = {path.name for path in (three_visits / STUDY).iterdir()}
    assert {name for name in names if "_metadata_" not in name} == {"catalog", "visits.json"}


def test_the_order_of_additions_leaves_no_trace(three_visits: Path, tmp_path: Path, snapshot: Snapshot) -> None:
    found = []
    for order in itertools.permutations(VISITS):
        store = Path(shutil.copytree(three_visits, tmp_path / "-".join(order)))
        for visit in (*order, order[0], order[2]):
            add(store, visit)
        found.append(snapshot(catalog_of(store)))
    assert len(found) == 6
    assert all(one == found[0] for one in found)


def test_an_unchanged_visit_touches_nothing(three_visits: Path) -> None:
    for visit in VISITS:
        add(three_visits, visit)
    before = states(catalog_of(three_visits))
    result = add(three_visits, "v002")
    assert states(catalog_of(three_visits)) == before
    assert result.files_written == 0
    assert result.files_unchanged > 0


def test_a_changed_visit_replaces_its_pages(three_visits: Path, tmp_path: Path, snapshot: Snapshot) -> None:
    fresh = Path(shutil.copytree(three_visits, tmp_path / "fresh"))
    changed = make_visit("v002", typical_images(9)[:-1])
    for visit in VISITS:
        add(three_visits, visit)
    for store in (three_visits, fresh):
        deposit(store, "v002", changed)
    add(three_visits, "v002")
    for visit in VISITS:
        add(fresh, visit)
    assert snapshot(catalog_of(three_visits)) == snapshot(catalog_of(fresh))
    assert states(catalog_of(three_visits)).keys() != states(catalog_of(fresh)).keys()
    result = add(three_visits, "v002")
    assert len(list((result.catalog / "metadata" / result.dataset_id).iterdir())) == 1


class Stop(Exception):
    pass


def test_an_interrupted_run_is_completed_by_the_next(
    three_visits: Path, tmp_path: Path, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(three_visits, "v001")
    deposit(three_visits, "v001", make_visit("v001", typical_images(4)))
    expected_store = Path(shutil.copytree(three_visits, tmp_path / "whole"))
    writes = add(expected_store, "v001").files_written
    expected = snapshot(catalog_of(expected_store))
    for allowed in range(writes + 1):
        store = Path(shutil.copytree(three_visits, tmp_path / f"cut-{allowed}"))
        _cut_short(monkeypatch, store, allowed)
        add(store, "v001")
        assert snapshot(catalog_of(store)) == expected
        assert not (store / STUDY / ".icf").exists()


@pytest.mark.parametrize("allowed", [0, 1, 3, 6, 20, 30, 34])
def test_an_interrupted_first_run_is_completed_by_the_next(
    three_visits: Path, tmp_path: Path, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, allowed: int
) -> None:
    whole = Path(shutil.copytree(three_visits, tmp_path / "whole"))
    add(whole, "v001")
    _cut_short(monkeypatch, three_visits, allowed)
    assert not (catalog_of(three_visits) / "metadata" / "super.json").exists()
    add(three_visits, "v001")
    assert snapshot(catalog_of(three_visits)) == snapshot(catalog_of(whole))


def _cut_short(monkeypatch: pytest.MonkeyPatch, store: Path, allowed: int) -> None:
    """Let ``allowed`` files come to their names; when all have, stop before the first removal."""
    replace, done = os.replace, itertools.count()

    def counting(source: Path, target: Path) -> None:
        if next(done) >= allowed:
            raise Stop
        replace(source, target)

    def never(*_: object) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", counting)
        patch.setattr(writer, "remove_files", never)
        with pytest.raises(Stop):
            add(store, "v001")


def test_leftovers_of_a_killed_run_are_removed(three_visits: Path) -> None:
    study = Study(three_visits, STUDY)
    study.workdir.mkdir()
    (study.workdir / "catalog+metadata+old.json.part").write_bytes(b"half")
    (study.workdir / "v001_dicom.tar.part").write_bytes(b"someone else's")
    add(three_visits, "v001")
    assert [path.name for path in study.workdir.iterdir()] == ["v001_dicom.tar.part"]


def test_a_foreign_folder_is_not_changed(three_visits: Path) -> None:
    catalog = catalog_of(three_visits)
    catalog.mkdir()
    (catalog / "index.html").write_text("mine")
    with pytest.raises(ExistingFileDiffers, match="not made by icf-utils"):
        add(three_visits, "v001")
    assert [path.name for path in catalog.iterdir()] == ["index.html"]


def test_a_file_in_place_of_the_catalog_is_not_changed(three_visits: Path) -> None:
    catalog_of(three_visits).write_text("mine")
    with pytest.raises(ExistingFileDiffers, match="not made by icf-utils"):
        add(three_visits, "v001")
    assert catalog_of(three_visits).read_text() == "mine"


def test_an_empty_folder_is_taken(three_visits: Path) -> None:
    catalog_of(three_visits).mkdir()
    assert add(three_visits, "v001").files_written > 0


def test_the_catalog_of_another_study_is_not_touched(three_visits: Path, snapshot: Snapshot) -> None:
    add(three_visits, "v001")
    (three_visits / "other").mkdir()
    shutil.move(catalog_of(three_visits), three_visits / "other" / "catalog")
    deposit(three_visits, "v001", make_visit("v001", [], study="other"), "other")
    before = snapshot(three_visits)
    with pytest.raises(ExistingFileDiffers, match="another study"):
        catalogify_studyvisit_from_meta(three_visits, "other", "v001")
    assert snapshot(three_visits) == before


def test_a_visit_under_a_new_identity_leaves_nothing_of_the_old_one(three_visits: Path, snapshot: Snapshot) -> None:
    for visit in VISITS:
        add(three_visits, visit)
    for visit in VISITS:
        add(three_visits, visit, store_url="https://elsewhere.example.org")
    moved = snapshot(catalog_of(three_visits))
    shutil.rmtree(catalog_of(three_visits))
    for visit in VISITS:
        add(three_visits, visit, store_url="https://elsewhere.example.org")
    assert moved == snapshot(catalog_of(three_visits))


def test_a_store_that_moves_keeps_its_catalog(three_visits: Path) -> None:
    for visit in VISITS:
        add(three_visits, visit, store_id="the-store")
    result = add(three_visits, "v001", store_id="the-store", store_url="https://new.example.org/")
    assert result.files_written == 3  # the visit's record and page, and the study's index


def test_stale_assets_are_removed(three_visits: Path, snapshot: Snapshot) -> None:
    add(three_visits, "v001")
    before = snapshot(catalog_of(three_visits))
    old = catalog_of(three_visits) / "assets" / "old" / "vue.1.js"
    old.parent.mkdir()
    old.write_text("old")
    add(three_visits, "v001")
    assert snapshot(catalog_of(three_visits)) == before
    assert not old.parent.exists()


def test_a_damaged_file_is_replaced(three_visits: Path, snapshot: Snapshot) -> None:
    result = add(three_visits, "v001")
    before = snapshot(result.catalog)
    (result.catalog / "index.html").write_bytes(b"")
    (result.catalog / "metadata" / "super.json").unlink()
    assert add(three_visits, "v001").files_written == 2
    assert snapshot(result.catalog) == before


def test_a_damaged_study_page_is_named_and_left(three_visits: Path) -> None:
    result = add(three_visits, "v001")
    page = max(result.catalog.glob("metadata/*/latest/*/*.json"))
    page.write_bytes(b"{")
    with pytest.raises(DepositDamaged, match=page.name):
        add(three_visits, "v002")
    assert page.read_bytes() == b"{"


def test_missing_metadata_name_the_command(store: Path) -> None:
    with pytest.raises(DepositMissing, match="icf-utils deposit_visit_metadata"):
        add(store, "v001")
    assert list(store.iterdir()) == []


def test_metadata_of_another_visit_are_refused(three_visits: Path) -> None:
    shutil.copy(Visit(three_visits, STUDY, "v001").tarball_json, Visit(three_visits, STUDY, "v002").tarball_json)
    with pytest.raises(DepositDamaged, match="under 'storepath'"):
        add(three_visits, "v002")


def test_identifiers_are_checked(store: Path) -> None:
    with pytest.raises(InvalidIdentifier):
        add(store, "../x")


def test_the_work_for_a_visit_does_not_grow_with_the_study(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in range(30):
        deposit(store, f"v{at:03d}", make_visit(f"v{at:03d}", typical_images()))
    reads: list[str] = []
    read_file = writer.read_file

    def counting(study: Study, name: str) -> bytes | None:
        reads.append(name)
        return read_file(study, name)

    monkeypatch.setattr(writer, "read_file", counting)
    counts = []
    for at in range(30):
        reads.clear()
        add(store, f"v{at:03d}")
        counts.append(len(reads))
    assert set(counts[1:]) == {counts[1]}
    assert counts[0] <= counts[1] + 1  # the list of visits is made from the page once


def test_two_writers_wait_for_each_other(three_visits: Path) -> None:
    study, messages = Study(three_visits, STUDY), []

    class Listening(Silent):
        def message(self, text: str) -> None:
            messages.append(text)
            holder.__exit__(None, None, None)

    holder = catalog_lock(study, SILENT)
    holder.__enter__()
    assert add(three_visits, "v001", progress=Listening()).files_written > 0
    assert "waiting for" in messages[0]


def test_progress_is_reported_per_visit(three_visits: Path) -> None:
    steps: list[int] = []
    totals: list[tuple[int, str]] = []

    class Counting(Silent):
        def task(self, label: str, total: int, unit: str) -> Any:
            totals.append((total, unit))

            class Task:
                def advance(self, amount: int) -> None:
                    steps.append(amount)

            return contextlib.nullcontext(Task())

    results = catalogify_visits(three_visits, STUDY, ["v001", "v002"], progress=Counting())
    assert not [result for result in results if isinstance(result, Exception)]
    assert totals == [(2, "visit")]
    assert steps == [1, 1]


def test_visits_together_give_what_they_give_one_by_one(
    three_visits: Path, tmp_path: Path, snapshot: Callable[[Path], dict[str, bytes]]
) -> None:
    """And one that cannot be shown keeps none of the others out."""
    other = tmp_path / "other"
    shutil.copytree(three_visits, other)
    for store in (three_visits, other):
        Visit(store, STUDY, "v002").dicoms_json.unlink()
    for visit in ("v001", "v003"):
        add(three_visits, visit)
    results = catalogify_visits(other, STUDY, ["v001", "v002", "v003"])
    assert [isinstance(result, DepositMissing) for result in results] == [False, True, False]
    assert snapshot(catalog_of(other)) == snapshot(catalog_of(three_visits))


def test_no_uid_is_anywhere_in_the_catalog(three_visits: Path, snapshot: Snapshot) -> None:
    for visit in VISITS:
        add(three_visits, visit)
    assert all(UID_ROOT.encode() not in data for data in snapshot(catalog_of(three_visits)).values())


def test_settings_of_the_store_are_used(three_visits: Path) -> None:
    (three_visits / "logo.svg").write_text("<svg/>")
    (three_visits / "icf.toml").write_text('[catalog]\nname = "Our study"\nlogo = "logo.svg"\n')
    result = add(three_visits, "v001")
    assert (result.catalog / "artwork" / "logo.svg").read_text() == "<svg/>"
    assert "<title>Our study</title>" in (result.catalog / "index.html").read_text()
    (three_visits / "icf.toml").unlink()
    add(three_visits, "v001")
    assert not (result.catalog / "artwork" / "logo.svg").exists()


def test_a_missing_logo_is_reported(three_visits: Path) -> None:
    with pytest.raises(InvalidSetting, match="has no file"):
        add(three_visits, "v001", settings=Settings(catalog=CatalogSettings(logo="no.svg")))
    assert not catalog_of(three_visits).exists()
