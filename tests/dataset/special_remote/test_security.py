"""An attacker's dataset and servers: who gets a password, and which files and servers are read.

The program is spoken to as git-annex does it, and by git-annex itself where the whole way matters.
"""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from icf_utils.dataset.special_remote.configure import configure_clone
from icf_utils.dataset.special_remote.security import AllowedAddress, parse_allowed
from tests.dataset.commands import attempt, run
from tests.dataset.conftest import require
from tests.fetch.server import Fault, FaultyServer, serving

REALM = "https://data.good.example/study-a"
USER, PASSWORD, TOKEN = "alice", "GOODPASSWORD", "GOODTOKEN"
IMAGE, ARCHIVE = "MD5E-s100--" + "0" * 32 + ".dcm", "MD5E-s1000--" + "1" * 32 + ".tar"
CONTENT = bytes(range(250)) * 4


@pytest.fixture
def clone(clone_tools: None, tmp_path: Path) -> Path:
    """A repository with a special remote, which may ask servers on this machine at one address only."""
    folder = tmp_path / "clone"
    run("git", "init", "-q", str(folder), cwd=tmp_path)
    config(folder, "annex.security.allowed-ip-addresses", "127.0.0.1")
    config(folder, "remote.archivist.annex-uuid", "u-u-i-d")
    return folder


def config(folder: Path, *arguments: str) -> None:
    run("git", "config", *arguments, cwd=folder)


@contextmanager
def server(challenge: str = "", host: str = "127.0.0.1") -> Iterator[FaultyServer]:
    """A server that has the archive, for whoever gives any credentials if it has a challenge."""
    state = FaultyServer()
    state.objects["/x.tar"] = CONTENT
    if challenge:
        state.authorization = "none that exists"
        state.challenge = challenge
    with serving(state, host=host):
        yield state


def secrets_of(state: FaultyServer) -> set[str]:
    """What a server was given."""
    found = {request.headers.get("Authorization", "") for request in state.requests}
    words = (text.split(" ", 1) for text in found if text)
    return {base64.b64decode(rest).decode() if kind == "Basic" else rest for kind, rest in words}


def datalad_credential(monkeypatch: pytest.MonkeyPatch, realm: str, kind: str = "user_password") -> None:
    """A credential as DataLad knows it, by the environment."""
    pytest.importorskip("datalad_next", reason="datalad-next is not installed")
    values = {"TYPE": kind, "REALM": realm, "USER": USER, "SECRET": PASSWORD if kind == "user_password" else TOKEN}
    for name, value in values.items():
        monkeypatch.setenv(f"DATALAD_CREDENTIAL_ICFTEST_{name}", value)


def write_netrc(text: str) -> None:
    path = Path(os.environ["HOME"], ".netrc")
    path.write_text(text)
    path.chmod(0o600)


@dataclass
class Heard:
    """How a transfer ended."""

    answer: str
    content: bytes | None
    lines: list[str] = field(default_factory=list)


def transfer(
    clone: Path, urls: Sequence[str] | Mapping[str, Sequence[str]], key: str = IMAGE, size: int = 100, offset: int = 0
) -> Heard:
    """Ask the program for an image; ``urls`` are those of its archive, or of several archives, by key."""
    archives = urls if isinstance(urls, Mapping) else {ARCHIVE: urls}
    target = clone.parent / "content"
    process = subprocess.Popen(
        ["git-annex-remote-icf"],
        cwd=clone,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # without a terminal
    )
    assert process.stdin
    assert process.stdout
    lines: list[str] = []

    def say(*words: str) -> None:
        assert process.stdin
        process.stdin.write("".join(f"{word}\n" for word in words))
        process.stdin.flush()

    say("EXTENSIONS INFO", "PREPARE", f"TRANSFER RETRIEVE {key} {target}")
    for raw in process.stdout:
        line = raw.rstrip("\n")
        lines.append(line)
        word, _, rest = line.partition(" ")
        if word == "GETURLS" and rest.endswith("dl+archive:"):
            found = [f"dl+archive:{name}#path=a&size={size}&offset={offset}" for name in archives]
            say(*(f"VALUE {url}" for url in found), "VALUE ")
        elif word == "GETURLS":
            say(*(f"VALUE {url}" for url in archives[rest.split(" ")[0]]), "VALUE ")
        elif word == "GETGITDIR":
            say(f"VALUE {clone / '.git'}")
        elif word == "GETUUID":
            say("VALUE u-u-i-d")
        elif word.startswith("TRANSFER-"):
            break
    process.communicate(timeout=60)
    content = target.read_bytes() if target.exists() else None
    target.unlink(missing_ok=True)
    return Heard(lines[-1], content, lines)


