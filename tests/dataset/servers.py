"""A real nginx on a free loopback port, with or without basic authentication, for as long as a test needs it."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

USER, PASSWORD, REALM = "reader", "not-a-secret", "ICF store"


@dataclass(frozen=True)
class Server:
    url: str
    access_log: Path

    def credential(self) -> dict[str, str]:
        """The environment that gives DataLad the user and password for this server's realm."""
        prefix = "DATALAD_CREDENTIAL_ICFTEST"
        return {
            f"{prefix}_TYPE": "user_password",
            f"{prefix}_REALM": f"{self.url}/{REALM}",
            f"{prefix}_USER": USER,
            f"{prefix}_SECRET": PASSWORD,
        }

    def requests(self) -> list[str]:
        return self.access_log.read_text(encoding="utf-8").splitlines()


@contextmanager
def nginx(root: Path, scratch: Path, more: str = "", certificate: Path | None = None) -> Iterator[Server]:
    """Serve ``root`` to users with the password; ``scratch`` is for the server's own files.

    ``more`` are further directives for what is served, ``certificate`` a file with a certificate for ``localhost`` and
    its key.
    """
    port = _free_port()
    digest = base64.b64encode(hashlib.sha1(PASSWORD.encode()).digest()).decode()
    (scratch / "users").write_text(f"{USER}:{{SHA}}{digest}\n", encoding="ascii")
    tls = f" ssl; ssl_certificate {certificate}; ssl_certificate_key {certificate}" if certificate else ""
    (scratch / "nginx.conf").write_text(
        _CONFIG.format(port=port, tls=tls, root=root, scratch=scratch, realm=REALM, more=more), encoding="utf-8"
    )
    command = ["nginx", "-p", str(scratch), "-c", str(scratch / "nginx.conf"), "-e", str(scratch / "error.log")]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, server)
        yield Server(f"https://localhost:{port}" if certificate else f"http://127.0.0.1:{port}", scratch / "access.log")
    finally:
        server.terminate()
        server.wait(timeout=10)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(100):
        assert server.poll() is None, "nginx did not start"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("nginx does not answer")


_RUNS_AS = "user root;\n" if os.getuid() == 0 else ""

_CONFIG = (
    _RUNS_AS
    + """daemon off;
worker_processes 1;
pid {scratch}/nginx.pid;
error_log {scratch}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log {scratch}/access.log;
    client_body_temp_path {scratch}/body;
    proxy_temp_path {scratch}/proxy;
    fastcgi_temp_path {scratch}/fastcgi;
    uwsgi_temp_path {scratch}/uwsgi;
    scgi_temp_path {scratch}/scgi;
    server {{
        listen 127.0.0.1:{port}{tls};
        auth_basic "{realm}";
        auth_basic_user_file {scratch}/users;
        location / {{ root "{root}"; {more} }}
    }}
}}
"""
)
