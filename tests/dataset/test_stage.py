"""Depositing a dataset: what is written, what is not touched, what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from icf_utils.dataset.origin import LATEST_TIME
from icf_utils.dataset.reader import read_dataset
from icf_utils.dataset.stage import DatasetResult, deposit_visit_dataset
from icf_utils.errors import (
    DepositDamaged,
    DepositDiffers,
    DepositMissing,
    InputRefused,
    InvalidIdentifier,
    InvalidSetting,
    MissingRequirement,
    StorageFailure,
)
from icf_utils.results import to_json_value
from icf_utils.settings import Settings, StoreSettings
from icf_utils.store.layout import Visit
from tests.dataset.visits import GIT_NAMES, ODD_NAMES, SMALL, TIME, Member, make_visit

URL = "https://example.org/store"


@pytest.fixture
def place(tmp_path: Path) -> Visit:
    return make_visit(tmp_path / "store")


def deposit(place: Visit, **options: str) -> DatasetResult:
    return deposit_visit_dataset(place.root, place.study, place.visit, **{"store_url": URL, **options})  # type: ignore[arg-type]


def test_what_is_deposited(place: Visit) -> None:
    before = set(os.listdir(place.root / "study"))
    result = deposit(place)
    assert set(os.listdir(place.root / "study")) - before == {"v1_XDLRA--refs", "v1_XDLRA--repo-export"}
    assert [(item.path, item.state) for item in result.files] == [(place.export, "written"), (place.refs, "written")]
    assert place.refs.read_text(encoding="ascii").splitlines() == [
        f"{result.annex_commit} refs/heads/git-annex",
        f"{result.main_commit} refs/heads/main",
        "@refs/heads/main HEAD",
    ]
    assert (result.study, result.visit, result.images, result.notices) == ("study", "v1", 4, ())
    assert result.clone_url == (
        "datalad-annex::?type=external&externaltype=uncurl&encryption=none"
        "&url=https://example.org/store/study/v1_{{annex_key}}"
    )
    assert json.dumps(to_json_value(result))


def test_its_time_is_the_latest_in_the_archive(place: Visit) -> None:
    deposit(place)
    found = read_dataset(place)
    assert found is not None
    assert found.origin.time == TIME
    assert found.annex.files[b"uuid.log"].content.count(b"timestamp=%ds" % TIME) == 3


def test_another_date(place: Visit) -> None:
    place.archive.unlink()
    deposit(place, commit_date="2001-02-03T04:05:06Z")
    found = read_dataset(place)
    assert found is not None
    assert found.origin.time == 981173106
    assert str(TIME).encode() not in b"".join(item.content for item in found.annex.files.values())
    assert b" 981173106 +0000" in found.main.text
    assert b" 981173106 +0000" in found.annex.text


@pytest.mark.parametrize(("mtime", "time"), [(-86400.5, 0), (253402300799.0, LATEST_TIME)])
def test_times_that_git_cannot_record(mtime: float, time: int, tmp_path: Path) -> None:
    place = make_visit(tmp_path, [Member("a.dcm", b"a", {}, mtime)])
    assert [notice.code for notice in deposit(place).notices] == ["commit-date-limited"]
    found = read_dataset(place)
    assert found is not None
    assert found.origin.time == time


def test_no_archive_and_no_date(place: Visit) -> None:
    place.archive.unlink()
    with pytest.raises(DepositMissing, match="--commit-date"):
        deposit(place)
    assert not place.export.exists()


def test_no_metadata(place: Visit) -> None:
    place.dicoms_json.unlink()
    with pytest.raises(DepositMissing, match="icf-utils verify --repair"):
        deposit(place)


def test_no_such_visit(tmp_path: Path) -> None:
    with pytest.raises(DepositMissing, match="icf-utils deposit_visit_metadata"):
        deposit_visit_dataset(tmp_path / "none", "study", "v1")
    assert not (tmp_path / "none").exists()


def test_identifiers(tmp_path: Path) -> None:
    with pytest.raises(InvalidIdentifier):
        deposit_visit_dataset(tmp_path, "../study", "v1")


def test_again_is_unchanged(place: Visit) -> None:
    first = deposit(place)
    stamps = [path.stat() for path in (place.export, place.refs)]
    again = deposit(place)
    assert [item.state for item in again.files] == ["unchanged", "unchanged"]
    assert [path.stat() for path in (place.export, place.refs)] == stamps
    assert again == dataclasses.replace(first, files=again.files)


def test_an_unfinished_deposit_is_completed(place: Visit) -> None:
    deposit(place)
    place.refs.unlink()
    assert [item.state for item in deposit(place).files] == ["unchanged", "written"]


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"store_url": "https://example.org/moved"}, "its store URL is 'https://example.org/store'"),
        ({"store_id": "other"}, "another store identity"),
        ({"commit_date": "2001-02-03"}, "another commit date"),
    ],
)
def test_an_existing_deposit_stays(options: dict[str, str], cause: str, place: Visit) -> None:
    deposit(place)
    before = place.export.read_bytes(), place.refs.read_bytes()
    with pytest.raises(DepositDiffers, match=re.escape(cause)):
        deposit(place, **options)
    assert (place.export.read_bytes(), place.refs.read_bytes()) == before


def test_a_deposit_of_another_tool_stays(place: Visit) -> None:
    place.export.write_bytes(b"something")
    place.refs.write_bytes(b"else")
    with pytest.raises(DepositDiffers, match="cannot be read"):
        deposit(place)
    place.refs.unlink()
    with pytest.raises(DepositDiffers, match="first difference at byte 0"):
        deposit(place)
    assert place.export.read_bytes() == b"something"


def test_settings_and_options(place: Visit, tmp_path: Path) -> None:
    (place.root / "icf.toml").write_text('[store]\nurl = "https://from.file"\nid = "kept"\n', encoding="utf-8")
    from_file = deposit_visit_dataset(place.root, "study", "v1")
    given = Settings(store=StoreSettings("https://given", "kept"))
    moved = make_visit(tmp_path / "other")
    result = deposit_visit_dataset(moved.root, "study", "v1", settings=given)
    assert "url=https://from.file/study" in from_file.clone_url
    assert "url=https://given/study" in result.clone_url
    assert result.dataset_id == from_file.dataset_id
    assert result.main_commit == from_file.main_commit
    assert result.annex_commit != from_file.annex_commit


@pytest.mark.parametrize(
    "options",
    [
        {"store_url": "store"},
        {"store_url": "https://me:secret@example.org"},
        {"commit_date": "yesterday"},
        {"store_id": "a\nb"},
    ],
)
def test_invalid_options(options: dict[str, str], place: Visit) -> None:
    with pytest.raises(InvalidSetting) as caught:
        deposit(place, **options)
    assert "secret" not in str(caught.value)
    assert not place.export.exists()


def _other_storepath(place: Visit, images: list[dict[str, object]], tarball: dict[str, object]) -> None:
    tarball["storepath"] = "study/v2_dicom.tar"


def _other_dspath(place: Visit, images: list[dict[str, object]], tarball: dict[str, object]) -> None:
    tarball["dspath"] = "icf/v2_dicom.tar"


def _other_root(place: Visit, images: list[dict[str, object]], tarball: dict[str, object]) -> None:
    images[1]["path"] = "study_v2/x.dcm"


def _upwards(place: Visit, images: list[dict[str, object]], tarball: dict[str, object]) -> None:
    images[1]["path"] = "study_v1/../x.dcm"


def _nul(place: Visit, images: list[dict[str, object]], tarball: dict[str, object]) -> None:
    images[1]["path"] = "study_v1/a\0b"


def _no_name(place: Visit, images: list[dict[str, object]], tarball: dict[str, object]) -> None:
    images[1]["path"] = "study_v1/\ud800.dcm"


def _twice(place: Visit, images: list[dict[str, object]], tarball: dict[str, object]) -> None:
    images[1]["path"] = images[0]["path"]


def _file_and_folder(place: Visit, images: list[dict[str, object]], tarball: dict[str, object]) -> None:
    images[1]["path"] = f"{images[0]['path']}/x/y"


def _beyond(place: Visit, images: list[dict[str, object]], tarball: dict[str, object]) -> None:
    images[1]["offset"] = tarball["size"]


def _not_a_number(place: Visit, images: list[dict[str, object]], tarball: dict[str, object]) -> None:
    images[1]["SeriesNumber"] = float("nan")


def _no_text(place: Visit, images: list[dict[str, object]], tarball: dict[str, object]) -> None:
    images[1]["Modality"] = "\ud800"


def _no_keyword(place: Visit, images: list[dict[str, object]], tarball: dict[str, object]) -> None:
    images[1]["a b"] = "c"


def _other_size(place: Visit, images: list[dict[str, object]], tarball: dict[str, object]) -> None:
    tarball["size"] = place.archive.stat().st_size + 512


DAMAGE = [_other_storepath, _other_dspath, _other_root, _upwards, _nul, _no_name, _twice, _file_and_folder, _beyond,
          _not_a_number, _no_text, _no_keyword, _other_size]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_contradictory_metadata(damage: Callable[..., None], place: Visit) -> None:
    images, tarball = json.loads(place.dicoms_json.read_bytes()), json.loads(place.tarball_json.read_bytes())
    damage(place, images, tarball)
    place.dicoms_json.write_text(json.dumps(images), encoding="ascii")
    place.tarball_json.write_text(json.dumps(tarball), encoding="ascii")
    with pytest.raises(DepositDamaged):
        deposit(place)
    assert not place.export.exists()


def test_broken_json(place: Visit) -> None:
    place.dicoms_json.write_bytes(place.dicoms_json.read_bytes()[:-10])
    with pytest.raises(DepositDamaged, match="v1_metadata_dicoms"):
        deposit(place)


def test_a_visit_without_images(tmp_path: Path) -> None:
    result = deposit(make_visit(tmp_path, [Member("notes.txt", b"text", None)]))
    assert (result.images, [notice.code for notice in result.notices]) == (0, ["no-images"])


def test_special_names_are_reported(tmp_path: Path) -> None:
    names = [*ODD_NAMES, *(name for name in GIT_NAMES if name != ".git")]
    members = [Member(name, b"%d" % at) for at, name in enumerate(names)]
    result = deposit(make_visit(tmp_path, members))
    reported = {
        code: [n.subject for n in result.notices if n.code == code] for code in {n.code for n in result.notices}
    }
    assert reported == {
        "archivist-unreachable": [f"study_v1/{name}" for name in ODD_NAMES if re.search("[#&\r\n\udc80-\udcff]", name)],
        "not-in-dataset": [f"study_v1/{name}" for name in GIT_NAMES if name != ".git"],
    }
    assert result.images == len(ODD_NAMES)


def test_no_git(place: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingRequirement, match="git is required"):
        deposit(place)
    assert not place.export.exists()


def test_git_checks_the_dataset(place: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    """What git refuses is not published."""
    monkeypatch.setattr("icf_utils.dataset.annex_branch.git_can_hold", lambda path: True)
    odd = make_visit(place.root / "odd", [Member(".git/x.dcm", b"x")])
    with pytest.raises(InputRefused, match="hasDotgit"):
        deposit(odd)
    assert not odd.export.exists()


def test_a_surrounding_repository_has_no_effect(place: Visit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = deposit(place)
    (tmp_path / "config").write_text("not a configuration\n", encoding="utf-8")
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, str(tmp_path / "config"))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_OBJECT_DIRECTORY", "GIT_INDEX_FILE", "GIT_COMMON_DIR"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", "'fsck.skiplist=/nowhere'")
    assert deposit(place).main_commit == expected.main_commit


def test_temporary_files_are_gone(place: Visit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    deposit(place)
    assert not list(scratch.iterdir())
    scratch.rmdir()
    shutil.rmtree(place.root)
    make_visit(place.root)
    with pytest.raises(StorageFailure, match="temporary folder"):
        deposit(place)


def test_progress_is_reported(place: Visit) -> None:
    reported: list[tuple[str, int, str]] = []

    class Teller:
        def task(self, label: str, total: int, unit: str) -> Teller:
            reported.append((label, total, unit))
            return self

        def __enter__(self) -> Teller:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def advance(self, amount: int) -> None:
            reported.append(("advance", amount, ""))

        def message(self, text: str) -> None:
            raise AssertionError(text)

    deposit_visit_dataset(place.root, "study", "v1", store_url=URL, progress=Teller())
    assert reported == [("dataset", 4, "image"), ("advance", 4, "")]


def test_names_of_the_small_visit_are_unique() -> None:
    assert len({member.name for member in SMALL}) == len(SMALL)