# -- credentials


@pytest.mark.parametrize("challenge", [f'Basic realm="{REALM}"', f'Bearer realm="{REALM}"', "Basic realm=" + REALM])
@pytest.mark.parametrize("kind", ["user_password", "token"])
def test_another_sites_realm_gets_no_credential(
    clone: Path, monkeypatch: pytest.MonkeyPatch, challenge: str, kind: str
) -> None:
    datalad_credential(monkeypatch, REALM, kind)
    with server(challenge) as evil:
        heard = transfer(clone, [f"{evil.url}/x.tar"])
        assert secrets_of(evil) == set()
    assert "requires authentication (401)" in heard.answer
    assert f"realm='{evil.url}'" in heard.answer  # where a credential for this server would belong
    assert heard.content is None


def test_a_credential_goes_to_its_own_origin(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the server's realm, or by the server's address alone; and not to another port of the same host."""
    with server('Basic realm="study a"') as good, server('Basic realm="study a"') as evil:
        for realm in (f"{good.url}/study a", good.url, f"{good.url}/"):
            good.requests.clear()
            datalad_credential(monkeypatch, realm)
            transfer(clone, [f"{good.url}/x.tar"])
            assert secrets_of(good) == {f"{USER}:{PASSWORD}"}
            transfer(clone, [f"{evil.url}/x.tar"])
        assert secrets_of(evil) == set()


def test_a_credential_is_not_reused_for_another_server(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both name the same realm, in one process."""
    with server() as good:
        good.challenge = f'Basic realm="{good.url}/study a"'
        good.authorization = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        datalad_credential(monkeypatch, f"{good.url}/study a")
        with server(good.challenge) as evil:
            other = ARCHIVE.replace("1" * 32, "2" * 32)
            transfer(clone, {ARCHIVE: [f"{good.url}/x.tar"], other: [f"{evil.url}/x.tar"]})
            assert secrets_of(good) == {f"{USER}:{PASSWORD}"}
            assert secrets_of(evil) == set()


def test_a_redirect_takes_no_credential_along(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with server() as good, server('Basic realm="study a"') as evil:
        datalad_credential(monkeypatch, good.url)
        good.faults.append(Fault("x.tar", status=302, headers={"Location": f"{evil.url}/x.tar"}))
        transfer(clone, [f"{good.url}/x.tar"])
        assert evil.requests
        assert secrets_of(evil) == set()


def test_netrc_is_for_a_host_and_port(clone: Path) -> None:
    """An entry without a port is for https only, and the default entry is not used."""
    with server('Basic realm="study-a"') as good, server('Basic realm="study-a"') as evil:
        write_netrc(f"machine 127.0.0.1 login {USER} password {PASSWORD}\ndefault login {USER} password {PASSWORD}\n")
        transfer(clone, [f"{good.url}/x.tar"])
        assert secrets_of(good) == set()
        write_netrc(f"machine {good.url.removeprefix('http://')} login {USER} password {PASSWORD}\n")
        evil.challenge = f'Basic realm="{good.url}/study-a"'
        transfer(clone, [f"{evil.url}/x.tar"])
        transfer(clone, [f"{good.url}/x.tar"])
        assert secrets_of(good) == {f"{USER}:{PASSWORD}"}
        assert secrets_of(evil) == set()


# -- files and private addresses


@pytest.mark.parametrize(
    "key",
    [
        *("MD5E-s100--" + "0" * 32 + ".dcm", "WORM-s100-m1--x", "URL-s100--http&c%%x", "SHA256E-s100--" + "0" * 64),
        "MD5E-s100--{md5}.dcm",
    ],
)
def test_a_file_of_this_machine_is_not_read(clone: Path, tmp_path: Path, key: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(CONTENT)
    heard = transfer(clone, [f"file://{secret}"], key.format(md5=hashlib.md5(CONTENT[:100]).hexdigest()))
    assert heard.content is None
    assert "the dataset names a file on this machine" in heard.answer


def test_a_file_below_an_allowed_store(clone: Path, tmp_path: Path) -> None:
    """After symbolic links, and for this remote only."""
    store, secret = tmp_path / "store", tmp_path / "secret"
    store.mkdir()
    for path in (store / "x.tar", secret):
        path.write_bytes(CONTENT)
    (store / "link.tar").symlink_to(secret)
    key = f"MD5E-s100--{hashlib.md5(CONTENT[:100]).hexdigest()}.dcm"
    config(clone, "remote.other.annex-uuid", "another")
    config(clone, "remote.other.icf-local-store", str(store))
    assert transfer(clone, [f"file://{store}/x.tar"], key).content is None
    config(clone, "remote.archivist.icf-local-store", str(store))
    assert transfer(clone, [f"file://{store}/x.tar"], key).content == CONTENT[:100]
    for url in (f"file://{store}/link.tar", f"file://{store}/../secret", f"file://{store}/%2e%2e/secret"):
        assert transfer(clone, [url], key).content is None


def test_private_addresses_are_asked_where_git_annex_would(clone: Path) -> None:
    key = f"MD5E-s100--{hashlib.md5(CONTENT[:100]).hexdigest()}.dcm"
    setting = "annex.security.allowed-ip-addresses"
    with server(host="127.0.0.2") as private:
        url = f"{private.url}/x.tar"
        heard = transfer(clone, [url], key)
        assert "127.0.0.2, which is not a public address" in heard.answer
        assert f"git config {setting} '127.0.0.2'" in heard.answer
        port = private.url.rpartition(":")[2]
        for value in ("[127.0.0.2]:1", "127.0.0.*", "127.0.0.1 ::1", "all 127.0.0.1"):
            config(clone, setting, value)
            assert transfer(clone, [url], key).content is None
        assert private.connections == 0
        for value in ("127.0.0.2", f"10.0.0.1 [127.0.0.2]:{port}", "all"):
            config(clone, setting, value)
            assert transfer(clone, [url], key).content == CONTENT[:100]


def test_a_redirect_to_a_private_address(clone: Path) -> None:
    with server() as allowed, server(host="127.0.0.2") as private:
        allowed.faults.append(Fault("x.tar", status=302, headers={"Location": f"{private.url}/x.tar"}))
        heard = transfer(clone, [f"{allowed.url}/x.tar"])
        assert "127.0.0.2, which is not a public address" in heard.answer
        assert private.connections == 0


@pytest.mark.parametrize(("schemes", "is_asked"), [("https", False), ("", False), ("https http", True)])
def test_schemes_are_those_that_git_annex_allows(clone: Path, schemes: str, is_asked: bool) -> None:
    config(clone, "annex.security.allowed-url-schemes", schemes)
    with server() as state:
        transfer(clone, [f"{state.url}/x.tar"])
        assert bool(state.requests) == is_asked


def test_addresses_of_the_setting() -> None:
    found = parse_allowed(["127.0.0.1", "[::1]:80", "[10.0.0.1]", "all", "[x]:1", "[10.0.0.1]:x", "[10.0.0.1]x"])
    assert [(str(item.address), item.port) for item in found] == [("127.0.0.1", None), ("::1", 80), ("10.0.0.1", None)]
    assert all(isinstance(item, AllowedAddress) for item in found)


# -- one origin for an image


def test_the_next_origin_does_not_learn_of_a_failure(clone: Path) -> None:
    """Whether the first has other bytes than the dataset guesses, has nothing, or is unreachable."""
    other = ARCHIVE.replace("1" * 32, "2" * 32)
    with server() as first, server() as evil:
        for name in ("x.tar", "missing.tar"):
            transfer(clone, {ARCHIVE: [f"{first.url}/{name}"], other: [f"{evil.url}/x.tar"]})
            transfer(clone, [f"{first.url}/{name}", f"{evil.url}/x.tar"])
        assert first.requests
    with server() as evil_again:
        transfer(clone, {ARCHIVE: [f"{first.url}/x.tar"], other: [f"{evil_again.url}/x.tar"]})
        assert evil.connections == evil_again.connections == 0


def test_addresses_of_one_origin_are_tried_in_turn(clone: Path) -> None:
    key = f"MD5E-s100--{hashlib.md5(CONTENT[:100]).hexdigest()}.dcm"
    other = ARCHIVE.replace("1" * 32, "2" * 32)
    with server() as state:
        state.objects["/wrong.tar"] = bytes(1000)
        urls = {ARCHIVE: [f"{state.url}/wrong.tar"], other: [f"{state.url}/none.tar", f"{state.url}/x.tar"]}
        assert transfer(clone, urls, key).content == CONTENT[:100]


def test_the_origin_that_was_cloned_from_comes_first(clone: Path) -> None:
    """A store has moved, and the dataset has both addresses."""
    key = f"MD5E-s100--{hashlib.md5(CONTENT[:100]).hexdigest()}.dcm"
    with server() as old, server() as new:
        config(clone, "remote.origin.url", f"datalad-annex::?type=external&externaltype=uncurl&url={new.url}/s/v_XDLRA")
        assert transfer(clone, [f"{old.url}/x.tar", f"{new.url}/x.tar"], key).content == CONTENT[:100]
        assert old.connections == 0


# -- the whole way


def test_git_annex_and_a_hostile_dataset(clone_tools: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local file is guessed byte by byte, and a password asked for: the attacker's server learns nothing."""
    require("git-annex")
    datalad_credential(monkeypatch, REALM)
    secret = tmp_path / "id_key"
    secret.write_bytes(b"K3y-9fQz\n")
    with ExitStack() as stack:
        evil = stack.enter_context(server(f'Basic realm="{REALM}"'))
        attacker, victim = tmp_path / "attacker", tmp_path / "victim"
        attacker.mkdir()
        run("git", "init", "-q", cwd=attacker)
        run("git", "annex", "init", "-q", "x", cwd=attacker)
        remote = ("type=external", "externaltype=archivist", "encryption=none", "autoenable=true")
        run("git", "annex", "initremote", "archivist", *remote, cwd=attacker)
        uuid = run("git", "config", "remote.archivist.annex-uuid", cwd=attacker).decode().strip()

        def add(name: str, key: str, *places: tuple[str, str]) -> None:
            run("git", "annex", "fromkey", "--force", key, name, cwd=attacker)
            for archive, place in places:
                run(
                    "git",
                    "annex",
                    "registerurl",
                    "--remote=archivist",
                    key,
                    f"dl+archive:{archive}#{place}",
                    cwd=attacker,
                )
            run("git", "annex", "setpresentkey", key, uuid, "1", cwd=attacker)

        wanted = f"MD5E-s1000--{'c' * 32}.tar"
        run("git", "annex", "registerurl", wanted, f"{evil.url}/x.tar", cwd=attacker)
        add("password.dcm", IMAGE, (wanted, "path=a&size=100&offset=0"))
        file_key = f"MD5E-s{secret.stat().st_size}--{'f' * 32}.tar"
        run("git", "annex", "registerurl", file_key, f"file://{secret}", cwd=attacker)
        for guess in ("9", "x"):
            elsewhere = f"MD5E-s99999--{hashlib.md5(guess.encode()).hexdigest()}.tar"
            run("git", "annex", "registerurl", elsewhere, f"{evil.url}/wrong-{guess}", cwd=attacker)
            key = f"MD5E-s1--{hashlib.md5(guess.encode()).hexdigest()}.4"
            add(f"{guess}.dcm", key, (file_key, "path=a&size=1&offset=4"), (elsewhere, "path=z&size=1&offset=0"))
        run("git", "add", ".", cwd=attacker)
        run("git", "commit", "-qm", "images", cwd=attacker)
        run("git", "clone", "-q", str(attacker), str(victim), cwd=tmp_path)
        run("git", "annex", "init", "-q", cwd=victim)
        run("git", "config", "remote.origin.annex-ignore", "true", cwd=victim)
        configure_clone(victim)
        outcome = attempt("git", "annex", "get", ".", cwd=victim)
        assert outcome.returncode != 0
        assert b"not a public address" in outcome.stdout + outcome.stderr
        assert evil.connections == 0
        run("git", "config", "annex.security.allowed-ip-addresses", "all", cwd=victim)
        outcome = attempt("git", "annex", "get", ".", cwd=victim)
        assert outcome.returncode != 0
        assert not (victim / "9.dcm").exists()
        assert secrets_of(evil) == set()
        assert not evil.of("wrong") or len({request.path for request in evil.of("wrong")}) == 2  # no guess differs
