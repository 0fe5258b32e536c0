"""A server's 401: which credential is found, how often it is sent, and whom the user is asked about."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from icf_utils.credentials import Login, Secret, bind_credential
from icf_utils.fetch.authentication import Authenticator
from icf_utils.fetch.challenges import Challenge
from icf_utils.fetch.errors import FetchFailure
from tests.fetch.server import Fault, FaultyServer, serving

LOGIN = Login("anna", Secret("s3cret"))
CONTENT = b"0123456789"


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    """A server that wants the password for two studies."""
    state = FaultyServer()
    state.objects |= {f"/store/{study}/{name}": CONTENT for study in ("a", "b") for name in ("1", "2", "deep/3")}
    state.authorization = basic("anna", "s3cret")
    with serving(state):
        yield state


def netrc(server: FaultyServer, password: str) -> None:
    path = Path(os.environ["HOME"], ".netrc")
    path.write_text(f"machine {server.url.removeprefix('http://')} login anna password {password}\n")
    path.chmod(0o600)


def sent(server: FaultyServer) -> list[str]:
    return [request.headers["Authorization"] for request in server.requests if "Authorization" in request.headers]


def test_a_folder_is_challenged_once(server: FaultyServer) -> None:
    netrc(server, "s3cret")
    authenticator = Authenticator()
    for path in ("a/1", "a/2", "a/deep/3"):
        assert b"".join(authenticator.source(f"{server.url}/store/{path}").read()) == CONTENT
    assert len(server.requests) == 4
    assert b"".join(authenticator.source(f"{server.url}/store/b/1").read(2, 3)) == CONTENT[2:5]
    assert len(server.requests) == 6


def test_a_rejected_password_is_sent_once(server: FaultyServer) -> None:
    """Whatever is asked for afterwards, by however many threads."""
    netrc(server, "wrong")
    authenticator = Authenticator("give --user NAME")
    urls = [f"{server.url}/store/{study}/{name}" for study in ("a", "b") for name in ("1", "2", "deep/3")]

    def read(url: str) -> str:
        with pytest.raises(FetchFailure) as caught:
            b"".join(authenticator.source(url).read())
        return str(caught.value)

    with ThreadPoolExecutor(6) as pool:
        said = list(pool.map(read, urls * 3))
    assert sent(server) == [basic("anna", "wrong")]
    assert all("rejects the user and password (401)" in text for text in said)
    asked = len(server.requests)
    read(urls[0])
    assert len(server.requests) == asked


def test_a_server_that_names_another_realm_each_time(server: FaultyServer) -> None:
    """It gets the password once all the same."""
    netrc(server, "wrong")
    for at in range(20):
        answer = {"WWW-Authenticate": f'Basic realm="{at}"'}
        server.faults.append(Fault("store/", status=401, times=1, headers=answer))
    authenticator = Authenticator()
    for name in ("1", "2", "1"):
        with pytest.raises(FetchFailure, match="rejects the user and password"):
            authenticator.source(f"{server.url}/store/a/{name}").exists()
    assert (len(server.requests), sent(server)) == (2, [basic("anna", "wrong")])


READ = """
import sys
from icf_utils.fetch.authentication import Authenticator
authenticator = Authenticator()
for url in sys.argv[1:]:
    assert authenticator.source(url).exists()
