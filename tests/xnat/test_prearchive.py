"""Straight into the prearchive, on a real PostgreSQL with XNAT's table; faults between each two steps."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, cast

import pytest
import requests

from icf_utils.errors import IcfError, InputRefused, InvalidSetting, RemoteFailure, StorageFailure
from icf_utils.progress import SILENT, Task
from icf_utils.sources.select import open_source
from icf_utils.xnat import claims, prearchive
from icf_utils.xnat.copies import Rights
from icf_utils.xnat.direct import PrearchiveResult, Session
from icf_utils.xnat.prearchive import plan, put_into_prearchive
from icf_utils.xnat.table import COLUMNS, TABLE, Row
from tests.cli.program import ROOT, surrounding
from tests.data.make_dicom import dicom_bytes, uid, write_visit
from tests.xnat.conftest import Server
from tests.xnat.standin import PASSWORD, USER, StandIn

STUDY = uid("study", "prearchive")
#: What is said between two steps: copied, in its place, the row, the request, XNAT's status.
STEPS = 5


@dataclass
class Http:
    """XNAT as the command's own client asks it, without its retries."""

    url: str

    def rebuild(self, src: str) -> None:
        address = f"{self.url}/data/services/prearchive/rebuild"
        requests.post(address, data={"src": src}, auth=(USER, PASSWORD), timeout=10).raise_for_status()

    def status(self, project: str, timestamp: str, foldername: str) -> str | None:
        address = f"{self.url}/data/prearchive/projects/{project}?format=json"
        answer = requests.get(address, auth=(USER, PASSWORD), timeout=10).json()["ResultSet"]["Result"]
        found = [row["status"] for row in answer if (row["timestamp"], row["folderName"]) == (timestamp, foldername)]
        return found[0] if found else None


class Stop(Exception):
    """An injected fault."""


class Steps:
    """Hears each step, and does something at one of them."""

    def __init__(self, at: int = 0, action: Any = None) -> None:
        self.heard: list[str] = []
        self._at, self._action = at, action

    def task(self, label: str, total: int, unit: str) -> AbstractContextManager[Task]:
        return SILENT.task(label, total, unit)

    def message(self, text: str) -> None:
        self.heard.append(text)
        if len(self.heard) == self._at:
            self._action()


def stop() -> None:
    raise Stop


@pytest.fixture
def visit(tmp_path: Path) -> Path:
    folder = tmp_path / "visit"
    write_visit(folder, {1: ("scout", 2), 2: ("rest", 3)}, companions={"notes.txt": b"x"}, StudyInstanceUID=STUDY)
    return folder


def put(visit: Path, session: Session, postgres: Server, xnat: StandIn, **more: Any) -> PrearchiveResult:
    with open_source(visit, visit.parent) as source:
        return put_into_prearchive(source, session, postgres.database, Http(xnat.url), **more)


