"""The database's password: each source of it, on a PostgreSQL that requires it (SCRAM). It never appears anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from icf_utils.xnat.rest import REBUILD
from tests.cli.program import ROOT, Ran, icf
from tests.data.make_dicom import uid, write_visit
from tests.xnat.postgres import GUARDED, Server
from tests.xnat.prearchiving import tree
from tests.xnat.standin import PASSWORD, USER, StandIn
from tests.xnat.standin_state import Seen

psycopg = pytest.importorskip("psycopg")

SECRET = "Sesam-0ffne:dich"  # a password file separates its fields by colons


@pytest.fixture
def guarded(postgres: Server) -> Iterator[Server]:
    """A user with the permissions of docs/xnat-import.md, and with a password."""
    page = (ROOT / "docs" / "xnat-import.md").read_text(encoding="utf-8")
    grants = [line.replace("xnat_import", GUARDED) for line in page.splitlines() if line.startswith("GRANT ")]
    made = f"SET password_encryption = 'scram-sha-256'; CREATE ROLE {GUARDED} LOGIN PASSWORD '{SECRET}'"
    for statement in (f"DROP ROLE IF EXISTS {GUARDED}", made, *grants):
        postgres.sql(statement)
    ((kept,),) = postgres.sql("SELECT left(rolpassword, 13) FROM pg_authid WHERE rolname = %s", [GUARDED])
    assert kept == "SCRAM-SHA-256"
    yield postgres
    postgres.sql(f"DROP OWNED BY {GUARDED}")
    postgres.sql(f"DROP ROLE {GUARDED}")


@pytest.fixture
def command_lines(xnat: StandIn) -> list[bytes]:
    """The command lines of all processes, collected at each request to XNAT."""
    found: list[bytes] = []

    def look(_: Seen) -> None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):  # it has ended
                found.append(path.read_bytes())

    xnat.fault = look
    return found


def private(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


def ways(postgres: Server, home: Path, secret: str) -> dict[str, tuple[dict[str, str], tuple[str | Path, ...]]]:
    """Environment and options for each source of the password; only the files of this source exist."""
    escaped = secret.replace("\\", "\\\\").replace(":", "\\:")
    line = f"{postgres.folder}:{postgres.port}:xnat:{GUARDED}:{escaped}\n"
    return {
        "~/.pgpass": ({"HOME": str(private(home / ".pgpass", line).parent)}, ()),
        "PGPASSFILE": ({"PGPASSFILE": str(private(home / "elsewhere", line))}, ()),
        "PGPASSWORD": ({"PGPASSWORD": secret}, ()),
        "--db-password-file": ({}, ("--db-password-file", private(home / "file", f"{secret}\n"))),
    }


WAYS = ("~/.pgpass", "PGPASSFILE", "PGPASSWORD", "--db-password-file")


def put(way: str, secret: str, tmp_path: Path, root: Path, postgres: Server, xnat: StandIn, *more: str) -> Ran:
    """Run the command with one of the sources."""
    if way == "~/.pgpass" and psycopg.pq.version() < 150_000:
        pytest.skip("this libpq looks into the account's home, whatever HOME says")
    write_visit(tmp_path / "visit", {1: ("scout", 2)}, StudyInstanceUID=uid("study", "password"))
    home = tmp_path / "home"
    home.mkdir()
    environment, options = ways(postgres, home, secret)[way]
    named = {"PGHOST": str(postgres.folder), "PGPORT": str(postgres.port), "PGDATABASE": "xnat", "PGUSER": GUARDED}
    login = {"XNAT_USER": USER, "XNAT_PASS": PASSWORD}
    labels = ("--project", "PILOT", "--session", "S1")
    command = ("xnat", "prearchive", tmp_path / "visit", "--url", xnat.url, "--prearchive", root, *labels)
    return icf(*command, *options, *more, env={**named, **login, **environment})


@pytest.mark.parametrize("way", WAYS)
def test_each_source(
    way: str, guarded: Server, xnat: StandIn, root: Path, tmp_path: Path, command_lines: list[bytes]
) -> None:
    ran = put(way, SECRET, tmp_path, root, guarded, xnat, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["result"]["status"] == "READY"
    assert len(guarded.rows()) == 1
    assert any(b"prearchive" in line and str(root).encode() in line for line in command_lines)
    for secret in (SECRET, PASSWORD):
        assert secret not in ran.out + ran.err
        assert not any(secret.encode() in line for line in command_lines)


@pytest.mark.parametrize("way", WAYS)
def test_a_wrong_password(way: str, guarded: Server, xnat: StandIn, root: Path, tmp_path: Path) -> None:
    """The message does not repeat the password, and nothing is left behind."""
    ran = put(way, f"{SECRET}-not", tmp_path, root, guarded, xnat)
    assert ran.code == 10
    assert "password authentication failed" in ran.err
    assert SECRET not in ran.out + ran.err
    assert (tree(root), guarded.rows(), xnat.seen("POST", REBUILD)) == ([], [], [])


def test_no_password(guarded: Server, xnat: StandIn, root: Path, tmp_path: Path) -> None:
    """The password is required: this user is not trusted like the others in these tests."""
    ran = put("PGPASSWORD", "", tmp_path, root, guarded, xnat)
    assert ran.code == 10
    assert "no password supplied" in ran.err
    assert (tree(root), guarded.rows(), xnat.seen("POST", REBUILD)) == ([], [], [])
