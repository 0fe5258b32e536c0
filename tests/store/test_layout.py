"""Names of a store's files, and publishing that is never half-done."""

from __future__ import annotations

import os
import resource
import stat
import threading
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icf_utils.errors import DepositDiffers, DepositMissing, InvalidIdentifier, StorageFailure
from icf_utils.store.files import (
    difference,
    new_part,
    part_name,
    prepare_workdir,
    publish_bytes,
    publish_part,
    sync_file,
    tidy_workdir,
    write_new,
)
from icf_utils.store.layout import Study, Visit, check_identifier, read_deposit, stored_studies


@pytest.fixture
def study(tmp_path: Path) -> Study:
    study = Study(tmp_path, "study")
    study.folder.mkdir()
    return study


def names(study: Study) -> list[str]:
    return sorted(path.name for path in study.folder.rglob("*"))


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


def test_publishing(study: Study) -> None:
    first, second = study.folder / "one", study.folder / "two"
    published = publish_bytes(study, [(first, b"1"), (second, b"2")])
    assert [(written.path, written.state) for written in published] == [(first, "written"), (second, "written")]
    before = first.stat().st_mtime_ns, first.stat().st_ino
    second.unlink()
    published = publish_bytes(study, [(first, b"1"), (second, b"2")])
    assert [written.state for written in published] == ["unchanged", "written"]
    assert (first.stat().st_mtime_ns, first.stat().st_ino) == before
    assert first.stat().st_nlink == second.stat().st_nlink == 1
    tidy_workdir(study)
    assert names(study) == ["one", "two"]


def test_nothing_is_published_where_one_differs(study: Study) -> None:
    first, second = study.folder / "one", study.folder / "two"
    second.write_bytes(b"line\nother\n")
    with pytest.raises(DepositDiffers, match=r"first difference at byte 5 \(line 2\), 11 bytes there, 9 bytes now"):
        publish_bytes(study, [(first, b"1"), (second, b"line\n2nd\n")])
    assert names(study) == ["two"]
    assert second.read_bytes() == b"line\nother\n"


@given(existing=st.binary(max_size=20), new=st.binary(max_size=20))
def test_differences(existing: bytes, new: bytes) -> None:
    if existing != new:
        at = int(difference(existing, new).split("byte ")[1].split()[0])
        assert existing[:at] == new[:at]
        assert existing[at : at + 1] != new[at : at + 1]


def test_a_name_that_is_taken_meanwhile_is_not_replaced(study: Study) -> None:
    target = study.folder / "one"
    with new_part(study, target) as handle:
        handle.write(b"mine")
        sync_file(handle, target)
    target.write_bytes(b"theirs")
    with pytest.raises(DepositDiffers, match="appeared while this command was running"):
        publish_part(study, target)
    assert target.read_bytes() == b"theirs"
    assert os.listdir(study.workdir) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_part_goes_away_after_an_error(study: Study, error: type[BaseException]) -> None:
    def fail(handle: BinaryIO) -> None:
        handle.write(b"half")
        raise error

    with pytest.raises(error), new_part(study, study.folder / "one") as handle:
        fail(handle)
    tidy_workdir(study)
    assert names(study) == []


def test_a_left_over_part_is_replaced_even_if_it_is_a_link(study: Study, tmp_path: Path) -> None:
    target = study.folder / "one"
    (tmp_path / "elsewhere").write_bytes(b"untouched")
    prepare_workdir(study)
    part_name(study, target).symlink_to(tmp_path / "elsewhere")
    write_new(study, target, b"new")
    assert target.read_bytes() == b"new"
    assert not target.is_symlink()
    assert (tmp_path / "elsewhere").read_bytes() == b"untouched"


def test_parts_of_files_below_the_study(study: Study) -> None:
    target = study.catalog / "metadata" / "a.json"
    target.parent.mkdir(parents=True)
    write_new(study, target, b"{}")
    assert target.read_bytes() == b"{}"
    assert part_name(study, target).parent == study.workdir


def test_the_work_folder_stays_while_something_is_in_it(study: Study) -> None:
    prepare_workdir(study)
    (study.workdir / "state").write_bytes(b"")
    tidy_workdir(study)
    assert names(study) == [".icf", "state"]


def test_work_folders_are_made_and_tidied_at_the_same_time(study: Study) -> None:
    """Each of many makes it and sees to it that it goes away again; nobody fails."""
    failures: list[BaseException] = []

    def work() -> None:
        for _ in range(400):
            try:
                prepare_workdir(study)
            except StorageFailure as error:
                failures.append(error)
            tidy_workdir(study)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert not study.folder.exists()


@pytest.mark.parametrize("name", ["store", "store/study", "store/study/.icf"])
def test_a_file_in_the_place_of_the_work_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(StorageFailure, match=r"cannot create"):
        prepare_workdir(Study(tmp_path / "store", "study"))
    assert (tmp_path / name).read_bytes() == b""


def test_a_target_without_a_folder(study: Study) -> None:
    with pytest.raises(StorageFailure, match="No such file or directory"):
        write_new(study, study.folder / "missing" / "one", b"1")
    assert os.listdir(study.workdir) == []


def test_file_systems_without_hard_links(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    write_new(study, study.folder / "one", b"1")
    assert (study.folder / "one").read_bytes() == b"1"
    assert os.listdir(study.workdir) == []


def test_a_final_name_never_shows_a_part(study: Study) -> None:
    """Somebody who looks all the time sees nothing or everything."""
    target, data = study.folder / "one", b"x" * (1 << 22)
    sizes, stop = set(), threading.Event()

    def look() -> None:
        while not stop.is_set():
            with suppress(FileNotFoundError):
                sizes.add(os.stat(target).st_size)

    looker = threading.Thread(target=look)
    looker.start()
    for _ in range(10):
        write_new(study, target, data)
        target.unlink()
    stop.set()
    looker.join()
    assert sizes == {len(data)}


def test_modes_follow_the_umask(study: Study) -> None:
    before = os.umask(0o027)
    try:
        write_new(study, study.folder / "one", b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((study.folder / "one").stat().st_mode) == 0o640


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
    assert [study.study for study in stored_studies(tmp_path)] == ["study"]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """Closing tries the failed write again; that must not hide which file it was."""
    study = Study(tmp_path, "study")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(StorageFailure) as caught:
            write_new(study, study.folder / "a", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(study.folder / "a") in str(caught.value)
    assert os.listdir(study.workdir) == []


def test_the_names_of_new_folders_are_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, fsync = [], os.fsync

    def noting(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    study = Study(tmp_path / "deep" / "store", "study")
    write_new(study, study.folder / "a", b"a")
    assert {tmp_path, tmp_path / "deep", tmp_path / "deep" / "store", study.folder} <= set(synced)
