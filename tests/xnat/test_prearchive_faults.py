"""Directly into the prearchive with a fault between any two steps: nothing is left behind. On a real PostgreSQL."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from icf_utils.credentials import Login, Secret
from icf_utils.errors import RemoteFailure, StorageFailure
from icf_utils.interrupts import noted_leftovers
from icf_utils.progress import Task
from icf_utils.sources.open import open_source
from icf_utils.xnat import prearchive, staging
from icf_utils.xnat.database import TABLE
from icf_utils.xnat.prearchive import PrearchiveSession, put_into_prearchive
from icf_utils.xnat.rest import XnatClient
from tests.cli.program import ROOT, surrounding
from tests.data.make_dicom import dicom_bytes
from tests.xnat.postgres import Server
from tests.xnat.prearchiving import STEPS, STUDY, Steps, Stop, changes, put, stop, tree
from tests.xnat.standin import PASSWORD, USER, StandIn


def test_the_row_is_inserted_last(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    """At every step: the row exists only if the folder does, the folder only if it is complete."""
    seen = []

    def look() -> None:
        places = list(root.glob("PILOT/*/S1"))
        files = [path for place in places for path in place.glob("SCANS/*/DICOM/*")]
        seen.append((len(places), len(files), len(postgres.rows())))

    steps = Steps()
    steps.message = lambda text: look()  # type: ignore[method-assign]
    put(visit, PrearchiveSession(root, "S1", "PILOT"), postgres, xnat, progress=steps)
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
        put(visit, PrearchiveSession(root, "S1", project), postgres, xnat, progress=steps)
    assert len(steps.messages) == at
    assert tree(root) == []
    assert postgres.rows() == []
    assert put(visit, PrearchiveSession(root, "S1", project), postgres, xnat).status == "READY"


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
        put(visit, PrearchiveSession(root, "S1", "PILOT"), postgres, xnat, progress=Halfway())
    assert (tree(root), postgres.rows(), changes(xnat)) == ([], [], [])


def test_a_row_that_the_database_refuses(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    """The folder is removed, and the message contains no values."""
    postgres.sql(f"ALTER TABLE {TABLE} ADD CONSTRAINT no_more CHECK (subject <> 'sub-01')")
    with pytest.raises(RemoteFailure, match="no_more") as caught:
        put(visit, PrearchiveSession(root, "S1", "PILOT", "sub-01"), postgres, xnat)
    assert "sub-01" not in str(caught.value)
    assert (tree(root), postgres.rows(), changes(xnat)) == ([], [], [])


def test_a_full_disk(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    """Simulated by a limit on the size of files. The copies are removed."""
    (visit / "02_rest" / "9999.dcm").write_bytes(dicom_bytes(StudyInstanceUID=STUDY, SeriesNumber=2) + bytes(300_000))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(StorageFailure):
            put(visit, PrearchiveSession(root, "S1", "PILOT"), postgres, xnat)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert (tree(root), postgres.rows()) == ([], [])


def test_an_undo_leaves_other_sessions_alone(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    first = put(visit, PrearchiveSession(root, "S1", "PILOT"), postgres, xnat)
    before, rows = tree(root), postgres.rows()
    with pytest.raises(Stop):
        put(visit, PrearchiveSession(root, "S1", "PILOT", again=True), postgres, xnat, progress=Steps(4, stop))
    assert tree(root) == before
    assert postgres.rows() == rows
    assert first.folder.is_dir()


_PROGRAM = """
import os, sys
from pathlib import Path
from icf_utils.sources.open import open_source
from icf_utils.xnat.prearchive import PrearchiveSession
from icf_utils.xnat.prearchive import put_into_prearchive
from icf_utils.xnat.rest import XnatClient
from icf_utils.xnat.database import XnatDatabase
from tests.xnat.prearchiving import Steps, client
visit, root, folder, port, user, url, at, number = sys.argv[1:]
steps = Steps(int(at), lambda: os.kill(os.getpid(), int(number)))
with open_source(Path(visit), Path("/tmp")) as source, client(url) as connected:
    session = PrearchiveSession(Path(root), "S1", "PILOT")
    put_into_prearchive(source, session, XnatDatabase(folder, int(port), "xnat", user), connected, progress=steps)
