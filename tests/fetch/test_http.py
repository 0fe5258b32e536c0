"""The HTTP client: repeats, redirects, proxies, TLS, and which origin gets a credential."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import urllib3.connection

from icf_utils.credentials import Login, Secret, SessionCookie, bind_credential
from icf_utils.errors import InvalidSetting, StorageFailure
from icf_utils.fetch.addresses import IpAddress, Network
from icf_utils.fetch.errors import ConnectionFailure, FetchFailure
from icf_utils.fetch.http import HttpClient
from icf_utils.fetch.tls import TlsFiles, server_context
from tests.fetch.certificates import make_certificate
from tests.fetch.conftest import QUICK
from tests.fetch.server import Fault, FaultyServer, Request, serving


@pytest.fixture(autouse=True)
def _object(server: FaultyServer) -> None:
    server.objects["/a"] = b"content"


@contextmanager
def another(**objects: bytes) -> Iterator[FaultyServer]:
    """A second server, which is another origin."""
    state = FaultyServer()
    state.objects = {f"/{name}": content for name, content in objects.items()}
    with serving(state):
        yield state


def get(client: HttpClient, url: str, **options: object) -> bytes:
    with client.request("GET", url, **options) as response:  # type: ignore[arg-type]
        assert response.status == 200, response.status
        return response.read(1 << 20)


def redirect(server: FaultyServer, target: str, status: int = 302, where: str = "^/a") -> None:
    server.faults.append(Fault(where, status=status, headers={"Location": target}))


# -- repeating


def test_it_repeats_until_an_answer_comes(server: FaultyServer, client: HttpClient) -> None:
    """A server answers 503 with Retry-After, then 429, then 200."""
    server.faults += [
        Fault("a", times=1, status=503, headers={"Retry-After": "1"}),
        Fault("a", times=1, status=429),
    ]
    begun = time.monotonic()
    assert get(client, f"{server.url}/a") == b"content"
    assert len(server.requests) == 3
    assert time.monotonic() - begun >= 1


def test_it_gives_up(server: FaultyServer, client: HttpClient) -> None:
    server.faults.append(Fault("a", status=502))
    with pytest.raises(FetchFailure, match="the server answered 502; gave up after 3 attempts") as caught:
        get(client, f"{server.url}/a")
    assert (caught.value.kind, caught.value.status, len(server.requests)) == ("gave-up", 502, QUICK.attempts)


def test_a_single_request_is_not_repeated(server: FaultyServer, client: HttpClient) -> None:
    server.faults.append(Fault("a", status=503))
    with client.request_once("GET", f"{server.url}/a") as response:
        assert response.status == 503
    assert len(server.requests) == 1


def test_the_caller_names_transient_statuses(server: FaultyServer, client: HttpClient) -> None:
    server.faults.append(Fault("a", times=1, status=423))
    assert get(client, f"{server.url}/a", transient=frozenset({423})) == b"content"


def test_kinds_of_failures() -> None:
    state = FaultyServer()
    with serving(state):
        pass
    with HttpClient(retry=QUICK) as client:
        with pytest.raises(ConnectionFailure, match="no connection") as caught:
            client.request_once("GET", state.url)
        assert caught.value.kind == "unreachable"
        with pytest.raises(ConnectionFailure, match="cannot be resolved"):
            client.request_once("GET", "http://nowhere.invalid/")


def test_a_silent_server(server: FaultyServer, client: HttpClient) -> None:
    silent = threading.Event()

    def find(request: Request) -> None:
        silent.wait(5)

    server.find = find  # type: ignore[method-assign]
    with pytest.raises(ConnectionFailure, match="no answer in time") as caught:
        client.request_once("GET", f"{server.url}/a", timeout=0.2)
    silent.set()
    assert caught.value.kind == "timeout"


def test_a_body_is_sent_with_its_length(server: FaultyServer, client: HttpClient) -> None:
    seen: list[tuple[Mapping[str, str], bytes]] = []

    def change(request: Request, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        seen.append((request.headers, body))
        return 200, {"Set-Cookie": "JSESSIONID=abc; Path=/; HttpOnly"}, b"done"

    class Text:
        content_type = "text/plain"

        def __len__(self) -> int:
            return 6

        def __iter__(self) -> Iterator[bytes]:
            return iter([b"abc", b"def"])

    server.change = change  # type: ignore[method-assign]
    with client.request_once("POST", f"{server.url}/x?a=1", body=Text(), query={"b": "2 3"}) as response:
        assert (response.text(100), response.cookie("JSESSIONID"), response.cookie("other")) == ("done", "abc", "")
    assert seen[0][1] == b"abcdef"
    assert (seen[0][0]["Content-Length"], seen[0][0]["Content-Type"]) == ("6", "text/plain")


def test_an_answer_above_the_limit(server: FaultyServer, client: HttpClient) -> None:
    with client.request("GET", f"{server.url}/a") as response, pytest.raises(FetchFailure, match="limit of 3 bytes"):
        response.read(3)


# -- credentials


@pytest.mark.parametrize(
    ("secret", "header", "value"),
    [
        (Login("anna", Secret("hübn")), "Authorization", "Basic YW5uYTpow7xibg=="),
        (Secret("t0ken"), "Authorization", "Bearer t0ken"),
        (SessionCookie("JSESSIONID", Secret("c00kie")), "Cookie", "JSESSIONID=c00kie"),
    ],
)
def test_only_its_origin_gets_a_credential(
    server: FaultyServer, client: HttpClient, secret: Login | Secret | SessionCookie, header: str, value: str
) -> None:
    credential = bind_credential(server.url, secret)
    assert repr(secret).count("***")
    with another(a=b"content") as other:
        get(client, f"{server.url}/a", credential=credential)
        get(client, f"{other.url}/a", credential=credential)  # another port
        get(client, server.url.replace("127.0.0.1", "localhost") + "/a", credential=credential)  # another host
        redirect(server, f"{other.url}/a")
        get(client, f"{server.url}/a", credential=credential)
        assert [header in request.headers for request in other.requests] == [False, False]
    assert [request.headers.get(header) for request in server.requests] == [value, None, value]


def test_a_redirect_within_the_origin_keeps_the_credential(server: FaultyServer, client: HttpClient) -> None:
    server.objects["/b"] = b"content"
    redirect(server, "/b", 307)
    get(client, f"{server.url}/a", credential=bind_credential(server.url, Secret("t0ken")))
    assert [request.headers.get("Authorization") for request in server.requests] == ["Bearer t0ken"] * 2


@pytest.mark.parametrize("name", ["Authorization", "cookie", "Proxy-Authorization"])
def test_headers_cannot_carry_credentials(server: FaultyServer, client: HttpClient, name: str) -> None:
    with pytest.raises(ValueError, match="binding"):
        client.request("GET", f"{server.url}/a", headers={name: "x"})
    assert server.requests == []


# -- redirects


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x/", "javascript:1", "http://u:pa55@127.0.0.1/x"]
)
def test_redirects_that_are_not_followed(server: FaultyServer, client: HttpClient, target: str) -> None:
    redirect(server, target)
    with pytest.raises(FetchFailure, match="redirects to") as caught:
        get(client, f"{server.url}/a")
    assert "pa55" not in str(caught.value)
    assert len(server.requests) == 1


def test_an_endless_redirect(server: FaultyServer, client: HttpClient) -> None:
    redirect(server, "/a")
    with pytest.raises(FetchFailure, match="redirects in a circle"):
        get(client, f"{server.url}/a")
    assert len(server.requests) == 11


def test_other_methods_are_not_redirected(server: FaultyServer, client: HttpClient) -> None:
    server.change = lambda *_: (307, {"Location": "/b"}, b"")  # type: ignore[method-assign]
    with client.request("DELETE", f"{server.url}/a") as response:
        assert (response.status, response.headers["Location"]) == (307, "/b")


# -- addresses


class OnlyFirst:
    """Allows 127.0.0.1 only."""

    def check_url(self, url: str) -> None:
        if "forbidden" in url:
            raise FetchFailure(url, "not this one", "ask another", kind="forbidden")

    def check_address(self, where: str, address: IpAddress, port: int, before: Network | None) -> None:
        if str(address) != "127.0.0.1":
            raise FetchFailure(where, f"{address} is not allowed", "ask another", kind="forbidden")


def test_an_address_rule_applies_to_every_redirect(server: FaultyServer) -> None:
    """There is not even a connection to what is refused."""
    state = FaultyServer()
    state.objects["/a"] = b"content"
    with serving(state, host="127.0.0.2"), HttpClient(retry=QUICK, rule=OnlyFirst()) as client:
        assert get(client, f"{server.url}/a") == b"content"
        with pytest.raises(FetchFailure, match=r"127\.0\.0\.2 is not allowed"):
            get(client, f"{state.url}/a")
        redirect(server, f"{state.url}/a")
        with pytest.raises(FetchFailure, match=r"127\.0\.0\.2 is not allowed"):
            get(client, f"{server.url}/a")
        server.faults.clear()
        redirect(server, "/forbidden")
        with pytest.raises(FetchFailure, match="not this one"):
            get(client, f"{server.url}/a")
        assert state.connections == 0


def test_urllib3_has_the_method_that_is_overridden() -> None:
    """The client overrides a private method; without it, address rules would have no effect."""
    for kind in (urllib3.connection.HTTPConnection, urllib3.connection.HTTPSConnection):
        assert callable(kind._new_conn)


# -- proxies


def test_proxies_of_the_environment(server: FaultyServer, client: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url.replace("http://", "http://proxyuser:pr0xy@"))
    monkeypatch.delenv("no_proxy", raising=False)
    credential = bind_credential("http://data.example.org", Secret("t0ken"))
    assert get(client, "http://data.example.org/a", credential=credential) == b"content"
    sent = server.requests[0].headers
    assert (sent["Host"], sent["Authorization"]) == ("data.example.org", "Bearer t0ken")
    assert {name.title() for name in sent} >= {"Proxy-Authorization"}
    with another(a=b"direct") as other:
        for exception in ("127.0.0.1", "127.0.0.0/8", "*", "example.org, 127.0.0.1"):
            monkeypatch.setenv("no_proxy", exception)
            assert get(client, f"{other.url}/a") == b"direct"
        monkeypatch.setenv("no_proxy", "example.com,10.0.0.0/8,bad/net")
        assert get(client, f"{other.url}/a") == b"content"
        with HttpClient(retry=QUICK, with_proxies=False) as unproxied:
            assert get(unproxied, f"{other.url}/a") == b"direct"


def test_redirects_behind_a_proxy(server: FaultyServer, client: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that the user has named may redirect to itself; a name may not redirect to a private address."""
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    server.objects["/b"] = b"content"
    redirect(server, "/b", where="/a$")
    assert get(client, "http://10.9.8.7/a") == b"content"
    server.faults.clear()
    redirect(server, "http://10.9.8.7/b", where="/a$")
    with pytest.raises(FetchFailure, match="redirects from the internet"):
        get(client, "http://data.example.org/a")


