"""A visit directly into the prearchive, on a real PostgreSQL with XNAT's table."""

from __future__ import annotations

import os
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from icf_utils.errors import IcfError, InputRefused, InvalidSetting, RemoteFailure
from icf_utils.sources.open import open_source
from icf_utils.xnat import prearchive, staging
from icf_utils.xnat.database import COLUMNS, TABLE
from icf_utils.xnat.prearchive import PrearchiveSession, plan_prearchive
from icf_utils.xnat.staging import FileRights
from tests.data.make_dicom import dicom_bytes, uid, write_visit
from tests.xnat.postgres import Server
from tests.xnat.prearchiving import STUDY, Steps, changes, put, tree
from tests.xnat.standin import StandIn
from tests.xnat.standin_state import Session


def test_a_session(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    before = {path: path.read_bytes() for path in visit.rglob("*.*")}
    started = datetime.now().astimezone().replace(tzinfo=None)
    done = put(visit, PrearchiveSession(root, "S1", "PILOT", "sub-01"), postgres, xnat)
    assert done.status == "READY"
    assert done.folder == root / "PILOT" / done.timestamp / "S1"
    names = [f"SCANS/{scan}/DICOM/000{at}.dcm" for scan, last in (("1", 2), ("2", 3)) for at in range(1, last + 1)]
    placed = [name for name in tree(done.folder) if name.endswith(".dcm")]
    assert placed == names == [file.place for file in done.files]
    assert all((done.folder / file.place).read_bytes() == (visit / file.name).read_bytes() for file in done.files)
    assert {path: path.read_bytes() for path in visit.rglob("*.*")} == before  # neither moved nor changed
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
    assert not (root / staging.WORK_DIR).exists()
    (asked,) = xnat.seen("POST", "/data/services/prearchive/rebuild")
    assert asked.query["src"] == f"/prearchive/projects/PILOT/{done.timestamp}/S1"


#: The order that XNAT reads the table by.
COLUMNS_OF_XNAT = (
    *("project", "timestamp", "lastmod", "uploaded", "scan_date", "scan_time", "subject", "foldername", "name", "tag"),
    *("status", "url", "autoarchive", "prevent_anon", "prevent_auto_commit", "source", "visit", "protocol", "timezone"),
)


def test_every_column_has_a_value() -> None:
    assert sorted(COLUMNS) == sorted(COLUMNS_OF_XNAT)


def test_a_session_without_a_project(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    """The folder is directly in the prearchive; the project is NULL in the table and Unassigned in addresses."""
    done = put(visit, PrearchiveSession(root, "S1"), postgres, xnat)
    assert done.folder == root / done.timestamp / "S1"
    assert postgres.sql(f"SELECT project, subject FROM {TABLE}") == [(None, None)]
    assert done.status == "READY"
    with pytest.raises(InvalidSetting, match="leave it out"):
        PrearchiveSession(root, "S1", "Unassigned")


def test_several_studies_are_refused(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    (visit / "stray.dcm").write_bytes(dicom_bytes(StudyInstanceUID=uid("another")))
    with pytest.raises(InputRefused, match="belongs to study"):
        put(visit, PrearchiveSession(root, "S1", "PILOT"), postgres, xnat)
    assert (tree(root), postgres.rows(), changes(xnat)) == ([], [], [])


def test_the_same_study_twice_is_refused(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    for project in ("PILOT", None):
        put(visit, PrearchiveSession(root, "S1", project), postgres, xnat)
        before, rows = tree(root), postgres.rows()
        steps = Steps()
        with pytest.raises(RemoteFailure, match="prearchive already has a session of this study"):
            put(visit, PrearchiveSession(root, "S2", project), postgres, xnat, progress=steps)
        assert steps.messages == []  # nothing was copied
        assert (tree(root), postgres.rows()) == (before, rows)
    assert put(visit, PrearchiveSession(root, "S1", again=True), postgres, xnat).status == "READY"


def test_concurrent_sessions_get_different_time_stamps(
    tmp_path: Path, root: Path, postgres: Server, xnat: StandIn
) -> None:
    count = 8
    for at in range(count):
        write_visit(tmp_path / f"v{at}", {1: ("scout", 1)}, StudyInstanceUID=uid("parallel", at))
    with ThreadPoolExecutor(count) as pool:
        jobs = [
            pool.submit(put, tmp_path / f"v{at}", PrearchiveSession(root, "S1", "PILOT"), postgres, xnat)
            for at in range(count)
        ]
        done = [job.result() for job in jobs]
    assert len({result.timestamp for result in done}) == len(postgres.rows()) == count
    assert {len(result.timestamp) for result in done} == {18}
    assert not (root / staging.WORK_DIR).exists()


def test_concurrent_imports_of_one_study(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    def attempt(_: int) -> bool:
        try:
            put(visit, PrearchiveSession(root, "S1"), postgres, xnat)
        except IcfError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(attempt, range(6))) == 1
    assert len(postgres.rows()) == len(list(root.glob("*/S1"))) == 1


def archive_at_once(postgres: Server, xnat: StandIn, lose: int = 0) -> None:
    """Let the project archive what XNAT has built: row and folder move away before the rebuild is answered."""

    def archive(session: Session) -> str:
        ((url,),) = postgres.sql(f"DELETE FROM {TABLE} RETURNING url")
        shutil.rmtree(url)
        files = dict(list(session.files.items())[lose:])
        xnat.sessions.append(replace(session, status="READY", archived=True, files=files, subject="sub-1"))
        return "READY"

    xnat.outcome = archive  # type: ignore[attr-defined]


@pytest.mark.parametrize("subject", ["sub-1", None])
def test_a_project_that_archives_by_itself(
    visit: Path, root: Path, postgres: Server, xnat: StandIn, subject: str | None
) -> None:
    archive_at_once(postgres, xnat)
    done = put(visit, PrearchiveSession(root, "S1", "PILOT", subject), postgres, xnat)
    assert (done.status, len(done.files), len(xnat.sessions)) == ("ARCHIVED", 5, 1)
    assert not list(root.glob("PILOT/*/S1"))


def test_an_automatic_archive_with_fewer_images(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    archive_at_once(postgres, xnat, lose=1)
    with pytest.raises(RemoteFailure, match="XNAT counts 4"):
        put(visit, PrearchiveSession(root, "S1", "PILOT", "sub-1"), postgres, xnat)


def test_a_label_that_the_archive_has_is_no_proof(
    visit: Path, root: Path, postgres: Server, xnat: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The archive had a session of this label before, and the row disappears."""
    monkeypatch.setattr(prearchive, "_LISTED_WITHIN", 0.5)
    archive_at_once(postgres, xnat)
    xnat.sessions.append(Session("PILOT", "20200101_000000000", "S1", "sub-1", "S1", STUDY, "READY", archived=True))
    with pytest.raises(RemoteFailure, match="does not list the session"):
        put(visit, PrearchiveSession(root, "S1", "PILOT", "sub-1"), postgres, xnat)


def test_a_conflict_is_left_in_place(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    xnat.outcome = lambda session: "CONFLICT"  # type: ignore[attr-defined]
    done = put(visit, PrearchiveSession(root, "S1", "PILOT"), postgres, xnat)
    assert (done.status, done.log) == ("CONFLICT", "built: CONFLICT\n")
    assert done.folder.is_dir()
    assert len(postgres.rows()) == 1


def test_a_slow_build_is_left_to_xnat(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    xnat.outcome = lambda session: "QUEUED_BUILDING"  # type: ignore[attr-defined]
    done = put(visit, PrearchiveSession(root, "S1", "PILOT", wait=0.3), postgres, xnat)
    assert done.status == "QUEUED_BUILDING"
    assert done.folder.is_dir()


def test_owner_and_mode_of_the_copies(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    mine = (os.getuid(), os.getgid())
    owner = (12345, 12346) if os.geteuid() == 0 else mine
    rights = FileRights(*owner, umask=0o007)
    done = put(visit, PrearchiveSession(root, "S1", "PILOT", rights=rights), postgres, xnat)
    for path in [done.folder.parent, done.folder, *done.folder.rglob("SCANS/**/*")]:
        status = path.stat()
        assert (status.st_uid, status.st_gid) == owner, path
        assert stat.S_IMODE(status.st_mode) == (0o770 if path.is_dir() else 0o660), path


def test_an_md5_that_differs_from_the_metadata(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    with pytest.raises(InputRefused, match="does not have the MD5 recorded in the metadata"):
        put(visit, PrearchiveSession(root, "S1", "PILOT"), postgres, xnat, expected={"01_scout/0001.dcm": "0" * 32})
    assert (tree(root), postgres.rows()) == ([], [])


def test_a_plan_changes_nothing(visit: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "/nowhere")
    with open_source(visit, visit.parent) as source:
        planned = plan_prearchive(source, PrearchiveSession(root, "S1", "PILOT", "sub-01"))
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


def test_the_path_on_the_host_of_xnat(visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    with open_source(visit, visit.parent) as source:
        values = plan_prearchive(
            source, PrearchiveSession(root, "S1", "PILOT", server_root="/data/xnat/prearchive/")
        ).values
    assert values["url"] == f"/data/xnat/prearchive/PILOT/{values['timestamp']}/S1"


@pytest.mark.parametrize("label", ["", "a b", "../x", "a/b", "ä", "x" * 201, "a.b"])
def test_labels_are_checked(root: Path, label: str) -> None:
    for given in ((label, None, None), ("ok", label, None), ("ok", None, label)):
        with pytest.raises(InvalidSetting, match="is not a label for XNAT"):
            PrearchiveSession(root, *given)


def test_real_visits(tmp_path: Path, open_visit: Path, root: Path, postgres: Server, xnat: StandIn) -> None:
    """Each is imported, or refused with nothing left behind."""
    try:
        done = put(open_visit, PrearchiveSession(root, "S1", "PILOT"), postgres, xnat)
    except InputRefused:
        assert (tree(root), postgres.rows()) == ([], [])
        return
    assert all((done.folder / file.place).read_bytes() == (open_visit / file.name).read_bytes() for file in done.files)
    assert len(done.files) == len({file.place.casefold() for file in done.files})
