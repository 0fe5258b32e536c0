"""Where nothing is wrong nothing is found, however the store was made; and looking changes nothing."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from icf_utils import (
    catalogify_studyvisit_from_meta,
    deposit_visit_dataset,
    deposit_visit_metadata,
    make_studyvisit_archive,
    verify_store,
    verify_visit,
)
from icf_utils.errors import DepositMissing, InvalidIdentifier, InvalidSetting, StorageFailure
from icf_utils.verify.verify import VisitCheck
from tests.data.make_dicom import dicom_bytes, write_visit
from tests.dataset.visits import GIT_NAMES, ODD_NAMES
from tests.verify.stores import STUDY, URL, check, make_derived, make_visit, snapshot, write_input


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_input(tmp_path / "in")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty store."""
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


def assert_sound(found: VisitCheck) -> None:
    assert (found.findings, found.absent, found.notices) == ((), (), ())


def test_open_visits(open_visit: Path, root: Path) -> None:
    place = make_visit(open_visit, root)
    before = snapshot(root)
    found = verify_visit(root, STUDY, "v1", rebuild=open_visit)
    assert_sound(found)
    assert found.images > 0
    assert snapshot(root) == before
    assert sorted(path.name for path in place.of_study.folder.iterdir() if path.name.startswith(".")) == []


@pytest.mark.parametrize(
    "options",
    [
        {"store_id": "the store"},
        {"store_url": "https://other.example.org:8443/a%20b/"},
        {"store_url": "file:///srv/store"},
        {"store_url": "ssh://someone@example.org/store", "store_id": "the store"},
        {"commit_date": "2001-02-03T04:05:06+07:00"},
    ],
)
def test_options_of_the_dataset(source: Path, root: Path, options: dict[str, str]) -> None:
    """Without any options, verify asks the dataset; with the same options, the dataset must agree."""
    make_visit(source, root, **options)  # type: ignore[arg-type]
    assert_sound(verify_visit(root, STUDY, "v1"))
    store = {key: value for key, value in options.items() if key != "commit_date"}
    assert_sound(verify_visit(root, STUDY, "v1", **store))  # type: ignore[arg-type]
    assert_sound(verify_store(root).visits[0])


def test_the_catalog_takes_missing_options_from_the_dataset(source: Path, root: Path) -> None:
    make_visit(source, root, store_id="the store")
    for options in ({"store_id": "the store"}, {"store_url": URL}, {"store_url": URL, "store_id": "the store"}):
        again = catalogify_studyvisit_from_meta(root, STUDY, "v1", **options)  # type: ignore[arg-type]
        assert again.files_written == 0
    assert_sound(check_one(root))


@pytest.mark.parametrize(
    "tags",
    [
        "EchoTime\nManufacturer\nImageType\nTransferSyntaxUID\nRows",
        "allow_identifying: true\nPatientName\nPatientID\nStudyDate\n",
    ],
)
def test_more_tags_by_a_file(source: Path, root: Path, tmp_path: Path, tags: str) -> None:
    """The list itself is not needed again: the metadata shows which tags were recorded."""
    (tmp_path / "tags.txt").write_text(tags)
    make_visit(source, root, tags=tmp_path / "tags.txt")
    (tmp_path / "tags.txt").unlink()
    assert_sound(check_one(root))


def check_one(root: Path) -> VisitCheck:
    (found,) = verify_store(root).visits
    return found


def test_everything_by_the_settings(source: Path, root: Path) -> None:
    (root / "icf.toml").write_text(
        f'[store]\nurl = "{URL}/x"\nid = "our store"\n[metadata]\ntags = ["EchoTime"]\n[catalog]\nname = "Brains"\n'
    )
    make_visit(source, root, store_url=None)
    assert_sound(check_one(root))
    assert_sound(verify_visit(root, STUDY, "v1", store_url=f"{URL}/x"))
    assert_sound(verify_visit(root, STUDY, "v1", store_id="our store"))


def test_settings_that_changed_since(source: Path, root: Path) -> None:
    """Tags and address are the deposit's own; the catalog's look is not."""
    (root / "icf.toml").write_text(f'[store]\nurl = "{URL}/x"\n[metadata]\ntags = ["EchoTime"]\n')
    make_visit(source, root, store_url=None)
    (root / "icf.toml").write_text('[metadata]\ntags = ["Rows"]\n')
    assert_sound(check_one(root))
    (root / "icf.toml").write_text('[catalog]\nname = "Other"\n')
    assert {finding.path.suffix for finding in check_one(root).findings} == {".html", ".json", ".xml"}