def tree(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*"))


def test_a_session(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    before = {path: path.read_bytes() for path in visit.rglob("*.*")}
    started = datetime.now().astimezone().replace(tzinfo=None)
    done = put(visit, Session(root, "S1", "PILOT", "sub-01"), postgres, xnat)
    assert done.status == "READY"
    assert done.folder == root / "PILOT" / done.timestamp / "S1"
    names = [f"SCANS/{scan}/DICOM/000{at}.dcm" for scan, last in (("1", 2), ("2", 3)) for at in range(1, last + 1)]
    placed = [name for name in tree(done.folder) if name.endswith(".dcm")]
    assert placed == names == [file.place for file in done.files]
    assert all((done.folder / file.place).read_bytes() == (visit / file.name).read_bytes() for file in done.files)
    assert {path: path.read_bytes() for path in visit.rglob("*.*")} == before  # never moved, never changed
    assert [notice.subject for notice in done.notices] == ["notes.txt"]
    (values,) = postgres.rows()
    row = dict(zip(COLUMNS_OF_XNAT, values, strict=True))
    assert abs(row.pop("uploaded") - started) < timedelta(seconds=30)
    assert row.pop("lastmod") is not None
    assert row == {
        "project": "PILOT",
        "timestamp": done.timestamp,
        "scan_date": row["scan_date"],
        "scan_time": row["scan_time"],
        "subject": "sub-01",
        "foldername": "S1",
        "name": "S1",
        "tag": STUDY,
        "status": "READY",
        "url": str(done.folder),
        "autoarchive": None,
        "prevent_anon": False,
        "prevent_auto_commit": False,
        "source": "icf-utils",
        "visit": None,
        "protocol": None,
        "timezone": None,
    }
    assert row["scan_date"] is not None
    assert row["scan_time"] == f"{row['scan_date']:%H:%M:%S}"
    assert not (root / claims.WORK_DIR).exists()
    (asked,) = xnat.seen("POST", "/data/services/prearchive/rebuild")
    assert asked.size > 0


#: The order that XNAT reads the table by.
COLUMNS_OF_XNAT = (
    *("project", "timestamp", "lastmod", "uploaded", "scan_date", "scan_time", "subject", "foldername", "name", "tag"),
    *("status", "url", "autoarchive", "prevent_anon", "prevent_auto_commit", "source", "visit", "protocol", "timezone"),
)


def test_every_column_is_given() -> None:
    assert sorted(COLUMNS) == sorted(COLUMNS_OF_XNAT)


def test_without_a_project(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    """The folder lies below the prearchive itself, the project is empty in the table and Unassigned in addresses."""
    done = put(visit, Session(root, "S1"), postgres, xnat)
    assert done.folder == root / done.timestamp / "S1"
    assert postgres.sql(f"SELECT project, subject FROM {TABLE}") == [(None, None)]
    assert done.status == "READY"
    with pytest.raises(InvalidSetting, match="leave it out"):
        Session(root, "S1", "Unassigned")


def test_the_row_is_inserted_last(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    """At every step: a row only when the folder is there, a folder only when it is complete."""
    seen = []

    def look() -> None:
        places = list(root.glob("PILOT/*/S1"))
        files = [path for place in places for path in place.glob("SCANS/*/DICOM/*")]
        seen.append((len(places), len(files), len(postgres.rows())))

    steps = Steps()
    steps.message = lambda text: look()  # type: ignore[method-assign]
    put(visit, Session(root, "S1", "PILOT"), postgres, xnat, progress=steps)
    assert seen == [(0, 0, 0), (1, 5, 0), (1, 5, 1), (1, 5, 1), (1, 5, 1)]
    assert len(seen) == STEPS


@pytest.mark.parametrize("at", range(1, STEPS + 1))
@pytest.mark.parametrize(("project", "error"), [("PILOT", Stop), (None, KeyboardInterrupt)])
def test_a_fault_between_two_steps_leaves_nothing(
    visit: Path, root: Path, postgres: Server, xnat: StandIn, at: int, project: str | None, error: type[BaseException]
) -> None:
    def fail() -> None:
        raise error

    steps = Steps(at, fail)
    with pytest.raises(error):
        put(visit, Session(root, "S1", project), postgres, xnat, progress=steps)
    assert len(steps.heard) == at
    assert tree(root) == []
    assert postgres.rows() == []
    assert put(visit, Session(root, "S1", project), postgres, xnat).status == "READY"


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
def test_a_fault_between_two_files_leaves_nothing(
    visit: Path, root: Path, postgres: Server, xnat: StandIn, error: type[BaseException]
) -> None:
    class Halfway(Steps):
        count = 0

        @contextmanager
        def task(self, label: str, total: int, unit: str) -> Iterator[Task]:
            self.label = label
            yield self

        def advance(self, amount: int) -> None:
            self.count += self.label == "copying"
            if self.count == 3:
                raise error

    with pytest.raises(error):
        put(visit, Session(root, "S1", "PILOT"), postgres, xnat, progress=Halfway())
    assert (tree(root), postgres.rows(), xnat.requests) == ([], [], [])


def test_a_database_that_refuses_the_row(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    """Whatever its reason: the folder goes, and the message quotes no values."""
    postgres.sql(f"ALTER TABLE {TABLE} ADD CONSTRAINT no_more CHECK (subject <> 'sub-01')")
    with pytest.raises(RemoteFailure, match="no_more") as caught:
        put(visit, Session(root, "S1", "PILOT", "sub-01"), postgres, xnat)
    assert "sub-01" not in str(caught.value)
    assert (tree(root), postgres.rows(), xnat.requests) == ([], [], [])


def test_a_full_disk(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    """Here: files that must not grow; the copies that were made go, too."""
    (visit / "02_rest" / "9999.dcm").write_bytes(dicom_bytes(StudyInstanceUID=STUDY, SeriesNumber=2) + bytes(300_000))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(StorageFailure):
            put(visit, Session(root, "S1", "PILOT"), postgres, xnat)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert (tree(root), postgres.rows()) == ([], [])


def test_others_are_left_alone_by_an_undoing(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    first = put(visit, Session(root, "S1", "PILOT"), postgres, xnat)
    before, rows = tree(root), postgres.rows()
    with pytest.raises(Stop):
        put(visit, Session(root, "S1", "PILOT", again=True), postgres, xnat, progress=Steps(4, stop))
    assert tree(root) == before
    assert postgres.rows() == rows
    assert first.folder.is_dir()


_PROGRAM = """
import os, sys
from pathlib import Path
from icf_utils.sources.select import open_source
from icf_utils.xnat.direct import Session
from icf_utils.xnat.prearchive import put_into_prearchive
from icf_utils.xnat.table import Database
from tests.xnat.test_prearchive import Http, Steps
visit, root, folder, port, user, url, at, number = sys.argv[1:]
steps = Steps(int(at), lambda: os.kill(os.getpid(), int(number)))
with open_source(Path(visit), Path("/tmp")) as source:
    session = Session(Path(root), "S1", "PILOT")
    put_into_prearchive(source, session, Database(folder, int(port), "xnat", user), Http(url), progress=steps)
"""


def run_and_kill(visit: Path, root: Path, postgres: Server, xnat: StandIn, at: int, number: int) -> int:
    place = (str(postgres.folder), str(postgres.port), postgres.user)
    command = [sys.executable, "-c", _PROGRAM, str(visit), str(root), *place, xnat.url, str(at), str(number)]
    return subprocess.run(command, env=surrounding(), cwd=ROOT, capture_output=True, check=False, timeout=60).returncode


@pytest.mark.parametrize("at", range(1, STEPS + 1))
def test_the_next_command_removes_what_a_kill_has_left(
    visit: Path, root: Path, postgres: Server, xnat: StandIn, at: int
) -> None:
    assert run_and_kill(visit, root, postgres, xnat, at, signal.SIGKILL) == -signal.SIGKILL
    left = tree(root)
    assert any(name.endswith(".journal") for name in left)
    assert any(name.endswith(".dcm") for name in left)
    steps = Steps()
    again = at == STEPS or at == STEPS - 1  # the stand-in has built it already: then it is XNAT's, and stays
    done = put(visit, Session(root, "S1", "PILOT", again=again), postgres, xnat, progress=steps)
    assert ("XNAT has taken up" if again else "removed what an interrupted command had left") in steps.heard[0]
    assert done.status == "READY"
    assert len(postgres.rows()) == (2 if again else 1)
    assert len(list(root.glob("PILOT/*/S1"))) == len(postgres.rows())
    assert not (root / claims.WORK_DIR).exists()


def test_a_running_command_is_not_cleaned_up(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    with claims.claimed(root, "PILOT", "S1") as claim:
        done = put(visit, Session(root, "S1", "PILOT"), postgres, xnat)
        assert claim.journal.exists()
        assert done.timestamp != claim.timestamp
        claims.remove(claim)
    assert not (root / claims.WORK_DIR).exists()


def test_signals_wait_for_the_undoing(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    """A second Ctrl-C does not stop the tidying up after the first."""

    def twice() -> None:
        threading.Timer(0.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        os.kill(os.getpid(), signal.SIGINT)
        signal.sigtimedwait([], 0.2)

    with pytest.raises(KeyboardInterrupt):
        put(visit, Session(root, "S1", "PILOT"), postgres, xnat, progress=Steps(3, twice))
    assert (tree(root), postgres.rows()) == ([], [])


def test_several_studies_are_refused(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    (visit / "stray.dcm").write_bytes(dicom_bytes(StudyInstanceUID=uid("another")))
    with pytest.raises(InputRefused, match="is of the study"):
        put(visit, Session(root, "S1", "PILOT"), postgres, xnat)
    assert (tree(root), postgres.rows(), xnat.requests) == ([], [], [])


def test_the_same_study_twice_is_refused(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    for project in ("PILOT", None):
        put(visit, Session(root, "S1", project), postgres, xnat)
        before, rows = tree(root), postgres.rows()
        with pytest.raises(RemoteFailure, match="has a session of this study in this project"):
            put(visit, Session(root, "S2", project), postgres, xnat)
        assert (tree(root), postgres.rows()) == (before, rows)
    assert put(visit, Session(root, "S1", again=True), postgres, xnat).status == "READY"


def test_sessions_at_once_get_times_of_their_own(tmp_path: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    count = 8
    for at in range(count):
        write_visit(tmp_path / f"v{at}", {1: ("scout", 1)}, StudyInstanceUID=uid("parallel", at))
    with ThreadPoolExecutor(count) as pool:
        jobs = [
            pool.submit(put, tmp_path / f"v{at}", Session(root, "S1", "PILOT"), postgres, xnat) for at in range(count)
        ]
        done = [job.result() for job in jobs]
    assert len({result.timestamp for result in done}) == len(postgres.rows()) == count
    assert {len(result.timestamp) for result in done} == {18}
    assert not (root / claims.WORK_DIR).exists()


def test_one_study_at_once_gets_in_once(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    def attempt(_: int) -> bool:
        try:
            put(visit, Session(root, "S1"), postgres, xnat)
        except IcfError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(attempt, range(6))) == 1
    assert len(postgres.rows()) == len(list(root.glob("*/S1"))) == 1


def test_an_error_is_undone_and_its_log_shown(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    xnat.outcome = lambda session: "ERROR"  # type: ignore[attr-defined]
    with pytest.raises(RemoteFailure, match=r"(?s)status ERROR.*XNAT's log says:\n  built: ERROR"):
        put(visit, Session(root, "S1", "PILOT"), postgres, xnat)
    assert (tree(root), postgres.rows()) == ([], [])


def test_a_conflict_is_left_to_people(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    xnat.outcome = lambda session: "CONFLICT"  # type: ignore[attr-defined]
    done = put(visit, Session(root, "S1", "PILOT"), postgres, xnat)
    assert (done.status, done.log) == ("CONFLICT", "built: CONFLICT\n")
    assert done.folder.is_dir()
    assert len(postgres.rows()) == 1


def test_a_slow_build_is_left_to_xnat(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    xnat.outcome = lambda session: "QUEUED_BUILDING"  # type: ignore[attr-defined]
    done = put(visit, Session(root, "S1", "PILOT", wait=0.3), postgres, xnat)
    assert done.status == "QUEUED_BUILDING"
    assert done.folder.is_dir()


def test_what_xnat_works_on_is_not_taken_away(
    visit: Path, root: Path, postgres: Server, xnat: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt while it builds: the undoing waits for XNAT to let go, and if it does not, says what is left."""
    monkeypatch.setattr(prearchive, "_LET_GO_WITHIN", 0.5)
    xnat.outcome = lambda session: "BUILDING"  # type: ignore[attr-defined]
    steps = Steps(4, stop)
    with pytest.raises(Stop):
        put(visit, Session(root, "S1", "PILOT"), postgres, xnat, progress=steps)
    assert "XNAT is working on" in steps.heard[-1]
    assert len(postgres.rows()) == len(list(root.glob("PILOT/*/S1"))) == 1
    postgres.sql(f"UPDATE {TABLE} SET status = 'ERROR'")
    prearchive.clean_up(root, postgres.database)
    assert (tree(root), postgres.rows()) == ([], [])


def test_another_database_is_noticed(
    visit: Path, root: Path, postgres: Server, xnat: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """XNAT does not list the session: all is undone."""
    monkeypatch.setattr(prearchive, "_LISTED_WITHIN", 0.5)

    class Blind(Http):
        def rebuild(self, src: str) -> None:
            """As if it were fine."""

    xnat.others = list
    with open_source(visit, visit.parent) as source, pytest.raises(RemoteFailure, match="does not list the session"):
        put_into_prearchive(source, Session(root, "S1", "PILOT"), postgres.database, Blind(xnat.url))
    assert (tree(root), postgres.rows()) == ([], [])


def test_a_database_that_goes_away_leaves_a_journal(
    visit: Path, root: Path, postgres: Server, xnat: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row cannot be removed: the folder must stay as long, and the next command removes both."""
    session = Session(root, "S1", "PILOT")

    def vanish() -> None:
        monkeypatch.setenv("PGOPTIONS", "-c no_such_setting=1")  # no connection any more
        raise Stop

    steps = Steps(3, vanish)
    with pytest.raises(Stop):
        put(visit, session, postgres, xnat, progress=steps)
    assert "left for the next command" in steps.heard[-1]
    assert len(list(root.glob("PILOT/*/S1"))) == 1
    monkeypatch.delenv("PGOPTIONS")
    assert put(visit, session, postgres, xnat).status == "READY"
    assert len(postgres.rows()) == len(list(root.glob("PILOT/*/S1"))) == 1


def test_no_table_is_said_before_anything_is_written(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    postgres.sql(f"ALTER TABLE {TABLE} DROP COLUMN prevent_auto_commit")
    with pytest.raises(RemoteFailure, match="no column prevent_auto_commit"):
        put(visit, Session(root, "S1", "PILOT"), postgres, xnat)
    postgres.sql(f"DROP TABLE {TABLE}")
    with pytest.raises(RemoteFailure, match="there is no table"):
        put(visit, Session(root, "S1", "PILOT"), postgres, xnat)
    assert (tree(root), xnat.requests) == ([], [])


def test_rights_of_the_copies(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    mine = (os.getuid(), os.getgid())
    owner = (12345, 12346) if os.geteuid() == 0 else mine
    rights = Rights(*owner, umask=0o007)
    done = put(visit, Session(root, "S1", "PILOT", rights=rights), postgres, xnat)
    for path in [done.folder.parent, done.folder, *done.folder.rglob("SCANS/**/*")]:
        status = path.stat()
        assert (status.st_uid, status.st_gid) == owner, path
        assert stat.S_IMODE(status.st_mode) == (0o770 if path.is_dir() else 0o660), path


def test_an_md5_of_the_metadata_that_does_not_fit(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    with pytest.raises(InputRefused, match="another MD5 than the metadata say"):
        put(visit, Session(root, "S1", "PILOT"), postgres, xnat, expected={"01_scout/0001.dcm": "0" * 32})
    assert (tree(root), postgres.rows()) == ([], [])


def test_the_plan_does_nothing(visit: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "/nowhere")
    with open_source(visit, visit.parent) as source:
        planned = plan(source, Session(root, "S1", "PILOT", "sub-01"))
    assert tree(root) == []
    assert planned.folder.parent.parent == root / "PILOT"
    assert planned.statements[-1].startswith(f"INSERT INTO {TABLE} (project, timestamp,")
    assert planned.values["status"] == "RECEIVING"
    assert planned.values["prevent_auto_commit"] is False
    now = datetime.now().astimezone().replace(tzinfo=None)
    for name in ("lastmod", "uploaded"):
        assert abs(cast("datetime", planned.values[name]) - now) < timedelta(seconds=30)
    stamp = cast("str", planned.values["timestamp"])
    assert abs(datetime.strptime(stamp, "%Y%m%d_%H%M%S%f").astimezone().replace(tzinfo=None) - now) < timedelta(
        seconds=30
    )
    assert planned.requests[0].startswith("POST /data/services/prearchive/rebuild src=/prearchive/projects/PILOT/")


def test_xnats_host_may_see_another_path(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    with open_source(visit, visit.parent) as source:
        values = plan(source, Session(root, "S1", "PILOT", server_root="/data/xnat/prearchive/")).values
    assert values["url"] == f"/data/xnat/prearchive/PILOT/{values['timestamp']}/S1"


@pytest.mark.parametrize("label", ["", "a b", "../x", "a/b", "ä", "x" * 201, "a.b"])
def test_labels_are_checked(root: Path, label: str) -> None:
    for given in ((label, None, None), ("ok", label, None), ("ok", None, label)):
        with pytest.raises(InvalidSetting, match="no label for XNAT"):
            Session(root, *given)


def example_row(**changes: Any) -> Row:
    now = datetime(2024, 1, 2, 3, 4, 5, tzinfo=timezone.utc).replace(tzinfo=None)
    names = {"foldername": "S1", "name": "S1", "tag": "1.2.3", "status": "RECEIVING", "url": "/x/S1"}
    row = Row("PILOT", "20240102_030405006", now, now, None, None, None, **names)  # type: ignore[arg-type]
    return replace(row, **changes)


def test_a_zip_and_a_tar_and_real_visits(
    tmp_path: Path, open_visit: Path, root: Path, postgres: Server, xnat: StandIn
) -> None:
    """Each open visit: in, or refused with nothing left."""
    try:
        done = put(open_visit, Session(root, "S1", "PILOT"), postgres, xnat)
    except InputRefused:
        assert (tree(root), postgres.rows()) == ([], [])
        return
    assert all((done.folder / file.place).read_bytes() == (open_visit / file.name).read_bytes() for file in done.files)
    assert len(done.files) == len({file.place.casefold() for file in done.files})
