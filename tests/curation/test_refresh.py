"""Refreshing visits: today's settings in metadata, dataset and catalog, on top of what was there."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest

from icf_utils import load_settings, replace_visit, verify_store
from icf_utils.curation.history import list_versions
from icf_utils.curation.refresh import RefreshOptions, refresh_visit
from icf_utils.dataset.annex_url import has_annex_deposit
from icf_utils.dataset.reader import read_dataset
from icf_utils.errors import DepositDamaged
from icf_utils.store.layout import Visit
from tests.cli.program import Inside, icf
from tests.verify.stores import STUDY, URL, contents

NEW_URL = "https://new.example.org/data"


def settle(place: Visit, url: str = URL, tags: str = "", more: str = "") -> None:
    text = f'[store]\nurl = "{url}"\n{more}' + (f"[metadata]\ntags = [{tags}]\n" if tags else "")
    (place.root / "icf.toml").write_text(text)


def commit_of(place: Visit) -> str:
    dataset = read_dataset(place)
    assert dataset is not None
    return dataset.main.commit


def test_nothing_to_do(place: Visit) -> None:
    settle(place)
    before = contents(place.root)
    assert refresh_visit(place.root, STUDY, "v1").changes == ()
    assert contents(place.root) == before


def test_another_address(place: Visit) -> None:
    settle(place, NEW_URL)
    first = read_dataset(place)
    assert first is not None
    before = place.archive.stat().st_mtime_ns
    assert refresh_visit(place.root, STUDY, "v1").changes == ("dataset: another store address",)
    now = read_dataset(place)
    assert now is not None
    assert now.origin.store_url == NEW_URL
    assert now.origin.uuids == first.origin.uuids
    assert (now.main.parent, now.annex.parent) == (first.main.commit, first.annex.commit)
    assert place.archive.stat().st_mtime_ns == before
    refresh_visit(place.root, STUDY, "v1_b")
    assert verify_store(place.root).findings == ()
    pages = b"".join(path.read_bytes() for path in place.of_study.catalog.glob("metadata/**/*.json"))
    assert URL.encode() not in pages
    assert NEW_URL.encode() in pages
    assert not place.history.exists()
    assert refresh_visit(place.root, STUDY, "v1").changes == ()


def test_more_tags_and_fewer(place: Visit) -> None:
    settle(place, tags='"InstanceNumber", "Manufacturer"')
    assert refresh_visit(place.root, STUDY, "v1").changes == ("metadata: other tags", "dataset: other records")
    assert "InstanceNumber" in json.loads(place.dicoms_json.read_bytes())[0]
    assert verify_store(place.root).findings == ()
    settle(place, tags='"Manufacturer"')
    place.archive.rename(place.archive.with_suffix(".away"))
    place.archive.write_bytes(bytes(place.archive.with_suffix(".away").stat().st_size))
    assert refresh_visit(place.root, STUDY, "v1").changes == ("metadata: other tags", "dataset: other records")
    os.replace(place.archive.with_suffix(".away"), place.archive)  # it was not read
    assert "InstanceNumber" not in json.loads(place.dicoms_json.read_bytes())[0]
    assert verify_store(place.root).findings == ()


def test_versions_are_kept(place: Visit, model: Path) -> None:
    settle(place)
    replace_visit(model / "later", place.root, STUDY, "v1", reason="late images")
    settle(place, NEW_URL)
    refresh_visit(place.root, STUDY, "v1")
    versions = list_versions(place.root, STUDY, "v1").versions
    assert [version.version for version in versions] == [1, 2]
    assert versions[-1].commit == commit_of(place)
    replace_visit(model / "last", place.root, STUDY, "v1", reason="wrong series")
    refresh_visit(place.root, STUDY, "v1_b")
    assert verify_store(place.root).findings == ()
    assert [version.reason for version in list_versions(place.root, STUDY, "v1").versions[1:]] == [
        "late images",
        "wrong series",
    ]


def test_git_annex_alone(place: Visit) -> None:
    settle(place)
    result = refresh_visit(place.root, STUDY, "v1", options=RefreshOptions(annex_url=True))
    assert result.changes == ("dataset: also for git-annex alone",)
    assert has_annex_deposit(place)
    assert verify_store(place.root).findings == ()


def test_deposits_of_other_tools(place: Visit) -> None:
    settle(place)
    images = json.loads(place.dicoms_json.read_bytes())
    six = ("path", "md5", "size", "SeriesDescription", "SeriesNumber", "Modality")
    place.dicoms_json.write_text(json.dumps([{key: image[key] for key in six} for image in images]))
    with zipfile.ZipFile(place.export, "w") as packed:
        packed.writestr("HEAD", "ref: refs/heads/main\n")
    result = refresh_visit(place.root, STUDY, "v1")
    assert result.changes == ("metadata: made anew from the archive", "dataset: made anew")
    assert [notice.code for notice in result.notices] == ["foreign-dataset"]
    assert verify_store(place.root).findings == ()


def test_a_catalog_of_another_tool_is_named_once_for_its_study(place: Visit) -> None:
    settle(place)
    shutil.rmtree(place.of_study.catalog)
    place.of_study.catalog.mkdir()
    (place.of_study.catalog / "index.html").write_text("another program's")
    done = icf("visit", "refresh", "-o", place.root)
    assert done.code == 0, done.err
    assert done.err.count("foreign-catalog") == 1
    assert (place.of_study.catalog / "index.html").read_text() == "another program's"


def test_damage_is_not_taken_for_another_tool(place: Visit) -> None:
    settle(place)
    raw = bytearray(place.export.read_bytes())
    raw[len(raw) // 2] ^= 1
    place.export.write_bytes(raw)
    before = contents(place.root)
    with pytest.raises(DepositDamaged):
        refresh_visit(place.root, STUDY, "v1")
    assert contents(place.root) == before


def test_the_command(place: Visit, inside: Inside) -> None:
    settle(place, NEW_URL)
    shown = inside("visit", "refresh", "-o", place.root, "-n")
    assert shown.out.splitlines()[-1] == "2 visits: 2 would be changed"
    ran = inside("run", "-o", place.root)
    assert ran.code == 1
    assert "visit refresh" in ran.out
    done = inside("visit", "refresh", "-o", place.root, STUDY)
    assert done.out.splitlines() == [
        f"{STUDY}/v1: dataset: another store address",
        f"{STUDY}/v1_b: dataset: another store address",
        "2 visits: 2 changed",
    ]
    assert inside("run", "-o", place.root).code == 0
    assert verify_store(place.root).findings == ()
    assert load_settings(place.root).store.url == NEW_URL


def test_a_folder_that_is_not_a_store(tmp_path: Path, inside: Inside) -> None:
    ran = inside("visit", "refresh", "-o", tmp_path / "nowhere")
    assert ran.code == 2
    assert "is not a store: the folder does not exist" in ran.err


def test_the_pages_of_an_earlier_version(place: Visit, inside: Inside) -> None:
    """The catalog's own scripts and styles come up to date, once for all visits of the study."""
    style = place.of_study.catalog / "assets" / "icf.css"
    style.write_bytes(style.read_bytes()[:-20])
    command = ("visit", "refresh", "-o", place.root, "--store-url", URL)
    assert "catalog: the files of its pages" in inside(*command, "-n").out
    done = inside(*command)
    assert done.out.count("catalog: the files of its pages") == 1
    assert verify_store(place.root).findings == ()
    assert "2 visits: 0 changed" in inside(*command).out