def test_an_address_rule_applies_to_proxies(server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    with HttpClient(retry=QUICK, rule=OnlyFirst()) as client:
        assert get(client, "http://data.example.org/a") == b"content"
        for hidden in ("127.0.0.2", "[::1]", "10.0.0.1"):
            with pytest.raises(FetchFailure, match="is not allowed"):
                get(client, f"http://{hidden}/a")
        monkeypatch.setenv("http_proxy", server.url.replace("127.0.0.1", "127.0.0.2"))
        with pytest.raises(FetchFailure, match="is not allowed"):
            get(client, "http://data.example.org/a")


# -- TLS


def test_trusted_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of --ca, else those of the environment, else the system's."""
    certificate = make_certificate(tmp_path, "localhost")
    state = FaultyServer()
    state.objects["/a"] = b"content"
    with serving(state, server_context(str(certificate))):
        with HttpClient(retry=QUICK) as client, pytest.raises(FetchFailure, match=r"not trusted .*--ca") as caught:
            get(client, f"{state.url}/a")
        assert caught.value.kind == "tls"
        authority = tmp_path / "localhost.cert"
        with HttpClient(retry=QUICK, tls=TlsFiles(authority)) as client:
            assert get(client, f"{state.url}/a") == b"content"
            with pytest.raises(FetchFailure, match="for another host"):
                get(client, f"{state.url}/a".replace("localhost", "127.0.0.1"))
        for variable in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
            with monkeypatch.context() as patch, HttpClient(retry=QUICK) as client:
                for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
                    patch.delenv(name, raising=False)
                patch.setenv(variable, str(authority))
                assert get(client, f"{state.url}/a") == b"content"
        other = make_certificate(tmp_path, "elsewhere").with_suffix(".cert")
        with HttpClient(retry=QUICK, tls=TlsFiles(other)) as client, pytest.raises(FetchFailure, match="not trusted"):
            get(client, f"{state.url}/a")
    with HttpClient(retry=QUICK) as client, serving(FaultyServer()):
        state = FaultyServer()
        with serving(state), pytest.raises(FetchFailure, match="TLS connection cannot be established") as caught:
            get(client, state.url.replace("http:", "https:"))


def test_unusable_tls_files(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    with pytest.raises(InvalidSetting, match="expected certificates in PEM"):
        HttpClient(tls=TlsFiles(tmp_path / "empty"))
    with pytest.raises(StorageFailure, match="No such file"):
        HttpClient(tls=TlsFiles(tmp_path / "none"))
    with pytest.raises(InvalidSetting, match="key without its certificate"):
        HttpClient(tls=TlsFiles(key=tmp_path / "empty"))


def test_a_client_certificate_is_shown_to_the_first_origin_only(tmp_path: Path) -> None:
    """A server that is redirected to does not see it."""
    own, theirs = make_certificate(tmp_path, "client"), make_certificate(tmp_path, "localhost")
    context = server_context(str(theirs), client_authority=str(own.with_suffix(".cert")))
    first, second = FaultyServer(), FaultyServer()
    first.objects["/a"] = second.objects["/a"] = b"content"
    tls = TlsFiles(theirs.with_suffix(".cert"), own)
    with serving(first, context), serving(second, context), HttpClient(retry=QUICK, tls=tls) as client:
        assert get(client, f"{first.url}/a") == b"content"
        assert get(client, f"{second.url}/a") == b"content"
        redirect(first, f"{second.url}/a")
        with pytest.raises(FetchFailure):
            get(client, f"{first.url}/a")
        assert len(second.requests) == 1