def test_no_dicom_at_all(tmp_path: Path, root: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("a")
    make_visit(tmp_path / "in", root)
    assert_sound(check_one(root))
    assert check_one(root).images == 0


def test_odd_names(tmp_path: Path, root: Path) -> None:
    for at, name in enumerate((*ODD_NAMES, *GIT_NAMES)):
        path = os.path.join(os.fsencode(tmp_path / "in"), name.encode("utf-8", "surrogateescape"))
        if not os.path.isdir(path) and not any(os.path.isfile(p) for p in parents(path)):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            Path(os.fsdecode(path)).write_bytes(dicom_bytes(InstanceNumber=at + 1))
    make_visit(tmp_path / "in", root)
    found = verify_visit(root, STUDY, "v1", rebuild=tmp_path / "in")
    assert_sound(found)
    assert found.images >= 35


def parents(path: bytes) -> list[bytes]:
    parts = path.split(b"/")
    return [b"/".join(parts[:end]) for end in range(2, len(parts))]


def test_stages_that_were_not_made_yet(source: Path, root: Path) -> None:
    steps: tuple[Callable[[], object], ...] = (
        lambda: make_studyvisit_archive(source, root, STUDY, "v1"),
        lambda: deposit_visit_metadata(root, STUDY, "v1"),
        lambda: deposit_visit_dataset(root, STUDY, "v1", store_url=URL),
        lambda: catalogify_studyvisit_from_meta(root, STUDY, "v1"),
    )
    absent = [("metadata", "dataset", "catalog"), ("dataset", "catalog"), ("catalog",), ()]
    for step, expected in zip(steps, absent, strict=True):
        step()
        found = check_one(root)
        assert (found.absent, found.findings) == (expected, ())


def test_a_catalog_before_the_dataset(source: Path, root: Path) -> None:
    """The order of the two does not matter if both are made for the same store."""
    make_studyvisit_archive(source, root, STUDY, "v1")
    deposit_visit_metadata(root, STUDY, "v1")
    catalogify_studyvisit_from_meta(root, STUDY, "v1", store_url=URL)
    assert verify_visit(root, STUDY, "v1", store_url=URL).findings == ()
    deposit_visit_dataset(root, STUDY, "v1", store_url=URL)
    found, of_study = verify_store(root).visits
    assert_sound(found)
    assert [notice.code for notice in of_study.notices] == ["no-study-dataset"]
    catalogify_studyvisit_from_meta(root, STUDY, "v1", store_url=URL)
    assert_sound(check_one(root))


def test_a_store_of_several_studies(tmp_path: Path, root: Path) -> None:
    for at, (study, visit) in enumerate([("b", "v2"), ("a", "v1"), ("b", "v1")]):
        write_visit(tmp_path / str(at), {1: ("x", at + 1)})
        make_visit(tmp_path / str(at), root, visit, study)
    (root / "no study").mkdir()
    (root / "empty").mkdir()
    result = verify_store(root)
    assert [(found.study, found.visit, found.images) for found in result.visits] == [
        ("a", "v1", 2),
        ("b", "v1", 3),
        ("b", "v2", 1),
    ]
    assert result.findings == ()


def test_nothing_is_changed(source: Path, root: Path) -> None:
    """Neither where all is well nor where something is wrong."""
    place = make_visit(source, root)
    for _ in range(2):
        before = snapshot(root)
        verify_visit(root, STUDY, "v1", rebuild=source)
        verify_store(root)
        assert snapshot(root) == before
        place.dicoms_json.write_bytes(place.dicoms_json.read_bytes().replace(b'"MR"', b'"MT"'))
        place.export.write_bytes(b"PK")


def pack(source: Path, target: Path, mode: str) -> Path:
    with tarfile.open(target, mode) as archive:  # type: ignore[call-overload]
        archive.add(source, "top")
    return target


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_store_that_can_only_be_read(
    source: Path, open_tmp_path: Path, as_nobody: Callable[[], AbstractContextManager[None]]
) -> None:
    """Reading is enough, also for an input that has to be unpacked."""
    root = open_tmp_path / "store"
    make_visit(source, root)
    packed = pack(source, open_tmp_path / "visit.tar.gz", "w:gz")
    before = snapshot(root)
    verify_visit(root, STUDY, "v1", rebuild=packed, strip=1)  # as root: all modules are loaded
    with as_nobody():
        with pytest.raises(PermissionError):
            (root / STUDY / "new").touch()
        assert_sound(verify_visit(root, STUDY, "v1", rebuild=packed, strip=1))
        assert verify_store(root).findings == ()
    assert snapshot(root) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("closed", [".", STUDY])
def test_a_store_that_cannot_be_read(
    source: Path, open_tmp_path: Path, as_nobody: Callable[[], AbstractContextManager[None]], closed: str
) -> None:
    root = open_tmp_path / "store"
    make_visit(source, root)
    make_visit(source, root, study="study-b")
    (root / closed).chmod(0o700)
    with as_nobody(), pytest.raises(StorageFailure, match="Permission denied"):
        verify_visit(root, STUDY, "v1")
    if closed == ".":
        with as_nobody(), pytest.raises(StorageFailure, match="Permission denied"):
            verify_store(root)
        return
    with as_nobody():  # one study that is closed keeps nobody from the others
        hidden, seen = verify_store(root).visits
    assert (hidden.study, hidden.visit, seen.study, seen.findings) == (STUDY, "", "study-b", ())
    assert "Permission denied" in hidden.findings[0].problem


def test_missing_visits_and_stores(root: Path) -> None:
    with pytest.raises(InvalidSetting, match="is not a store"):
        verify_store(root)
    with pytest.raises(InvalidSetting, match="is not a store"):
        verify_store(root / "nowhere")
    with pytest.raises(DepositMissing, match="no file of this visit"):
        verify_visit(root, STUDY, "v1")


@pytest.mark.parametrize("identifier", ["../v1", "", "a/b", "v1\n", ".v1"])
def test_identifiers(source: Path, root: Path, identifier: str) -> None:
    make_studyvisit_archive(source, root, STUDY, "v1")
    for pair in [(identifier, "v1"), (STUDY, identifier)]:
        with pytest.raises(InvalidIdentifier):
            verify_visit(root, *pair)


@pytest.mark.parametrize(
    "options", [{"store_url": "data.example.org"}, {"store_url": "https://u:secret@h/x"}, {"store_id": "a\nb"}]
)
def test_invalid_options(source: Path, root: Path, options: dict[str, str]) -> None:
    """They are refused whatever there is to compare with."""
    make_studyvisit_archive(source, root, STUDY, "v1")
    for _ in range(2):
        with pytest.raises(InvalidSetting):
            verify_visit(root, STUDY, "v1", **options)  # type: ignore[arg-type]
        make_derived(root)


def test_invalid_settings(source: Path, root: Path) -> None:
    make_visit(source, root)
    (root / "icf.toml").write_text('[catalog]\nlogo = "nowhere.svg"\n')
    with pytest.raises(InvalidSetting, match="has no file"):
        verify_visit(root, STUDY, "v1")
    (root / "icf.toml").write_text("[store]\nadress = 1\n")
    with pytest.raises(InvalidSetting, match="adress"):
        verify_store(root)


def test_an_archive_of_the_earlier_tool(source: Path, root: Path) -> None:
    """Links as members, no PAX times: nothing that this program would write, but a sound archive all the same."""
    folder = root / STUDY
    folder.mkdir()
    (source / "link.dcm").symlink_to("01_localizer/0001.dcm")
    with tarfile.open(folder / "v1_dicom.tar", "w") as archive:
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            archive.add(path, f"{STUDY}_v1/{path.relative_to(source)}")
    md5 = hashlib.md5((folder / "v1_dicom.tar").read_bytes()).hexdigest()
    (folder / "v1_dicom.tar.md5sum").write_text(f"{md5}  v1_dicom.tar\n")
    make_derived(root)
    assert_sound(check_one(root))
    assert check_one(root).images == 5


def test_check_is_what_the_store_gives(source: Path, root: Path) -> None:
    place = make_visit(source, root)
    assert check(place) == verify_store(root).visits[0]


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give files to any group")
def test_a_folder_that_lost_its_rights_is_named(tmp_path: Path) -> None:
    place = make_visit(write_input(tmp_path / "in"), tmp_path / "store")
    folder = place.of_study.folder
    os.chown(folder, 0, 100)
    folder.chmod(0o2750)
    for path in folder.iterdir():
        os.chown(path, 0, 100)
    assert verify_store(tmp_path / "store").visits[-1].notices == ()
    os.chown(folder, 0, 0)
    folder.chmod(0o755)
    (notice,) = verify_store(tmp_path / "store").visits[-1].notices
    assert (notice.code, notice.subject) == ("folder-rights", STUDY)
