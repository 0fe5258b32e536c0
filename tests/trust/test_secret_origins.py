"""Which secret can go where: the table in docs/trust.md, with a hostile server that was named and one that was not.

The named server gets the secret and sends the client on to the other one, by redirects and by what its answers name.
The other one is asked, and gets nothing. The rows about datasets are tested in
``tests/dataset/special_remote/test_security.py``, child processes in ``tests/test_child_environment.py``.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from icf_utils.fetch.tls import server_context
from tests.cli.program import Ran, icf
from tests.dataset.visits import make_visit
from tests.fetch.certificates import make_certificate
from tests.fetch.server import Fault, FaultyServer, Request, serving
from tests.retrieve.bucket_server import BucketServer

SECRET = "zq-hidden-90210"
BASIC = "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()
BEARER = f"Bearer {SECRET}"


@dataclass
class Servers:
    """The server that the user names, and one that only the named one speaks of."""

    named: FaultyServer
    other: FaultyServer


@pytest.fixture
def servers() -> Iterator[Servers]:
    named, other = FaultyServer(), FaultyServer()
    with serving(named), serving(other):
        yield Servers(named, other)


def secret_file(folder: Path, text: str = SECRET) -> Path:
    path = folder / "secret-file"
    path.write_text(text + "\n")
    path.chmod(0o600)
    return path


def netrc(folder: Path, server: FaultyServer) -> dict[str, str]:
    """An environment whose netrc has a password for the host of a server."""
    path = folder / "netrc"
    path.write_text(f"machine 127.0.0.1 login me password {SECRET}\n")
    path.chmod(0o600)
    return {"NETRC": str(path)}


def given(state: FaultyServer) -> set[str]:
    """All that a server was given in headers that carry secrets."""
    names = ("authorization", "cookie", "proxy-authorization")
    return {value for request in state.requests for name, value in request.headers.items() if name.lower() in names}


def nothing_shown(ran: Ran) -> None:
    for text in (SECRET, BASIC.split()[1]):
        assert text not in ran.out + ran.err


Command = Callable[[Servers, Path], tuple[list[str | Path], Mapping[str, str]]]


def store(*options: str | Path, **environment: str) -> Command:
    def command(servers: Servers, folder: Path) -> tuple[list[str | Path], Mapping[str, str]]:
        found = [str(secret_file(folder)) if option == "FILE" else str(option) for option in options]
        values = netrc(folder, servers.named) if "netrc" in environment else environment
        words = ["retrieve", "-o", servers.named.url, "study/v1", "-d", str(folder / "out")]
        return [*words, *found], values

    return command


def bucket(servers: Servers, folder: Path) -> tuple[list[str | Path], Mapping[str, str]]:
    return ["retrieve", "--bucket", f"{servers.named.url}/b", "-d", folder / "out"], {"ICF_TOKEN": SECRET}


def sessions(servers: Servers, folder: Path) -> tuple[list[str | Path], Mapping[str, str]]:
    return ["sessions", "get", "s000001", "--url", servers.named.url, "-d", folder / "out"], {
        "ICF_SESSIONS_TOKEN": SECRET
    }


def xnat(**environment: str) -> Command:
    def command(servers: Servers, folder: Path) -> tuple[list[str | Path], Mapping[str, str]]:
        (folder / "tree/sub-1/mr/01").mkdir(parents=True)
        (folder / "tree/sub-1/mr/01/a.dcm").write_bytes(bytes(128) + b"DICM")
        values = netrc(folder, servers.named) if "netrc" in environment else environment
        words: list[str | Path] = ["xnat", "upload", folder / "tree", "--url", servers.named.url, "--project", "P"]
        return [*words, "--state", folder / "state", "--pause", "0.01"], values

    return command


#: What the secret is, the command, and what the named server gets.
ROWS = [
    pytest.param(store("--token-file", "FILE"), BEARER, id="retrieve, token of a file"),
    pytest.param(store(ICF_TOKEN=SECRET), BEARER, id="retrieve, token of the environment"),
    pytest.param(store("--user", "me", "--password-file", "FILE"), BASIC, id="retrieve, password of a file"),
    pytest.param(store("--user", "me", ICF_STORE_PASSWORD=SECRET), BASIC, id="retrieve, password of the environment"),
    pytest.param(store(netrc=""), BASIC, id="retrieve, netrc"),
    pytest.param(bucket, BEARER, id="retrieve, token of a bucket"),
    pytest.param(sessions, BEARER, id="sessions, token"),
    pytest.param(xnat(XNAT_USER="me", XNAT_PASS=SECRET), BASIC, id="xnat, password"),
    pytest.param(xnat(XNAT_TOKEN=f"me:{SECRET}"), BASIC, id="xnat, token"),
    pytest.param(xnat(netrc=""), BASIC, id="xnat, netrc"),
]


@pytest.mark.parametrize(("command", "expected"), ROWS)
@pytest.mark.parametrize("status", [302, 307])
def test_a_redirect(servers: Servers, tmp_path: Path, command: Command, expected: str, status: int) -> None:
    servers.other.authorization = "what nobody has"
    target = {"Location": f"{servers.other.url}/stolen"}
    servers.named.faults.append(Fault("", status=status, headers=target))
    words, environment = command(servers, tmp_path)
    ran = icf(*words, env=environment)
    assert ran.code != 0
    assert given(servers.named) == {expected}
    assert servers.other.requests
    assert given(servers.other) == set()
    nothing_shown(ran)


def test_the_login_session_of_an_xnat(servers: Servers, tmp_path: Path) -> None:
    """Its cookie is as good as the password."""
    servers.named.objects["/data/JSESSION"] = SECRET.encode()
    target = {"Location": f"{servers.other.url}/stolen"}
    servers.named.faults.append(Fault("prearchive|archive|import", status=302, headers=target))
    words, environment = xnat(XNAT_USER="me", XNAT_PASS="pw")(servers, tmp_path)
    ran = icf(*words, env=environment)
    assert ran.code != 0
    assert f"JSESSIONID={SECRET}" in given(servers.named)
    assert servers.other.requests
    assert given(servers.other) == set()
    nothing_shown(ran)


def test_what_a_store_says_names_no_other_server(servers: Servers, tmp_path: Path) -> None:
    """Its metadata name an archive; it is asked for below the store's own address."""
    visit = make_visit(tmp_path / "store")
    for path in visit.archive.parent.iterdir():
        text = path.read_bytes()
        if path == visit.tarball_json:
            record = json.loads(text)
            text = json.dumps({**record, "storepath": f"{servers.other.url}/x.tar", "dspath": "/x"}).encode()
        servers.named.objects[f"/study/{path.name}"] = text
    words, environment = store(ICF_TOKEN=SECRET)(servers, tmp_path)
    icf(*words, env=environment)
    assert given(servers.named) == {BEARER}
    assert servers.other.connections == 0


