"""The client of XNAT's REST interface: its login session, what is repeated and what is not, and where it stops."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from icf_utils.credentials import Login, Secret
from icf_utils.errors import RemoteFailure
from icf_utils.fetch.errors import FetchFailure
from icf_utils.fetch.http import RetryPolicy
from icf_utils.xnat.rest import IMPORT, LOGIN_SESSION, REBUILD, XnatClient, inbox_query
from tests.fetch.server import Fault, FaultyServer, serving
from tests.xnat.standin import PASSWORD, USER, StandIn
from tests.xnat.standin_state import Session
from tests.xnat.uploads import send_one

QUICK = RetryPolicy(attempts=3, first_pause=0.01)


def client(url: str, **options: object) -> XnatClient:
    return XnatClient(url, Login(USER, Secret(PASSWORD)), retry=QUICK, **options)  # type: ignore[arg-type]


def test_name_and_password_are_sent_once(server: StandIn) -> None:
    with client(server.url) as xnat:
        for _ in range(3):
            xnat.list_prearchive("PILOT")
    with_password = [seen.path for seen in server.requests if "Authorization" in seen.headers]
    assert with_password == [LOGIN_SESSION]
    assert all("Cookie" in seen.headers for seen in server.requests[1:])


def test_an_ended_login_session_is_opened_again(server: StandIn) -> None:
    with client(server.url) as xnat:
        server.cookies.clear()
        assert xnat.list_prearchive("PILOT") == []
    assert len(server.seen("GET", LOGIN_SESSION)) == 2


def test_one_new_login_serves_all_threads(server: StandIn) -> None:
    with client(server.url, connections=6) as xnat:
        server.cookies.clear()
        threads = [threading.Thread(target=xnat.list_prearchive, args=("PILOT",)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(server.seen("GET", LOGIN_SESSION)) == 2


@pytest.mark.parametrize("fault", ["503", "429", "reset"])
def test_a_login_is_repeated_after_a_transient_failure(server: StandIn, fault: str) -> None:
    left = [fault, fault]
    server.fault = lambda seen: left.pop() if left and seen.path == LOGIN_SESSION else None
    with client(server.url) as xnat:
        assert xnat.list_prearchive("PILOT") == []
    assert len(server.seen("GET", LOGIN_SESSION)) == 3


def test_a_refused_login_is_not_repeated(server: StandIn) -> None:
    """XNAT locks accounts after failed logins."""
    with pytest.raises(RemoteFailure, match="the login was refused"):
        XnatClient(server.url, Login(USER, Secret("wrong"))).__enter__()
    assert len(server.requests) == 1


def test_a_redirect_gets_no_credentials(server: StandIn) -> None:
    """The address that it leads to may be anybody's."""
    redirecting = FaultyServer()
    redirecting.faults.append(Fault("", status=302, headers={"Location": f"{server.url}{LOGIN_SESSION}"}))
    with serving(redirecting), pytest.raises(RemoteFailure, match=f"it redirects to {server.url}"):
        client(redirecting.url).__enter__()
    (seen,) = server.requests
    assert "Authorization" not in seen.headers
    assert "Cookie" not in seen.headers


def test_a_question_is_repeated_as_often_as_the_rule_says(server: StandIn) -> None:
    server.fault = lambda seen: "503" if "prearchive" in seen.path else None
    with client(server.url) as xnat, pytest.raises(FetchFailure, match=r"the server answered 503 .*after 3 attempts"):
        xnat.list_prearchive("PILOT")
    assert len(server.seen("GET", "/data/prearchive/projects/PILOT")) == 3


@pytest.mark.parametrize("fault", ["503", "reset", "500-after"])
def test_an_import_is_sent_once(server: StandIn, fault: str) -> None:
    server.fault = lambda seen: fault if seen.path == IMPORT else None
    query = inbox_query("PILOT", "s", "e", "/nowhere")
    with client(server.url) as xnat, pytest.raises(RemoteFailure):
        xnat.import_inbox(query)
    assert len(server.imports()) == 1


def test_a_rebuild_is_repeated(server: StandIn) -> None:
    server.sessions.append(Session("PILOT", "20240101_000000000", "a", "s", "a", "1.2.3", "RECEIVING"))
    left = ["503", "reset-after"]
    server.fault = lambda seen: left.pop() if left and seen.path == REBUILD else None
    with client(server.url) as xnat:
        xnat.rebuild("/prearchive/projects/PILOT/20240101_000000000/a")
    assert len(server.seen("POST", REBUILD)) == 3


def test_pauses_end_when_the_caller_stops(server: StandIn) -> None:
    stop = threading.Event()
    server.fault = lambda seen: "503" if "prearchive" in seen.path else None
    long = RetryPolicy(attempts=3, first_pause=60)
    with XnatClient(server.url, Login(USER, Secret(PASSWORD)), retry=long, stop=stop) as xnat:
        threading.Timer(0.2, stop.set).start()
        started = time.monotonic()
        with pytest.raises(FetchFailure, match="stopped"):
            xnat.list_prearchive("PILOT")
    assert time.monotonic() - started < 30


def test_an_unanswered_question_does_not_mean_that_there_is_nothing(server: StandIn, tree: Path) -> None:
    """XNAT does not say whether its archive has the session: nothing is sent."""
    server.fault = lambda seen: "503" if seen.path.startswith("/data/archive") else None
    outcome = send_one(server, tree, retries=0, pause=0.001)
    assert (outcome.state, server.imports()) == ("failed", [])
    assert "the server answered 503" in outcome.problem
    server.fault = lambda _: None
    assert send_one(server, tree).state == "uploaded"


def test_a_listing_that_is_not_one(server: StandIn) -> None:
    """A page for people, such as one that asks for a login."""
    page = FaultyServer()
    page.objects = {LOGIN_SESSION: b"0123456789ABCDEF", "/data/prearchive/projects/PILOT": b"<html></html>"}
    with serving(page), client(page.url) as xnat, pytest.raises(RemoteFailure, match="address of an XNAT"):
        xnat.list_prearchive("PILOT")
