"""Two on one visit, eight on one catalog, on local disks and with the habits of NFS; locks of the dead.

A real NFS mount needs a server in the kernel, which containers do not have. What NFS does otherwise is brought about
here: ``flock`` does not work, the answer to a hard link gets lost, hard links do not exist, names appear late.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from icf_utils.catalog.stage import catalogify_studyvisit_from_meta
from icf_utils.errors import Busy
from icf_utils.progress import SILENT
from icf_utils.store import lock_owner, locks
from icf_utils.store.layout import Visit
from icf_utils.store.lock_owner import HOST, LockOwner, is_dead, is_out_of_sight, parse_owner, this_process
from icf_utils.store.locks import catalog_lock, visit_lock
from tests.cli.program import PROGRAM, icf, surrounding
from tests.data.make_dicom import uid
from tests.trust.scene import leftovers, visible
from tests.verify.stores import STUDY, make_derived, make_visit, write_input

EIGHT = [f"v{number}" for number in range(8)]


def with_eight(folder: Path) -> Path:
    """A store with eight visits, none of them in a catalog yet."""
    for visit in EIGHT:
        make_visit(write_input(folder / "in" / visit, StudyTime=f"1{visit[1]}0000"), folder / "made", visit)
    shutil.copytree(folder / "made", folder / "store")
    shutil.rmtree(folder / "store" / STUDY / "catalog")
    return folder / "store"


def start(*arguments: str | Path, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*before, *PROGRAM, *map(str, arguments)],
        env=surrounding(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("flock", [True, False])
def test_eight_visits_into_one_catalog(tmp_path: Path, flock: bool) -> None:
    before: tuple[str, ...] = ()
    if not flock:
        if shutil.which("strace") is None:
            pytest.skip("strace is not installed")
        before = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=flock", "-e", "inject=flock:error=ENOLCK")
    store = with_eight(tmp_path)
    command = ("catalogify_studyvisit_from_meta", "--json", "-o", store, "--id", STUDY)
    running = [start(*command, visit, before=before) for visit in EIGHT]
    done = [(process.communicate(timeout=120), process.returncode) for process in running]
    assert [code for _, code in done] == [0] * 8, done
    assert visible(store) == visible(tmp_path / "made")
    assert leftovers(store) == []


def test_two_runs_of_the_same_visits(tmp_path: Path) -> None:
    for visit in EIGHT[:3]:
        write_input(tmp_path / "in" / visit, StudyInstanceUID=uid(visit))
    rows = "".join(f"{STUDY},{visit},in/{visit}\n" for visit in EIGHT[:3])
    (tmp_path / "t.csv").write_text("study,visit,input\n" + rows)
    command = ("run", "--table", tmp_path / "t.csv", "-j", "2", "-o")
    assert icf(*command, tmp_path / "alone").code == 0
    running = [start(*command, tmp_path / "store") for _ in range(2)]
    done = [(process.communicate(timeout=120), process.returncode) for process in running]
    assert [code for _, code in done] == [0, 0], done
    assert visible(tmp_path / "store") == visible(tmp_path / "alone")
    assert leftovers(tmp_path / "store") == []


def test_the_answer_to_a_hard_link_gets_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An NFS server made the link, and its second answer says that the name is taken: it is ours."""
    link = os.link

    def repeated(source: str | Path, target: str | Path) -> None:
        link(source, target)
        raise FileExistsError(17, "File exists")

    visit = Visit(tmp_path / "store", STUDY, "v1")
    monkeypatch.setattr(os, "link", repeated)
    with visit_lock(visit, SILENT):
        assert parse_owner((visit.workdir / "v1.lock").read_bytes()) == this_process(visit.workdir)
    assert os.listdir(tmp_path) == []


