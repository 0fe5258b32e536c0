"""A real PostgreSQL with XNAT's table, and a stand-in for XNAT whose prearchive is that table."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from icf_utils.xnat.database import TABLE, XnatDatabase
from icf_utils.xnat.model import STATUSES
from tests.xnat.standin import StandIn, standin
from tests.xnat.standin_state import Session

#: The table as XNAT creates it: its columns in the order in which XNAT reads them (DatabaseSession.createTableSql), and
#: the constraint that the prearchive adds.
DDL = """
CREATE SCHEMA xdat_search;
CREATE TABLE xdat_search.prearchive (
    project VARCHAR(255), timestamp VARCHAR(255) NOT NULL, lastmod TIMESTAMP, uploaded TIMESTAMP, scan_date TIMESTAMP,
    scan_time VARCHAR(255), subject VARCHAR(255), folderName VARCHAR(255) NOT NULL, name VARCHAR(255), tag VARCHAR(255),
    status VARCHAR(255) NOT NULL, url VARCHAR(255) NOT NULL, autoarchive VARCHAR(255), prevent_anon BOOL,
    prevent_auto_commit BOOL, SOURCE VARCHAR(255), VISIT VARCHAR(255), PROTOCOL VARCHAR(255), TIMEZONE VARCHAR(255),
    UNIQUE (timestamp, project, folderName)
)
"""

#: The user of the database who has to give a password; all others are trusted.
GUARDED = "xnat_guarded"


def _programs() -> Path | None:
    found = shutil.which("postgres")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").exists() and (place / "pg_ctl").exists()), None)


def _unprivileged() -> list[str]:
    """How to run the server, which refuses to be root."""
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL, reached by a socket in ``folder``."""

    folder: Path
    port: int
    user: str

    @property
    def database(self) -> XnatDatabase:
        return XnatDatabase(str(self.folder), self.port, "xnat", self.user)

    def sql(self, text: str, values: object = None) -> list[tuple[Any, ...]]:
        """Execute and commit a statement; returns its rows."""
        return self._execute("xnat", text, values)

    def create(self) -> None:
        """An empty database with the table."""
        if not self._execute("postgres", "SELECT 1 FROM pg_database WHERE datname = 'xnat'"):
            self._execute("postgres", "CREATE DATABASE xnat")
        self.sql("DROP SCHEMA IF EXISTS xdat_search CASCADE")
        for statement in DDL.split(";"):
            self.sql(statement)

    def _execute(self, name: str, text: str, values: object = None) -> list[tuple[Any, ...]]:
        import psycopg

        with psycopg.connect(
            host=str(self.folder), port=self.port, dbname=name, user=self.user, autocommit=True
        ) as connection:
            cursor = connection.execute(text, values)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    def rows(self) -> list[tuple[Any, ...]]:
        return self.sql(f"SELECT * FROM {TABLE} ORDER BY timestamp")


@contextmanager
def running_server() -> Iterator[Server]:
    """Run a PostgreSQL in a temporary folder, without any network; skip the test where there is none."""
    pytest.importorskip("psycopg")
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL's server is not installed")
    folder = Path(tempfile.mkdtemp(prefix="icf-pg-", dir="/tmp"))  # a socket's name must be short
    try:
        if os.geteuid() == 0:
            os.chown(folder, 65534, 65534)
        start = _unprivileged()
        data, user = folder / "data", "xnat"
        environment = {**os.environ, "LC_ALL": "C", "HOME": str(folder)}

        def run(program: str, *arguments: str) -> None:
            command = [*start, str(programs / program), "-D", str(data), *arguments]
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False, timeout=120)
            assert done.returncode == 0, done.stderr.decode()

        run("initdb", "-U", user, "-A", "trust", "-E", "UTF8", "--no-sync")
        rules = data / "pg_hba.conf"
        rules.write_text(f"local all {GUARDED} scram-sha-256\n{rules.read_text()}")
        port = _free_port()
        options = f"-k {folder} -p {port} -c listen_addresses='' -c fsync=off -c shared_buffers=16MB"
        run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield Server(folder, port, user)
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def sharing(postgres: Server, inbox: Path | None = None) -> Iterator[StandIn]:
    """Run a stand-in whose prearchive is the table. A rebuild sets the status and writes a log next to the files."""
    with standin(inbox=inbox) as server:

        def listed() -> list[Session]:
            query = "SELECT project, timestamp, foldername, subject, name, tag, status, url FROM " + TABLE
            found = []
            for project, stamp, folder, subject, name, tag, status, url in postgres.sql(query):
                session = Session(project or "Unassigned", stamp, folder, subject or "", name, tag, status)
                scans = Path(url).glob("SCANS/*/DICOM/*")
                session.files = {(path.parts[-3], path.name): path.stat().st_size for path in scans}
                found.append(session)
            return found

        decide = server.on_rebuild

        def rebuild(session: Session) -> str:
            """Read every row first, as XNAT does: one that it cannot read stops the rebuild of all."""
            checks = "prevent_auto_commit IS NULL OR NOT status = ANY(%s)"
            assert not postgres.sql(f"SELECT 1 FROM {TABLE} WHERE {checks}", [sorted(STATUSES)]), (
                "XNAT cannot read a row"
            )
            status = getattr(server, "outcome", decide)(session)
            key = "timestamp = %s AND foldername = %s"
            update = f"UPDATE {TABLE} SET status = %s, lastmod = now() WHERE {key} RETURNING url"
            for (url,) in postgres.sql(update, [status, session.timestamp, session.folder]):
                logs = Path(url) / "logs"
                logs.mkdir(exist_ok=True)
                (logs / "1600000000000.log").write_text(f"built: {status}\n", encoding="utf-8")
            return status

        server.others = listed
        server.on_rebuild = rebuild
        yield server
