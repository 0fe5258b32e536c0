"""The page *Operate a receiver*: its commands as they are written, its settings, and the files for systemd."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pages import DOCS, Shell, Step, blocks, free_port, reader_environment, steps

pytest.importorskip("flask", reason="flask is not installed")

PAGE = "operate-a-receiver.md"
EXAMPLES = DOCS / "examples"


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[tuple[Shell, dict[str, str]]]:
    """A shell in a folder with the settings of the page, and what is replaced in its commands: folders and ports."""
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    for name in ("srv", "spool", "etc", "home"):
        (tmp_path / name).mkdir()
    replaced = {
        "/srv/icf": str(tmp_path / "srv" / "icf"),
        "/var/spool/icf": str(tmp_path / "spool" / "icf"),
        "/etc/icf": str(tmp_path / "etc"),
        "11112": str(free_port()),
        "8042": "8000",  # which the shell replaces by a free port
        "0.0.0.0": "127.0.0.1",
        "reserve = 20000": "reserve = 0",
        "low_space = 100000": "low_space = 1",
    }
    (settings,) = blocks(PAGE, "toml")
    (tmp_path / "etc" / "receiver.toml").write_text(_replace(settings, replaced))
    own = Shell(tmp_path, reader_environment(tmp_path / "home"))
    try:
        yield own, replaced
    finally:
        own.close()


def _replace(text: str, replaced: dict[str, str]) -> str:
    for old, new in replaced.items():
        text = text.replace(old, new)
    return text


def test_the_commands_of_the_page_work(shell: tuple[Shell, dict[str, str]]) -> None:
    own, replaced = shell
    found = list(steps(PAGE))
    assert len(found) >= 10
    for step in found:
        own.run(Step(step.page, _replace(step.command, replaced), _replace(step.expected, replaced)))


@pytest.mark.parametrize("name", ["icf-receiver.service", "icf-verify.service"])
def test_services_are_valid_and_hardened(name: str, tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if not program:
        pytest.skip("systemd is not installed")
    unit = (EXAMPLES / name).read_text(encoding="utf-8").replace("/usr/local/bin/icf-utils", "/bin/true")
    path = tmp_path / name
    path.write_text(unit.replace("User=icf", "User=root").replace("Group=icf", "Group=root"))
    done = subprocess.run([program, "verify", path], capture_output=True, text=True, check=False, timeout=60)
    assert not [line for line in done.stderr.splitlines() if name in line]
    path.write_text(unit)
    command = [program, "security", "--no-pager", "--offline=true", "--threshold=21", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze examines running services only")
    assert done.returncode == 0, done.stdout[-300:]


def test_the_drop_in_for_processings_is_valid(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if not program:
        pytest.skip("systemd is not installed")
    unit = (
        (EXAMPLES / "icf-receiver.service").read_text(encoding="utf-8").replace("/usr/local/bin/icf-utils", "/bin/true")
    )
    (tmp_path / "icf-receiver.service").write_text(unit.replace("=icf\n", "=root\n"))
    folder = tmp_path / "icf-receiver.service.d"
    folder.mkdir()
    shutil.copy(EXAMPLES / "icf-receiver-processing.conf", folder / "processing.conf")
    command = [program, "verify", str(tmp_path / "icf-receiver.service")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert not [line for line in done.stderr.splitlines() if str(tmp_path) in line]


def test_user_and_folders_are_made(tmp_path: Path) -> None:
    programs = [shutil.which(name) for name in ("systemd-sysusers", "systemd-tmpfiles")]
    if None in programs or os.getuid():
        pytest.skip("needs root and systemd-sysusers")
    (tmp_path / "etc").mkdir()
    for name in ("passwd", "group"):
        (tmp_path / "etc" / name).write_text("root:x:0:0:root:/root:/bin/sh\n" if name == "passwd" else "root:x:0:\n")
    root = f"--root={tmp_path}"
    subprocess.run([str(programs[0]), root, EXAMPLES / "icf-utils.sysusers"], check=True, capture_output=True)
    subprocess.run(
        [str(programs[1]), root, "--create", EXAMPLES / "icf-utils.tmpfiles"], check=True, capture_output=True
    )
    users = {line.split(":")[0]: line.split(":") for line in (tmp_path / "etc" / "passwd").read_text().splitlines()}
    assert users["icf"][5:] == ["/var/lib/icf", "/usr/sbin/nologin"]
    spool, store = (tmp_path / "var" / "spool" / "icf").stat(), (tmp_path / "srv" / "icf").stat()
    assert (spool.st_mode & 0o777, spool.st_uid) == (0o700, int(users["icf"][2]))
    assert (store.st_mode & 0o777, store.st_uid) == (0o755, int(users["icf"][2]))


def test_the_page_names_every_file_that_it_installs() -> None:
    page = (DOCS / PAGE).read_text(encoding="utf-8")
    for path in EXAMPLES.glob("icf-*"):
        if path.suffix in (".service", ".timer", ".conf", ".sysusers", ".tmpfiles"):
            assert path.name in page, path.name