def test_names_that_appear_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory cache may hide a lock that is there: it is waited for all the same."""
    visit = Visit(tmp_path / "store", STUDY, "v1")
    order: list[str] = []
    read, started = locks.read_owner, time.monotonic()
    monkeypatch.setattr(locks, "read_owner", lambda path: None if time.monotonic() < started + 0.5 else read(path))
    with visit_lock(visit, SILENT):
        other = threading.Thread(target=lambda: _note(visit, order))
        other.start()
        time.sleep(0.8)
        order.append("first")
    other.join()
    assert order == ["first", "second"]


def _note(visit: Visit, order: list[str]) -> None:
    with visit_lock(visit, SILENT):
        order.append("second")


def test_catalog_and_visit_by_threads(tmp_path: Path) -> None:
    store = with_eight(tmp_path)
    threads = [
        threading.Thread(target=catalogify_studyvisit_from_meta, args=(store, STUDY, visit)) for visit in EIGHT[:4]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for visit in EIGHT[4:]:
        make_derived(store, visit)
    assert visible(store) == visible(tmp_path / "made")


# -- who is dead

OWN = this_process()


def test_a_container_of_the_same_host_name_is_alive() -> None:
    """Its process ids mean nothing here."""
    other = LockOwner(HOST, 4194305, "5", "pid:[1]", OWN.boot, OWN.machine)
    assert not is_dead(other)
    assert is_out_of_sight(other)


def test_a_namesake_of_this_host_is_alive() -> None:
    other = LockOwner(HOST, 4194305, "5", OWN.namespace, "another-boot", "another-machine")
    assert not is_dead(other)
    assert is_out_of_sight(other)


@pytest.fixture
def restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine after a restart."""
    monkeypatch.setattr(lock_owner, "_this_machine", lambda: ("pid:[4026531836]", "boot-2", "machine"))
    monkeypatch.setattr(lock_owner, "is_on_own_disk", lambda folder: folder == OWN_DISK)


OWN_DISK, SHARED = Path("/own"), Path("/shared")


@pytest.mark.usefixtures("restarted")
def test_this_host_before_it_was_restarted() -> None:
    """The same machine with another boot: nothing of then lives, also where the process id is used again."""
    before = LockOwner(HOST, os.getpid(), "5", "pid:[4026531836]", "boot-1", "machine")
    assert is_dead(before, SHARED)
    assert is_dead(LockOwner(HOST, os.getpid(), "5", "pid:[1]", "boot-1", "machine"), SHARED)
    assert not is_dead(LockOwner(HOST, os.getpid(), "5", "pid:[4026531836]", "boot-1", "-"), SHARED)
    assert not is_dead(LockOwner("another", os.getpid(), "5", "pid:[4026531836]", "boot-1", "machine"), SHARED)


@pytest.mark.usefixtures("restarted")
def test_a_container_before_the_machine_was_restarted() -> None:
    """Containers have names of their own, which change; a disk has one kernel."""
    before = LockOwner("3f2a", 7, "5", "pid:[7]", "boot-1", "-", "own")
    assert is_dead(before, OWN_DISK)
    assert not is_dead(before, SHARED)
    assert not is_dead(replace(before, disk="-"), OWN_DISK), "a client of this machine's file server"
    assert not is_dead(replace(before, boot="boot-2"), OWN_DISK), "a container that runs now"


def test_the_machine_id_of_a_containers_image_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_owner, "_text", lambda path: "image" if path == "/etc/machine-id" else "-")
    monkeypatch.setattr(lock_owner, "is_mount", lambda _: False)
    assert lock_owner._machine_id("pid:[4026531836]") == "image", "of the host itself"
    assert lock_owner._machine_id("pid:[7]") == "-"
    monkeypatch.setenv("APPTAINER_CONTAINER", "icf.sif")
    assert lock_owner._machine_id("pid:[4026531836]") == "-"
    monkeypatch.setattr(lock_owner, "is_mount", lambda _: True)
    assert lock_owner._machine_id("pid:[7]") == "image"


