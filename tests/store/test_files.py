"""A file gets its name whole or not at all, and keeps who may use it."""

from __future__ import annotations

import errno
import os
import resource
import stat
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icf_utils.errors import DepositDiffers, StorageFailure
from icf_utils.interrupts import remove_unfinished
from icf_utils.store.files import (
    describe_difference,
    link_file,
    make_workdir,
    new_file,
    new_part,
    part_name,
    publish_bytes,
    publish_file,
    publish_part,
    rename_file,
    replace_file,
    sync_file,
    take_unsynced,
    temporary_name,
    tidy_workdir,
)
from icf_utils.store.layout import Study
from tests.data.make_dicom import uid, write_visit


@pytest.fixture
def study(tmp_path: Path) -> Study:
    study = Study(tmp_path, "study")
    study.folder.mkdir()
    return study


def names(study: Study) -> list[str]:
    return sorted(path.name for path in study.folder.rglob("*"))


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
        at = int(describe_difference(existing, new).split("byte ")[1].split()[0])
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
    make_workdir(study)
    part_name(study, target).symlink_to(tmp_path / "elsewhere")
    publish_file(study, target, b"new")
    assert target.read_bytes() == b"new"
    assert not target.is_symlink()
    assert (tmp_path / "elsewhere").read_bytes() == b"untouched"


def test_parts_of_files_below_the_study(study: Study) -> None:
    target = study.catalog / "metadata" / "a.json"
    target.parent.mkdir(parents=True)
    publish_file(study, target, b"{}")
    assert target.read_bytes() == b"{}"
    assert part_name(study, target).parent == study.workdir


def test_the_work_folder_stays_while_something_is_in_it(study: Study) -> None:
    make_workdir(study)
    (study.workdir / "state").write_bytes(b"")
    tidy_workdir(study)
    assert names(study) == [".icf", "state"]


def test_a_prepared_study_folder_stays(tmp_path: Path) -> None:
    """Its group and mode are an administrator's."""
    prepared, own = Study(tmp_path / "store", "prepared"), Study(tmp_path / "store", "own")
    prepared.folder.mkdir(parents=True, mode=0o2770)
    before = prepared.folder.stat()
    for study in (prepared, own):
        make_workdir(study)
        tidy_workdir(study)
    assert prepared.folder.stat().st_ino == before.st_ino
    assert prepared.folder.stat().st_mode == before.st_mode
    assert not own.folder.exists()


def test_a_study_folder_with_content_stays_for_good(tmp_path: Path) -> None:
    study = Study(tmp_path / "store", "study")
    make_workdir(study)
    publish_file(study, study.folder / "one", b"1")
    (study.folder / "one").unlink()
    tidy_workdir(study)
    assert names(study) == []
    assert study.folder.exists()


def test_work_folders_are_made_and_tidied_at_the_same_time(study: Study) -> None:
    """Each of many makes it and sees to it that it goes away again; nobody fails."""
    failures: list[BaseException] = []

    def work() -> None:
        for _ in range(400):
            try:
                make_workdir(study)
            except StorageFailure as error:
                failures.append(error)
            tidy_workdir(study)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert names(study) == []


@pytest.mark.parametrize("name", ["store", "store/study", "store/study/.icf"])
def test_a_file_in_the_place_of_the_work_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(StorageFailure, match=r"cannot create"):
        make_workdir(Study(tmp_path / "store", "study"))
    assert (tmp_path / name).read_bytes() == b""


def test_a_target_without_a_folder(study: Study) -> None:
    with pytest.raises(StorageFailure, match="No such file or directory"):
        publish_file(study, study.folder / "missing" / "one", b"1")
    assert os.listdir(study.workdir) == []