"""


def test_a_folder_below_has_a_password_of_its_own(server: FaultyServer) -> None:
    """As it is with a server that has a password for each study: that of the folder above is tried once."""
    pytest.importorskip("datalad_next", reason="datalad-next is not installed")
    environment = dict(os.environ)
    for realm, password in (("a store", "s3cret"), ("deep", "deeper")):
        values = {"TYPE": "user_password", "REALM": f"{server.url}/{realm}", "USER": "anna", "SECRET": password}
        environment |= {f"DATALAD_CREDENTIAL_{password.upper()}_{name}": value for name, value in values.items()}
    deep = {"WWW-Authenticate": 'Basic realm="deep"'}
    server.faults.append(Fault("deep/", status=401, times=1, headers=deep))
    urls = [f"{server.url}/store/a/{name}" for name in ("1", "deep/3")]
    done = subprocess.run([sys.executable, "-c", READ, *urls], env=environment, capture_output=True, check=False)
    assert b"rejects the user and password" in done.stderr  # the server wants the first password again
    assert sent(server) == [basic("anna", password) for password in ("s3cret", "s3cret", "deeper")]


def test_a_rejected_option_is_sent_once(server: FaultyServer) -> None:
    """And no other credential is looked for."""
    netrc(server, "s3cret")
    authenticator = Authenticator()
    authenticator.give(bind_credential(server.url, Login("anna", Secret("typo"))))
    for path in ("a/1", "b/1"):
        with pytest.raises(FetchFailure, match="rejects the user and password"):
            authenticator.source(f"{server.url}/store/{path}").exists()
    assert sent(server) == [basic("anna", "typo")]


def test_a_password_of_one_study_is_not_one_of_the_other(server: FaultyServer) -> None:
    server.faults.append(Fault("store/b/", status=401, headers={"WWW-Authenticate": 'Basic realm="b"'}))
    authenticator = Authenticator()
    authenticator.give(bind_credential(server.url, LOGIN))
    assert authenticator.source(f"{server.url}/store/a/1").exists()
    for _ in range(2):
        with pytest.raises(FetchFailure, match="rejects"):
            authenticator.source(f"{server.url}/store/b/1").exists()
    assert authenticator.source(f"{server.url}/store/a/2").exists()
    assert len(sent(server)) == 3


def test_what_is_not_known_is_not_asked_for_again(server: FaultyServer) -> None:
    authenticator = Authenticator("give --user NAME")
    for path in ("a/1", "a/2"):
        with pytest.raises(FetchFailure, match=r"requires authentication \(401\).*; give --user NAME, or store yours"):
            authenticator.source(f"{server.url}/store/{path}").exists()
    assert len(server.requests) == 1


def test_a_redirect_does_not_ask_for_another_sites_password(server: FaultyServer, tmp_path: Path) -> None:
    """The user sees a question only for the host that was named; a stored password is for the other one's origin."""
    pexpect = pytest.importorskip("pexpect", reason="pexpect is not installed")
    environment = {name: text for name, text in os.environ.items() if name != "GIT_TERMINAL_PROMPT"}
    other = FaultyServer()
    with serving(other, host="127.0.0.2"):
        other.objects["/x"] = CONTENT
        other.authorization = basic("anna", "s3cret")
        server.authorization = ""
        server.faults.append(Fault("store/", status=302, headers={"Location": f"{other.url}/x"}))
        words = ["-m", "icf_utils", "retrieve", "--store", f"{server.url}/store", "a/1", "-d", str(tmp_path / "out")]
        child = pexpect.spawn(sys.executable, words, env=environment, timeout=60)
        said = child.read().decode()
        child.close()
        assert (child.exitstatus, "User:" in said) == (10, False), said
        assert f"it redirects to {other.url}, which requires authentication" in said
        netrc(other, "s3cret")
        assert Authenticator().source(f"{server.url}/store/a/1").exists()
        assert sent(server) == []
        with pytest.raises(FetchFailure):
            Authenticator(may_find=False).source(f"{other.url}/x").exists()


def test_login_and_realm(server: FaultyServer) -> None:
    authenticator = Authenticator()
    authenticator.give(bind_credential(server.url, LOGIN))
    login = authenticator.login_for(f"{server.url}/store/a/1")
    assert login is not None
    assert (login[0].secret, login[1]) == (LOGIN, f"{server.url}/a store")
    server.authorization = ""
    assert authenticator.login_for(f"{server.url}/store/a/1") is None


@pytest.mark.parametrize(
    ("header", "scheme", "realm"),
    [
        ('Basic realm="x"', "basic", "https://h.example/x"),
        ('Negotiate, Basic realm="x, y"', "basic", "https://h.example/x, y"),
        ('Digest realm="d", nonce="basic", Bearer realm="t"', "bearer", "https://h.example/t"),
        ("Negotiate", "negotiate", "https://h.example/"),
        ("", "", "https://h.example/"),
    ],
)
def test_challenges(header: str, scheme: str, realm: str) -> None:
    found = Challenge.of("https://h.example/store/x", header)
    assert (found.scheme, found.realm) == (scheme, realm)
