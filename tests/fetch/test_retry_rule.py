"""One retry rule: before the same server with bad moments, every client behaves alike, and gets what it wants.

The upload to XNAT has the same test in ``tests/xnat``.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from icf_utils.credentials import Secret
from icf_utils.progress import SILENT
from icf_utils.receiver.client import HttpSessions
from icf_utils.retrieve.api import Retriever, StoreOrigin
from tests.dataset.visits import make_visit
from tests.fetch.server import FaultyServer, serving
from tests.fetch.unsteady import RETRY_AFTER, Exchange, UnsteadyServer, unsteady
from tests.receiver.pages import TOKEN, fill, served


def check(exchanges: list[Exchange], size: int) -> None:
    """The two refusals, the stream that was cut, and the rest of it."""
    assert [(item.status in (200, 206), item.is_cut) for item in exchanges] == [
        *((False, False), (False, False)),
        *((True, True), (True, False)),
    ]
    assert [item.status for item in exchanges[:2]] == [503, 429]
    asked = exchanges[2].range
    start, end = (int(number) for number in asked.removeprefix("bytes=").split("-")) if asked else (0, size - 1)
    rest = exchanges[3].range.removeprefix("bytes=")
    assert rest in {f"{start + (end - start + 1) // 2}-{last}" for last in (end, "")}


def test_retrieve(tmp_path: Path) -> None:
    visit = make_visit(tmp_path / "store")
    state = FaultyServer()
    state.objects = {f"/study/{path.name}": path.read_bytes() for path in visit.archive.parent.iterdir()}
    with serving(state), unsteady(state.url) as server:
        begun = time.monotonic()
        with Retriever(StoreOrigin(server.url, (("study", "v1"),)), tmp_path / "out") as retriever:
            done = retriever.job().start().result()
        assert time.monotonic() - begun >= RETRY_AFTER
    assert len(done.files) == done.saved == 4
    for path in (visit.tarball_json, visit.dicoms_json, visit.archive):
        check(server.of(path.name), path.stat().st_size)


def test_sessions_get(tmp_path: Path) -> None:
    pytest.importorskip("flask", reason="flask is not installed")
    journal = fill(tmp_path)
    with served(tmp_path, journal) as (url, _), unsteady(url) as server:
        begun = time.monotonic()
        sessions = HttpSessions(server.url, Secret(TOKEN))
        done = sessions.download("s000001", "output", tmp_path / "out", SILENT)
        assert time.monotonic() - begun >= RETRY_AFTER
        assert done.path.stat().st_size == done.size > 0
        check(server.of("output.zip"), done.size)
        assert [item.status for item in server.of("output.zip", "HEAD")] == [503, 429, 0, 200]
        assert sessions.list({})
        check_repeated(server, "/sessions")
    journal.close()


def check_repeated(server: UnsteadyServer, target: str) -> None:
    """What is not large is asked for as a whole again."""
    assert [item.status for item in server.of(target)] == [503, 429, 200, 200]


def test_what_changes_something_is_repeated_only_where_nothing_was_done(tmp_path: Path) -> None:
    pytest.importorskip("flask", reason="flask is not installed")
    journal = fill(tmp_path)
    with served(tmp_path, journal) as (url, _), unsteady(url) as server:
        HttpSessions(server.url, Secret(TOKEN)).delete("s000001")
        assert [item.status for item in server.of("s000001", "DELETE")] == [503, 429, 204]
        assert "s000001" not in {item.id for item in journal.sessions()}
    journal.close()
