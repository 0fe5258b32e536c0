"""TLS to an XNAT: which certificates are trusted, and what is reported for others. openssl makes them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from icf_utils.errors import InvalidSetting, RemoteFailure, StorageFailure
from tests.cli.program import Inside
from tests.xnat.standin import PASSWORD, StandIn, standin
from tests.xnat.uploads import send, send_one


def certificate(folder: Path, host: str) -> Path:
    """A certificate with its key; the certificate alone is in ``<name>.cert``."""
    openssl = shutil.which("openssl")
    if not openssl:
        pytest.skip("there is no openssl to make a certificate with")
    key, cert, both = (folder / f"{host}.{kind}" for kind in ("key", "cert", "pem"))
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={host}"]
    command += ["-addext", f"subjectAltName=DNS:{host}", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    both.write_bytes(key.read_bytes() + cert.read_bytes())
    return both


def test_the_certificate_is_verified(tree: Path, tmp_path: Path) -> None:
    with standin(certificate=certificate(tmp_path, "localhost")) as server:
        with pytest.raises(RemoteFailure, match=r"not trusted \(self.signed certificate\); give the CA's") as one:
            send(server, tree)
        assert server.requests == []
        assert "another host" not in str(one.value)
        assert send_one(server, tree, ca=tmp_path / "localhost.cert").state == "uploaded"


def test_a_certificate_for_another_host(tree: Path, tmp_path: Path) -> None:
    """Its CA is trusted; the message does not suggest to name it."""
    with standin(certificate=certificate(tmp_path, "elsewhere.example.org")) as server:
        with pytest.raises(
            RemoteFailure, match=r"certificate is for another host; write the address with the name"
        ) as one:
            send(server, tree, ca=tmp_path / "elsewhere.example.org.cert")
        assert "trusted" not in str(one.value)
        assert server.requests == []


def test_a_server_without_tls(server: StandIn, tree: Path) -> None:
    server.url = server.url.replace("http:", "https:")
    with pytest.raises(RemoteFailure, match=r"a TLS connection cannot be established; .*http:"):
        send(server, tree)


def test_files_without_certificates(tree: Path, server: StandIn) -> None:
    with pytest.raises(StorageFailure, match=r"cannot read '.*/none\.pem': No such file"):
        send(server, tree, ca=tree.parent / "none.pem")
    (tree.parent / "empty.pem").touch()
    with pytest.raises(InvalidSetting, match="expected certificates in PEM, found none"):
        send(server, tree, ca=tree.parent / "empty.pem")
    assert server.requests == []


def test_a_warning_before_a_password_is_sent_unencrypted(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not where it does not leave this computer."""
    monkeypatch.setenv("XNAT_PASS", PASSWORD)
    cli = Inside(capsys)
    upload = ["xnat", "upload", str(tree), "--state", str(tmp_path), "--retries", "0", "--pause", "0.001"]
    inbox = ["xnat", "prearchive", str(tree), "--inbox", str(tmp_path), "--subject", "s", "--session", "m"]
    with standin() as gone:
        pass
    for command in (upload, inbox):
        there = [*command, "-q", "--project", "PILOT", "--user", "me", "--url"]
        for url, is_told in (("http://xnat.invalid", True), (gone.url, False), ("https://xnat.invalid", False)):
            ran = cli(*there, url)
            assert (ran.code, "[no-tls]" in ran.err, "unencrypted" in ran.err) == (10, is_told, is_told), ran.err


def test_an_address_with_a_password_is_not_repeated(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is visible in the list of processes already; the message does not repeat it."""
    ran = Inside(capsys)(
        *("xnat", "prearchive", tree, "--inbox", tmp_path, "--project", "P", "--subject", "s", "--session", "m"),
        *("--url", "https://me:hunter2@xnat.invalid"),
    )
    assert ran.code == 2
    assert "hunter2" not in ran.err
