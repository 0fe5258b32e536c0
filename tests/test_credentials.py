"""Passwords come from places that others cannot see, and are never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from icf_utils.credentials import Login, Secret, ask_secret, find_login, find_secret, origin_of, without_credentials
from icf_utils.errors import InvalidSetting, StorageFailure

URL = "https://xnat.example.org:8443/xnat"


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("from-file\n")
    path.chmod(0o600)
    return path


def test_a_file_comes_before_the_environment(secret_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICF_TOKEN", "from-environment")
    assert find_secret("ICF_TOKEN", secret_file) == Secret("from-file")
    assert find_secret("ICF_TOKEN") == Secret("from-environment")


def test_nothing_is_asked_without_a_terminal() -> None:
    assert find_secret("ICF_NOTHING", question="Token") is None


def test_asking_requires_a_terminal() -> None:
    with pytest.raises(InvalidSetting, match="Token: icf-utils cannot ask without a terminal"):
        ask_secret("Token")


def test_a_file_that_others_can_read(secret_file: Path) -> None:
    secret_file.chmod(0o640)
    with pytest.raises(InvalidSetting, match="chmod 600"):
        find_secret("ICF_TOKEN", secret_file)


@pytest.mark.parametrize("content", ["", "\n", "one\ntwo\n", "x" * 70_000])
def test_a_file_with_something_else(secret_file: Path, content: str) -> None:
    secret_file.write_text(content)
    with pytest.raises(InvalidSetting, match="on its only line"):
        find_secret("ICF_TOKEN", secret_file)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(StorageFailure, match="No such file"):
        find_secret("ICF_TOKEN", tmp_path / "none")


def test_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "netrc"
    path.write_text("machine xnat.example.org login anna password from-netrc\n")
    path.chmod(0o600)
    monkeypatch.setenv("NETRC", str(path))
    assert find_login(URL, "", "ICF_PASSWORD") == Login("anna", Secret("from-netrc"))
    assert find_login(URL, "anna", "ICF_PASSWORD") == Login("anna", Secret("from-netrc"))
    assert find_login(URL, "bert", "ICF_PASSWORD") is None
    assert find_login("https://other.example.org", "", "ICF_PASSWORD") is None
    monkeypatch.setenv("ICF_PASSWORD", "from-environment")
    assert find_login(URL, "anna", "ICF_PASSWORD") == Login("anna", Secret("from-environment"))
    path.write_text("machine x\nfoo")
    with pytest.raises(InvalidSetting, match="not a netrc file"):
        find_login(URL, "", "ICF_PASSWORD")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_netrc_that_others_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    """Like other files of secrets, but only if its login would be used."""
    path = tmp_path / "netrc"
    path.write_text("machine xnat.example.org login anna password from-netrc\nmachine open login a password b\n")
    path.chmod(mode)
    monkeypatch.setenv("NETRC", str(path))
    with pytest.raises(InvalidSetting, match="chmod 600"):
        find_login(URL, "", "ICF_PASSWORD")
    assert find_login("https://other.example.org", "", "ICF_PASSWORD") is None
    monkeypatch.setenv("ICF_PASSWORD", "from-environment")
    assert find_login(URL, "anna", "ICF_PASSWORD") == Login("anna", Secret("from-environment"))


def test_nothing_shows_a_secret() -> None:
    login = Login("anna", Secret("hunter2"))
    assert "hunter2" not in f"{login} {login!r} {login.password}"
    assert without_credentials("https://anna:hunter2@h/b?token=hunter2#hunter2") == "https://h/b"


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://host/", "host/path", "file:///etc/passwd", "https://", "http://a b/", "http://a\\@b/", "http://[::1/"),
        *("http://host:port/", "http://host:99999/", "http://exämple.org/", "https://anna:hunter2@host/", "http://-a/"),
    ],
)
def test_addresses_without_an_origin(url: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        origin_of(url)
    assert "hunter2" not in str(caught.value)


def test_origins() -> None:
    assert origin_of("https://host/a") == origin_of("https://HOST:443/b?c#d") != origin_of("http://host/a")
    assert origin_of("http://host:80") != origin_of("http://host.:80")
    assert str(origin_of("http://[::1]:8080/x")) == "http://[::1]:8080"