def test_file_systems_without_hard_links(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    publish_file(study, study.folder / "one", b"1")
    assert (study.folder / "one").read_bytes() == b"1"
    assert os.listdir(study.workdir) == []


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_file_systems_that_cannot_sync_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """As SMB and WSL answer."""
    fsync = os.fsync

    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    study = Study(tmp_path / "new" / "store", "study")
    publish_file(study, study.folder / "one", b"1")
    assert (study.folder / "one").read_bytes() == b"1"
    assert [notice.code for notice in take_unsynced()] == ["names-not-synced"]
    assert take_unsynced() == ()


def test_a_folder_that_cannot_be_synced_is_a_warning_of_the_command(tmp_path: Path) -> None:
    """A real command, with the answer of such a file system."""
    write_visit(tmp_path / "in", {1: ("scout", 1)}, StudyInstanceUID=uid(1))
    program = """
import errno, os, stat, sys
from icf_utils.cli.main import main
fsync = os.fsync
def refuse(descriptor):
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, "Invalid argument")
    fsync(descriptor)
os.fsync = refuse
sys.exit(main())
"""
    command = ["make_studyvisit_archive", "-q", "-o", f"{tmp_path}/store", "--id", "s", "v", f"{tmp_path}/in"]
    ran = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran
    assert ran.stderr.count("warning [names-not-synced]: ") == 1
    assert (tmp_path / "store" / "s" / "v_dicom.tar.md5sum").exists()


def test_a_device_that_cannot_sync_a_folder_is_an_error(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def fail(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageFailure, match="cannot sync"):
        publish_file(study, study.folder / "one", b"1")


def test_a_lost_answer_to_a_link_or_rename(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS repeats the request, which finds that it has been done."""
    link, replace = os.link, os.replace

    def linked(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    def replaced(source: Path, target: Path) -> None:
        replace(source, target)
        replace(source, target)

    monkeypatch.setattr(os, "link", linked)
    monkeypatch.setattr(os, "replace", replaced)
    publish_file(study, study.folder / "one", b"1")
    replace_file(study.folder / "two", b"2")
    assert (study.folder / "one").read_bytes() == b"1"
    assert (study.folder / "two").read_bytes() == b"2"
    assert (study.folder / "one").stat().st_nlink == 1


def test_a_rename_that_was_not_done_is_an_error(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    (study.folder / "two").write_bytes(b"old")

    def lost(source: Path, _target: Path) -> None:
        os.unlink(source)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(os, "replace", lost)
    with pytest.raises(StorageFailure, match="cannot replace"):
        replace_file(study.folder / "two", b"2")
    assert (study.folder / "two").read_bytes() == b"old"


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
        publish_file(study, target, data)
        target.unlink()
    stop.set()
    looker.join()
    assert sizes == {len(data)}


def test_modes_follow_the_umask(study: Study) -> None:
    before = os.umask(0o027)
    try:
        publish_file(study, study.folder / "one", b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((study.folder / "one").stat().st_mode) == 0o640


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """Closing tries the failed write again; that must not hide which file it was."""
    study = Study(tmp_path, "study")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(StorageFailure) as caught:
            publish_file(study, study.folder / "a", bytes(5000))
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
    publish_file(study, study.folder / "a", b"a")
    assert {tmp_path, tmp_path / "deep", tmp_path / "deep" / "store", study.folder} <= set(synced)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file that will be replaced."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    return path


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_replaced_whole(target: Path, durable: bool) -> None:
    replace_file(target, b"new", durable=durable)
    assert target.read_bytes() == b"new"
    assert os.listdir(target.parent) == ["file"]


def test_durable_bytes_are_synced_before_the_name_changes(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bytes]] = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        seen.append((os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")), target.read_bytes()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    replace_file(target, b"new", durable=False)
    assert seen == []
    replace_file(target, b"newer")
    ((name, content),) = seen  # one sync, and not of the folder
    assert name.startswith(".file.")
    assert content == b"new"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o666, 0o444])
def test_a_replaced_file_keeps_its_mode(target: Path, mode: int) -> None:
    target.chmod(mode)
    replace_file(target, b"new")
    assert mode_of(target) == mode


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_a_replaced_file_keeps_its_owner_and_group(target: Path) -> None:
    os.chown(target, 12, 34)
    target.chmod(0o640)
    replace_file(target, b"new")
    found = target.stat()
    assert (found.st_uid, found.st_gid, mode_of(target)) == (12, 34, 0o640)


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize(("mode", "now"), [(0o640, 0o600), (0o664, 0o644), (0o660, 0o600), (0o604, 0o644)])
def test_another_group_gets_what_everybody_had(
    target: Path, mode: int, now: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group cannot be kept by a user who is not in it: the user's own must not get its rights."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    os.chown(target, -1, 34)
    target.chmod(mode)
    monkeypatch.setattr(os, "fchown", refuse)
    replace_file(target, b"new")
    assert target.stat().st_gid != 34
    assert mode_of(target) & ~now == 0


#: acl(5) as Linux stores it: user::rw-, user:12:r--, group::---, mask::r--, other::---
_NOBODY = 2**32 - 1
_ENTRIES = ((1, 6, _NOBODY), (2, 4, 12), (4, 0, _NOBODY), (16, 4, _NOBODY), (32, 0, _NOBODY))
_ACL = struct.pack("<I" + "HHI" * 5, 2, *(number for entry in _ENTRIES for number in entry))


def test_a_replaced_file_keeps_its_acl(target: Path) -> None:
    try:
        os.setxattr(target, "system.posix_acl_access", _ACL)
    except OSError:
        pytest.skip("this file system has no ACLs")
    replace_file(target, b"new")
    assert os.getxattr(target, "system.posix_acl_access") == _ACL


def test_an_acl_that_cannot_be_kept_opens_nothing(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mode's bits for the group are the list's mask there: without the list they would be the group's."""
    try:
        os.setxattr(target, "system.posix_acl_access", _ACL)
    except OSError:
        pytest.skip("this file system has no ACLs")

    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", refuse)
    replace_file(target, b"new")
    assert mode_of(target) == 0o600


def test_a_new_file_has_no_acl_of_its_folder_if_the_old_one_had_none(target: Path) -> None:
    try:
        os.setxattr(target.parent, "system.posix_acl_default", _ACL)
    except OSError:
        pytest.skip("this file system has no ACLs")
    target.chmod(0o600)
    replace_file(target, b"new")
    assert mode_of(target) == 0o600
    with pytest.raises(OSError, match="No data"):
        os.getxattr(target, "system.posix_acl_access")


@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_a_mode_that_cannot_be_set(target: Path, monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    """It is tolerated unless somebody would get more."""
    target.chmod(mode)
    before = os.umask(0o022)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchmod", refuse)
    try:
        if mode == 0o666:
            replace_file(target, b"new")
        else:
            with pytest.raises(StorageFailure, match="cannot set the mode of"):
                replace_file(target, b"new")
    finally:
        os.umask(before)
    assert (target.read_bytes() == b"new") == (mode == 0o666)


def test_a_link_is_replaced_and_what_it_leads_to_is_not_touched(target: Path) -> None:
    link = target.with_name("link")
    link.symlink_to(target)
    replace_file(link, b"new")
    assert not link.is_symlink()
    assert (link.read_bytes(), target.read_bytes()) == (b"new", b"old")


def test_an_unfinished_file_is_never_open_to_more_people(target: Path) -> None:
    target.chmod(0o600)
    part = temporary_name(target)
    with new_file(part, like=target):
        assert mode_of(part) == 0o600
    rename_file(part, target)


def test_what_cannot_get_its_name_is_removed(target: Path) -> None:
    target.unlink()
    target.mkdir()
    with pytest.raises(StorageFailure, match="cannot replace"):
        replace_file(target, b"new")
    assert os.listdir(target.parent) == ["file"]


def test_a_name_is_given_once(target: Path) -> None:
    part = temporary_name(target)
    with new_file(part) as handle:
        handle.write(b"new")
    with pytest.raises(FileExistsError):
        link_file(part, target)
    assert target.read_bytes() == b"old"
    assert os.listdir(target.parent) == ["file"]


def test_an_interrupt_leaves_folders_that_were_there(tmp_path: Path) -> None:
    """A report's folder, for instance: empty before, and the user's."""
    (tmp_path / "reports").mkdir()
    part = tmp_path / "reports" / "part"
    with new_file(part):
        remove_unfinished()
    assert (tmp_path / "reports").is_dir()
    assert not part.exists()


def test_long_names_have_a_part_as_well(tmp_path: Path) -> None:
    replace_file(tmp_path / ("x" * 255), b"new")
    assert os.listdir(tmp_path) == ["x" * 255]
