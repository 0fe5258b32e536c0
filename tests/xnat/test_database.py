"""Rows in XNAT's table, on a real PostgreSQL: which are written, and which are refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from icf_utils.credentials import Secret
from icf_utils.errors import InvalidSetting, RemoteFailure
from icf_utils.xnat import database
from icf_utils.xnat.database import TABLE, PrearchiveRow, XnatDatabase, check_table, delete_row, insert_row, read_status
from tests.cli.program import ROOT
from tests.xnat.postgres import Server
from tests.xnat.prearchiving import example_row


@pytest.mark.parametrize("status", ["ready", "DONE", "", "_BUILDING "])
def test_a_status_that_xnat_cannot_read_is_refused(postgres: Server, status: str) -> None:
    """The table would accept it."""
    with pytest.raises(InvalidSetting, match="is not a status of XNAT"):
        example_row(status=status)
    postgres.sql(f"INSERT INTO {TABLE} (timestamp, foldername, status, url) VALUES ('t', 'f', %s, 'u')", [status])


@pytest.mark.parametrize("name", ["prevent_anon", "prevent_auto_commit"])
def test_booleans_are_never_null(postgres: Server, name: str) -> None:
    with pytest.raises(InvalidSetting, match="true or false"):
        example_row(**{name: None})
    insert_row(postgres.database, example_row())
    assert postgres.sql(f"SELECT prevent_anon, prevent_auto_commit FROM {TABLE}") == [(False, False)]


@pytest.mark.parametrize(
    "changes", [{"timestamp": "20240102_030405"}, {"project": "Unassigned"}, {"project": ""}, {"url": ""}, {"tag": ""}]
)
def test_values_that_xnat_cannot_read(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting):
        example_row(**changes)


@pytest.mark.parametrize("project", ["PILOT", None])
def test_a_session_is_inserted_once(postgres: Server, project: str | None) -> None:
    row = example_row(project=project)
    insert_row(postgres.database, row)
    with pytest.raises(RemoteFailure, match="already has a session of this name and time"):
        insert_row(postgres.database, row, again=True)
    assert len(postgres.rows()) == 1


def test_the_table_itself_accepts_duplicates(postgres: Server) -> None:
    """Its constraint does not apply where the project is NULL."""
    values = "(timestamp, foldername, status, url) VALUES ('t', 'f', 'READY', 'u')"
    for _ in range(2):
        postgres.sql(f"INSERT INTO {TABLE} {values}")
    assert len(postgres.rows()) == 2


@pytest.mark.parametrize("project", ["PILOT", None])
def test_concurrent_inserts_of_one_session(postgres: Server, project: str | None) -> None:
    row = example_row(project=project)

    def attempt(_: int) -> bool:
        try:
            insert_row(postgres.database, row, again=True)
        except RemoteFailure:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(16))) == 1
    assert len(postgres.rows()) == 1


def test_the_lock_is_respected_in_both_directions(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """An insert waits for another transaction, but not for ever."""
    import psycopg

    monkeypatch.setattr(database, "LOCK_TIMEOUT", "SET LOCAL lock_timeout = '300ms'")
    place = {"host": str(postgres.folder), "port": postgres.port, "dbname": "xnat", "user": postgres.user}
    with psycopg.connect(**place) as other:  # type: ignore[arg-type]
        other.execute(f"INSERT INTO {TABLE} (timestamp, foldername, status, url) VALUES ('t', 'f', 'READY', 'u')")
        with pytest.raises(RemoteFailure, match="another transaction has locked"):
            insert_row(postgres.database, example_row())
    insert_row(postgres.database, example_row())


def test_values_are_never_part_of_a_statement(postgres: Server) -> None:
    nasty = "x'); DROP TABLE xdat_search.prearchive; --"
    row = example_row(name=nasty, subject=nasty, url=nasty, source=nasty)
    insert_row(postgres.database, row)
    assert postgres.sql(f"SELECT name, subject, url, source FROM {TABLE}") == [(nasty,) * 4]
    assert read_status(postgres.database, row) == "RECEIVING"
    assert delete_row(postgres.database, row, frozenset({"RECEIVING"})) is None
    assert postgres.rows() == []


def test_only_rows_with_the_given_status_are_deleted(postgres: Server) -> None:
    mine, others = example_row(), example_row(timestamp="20240102_030405007", tag="1.2.4")
    for row in (mine, others, example_row(project=None)):
        insert_row(postgres.database, row)
    postgres.sql(f"UPDATE {TABLE} SET status = 'BUILDING'")
    assert delete_row(postgres.database, mine, frozenset({"RECEIVING"})) == "BUILDING"
    assert len(postgres.rows()) == 3
    assert delete_row(postgres.database, mine, frozenset({"BUILDING"})) is None
    assert len(postgres.rows()) == 2


def test_passwords_appear_in_no_message() -> None:
    """Neither in errors, nor in a representation; connection strings are refused."""
    place = XnatDatabase("/nowhere", 5432, "xnat", "me", Secret("hunter2"))
    with pytest.raises(RemoteFailure) as caught:
        read_status(place, {"project": None, "timestamp": "", "foldername": ""})
    assert "hunter2" not in str(caught.value) + repr(place)
    for text in ("dbname=xnat password=hunter2", "postgresql://me:hunter2@host/xnat"):
        with pytest.raises(InvalidSetting, match="give the name alone") as refused:
            XnatDatabase(name=text)
        assert "hunter2" not in str(refused.value)


def test_every_status_of_the_contract_is_known() -> None:
    for status in (
        *("ARCHIVING", "BUILDING", "CONFLICT", "DELETING", "ERROR", "MOVING", "READY", "RECEIVING"),
        *("RECEIVING_INTERRUPT", "SEPARATING", "QUEUED_BUILDING", "QUEUED_ARCHIVING"),
    ):
        assert isinstance(example_row(status=status), PrearchiveRow)


def test_the_documented_permissions_are_necessary_and_sufficient(postgres: Server) -> None:
    """docs/xnat-import.md; fewer are not."""
    page = (ROOT / "docs" / "xnat-import.md").read_text(encoding="utf-8")
    grants = [line for line in page.splitlines() if line.startswith("GRANT ")]
    assert len(grants) == 2
    postgres.sql("DROP ROLE IF EXISTS xnat_import")
    postgres.sql("CREATE ROLE xnat_import LOGIN")
    place = replace(postgres.database, user="xnat_import")
    try:
        with pytest.raises(RemoteFailure, match="does not exist"):
            check_table(place)
        for grant in grants:
            postgres.sql(grant)
        check_table(place)
        insert_row(place, example_row())
        assert read_status(place, example_row()) == "RECEIVING"
        assert delete_row(place, example_row(), frozenset({"RECEIVING"})) is None
    finally:
        postgres.sql("DROP OWNED BY xnat_import")
        postgres.sql("DROP ROLE xnat_import")


def test_a_column_of_a_later_xnat_is_refused_before_anything_is_copied(postgres: Server) -> None:
    postgres.sql(f"ALTER TABLE {TABLE} ADD COLUMN later VARCHAR(255) NOT NULL")
    try:
        with pytest.raises(RemoteFailure, match="needs a value for later"):
            check_table(postgres.database)
        postgres.sql(f"ALTER TABLE {TABLE} ALTER COLUMN later SET DEFAULT ''")
        check_table(postgres.database)
    finally:
        postgres.sql(f"ALTER TABLE {TABLE} DROP COLUMN later")