def test_what_a_bucket_says_names_no_other_server(servers: Servers, tmp_path: Path) -> None:
    state = BucketServer()
    other, prefix = servers.other.url, "dicomweb/studies/1.2/series/3.4"
    instance = {
        "uri": f"{other}/{prefix}.tar://instances/5.6.dcm",
        "size": 4,
        "crc32c": "AAAAAA==",
        "headers": {"start_byte": 0},
        "dependencies": [f"{other}/stolen"],
    }
    state.objects = {
        f"{prefix}.tar": bytes(100),
        f"{prefix}/metadata.json": json.dumps({"cod": {"instances": {"5.6": instance}}}).encode(),
    }
    with serving(state):
        words, environment = bucket(Servers(state, servers.other), tmp_path)
        ran = icf(*(str(word).replace(f"{state.url}/b", state.place) for word in words), env=environment)
    assert ran.code == 1
    assert given(state) == {BEARER}
    assert servers.other.connections == 0


def test_what_an_xnat_says_names_no_other_server(servers: Servers, tmp_path: Path) -> None:
    """Addresses of sessions in its answers are paths at the server itself."""
    other = servers.other.url
    listing = {"ResultSet": {"Result": [{"name": "mr", "folderName": "mr", "url": f"{other}/x", "project": "P"}]}}
    servers.named.objects = {
        "/data/JSESSION": SECRET.encode(),
        "/data/prearchive/projects/P": json.dumps(listing).encode(),
    }

    def change(request: Request, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        return 200, {"Location": f"{other}/stolen"}, f"{other}/stolen\r\n".encode()

    servers.named.change = change  # type: ignore[method-assign]
    words, environment = xnat(XNAT_USER="me", XNAT_PASS="pw")(servers, tmp_path)
    icf(*words, env=environment)
    assert f"JSESSIONID={SECRET}" in given(servers.named)
    assert servers.other.connections == 0


def test_a_client_certificate(tmp_path: Path) -> None:
    """It is shown to the server that was named, and not to the one that it redirects to, which ends the handshake."""
    own, theirs = make_certificate(tmp_path, "client"), make_certificate(tmp_path, "localhost")
    context = server_context(str(theirs), client_authority=str(own.with_suffix(".cert")))
    named, other = FaultyServer(), FaultyServer()
    with serving(named, context), serving(other, context):
        named.faults.append(Fault("", status=302, headers={"Location": f"{other.url}/stolen"}))
        tls = ("--ca", theirs.with_suffix(".cert"), "--cert", own)
        ran = icf("retrieve", "-o", named.url, "study/v1", "-d", tmp_path / "out", *tls)
        assert ran.code != 0
        assert named.requests
        assert other.requests == []


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[bytes]]]:
    """A proxy that reads what it is asked, and ends the connection."""
    heard: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                heard.append(connection.recv(65536))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", heard
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


def test_a_proxy(proxy: tuple[str, list[bytes]], servers: Servers, tmp_path: Path) -> None:
    """For https it hears host and port; the token of sessions goes through none."""
    address, heard = proxy
    environment = {"https_proxy": address, "http_proxy": address, "no_proxy": "", "ICF_TOKEN": SECRET}
    words = ("retrieve", "-o", "https://data.example.org", "study/v1", "-d", tmp_path / "out")
    ran = icf(*words, env=environment)
    assert ran.code != 0
    assert heard
    assert all(text.startswith(b"CONNECT data.example.org:443 HTTP/1.") for text in heard)
    assert SECRET.encode() not in b"".join(heard)
    heard.clear()
    more, own = sessions(servers, tmp_path)
    icf(*more, env={**environment, **own})
    assert given(servers.named) == {BEARER}
    assert heard == []
    assert os.environ.get("http_proxy", "") != address
