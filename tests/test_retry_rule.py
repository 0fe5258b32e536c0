"""One retry rule: ``retrieve``, ``xnat upload`` and ``sessions get`` behave alike towards a server that has trouble."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from icf_utils import deposit_visit_metadata, make_studyvisit_archive
from tests.cli.program import Inside
from tests.data.make_dicom import write_visit
from tests.fetch.flaky_proxy import BAD_MINUTE, RETRY_AFTER, FlakyProxy, flaky_proxy
from tests.fetch.server import FaultyServer, serving
from tests.receiver.pages import TOKEN, fill, served
from tests.xnat.standin import PASSWORD, USER, standin
from tests.xnat.uploads import write_session


def check_resumed(proxy: FlakyProxy) -> None:
    """The stream that was cut is continued where it was cut, not begun again."""
    *before, resumed = (int(text.removeprefix("bytes=").partition("-")[0] or 0) for text in proxy.ranges)
    assert len(set(before)) == 1
    assert resumed > before[0]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Inside:
    return Inside(capsys)


def check_attempts(proxy: FlakyProxy) -> None:
    """As many attempts as were needed: the first pause is what the server asks for, the others are the client's own."""
    assert len(proxy.moments) == len(BAD_MINUTE) + 1
    asked, *own = [after - before for before, after in pairwise(proxy.moments)]
    assert RETRY_AFTER <= asked < RETRY_AFTER + 5
    assert all(0.2 < pause < 5 for pause in own)


def test_retrieve(cli: Inside, tmp_path: Path) -> None:
    write_visit(tmp_path / "in", {1: ("T1w", 4)})
    make_studyvisit_archive(tmp_path / "in", tmp_path / "store", "study-a", "v1")
    deposit_visit_metadata(tmp_path / "store", "study-a", "v1")
    web = FaultyServer()
    web.objects = {f"/study-a/{path.name}": path.read_bytes() for path in (tmp_path / "store" / "study-a").glob("*.*")}
    with serving(web), flaky_proxy(web.url, r"GET .*_dicom\.tar$") as proxy:
        ran = cli("retrieve", "--store", proxy.url, "--id", "study-a", "v1", "-d", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == 4
    check_attempts(proxy)
    check_resumed(proxy)


@pytest.mark.parametrize("pattern", [r"POST /data/services/import", r"GET /data/prearchive/projects/PILOT\?"])
def test_xnat_upload(cli: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    """An import is sent again only if XNAT does not have it; a question is asked again in any case."""
    monkeypatch.setenv("XNAT_USER", USER)
    monkeypatch.setenv("XNAT_PASS", PASSWORD)
    write_session(tmp_path / "tree" / "sub-1" / "mr", {"01": 3})
    options = ("--project", "PILOT", "--state", tmp_path / "state", "--pause", "0.5")
    with standin() as xnat, flaky_proxy(xnat.url, pattern) as proxy:
        ran = cli("xnat", "upload", tmp_path / "tree", "--url", proxy.url, *options)
        xnat.check()
    assert ran.code == 0, ran.out + ran.err
    ((session,), (_,)) = (xnat.sessions, xnat.imports())
    assert (len(session.files), session.imports) == (3, 1)
    check_attempts(proxy)


def test_sessions_get(cli: Inside, tmp_path: Path) -> None:
    pytest.importorskip("flask", reason="flask is not installed")
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o600)
    journal = fill(tmp_path)
    with served(tmp_path, journal) as (url, _), flaky_proxy(url, r"GET /sessions/s000001/output\.zip") as proxy:
        access = ("--url", proxy.url, "--token-file", tmp_path / "token")
        ran = cli("sessions", "get", "s000001", "-d", tmp_path / "out", *access)
    journal.close()
    assert ran.code == 0, ran.err
    assert len(list((tmp_path / "out").glob("*.zip"))) == 1
    check_attempts(proxy)
    check_resumed(proxy)