def test_which_disks_are_this_machines_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from icf_utils.store import mounts

    (tmp_path / "a b").mkdir()
    name = os.fsencode(os.path.realpath(tmp_path)).replace(b" ", b"\\040") + b"/a\\040b"
    for kind, own in ((b"ext4", True), (b"nfs4", False), (b"fuse.sshfs", False), (b"gfs2", False), (b"xfs", True)):
        lines = b"1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:9 / " + name + b" rw shared:1 - " + kind + b" x rw\n"
        monkeypatch.setattr(Path, "read_bytes", lambda _, lines=lines: lines)
        mounts._kind.cache_clear()
        assert mounts.is_on_own_disk(tmp_path / "a b") is own
        assert mounts.is_on_own_disk(tmp_path)
        assert not mounts.is_on_own_disk(tmp_path / "missing")
    mounts._kind.cache_clear()


def test_an_owner_that_cannot_be_examined_and_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said early that nothing is heard of it; the lock stays, as the host may only be asleep."""
    visit = Visit(tmp_path / "store", STUDY, "v1")
    visit.workdir.mkdir(parents=True)
    path = visit.workdir / "v1.lock"
    path.write_bytes(LockOwner("elsewhere", 1, "5", "pid:[1]", "b", "m").mark)
    monkeypatch.setattr(locks, "SILENCE", 0.3)
    with pytest.raises(Busy, match="has not touched it for") as caught, visit_lock(visit, SILENT):
        pass
    assert caught.value.silent
    assert "if you are certain that the process is dead, remove the file" in str(caught.value)
    assert path.exists()


def test_a_holder_out_of_sight_that_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    visit = Visit(tmp_path / "store", STUDY, "v1")
    visit.workdir.mkdir(parents=True)
    path = visit.workdir / "v1.lock"
    path.write_bytes(LockOwner("elsewhere", 1, "5", "pid:[1]", "b", "m").mark)
    monkeypatch.setattr(locks, "SILENCE", 0.6)

    def live() -> None:
        for number in range(12):
            time.sleep(0.1)
            os.utime(path, (number, number))  # its clock is wrong by decades
        path.unlink()

    other = threading.Thread(target=live)
    other.start()
    with visit_lock(visit, SILENT):
        pass
    other.join()


def test_a_holder_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT", 0.05)
    study = Visit(tmp_path / "store", STUDY, "v1").of_study
    with catalog_lock(study, SILENT):
        path = study.workdir / "+catalog.lock"
        before = path.stat().st_mtime_ns
        time.sleep(0.4)
        assert path.stat().st_mtime_ns > before
    assert not threading.enumerate()[1:] or all(thread.name != "beat" for thread in threading.enumerate())


def test_a_lock_that_was_taken_away_is_not_given_back(tmp_path: Path) -> None:
    """Whoever removed it by hand let another one in, whose lock it is now."""
    visit = Visit(tmp_path / "store", STUDY, "v1")
    other = LockOwner("elsewhere", 1, "5", "pid:[1]", "b", "m").mark
    with visit_lock(visit, SILENT):
        (visit.workdir / "v1.lock").write_bytes(other)
    assert (visit.workdir / "v1.lock").read_bytes() == other


def test_a_stale_lock_is_said_by_the_command(tmp_path: Path) -> None:
    source, store = write_input(tmp_path / "in"), tmp_path / "store"
    process = subprocess.Popen(["sleep", "60"])
    mark = LockOwner(HOST, process.pid, lock_owner.process_start(process.pid), *OWN.mark.decode().split()[3:]).mark
    process.kill()
    process.wait()
    workdir = store / STUDY / ".icf"
    workdir.mkdir(parents=True)
    (workdir / "v1.lock").write_bytes(mark)
    done = icf("make_studyvisit_archive", "-o", store, "--id", STUDY, "v1", source)
    assert done.code == 0
    assert (
        f"taking over the lock of a dead process: '{workdir / 'v1.lock'}' (process {process.pid} on {HOST})" in done.err
    )
    assert sorted(os.listdir(store / STUDY)) == [".icf", "v1_SHA256SUMS", "v1_dicom.tar", "v1_dicom.tar.md5sum"]
    assert os.listdir(workdir) == ["handover"]
