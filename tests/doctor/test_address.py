"""What is found at a store's address, from a web server that serves the store well or not."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from icf_utils.doctor.address import check_address
from icf_utils.doctor.model import Check
from tests.fetch.server import Fault, FaultyServer, serving
from tests.verify.stores import make_visit, write_input

_TAR = "/study-a/v1_dicom.tar"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    make_visit(write_input(tmp_path / "in"), tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def server(store: Path) -> Iterator[FaultyServer]:
    state = FaultyServer()
    state.objects[_TAR] = (store / _TAR[1:]).read_bytes()
    with serving(state):
        yield state


def checks(store: Path, url: str) -> dict[str, Check]:
    return {check.subject: check for check in check_address(store, url)}


def test_a_server_as_it_should_be(store: Path, server: FaultyServer) -> None:
    found = checks(store, server.url)
    assert {check.state for check in found.values()} == {"ok"}
    assert list(found) == ["address", "clock (server)", "authentication", "byte ranges", "hidden files"]
    assert found["authentication"].message == "not required"
    assert found["byte ranges"].message == "'study-a/v1_dicom.tar' is the same as in the store"
    assert server.sent < 2000


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(_TAR, status=404), "is not served (status 404)"),
        (Fault(_TAR, status=403), "is not served (status 403)"),
        (Fault(_TAR, headers={"Content-Encoding": "gzip"}), "is sent compressed"),
    ],
)
def test_a_server_that_readers_cannot_use(store: Path, server: FaultyServer, fault: Fault, message: str) -> None:
    server.faults.append(fault)
    found = checks(store, server.url)["byte ranges"]
    assert found.state == "failed"
    assert message in found.message
    assert found.remedy


def test_a_server_without_byte_ranges(store: Path, server: FaultyServer) -> None:
    """As Python's simple server: everything can be read, but not a part of it."""
    server.faults.append(Fault(_TAR, whole=True))
    found = checks(store, server.url)["byte ranges"]
    assert (found.state, found.message) == ("warning", "the server ignores byte ranges and sends whole files")
    assert found.remedy


def test_a_server_of_another_store(store: Path, server: FaultyServer) -> None:
    archive = server.objects[_TAR]
    server.objects[_TAR] = b"x" * len(archive)
    assert "is not the one in this store" in checks(store, server.url)["byte ranges"].message
    server.objects[_TAR] = archive[:-512]
    assert f"/{len(archive)}' of" in checks(store, server.url)["byte ranges"].message


def test_authentication(store: Path, server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.authorization = "Basic " + base64.b64encode(b"anna:hunter2").decode()
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    found = checks(store, server.url)
    assert found["authentication"].message == 'required (Basic realm="a store")'
    assert found["byte ranges"].state == "skipped"
    for password, state in (("wrong", "failed"), ("hunter2", "ok")):
        (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login anna password {password}\n")
        (tmp_path / "netrc").chmod(0o600)
        found = checks(store, server.url)
        assert found["authentication"].state == state
        assert not any("hunter2" in check.message or "anna" in check.message for check in found.values())
    assert found["byte ranges"].state == "ok"


def test_what_readers_must_not_see(store: Path, server: FaultyServer) -> None:
    (store / "icf.toml").write_text("")
    (store / "study-a" / ".icf").mkdir(exist_ok=True)
    server.objects |= {"/icf.toml": b"", "/study-a/.icf/": b"<html>"}
    found = checks(store, server.url)["hidden files"]
    assert (found.state, found.message) == ("warning", "readers can open 'icf.toml', 'study-a/.icf/'")


def test_what_readers_with_a_login_must_not_see(
    store: Path, server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (store / "icf.toml").write_text("")
    server.objects["/icf.toml"] = b"x"
    server.authorization = "Basic " + base64.b64encode(b"anna:hunter2").decode()
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert checks(store, server.url)["hidden files"].state == "skipped"
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login anna password hunter2\n")
    (tmp_path / "netrc").chmod(0o600)
    assert checks(store, server.url)["hidden files"].message == "readers can open 'icf.toml'"


def test_a_clock_that_is_wrong(store: Path, server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BaseHTTPRequestHandler, "date_time_string", lambda *_: "Fri, 31 May 2024 12:00:00 GMT")
    assert checks(store, server.url)["clock (server)"].state == "warning"


def test_nobody_answers(store: Path, server: FaultyServer) -> None:
    (found,) = check_address(store, "http://127.0.0.1:1")
    assert (found.subject, found.state) == ("address", "failed")


def test_a_store_without_archives(tmp_path: Path, server: FaultyServer) -> None:
    (tmp_path / "empty").mkdir()
    found = checks(tmp_path / "empty", server.url)
    assert (found["address"].state, found["byte ranges"].state) == ("ok", "skipped")


def test_addresses_of_other_kinds(store: Path, tmp_path: Path) -> None:
    assert checks(store, store.as_uri())["address"].state == "ok"
    assert checks(store, tmp_path.as_uri())["address"].state == "failed"
    assert checks(store, "ssh://host/store")["address"].state == "skipped"
    assert checks(store, "")["address"].state == "warning"


def test_a_password_that_would_not_be_encrypted(store: Path) -> None:
    found = next(check_address(store, "http://data.invalid/store"))
    assert (found.subject, found.state) == ("encryption", "warning")
