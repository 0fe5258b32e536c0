"""Names of a store's files, and publishing that is never half-done."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icf_utils.errors import DepositMissing, InvalidIdentifier, StorageFailure
from icf_utils.store.files import part_name
from icf_utils.store.layout import Study, Visit, check_identifier, list_studies, read_deposit


@pytest.fixture
def study(tmp_path: Path) -> Study:
    study = Study(tmp_path, "study")
    study.folder.mkdir()
    return study


def test_every_file_name() -> None:
    visit = Visit(Path("/store"), "st-1", "v.2")
    found = [visit.archive, visit.checksum, visit.tarball_json, visit.dicoms_json, visit.refs, visit.export]
    assert [str(path) for path in found] == [
        "/store/st-1/v.2_dicom.tar",
        "/store/st-1/v.2_dicom.tar.md5sum",
        "/store/st-1/v.2_metadata_tarball.json",
        "/store/st-1/v.2_metadata_dicoms.json",
        "/store/st-1/v.2_XDLRA--refs",
        "/store/st-1/v.2_XDLRA--repo-export",
    ]
    assert (visit.storepath, visit.dspath) == ("st-1/v.2_dicom.tar", "icf/v.2_dicom.tar")
    assert visit.member_root == "st-1_v.2"
    assert visit.workdir == Path("/store/st-1/.icf")
    assert visit.of_study.catalog == Path("/store/st-1/catalog")


@given(text=st.text(max_size=110) | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", fullmatch=True))
def test_identifiers(text: str) -> None:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
    allowed = 0 < len(text) <= 100 and text[0] not in ".-" and all(char in letters for char in text)
    if allowed:
        assert check_identifier("visit", text) == text
    else:
        with pytest.raises(InvalidIdentifier):
            check_identifier("visit", text)


@given(first=st.from_regex(r"[a_.-]{1,8}", fullmatch=True), second=st.from_regex(r"[a_.-]{1,8}", fullmatch=True))
def test_visits_share_no_file(first: str, second: str) -> None:
    visits = [Visit(Path("s"), "s", f"a{name}") for name in {first, second}]
    files = [
        path
        for visit in visits
        for path in (visit.archive, visit.checksum, visit.tarball_json, visit.dicoms_json, visit.refs, visit.export)
    ]
    assert len(set(files)) == 6 * len(visits)
    assert len({part_name(visits[0].of_study, path) for path in files}) == len(files)


def test_visits_of_a_study(study: Study) -> None:
    assert Study(study.root, "another").visits() == []
    for name in ("b_dicom.tar", "a_dicom.tar", "c d_dicom.tar", "_dicom.tar", ".x_dicom.tar", "e_dicom.tar.part", "f"):
        (study.folder / name).write_bytes(b"")
    (study.folder / ".icf").mkdir()
    (study.folder / "catalog").mkdir()
    assert study.visits() == ["a", "b"]


def test_reading_what_an_earlier_step_made(study: Study) -> None:
    path = study.folder / "one"
    for missing in (path, path / "below"):
        with pytest.raises(DepositMissing, match="run the step before") as caught:
            read_deposit(missing, "run the step before")
        assert caught.value.exit_code == 5
    path.write_bytes(b"1")
    assert read_deposit(path, "") == b"1"
    with pytest.raises(DepositMissing):
        read_deposit(path / "below", "run it")
    with pytest.raises(StorageFailure, match="Is a directory"):
        read_deposit(study.folder, "")


def test_the_settings_file_is_no_study(tmp_path: Path) -> None:
    (tmp_path / "icf.toml").touch()
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "v1_dicom.tar").touch()
    assert [study.study for study in list_studies(tmp_path)] == ["study"]
