"""Every command that a visit's page shows, run unchanged against a store that requires a password."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from icf_utils import init_store
from icf_utils.archive.checksum import format_checksum
from icf_utils.catalog.page import visit_page
from icf_utils.catalog.visit_data import visit_data
from icf_utils.dataset.cloning import short_address_settings
from icf_utils.dataset.stage import deposit_visit_dataset
from icf_utils.dataset.store_address import find_store_address
from icf_utils.metadata.records import read_visit_metadata
from icf_utils.settings import CatalogSettings, Settings
from icf_utils.store.layout import Visit
from tests.dataset.commands import run
from tests.dataset.conftest import CLONE_TOOLS, _own_settings, require  # noqa: F401 - a fixture
from tests.dataset.servers import PASSWORD, USER, Server, nginx
from tests.dataset.visits import SMALL, make_visit

_PROGRAMS = {"icf-utils": "icf_utils.cli.main", "git-annex-remote-icf": "icf_utils.dataset.special_remote.program"}
_PROGRAM = "#!{python}\nimport sys\nfrom {module} import main\nsys.exit(main())\n"

IMAGES = sorted(member.content for member in SMALL if member.tags is not None)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    require("nginx", "curl", *CLONE_TOOLS)
    place = make_visit(tmp_path / "store")
    digest = hashlib.md5(place.archive.read_bytes()).hexdigest()
    place.checksum.write_bytes(format_checksum(digest, place.archive.name))
    (tmp_path / "nginx").mkdir()
    with nginx(place.root, tmp_path / "nginx") as server:
        init_store(place.root, server.url)
        deposit_visit_dataset(place.root, "study", "v1", annex_url=True)
        yield server


@pytest.fixture
def shell(server: Server, tmp_path: Path) -> dict[str, str]:
    """What a user has: the programs, and the password once for each of them, nowhere on a command line."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, module in _PROGRAMS.items():
        (programs / name).write_text(_PROGRAM.format(python=sys.executable, module=module))
        (programs / name).chmod(0o755)
    host = server.url.removeprefix("http://")
    netrc = Path(os.environ["HOME"]) / ".netrc"
    entry = f"login {USER} password {PASSWORD}\n"
    netrc.write_text(f"machine {host} {entry}machine {host.partition(':')[0]} {entry}")
    netrc.chmod(0o600)
    run("git", "config", "--global", f"credential.{server.url}.helper", _helper(), cwd=tmp_path)
    run("git", "config", "--global", "annex.security.allowed-ip-addresses", "127.0.0.1", cwd=tmp_path)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    root = str(Path(__file__).parents[2])
    return {**os.environ, **server.credential(), "PATH": path, "PYTHONPATH": root}


def _helper() -> str:
    return f"!f() {{ echo username={USER}; echo password={PASSWORD}; }}; f"


def images_below(folder: Path) -> list[bytes]:
    return sorted(path.read_bytes() for path in folder.rglob("*") if path.is_file() and "study_v1" in path.parts)


def test_the_commands_of_a_visit(server: Server, shell: dict[str, str], tmp_path: Path) -> None:
    place = Visit(tmp_path / "store", "study", "v1")
    page = visit_page(
        place,
        read_visit_metadata(place),
        find_store_address(place, Settings(), server.url, None),
        CatalogSettings(),
    )
    shown = visit_data(page)
    ran = 0
    for tool in ("datalad", "git-annex", "icf-utils"):
        work = tmp_path / tool
        work.mkdir()
        for name, command in shown["clone"].items():
            if name.startswith(tool):
                run("sh", "-c", command, cwd=work, env=shell)
                ran += 1
        assert images_below(work / ("v1-images" if tool == "icf-utils" else "v1")) == IMAGES, tool
    assert ran == len(shown["clone"])
    assert (tmp_path / "git-annex/v1/icf/v1_dicom.tar").read_bytes() == place.archive.read_bytes()
    work = tmp_path / "curl"
    work.mkdir()
    for command in shown["commands"].values():
        run("sh", "-c", command, cwd=work, env=shell)


def test_short_addresses_of_clone(server: Server, shell: dict[str, str], tmp_path: Path) -> None:
    """'icf-utils clone' prints two commands, after which datalad clones 'icf:STUDY/VISIT'."""
    printed = run("icf-utils", "clone", f"{server.url}/study/v1", "one", cwd=tmp_path, env=shell).decode()
    commands = [line.strip() for line in printed.splitlines() if "url-substitute" in line]
    assert len(commands) == len(short_address_settings(server.url)) == 2
    for command in commands:
        run("sh", "-c", command, cwd=tmp_path, env=shell)
    run("datalad", "clone", "icf:study/v1", "two", cwd=tmp_path, env=shell)
    assert (tmp_path / "two/study_v1").is_dir()


def test_clone_with_git_annex_alone(server: Server, shell: dict[str, str], tmp_path: Path) -> None:
    """Without DataLad, 'icf-utils clone' uses git-annex, and 'icf-utils get' gets the images."""
    programs = tmp_path / "few"
    programs.mkdir()
    wanted = ("git", "git-annex", "git-remote-annex", "sh", "env", "uname", "cat", "rm", "cp", "ls", "sed", "curl")
    for name in wanted:
        (programs / name).symlink_to(str(shutil.which(name)))
    few = {**shell, "PATH": os.pathsep.join([str(tmp_path / "bin"), str(programs)])}
    printed = run("icf-utils", "clone", f"{server.url}/study/v1", "alone", cwd=tmp_path, env=few).decode()
    assert "with git-annex" in printed
    for command in [line.strip() for line in printed.splitlines() if "insteadOf" in line]:
        run("sh", "-c", command, cwd=tmp_path, env=few)
    run("git", "clone", "icf:study/v1.annex", "short", cwd=tmp_path, env=few)
    assert (tmp_path / "short/study_v1").is_dir()
    run("icf-utils", "get", "alone", cwd=tmp_path, env=few)
    assert images_below(tmp_path / "alone") == IMAGES