"""


def run_and_kill(visit: Path, root: Path, postgres: Server, xnat: StandIn, at: int, number: int) -> int:
    place = (str(postgres.folder), str(postgres.port), postgres.user)
    command = [sys.executable, "-c", _PROGRAM, str(visit), str(root), *place, xnat.url, str(at), str(number)]
    return subprocess.run(command, env=surrounding(), cwd=ROOT, capture_output=True, check=False, timeout=60).returncode


@pytest.mark.parametrize("at", range(1, STEPS + 1))
def test_the_next_command_removes_what_a_kill_left_behind(
    visit: Path, root: Path, postgres: Server, xnat: StandIn, at: int
) -> None:
    assert run_and_kill(visit, root, postgres, xnat, at, signal.SIGKILL) == -signal.SIGKILL
    left = tree(root)
    assert any(name.endswith(".journal") for name in left)
    assert any(name.endswith(".dcm") for name in left)
    steps = Steps()
    again = at == STEPS or at == STEPS - 1  # the stand-in has built it: it is left to XNAT
    done = put(visit, PrearchiveSession(root, "S1", "PILOT", again=again), postgres, xnat, progress=steps)
    assert ("to XNAT, which has taken it up" if again else "which an interrupted command had left") in steps.messages[0]
    assert done.status == "READY"
    assert len(postgres.rows()) == (2 if again else 1)
    assert len(list(root.glob("PILOT/*/S1"))) == len(postgres.rows())
    assert not (root / staging.WORK_DIR).exists()


def test_a_running_command_is_left_alone(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    with staging.reserve_place(root, "PILOT", "S1") as reservation:
        done = put(visit, PrearchiveSession(root, "S1", "PILOT"), postgres, xnat)
        assert reservation.journal.exists()
        assert done.timestamp != reservation.timestamp
        staging.remove_session(reservation)
    assert not (root / staging.WORK_DIR).exists()


def test_signals_are_delayed_during_an_undo(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    """A second Ctrl-C does not interrupt the cleaning up after the first."""

    def twice() -> None:
        threading.Timer(0.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        os.kill(os.getpid(), signal.SIGINT)
        signal.sigtimedwait([], 0.2)

    with pytest.raises(KeyboardInterrupt):
        put(visit, PrearchiveSession(root, "S1", "PILOT"), postgres, xnat, progress=Steps(3, twice))
    assert (tree(root), postgres.rows()) == ([], [])


def test_an_error_is_undone_and_the_log_printed(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    xnat.outcome = lambda session: "ERROR"  # type: ignore[attr-defined]
    with pytest.raises(RemoteFailure, match=r"(?s)status ERROR.*XNAT's log:\n  built: ERROR"):
        put(visit, PrearchiveSession(root, "S1", "PILOT"), postgres, xnat)
    assert (tree(root), postgres.rows()) == ([], [])


def test_a_session_that_xnat_works_on_is_not_removed(
    visit: Path, root: Path, postgres: Server, xnat: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The undo waits for XNAT to finish, and reports what is left if it does not."""
    monkeypatch.setattr(prearchive, "_LET_GO_WITHIN", 0.5)
    xnat.outcome = lambda session: "BUILDING"  # type: ignore[attr-defined]
    steps = Steps(4, stop)
    with pytest.raises(Stop) as stopped:
        put(visit, PrearchiveSession(root, "S1", "PILOT"), postgres, xnat, progress=steps)
    assert "XNAT is working on" in steps.messages[4]
    assert "waiting up to 0.5 s for it to finish" in steps.messages[4]
    assert len(steps.messages) == 5  # reported at once, and once
    assert "and its row were left there" in noted_leftovers(stopped.value)
    assert len(postgres.rows()) == len(list(root.glob("PILOT/*/S1"))) == 1
    postgres.sql(f"UPDATE {TABLE} SET status = 'ERROR'")
    prearchive.remove_abandoned(root, postgres.database)
    assert (tree(root), postgres.rows()) == ([], [])


def test_the_database_of_another_xnat(
    visit: Path, root: Path, postgres: Server, xnat: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """XNAT does not list the session: everything is undone."""
    monkeypatch.setattr(prearchive, "_LISTED_WITHIN", 0.5)

    class Blind(XnatClient):
        def rebuild(self, uri: str) -> None:
            """Succeed without a request."""

    xnat.others = list
    blind = Blind(xnat.url, Login(USER, Secret(PASSWORD)))
    with (
        open_source(visit, visit.parent) as source,
        blind,
        pytest.raises(RemoteFailure, match="does not list the session"),
    ):
        put_into_prearchive(source, PrearchiveSession(root, "S1", "PILOT"), postgres.database, blind)
    assert (tree(root), postgres.rows()) == ([], [])


def test_a_lost_database_leaves_a_journal(
    visit: Path, root: Path, postgres: Server, xnat: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row cannot be removed, so the folder stays; the next command removes both."""
    session = PrearchiveSession(root, "S1", "PILOT")

    def vanish() -> None:
        monkeypatch.setenv("PGOPTIONS", "-c no_such_setting=1")  # connections fail from now on
        raise Stop

    steps = Steps(3, vanish)
    with pytest.raises(Stop) as stopped:
        put(visit, session, postgres, xnat, progress=steps)
    assert "for this prearchive removes it" in noted_leftovers(stopped.value)
    assert len(list(root.glob("PILOT/*/S1"))) == 1
    monkeypatch.delenv("PGOPTIONS")
    assert put(visit, session, postgres, xnat).status == "READY"
    assert len(postgres.rows()) == len(list(root.glob("PILOT/*/S1"))) == 1


def test_a_missing_table_is_reported_before_anything_is_written(
    visit: Path, root: Path, postgres: Server, xnat: StandIn
) -> None:
    postgres.sql(f"ALTER TABLE {TABLE} DROP COLUMN prevent_auto_commit")
    with pytest.raises(RemoteFailure, match="no column prevent_auto_commit"):
        put(visit, PrearchiveSession(root, "S1", "PILOT"), postgres, xnat)
    postgres.sql(f"DROP TABLE {TABLE}")
    with pytest.raises(RemoteFailure, match="does not exist"):
        put(visit, PrearchiveSession(root, "S1", "PILOT"), postgres, xnat)
    assert (tree(root), changes(xnat)) == ([], [])
