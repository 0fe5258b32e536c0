"""Credentials are never in arguments, addresses, logs, results or the list of processes."""

from __future__ import annotations

import argparse
import ast
import base64
import http.server
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

import icf_utils
from icf_utils.cli.parser import build_parser
from tests.cli.program import PROGRAM, surrounding

PACKAGE = Path(icf_utils.__file__).parent
_SECRET = re.compile(r"pass(word|phrase|wd)?|token|secret|credential|api[-_]?key", re.IGNORECASE)


def options(parser: argparse.ArgumentParser, command: str = "icf-utils") -> Iterator[tuple[str, argparse.Action]]:
    """Every option of every command."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield from options(sub, f"{command} {name}")
        else:
            yield command, action


def test_no_option_takes_a_secret() -> None:
    """Only files that hold one, or the wish to be asked."""
    found = []
    for command, action in options(build_parser()):
        name = " ".join((*action.option_strings, action.dest))
        is_safe = action.nargs == 0 or action.dest.endswith("_file")
        if _SECRET.search(name) and not is_safe:
            found.append((command, name))
    assert found == []


def calls() -> Iterator[tuple[Path, ast.Call]]:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield path, node


def test_secrets_are_opened_in_few_places_only() -> None:
    """``Secret.value`` is read where a connection is made: never in what builds messages, results or arguments."""
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if not (isinstance(node, ast.JoinedStr)):
                continue
            for part in ast.walk(node):
                is_open = (
                    isinstance(part, ast.Attribute) and part.attr == "value" and _SECRET.search(ast.dump(part.value))
                )
                if is_open:
                    text = ast.unparse(node)
                    assert "Bearer" in text or "Token" in text or "Basic" in text, (path, text)


def test_no_program_is_started_with_a_secret() -> None:
    """What other programs get, everybody sees in the list of processes."""
    for path, call in calls():
        name = ast.unparse(call.func)
        if name.startswith("subprocess.") or name.endswith(("Popen", "check_output")):
            assert not _SECRET.search(ast.unparse(call)), (path, ast.unparse(call))


# -- a running command

PASSWORD = "zq-hidden-7c1f"


class _Asking(http.server.BaseHTTPRequestHandler):
    """Wants a password for everything; slow, so that the process can be looked at."""

    seen: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        given = self.headers.get("Authorization", "")
        self.seen.append(f"{self.path} {given}")
        time.sleep(0.3)
        self.send_response(404 if given else 401)
        self.send_header("WWW-Authenticate", 'Basic realm="x"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    _Asking.seen = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Asking)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def processes(group: int) -> Iterator[bytes]:
    """Command lines of the processes of a group, as everybody sees them."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getpgid(int(entry.name)) == group:
                    yield (entry / "cmdline").read_bytes()
            except OSError:
                continue


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_password_is_seen_nowhere(tmp_path: Path, address: str, form: tuple[str, ...]) -> None:
    (tmp_path / "secret").write_text(PASSWORD + "\n")
    (tmp_path / "secret").chmod(0o600)
    command = ("retrieve", "--store", f"{address}/store", "--id", "s", "v", "-d", tmp_path / "out")
    login = ("--user", "me", "--password-file", tmp_path / "secret")
    process = subprocess.Popen(
        [*PROGRAM, *map(str, (*command, *login)), *form],
        env=surrounding(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        cwd=tmp_path,
    )
    seen: set[bytes] = set()
    while process.poll() is None:
        seen.update(processes(process.pid))
        time.sleep(0.01)
    out, err = process.communicate()
    hidden = (PASSWORD.encode(), base64.b64encode(f"me:{PASSWORD}".encode()))
    assert seen
    for text in (out, err, *seen, *(line.split()[0].encode() for line in _Asking.seen)):
        assert not any(word in text for word in hidden), text
    expected = "Basic " + hidden[1].decode()
    assert any(expected in line for line in _Asking.seen), (_Asking.seen, out, err)
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "secret"]
    assert not any(hidden[0] in path.read_bytes() for path in written)
