"""One writer at a time: processes wait for each other, and the locks of dead ones are taken over."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from icf_utils.archive.stage import make_studyvisit_archive
from icf_utils.errors import Busy, InvalidSetting, StorageFailure
from icf_utils.interrupts import remove_made_folders
from icf_utils.progress import SILENT, Silent
from icf_utils.store import lock_owner, locks
from icf_utils.store.files import make_folders, part_name
from icf_utils.store.layout import Study, Visit
from icf_utils.store.locks import catalog_lock, run_lock, visit_lock
from tests.archive.reference import reference_archive
from tests.data.make_dicom import write_visit


class Listening(Silent):
    """Progress that keeps its messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture
def visit(tmp_path: Path) -> Visit:
    return Visit(tmp_path / "store", "study", "visit")


def lock_path(visit: Visit) -> Path:
    return visit.workdir / "visit.lock"


def put_lock(visit: Visit, text: str) -> None:
    visit.workdir.mkdir(parents=True)
    lock_path(visit).write_text(text, encoding="utf-8")


def start_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]


def test_a_lock_names_its_holder_and_goes_away(visit: Visit) -> None:
    with visit_lock(visit, SILENT):
        assert lock_path(visit).read_text(encoding="utf-8").split()[:2] == [socket.gethostname(), str(os.getpid())]
        assert os.listdir(visit.workdir) == ["visit.lock"]
    assert not (visit.root / "study").exists()


def test_a_lock_goes_away_after_an_error(visit: Visit) -> None:
    with pytest.raises(KeyboardInterrupt), visit_lock(visit, SILENT):
        raise KeyboardInterrupt
    assert not (visit.root / "study").exists()


def test_visits_and_catalog_do_not_exclude_each_other(visit: Visit) -> None:
    other = Visit(visit.root, "study", "other")
    with visit_lock(visit, SILENT), visit_lock(other, SILENT), catalog_lock(visit.of_study, SILENT):
        assert len(os.listdir(visit.workdir)) == 3


def test_a_folder_that_is_removed_while_it_is_created_stays_registered(
    visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread tidies up between the registration of the folder and its creation."""
    mkdir = Path.mkdir
    others: list[threading.Thread] = []

    def slow_mkdir(path: Path, *args: Any, **kwargs: Any) -> None:
        if not others:
            others.append(threading.Thread(target=remove_made_folders, args=[visit.root]))
            others[0].start()
            others[0].join(0.2)
        mkdir(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", slow_mkdir)
    make_folders(visit.root, visit.root)
    others[0].join()
    remove_made_folders(visit.root)
    assert not visit.root.exists()


@pytest.mark.parametrize("kind", ["visit", "catalog"])
def test_only_one_at_a_time(visit: Visit, kind: str) -> None:
    """Many threads count up a number that is only right if nobody else does so meanwhile."""
    number, inside = 0, 0

    def work() -> None:
        nonlocal number, inside
        for _ in range(15):
            with visit_lock(visit, SILENT) if kind == "visit" else catalog_lock(visit.of_study, SILENT):
                inside += 1
                before = number
                time.sleep(0.0005)
                assert inside == 1
                number = before + 1
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert number == 60
    assert not (visit.root / "study").exists()


def dead_process() -> tuple[int, str]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = start_of(process.pid)
    process.communicate(b"\n")
    return process.pid, start


def test_the_lock_of_a_dead_process_is_taken_over(visit: Visit) -> None:
    pid, start = dead_process()
    put_lock(visit, f"{socket.gethostname()} {pid} {start}\n")
    progress = Listening()
    with visit_lock(visit, progress):
        assert f" {os.getpid()} " in lock_path(visit).read_text(encoding="utf-8")
        assert os.listdir(visit.workdir) == ["visit.lock"]
    (message,) = progress.messages
    assert "taking over the lock of a dead process" in message
    assert f"process {pid} on " in message


def test_the_lock_of_a_process_that_nobody_waited_for_is_taken_over(visit: Visit) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    put_lock(visit, f"{socket.gethostname()} {process.pid} {start_of(process.pid)}\n")
    process.kill()
    progress = Listening()
    with visit_lock(visit, progress):
        assert any("taking over" in message for message in progress.messages)
    process.communicate()


def test_a_process_number_that_was_used_again_is_recognised(visit: Visit) -> None:
    put_lock(visit, f"{socket.gethostname()} {os.getpid()} 1\n")
    progress = Listening()
    with visit_lock(visit, progress):
        assert any("taking over" in message for message in progress.messages)


@pytest.mark.parametrize(
    "text",
    [
        "x\n",
        "a b c d\n",
        "{host} x -\n",
        "{host} ² 1\n",
        "{host} 99999999999999999999 5\n",
        "another.example 1 1\n",
        "{host} {own} -\n",
        "{host} 1 -\n",
    ],
)
def test_whom_nobody_knows_to_be_dead_is_waited_for(visit: Visit, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = text.format(host=socket.gethostname(), own=os.getpid())
    put_lock(visit, text)
    monkeypatch.setattr(locks, "PATIENCE", 0.05)
    with pytest.raises(Busy) as caught, visit_lock(visit, SILENT):
        pass
    assert caught.value.exit_code == 8
    assert str(lock_path(visit)) in str(caught.value)
    assert lock_path(visit).read_text(encoding="utf-8") == text
    assert os.listdir(visit.workdir) == ["visit.lock"]


def test_waiting_is_said_once(visit: Visit) -> None:
    progress = Listening()
    waits = threading.Event()

    def hold() -> None:
        with visit_lock(visit, SILENT):
            waits.set()
            time.sleep(1.8)

    holder = threading.Thread(target=hold)
    holder.start()
    waits.wait()
    with visit_lock(visit, progress):
        pass
    holder.join()
    (message,) = progress.messages
    assert message.startswith(f"waiting for process {os.getpid()} on ")


def test_file_systems_without_hard_links(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", _refuse)
    test_only_one_at_a_time(visit, "visit")
    pid, start = dead_process()
    put_lock(visit, f"{socket.gethostname()} {pid} {start}\n")
    with visit_lock(visit, SILENT):
        assert os.listdir(visit.workdir) == ["visit.lock"]


def test_a_store_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(b"")
    with pytest.raises(StorageFailure), catalog_lock(Study(tmp_path / "store", "study"), SILENT):
        pass


# -- processes


def start(source: Path, store: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "icf_utils.cli.main", "make_studyvisit_archive", "--json", *more]
    command += ["-o", str(store), "--id", "study", "visit", str(source)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_processes_on_one_visit_end_as_if_one_after_the_other(tmp_path: Path) -> None:
    source = tmp_path / "in"
    write_visit(source, {1: ("a", 20)}, companions={"large": bytes(20 << 20)})
    running = [start(source, tmp_path / "store") for _ in range(4)]
    done = [(process.communicate(), process.returncode) for process in running]
    assert [code for _, code in done] == [0] * 4, done
    states = sorted(json.loads(out)["result"]["archive"]["state"] for (out, _), _ in done)
    assert states == ["unchanged"] * 3 + ["written"]
    assert (tmp_path / "store/study/visit_dicom.tar").read_bytes() == reference_archive(source, "study_visit")
    assert sorted(os.listdir(tmp_path / "store" / "study")) == [
        ".icf",
        "visit_SHA256SUMS",
        "visit_dicom.tar",
        "visit_dicom.tar.md5sum",
    ]


def test_processes_with_different_content_on_one_visit(tmp_path: Path) -> None:
    """One gets through, the others are refused; the archive is the one's, not a mixture."""
    for number in range(3):
        write_visit(tmp_path / f"in{number}", {1: ("a", 3)}, companions={"large": bytes([number]) * (5 << 20)})
    running = [start(tmp_path / f"in{number}", tmp_path / "store") for number in range(3)]
    done = [(process.communicate(), process.returncode) for process in running]
    codes = [code for _, code in done]
    assert sorted(codes) == [0, 4, 4], done
    winner = codes.index(0)
    archive = (tmp_path / "store" / "study" / "visit_dicom.tar").read_bytes()
    assert archive == reference_archive(tmp_path / f"in{winner}", "study_visit")


@contextmanager
def interrupted(source: Path, store: Path, number: signal.Signals) -> Iterator[subprocess.Popen[bytes]]:
    """A run that is stopped in the middle of writing."""
    process = start(source, store)
    part = part_name(Study(store, "study"), store / "study" / "visit_dicom.tar")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(FileNotFoundError):
            if part.stat().st_size > 1 << 20:
                break
    process.send_signal(number)
    try:
        yield process
    finally:
        process.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_interrupted_runs(tmp_path: Path, number: signal.Signals, code: int) -> None:
    source, store = tmp_path / "in", tmp_path / "store"
    write_visit(source, {1: ("a", 3)})
    with open(source / "large.bin", "wb") as large:
        large.truncate(700 << 20)
    with interrupted(source, store, number) as process:
        process.wait()
        assert process.returncode == code
    if number != signal.SIGKILL:
        assert not (store / "study").exists()
    os.truncate(source / "large.bin", 1000)
    progress = Listening()
    result = make_studyvisit_archive(source, store, "study", "visit", progress=progress)
    assert bool(progress.messages) == (number == signal.SIGKILL)
    assert result.archive.path.read_bytes() == reference_archive(source, "study_visit")
    assert sorted(os.listdir(store / "study")) == ["visit_SHA256SUMS", "visit_dicom.tar", "visit_dicom.tar.md5sum"]


# -- odd locks


def test_only_one_process_clears_a_dead_lock(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one clears it and takes its own, just before this one removes what it has seen."""
    pid, start = dead_process()
    put_lock(visit, f"{socket.gethostname()} {pid} {start}\n")
    live = f"{socket.gethostname()} 1 -\n"
    unlink, link, rename, done = Path.unlink, os.link, os.rename, list[Path]()

    def overtaken(path: Path) -> None:
        if not done:
            done.append(path)
            unlink(lock_path(visit))
            lock_path(visit).write_text(live, encoding="utf-8")

    def slow_link(source: Path, target: Path) -> None:
        if "+dead" in Path(target).name:
            overtaken(Path(target))
        link(source, target)

    def slow_rename(source: Path, target: Path) -> None:
        overtaken(Path(source))
        rename(source, target)

    monkeypatch.setattr(os, "link", slow_link)
    monkeypatch.setattr(os, "rename", slow_rename)
    monkeypatch.setattr(locks, "PATIENCE", 0.05)
    with pytest.raises(Busy), visit_lock(visit, SILENT):
        pass
    assert done
    assert lock_path(visit).read_text(encoding="utf-8") == live
    assert os.listdir(visit.workdir) == ["visit.lock"]


_DIE_WHILE_CLEARING = """
import os, sys
from pathlib import Path
from icf_utils.store import lock_owner, locks
from icf_utils.store.layout import Study
Path.unlink = lambda *_, **__: os._exit(9)
locks.remove_dead_locks(Study(Path(sys.argv[1]), "study"))
"""


def test_who_died_while_clearing_a_dead_lock_is_cleared_too(visit: Visit) -> None:
    pid, start = dead_process()
    put_lock(visit, f"{socket.gethostname()} {pid} {start}\n")
    died = subprocess.run([sys.executable, "-c", _DIE_WHILE_CLEARING, str(visit.root)], check=False)
    assert died.returncode == 9
    assert len(os.listdir(visit.workdir)) == 3
    progress = Listening()
    with visit_lock(visit, progress):
        assert os.listdir(visit.workdir) == ["visit.lock"]
    assert "taking over the lock of a dead process" in progress.messages[0]


@pytest.mark.parametrize("try_once", [True, False])
def test_a_name_that_is_no_lock_is_not_waited_for_without_end(
    visit: Visit, try_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.05)
    monkeypatch.setattr(locks, "_LOOKING", 0.05)
    visit.workdir.mkdir(parents=True)
    for path in (lock_path(visit), visit.workdir / "+run.visit.lock"):
        path.symlink_to("nowhere")
    if try_once:
        with run_lock(visit, SILENT, wait=False) as holder:
            assert holder == "process 0 on an unknown host"
    else:
        with pytest.raises(Busy), visit_lock(visit, SILENT):
            pass


@pytest.mark.parametrize("text", ["nan", "-1", "soon", "-inf"])
def test_no_number_of_seconds(visit: Visit, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICF_LOCK_TIMEOUT", text)
    put_lock(visit, "another.example 1 1\n")
    with pytest.raises(InvalidSetting, match="not a number of seconds"), visit_lock(visit, SILENT):
        pass


TORN = ["", "\0" * 80, "{host} {own} 1 pid:[40", "another.example 1 1"]


@pytest.mark.parametrize("text", TORN)
@pytest.mark.parametrize("links", [True, False])
def test_a_lock_that_lost_its_content_is_not_a_lock(
    visit: Visit, text: str, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a power failure leaves it: the name was on the disk before the content."""
    monkeypatch.setattr(locks, "_TORN_FOR", 0.05)
    if not links:
        monkeypatch.setattr(os, "link", _refuse)
    put_lock(visit, text.format(host=socket.gethostname(), own=os.getpid()))
    catalog, run = visit.workdir / "+catalog.lock", visit.workdir / "+run.visit.lock"
    for path in (catalog, run):
        path.write_text("", encoding="utf-8")
    progress = Listening()
    assert locks.list_running_visits(visit.of_study) == {}
    with run_lock(visit, progress, wait=False) as owner:
        assert owner == ""
        with visit_lock(visit, progress), catalog_lock(visit.of_study, progress):
            assert sorted(os.listdir(visit.workdir)) == ["+catalog.lock", "+run.visit.lock", "visit.lock"]
    assert [message.partition(":")[0] for message in progress.messages] == [
        "removed a lock that lost its content in a power failure"
    ] * 3
    assert not visit.workdir.exists()


def _refuse(*_: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_who_lost_power_while_clearing_a_dead_lock(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_TORN_FOR", 0.05)
    pid, start = dead_process()
    put_lock(visit, f"{socket.gethostname()} {pid} {start}\n")
    taken: list[Path] = []
    real = locks.try_lock

    def torn_claims(study: Study, path: Path) -> bool:
        if path.name.startswith("+dead.") and not taken:
            taken.append(path)
            path.write_bytes(b"")
        return real(study, path)

    monkeypatch.setattr(locks, "try_lock", torn_claims)
    with visit_lock(visit, SILENT):
        assert os.listdir(visit.workdir) == ["visit.lock"]
    assert taken


def test_a_torn_lock_that_is_being_written_is_left(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without hard links, another process has created the name and writes its content just now."""
    monkeypatch.setattr(locks, "_TORN_FOR", 0.2)
    put_lock(visit, "")
    live = f"{socket.gethostname()} 1 -\n"
    timer = threading.Timer(0.05, lambda: lock_path(visit).write_text(live, encoding="utf-8"))
    timer.start()
    assert not locks.remove_torn_lock(visit.of_study, lock_path(visit))
    timer.join()
    assert lock_path(visit).read_text(encoding="utf-8") == live


def test_leftovers_of_an_earlier_boot(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a container whose name is never used again."""
    visit.workdir.mkdir(parents=True)
    left = visit.workdir / "visit.lock.f00.7.12345"
    left.write_text("f00 7 5 pid:[7] boot-1 - own\n", encoding="utf-8")
    monkeypatch.setattr(lock_owner, "is_on_own_disk", lambda _: True)
    with visit_lock(visit, SILENT):
        assert os.listdir(visit.workdir) == ["visit.lock"]
