"""Configuring a clone, and undoing it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from icf_utils.dataset.special_remote.configure import configure_clone
from icf_utils.dataset.stage import deposit_visit_dataset
from icf_utils.errors import InvalidSetting, MissingRequirement
from tests.cli.program import icf
from tests.dataset.commands import attempt, run
from tests.dataset.conftest import CLONE_TOOLS, require
from tests.dataset.servers import nginx
from tests.dataset.special_remote.conftest import CONTENTS, MEMBERS, Cloned, clone
from tests.dataset.visits import make_visit
from tests.fetch.certificates import make_certificate
from tests.pages import wait_for_port

ONE = "study_v1/s1/002.dcm"


def config(folder: Path) -> str:
    return run("git", "config", "--local", "--list", cwd=folder).decode()


def test_configure_and_undo(local: Cloned) -> None:
    now = config(local.folder)
    assert "remote.archivist.annex-externaltype=icf" in now
    again = configure_clone(local.folder)
    assert (again.state, again.remotes, again.program) == ("unchanged", ("archivist",), "icf")
    store = f"remote.archivist.icf-local-store={local.place.root}\n"
    assert store in now
    back = configure_clone(local.folder, undo=True)
    assert (back.state, back.remotes, back.program) == ("written", ("archivist",), "archivist")
    expected = now.replace("annex-externaltype=icf", "annex-externaltype=archivist").replace(store, "")
    assert config(local.folder) == expected
    assert configure_clone(local.folder, undo=True).state == "unchanged"
    assert configure_clone(local.folder / "icf").state == "written"
    assert config(local.folder) == now.replace(store, "")
    assert configure_clone(local.folder, local_stores=(local.place.root,)).state == "written"
    assert configure_clone(local.folder, local_stores=(local.place.root,)).state == "unchanged"
    assert config(local.folder) == now


def test_a_local_store_must_exist(local: Cloned) -> None:
    before = config(local.folder)
    with pytest.raises(InvalidSetting, match=r"--local-store: the folder '.*nowhere' does not exist"):
        configure_clone(local.folder, local_stores=(local.folder / "nowhere",))
    with pytest.raises(InvalidSetting, match="cannot be combined with --undo"):
        configure_clone(local.folder, undo=True, local_stores=(local.folder,))
    assert config(local.folder) == before


def test_a_clone_without_datalad(tmp_path: Path) -> None:
    """git-annex left its remotes unconfigured, since their programs were missing; they are configured then."""
    require("git", "git-annex", "git-remote-annex")
    place = make_visit(tmp_path / "store")
    result = deposit_visit_dataset(place.root, "study", "v1", store_url=f"file://{tmp_path}/store", annex_url=True)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("git", "git-annex", "git-remote-annex", "git-annex-remote-icf", "sh", "uname", "env"):
        found = subprocess.run(["sh", "-c", f"command -v {name}"], capture_output=True, text=True, check=True)
        (programs / name).symlink_to(found.stdout.strip())
    environment = {**os.environ, "PATH": os.fspath(programs)}
    clone = tmp_path / "clone"
    run("git", "clone", result.annex_url, "clone", cwd=tmp_path, env=environment)
    before = config(clone)
    done = configure_clone(clone, local_stores=(place.root,))
    assert (done.state, done.remotes) == ("written", ("archivist",))
    run("git", "annex", "get", "study_v1/anat/IM0002", cwd=clone, env=environment)
    assert (clone / "study_v1/anat/IM0002").read_bytes() == b"second image"
    assert configure_clone(clone).state == "unchanged"
    configure_clone(clone, undo=True)
    kept = [line for line in config(clone).splitlines() if "annex-cost" not in line]
    assert kept == before.splitlines()


@pytest.mark.parametrize("undo", [False, True])
def test_not_a_clone(tmp_path: Path, undo: bool) -> None:
    require("git")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InvalidSetting, match="no git repository"):
            configure_clone(folder, undo)
    run("git", "init", "-q", "plain", cwd=tmp_path)
    with pytest.raises(InvalidSetting, match="without an 'archivist' remote"):
        configure_clone(tmp_path / "plain", undo)


def test_without_the_program(local: Cloned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(MissingRequirement, match="git-annex-remote-icf"):
        configure_clone(local.folder)
    configure_clone(local.folder, undo=True)


def test_the_command(local: Cloned) -> None:
    command = [sys.executable, "-m", "icf_utils.cli.main", "configure-clone", os.fspath(local.folder)]
    done = subprocess.run([*command, "--undo"], capture_output=True, text=True, check=True)
    assert "'archivist': images are transferred as before" in done.stdout
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "'archivist': images are transferred as byte ranges (git-annex-remote-icf)" in done.stdout
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "already" in done.stdout


def test_the_program_is_installed_with_the_package() -> None:
    text = Path(__file__).parents[3].joinpath("pyproject.toml").read_text(encoding="utf-8")
    assert 'git-annex-remote-icf = "icf_utils.dataset.special_remote.program:main"' in text


def test_the_program_started_by_hand() -> None:
    done = subprocess.run(["git-annex-remote-icf", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "icf-utils configure-clone" in done.stderr


def test_trust_and_undo(local: Cloned, tmp_path: Path) -> None:
    """Without it, git-annex refuses every push."""
    before = config(local.folder).splitlines()
    for name in ("bare", "other"):
        subprocess.run(["git", "init", "-q", "--bare", tmp_path / name], check=True)
        local.run("git", "remote", "add", name, os.fspath(tmp_path / name))
    run("git", "annex", "init", "-q", cwd=tmp_path / "other")
    refused = local.attempt("git", "push", "bare", "main")
    assert refused.returncode != 0
    assert b"unverified special remote" in refused.stderr
    assert configure_clone(local.folder, trust=True).state == "written"
    assert configure_clone(local.folder, trust=True).state == "unchanged"
    local.run("git", "push", "bare", "main", "git-annex")
    local.run("datalad", "push", "--to", "other", "--data", "nothing")
    local.run("git", "annex", "get", ONE)
    local.run("git", "annex", "copy", "--to", "other", ONE)
    folder = tmp_path / "exported"
    folder.mkdir()
    options = ("type=directory", f"directory={folder}", "encryption=none", "exporttree=yes")
    local.run("git", "annex", "initremote", "tree", *options)
    local.attempt("git", "annex", "export", "main:study_v1/s1", "--to", "tree")
    assert (folder / Path(ONE).name).read_bytes() == CONTENTS[ONE]
    local.run("datalad", "create-sibling-ria", "-s", "ria", "--new-store-ok", f"ria+file://{tmp_path}/ria")
    local.run("datalad", "push", "--to", "ria", "--data", "nothing")
    configure_clone(local.folder, undo=True)
    configure_clone(local.folder)
    own = ("remote.archivist.", "remote.uncurl.")
    lines = config(local.folder).splitlines()
    after = [line for line in lines if line.startswith(own) and ".annex-cost=" not in line]  # git-annex's own setting
    assert set(after) - set(before) == set()
    local.run("git", "commit", "-q", "--allow-empty", "-m", "more")
    assert local.attempt("git", "push", "bare", "main").returncode != 0


def test_a_changed_remote_is_not_trusted(local: Cloned) -> None:
    local.run("git", "annex", "enableremote", "uncurl", "autoenable=false")
    with pytest.raises(InvalidSetting, match="'uncurl' is not configured as icf-utils does it"):
        configure_clone(local.folder, trust=True)
    assert "remote.archivist.annex-verified=verified" not in config(local.folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_a_clone_of_another_user(tmp_path: Path) -> None:
    """git refuses it, and says what to do."""
    require("git")
    subprocess.run(["git", "init", "-q", tmp_path / "theirs"], check=True)
    for path in (tmp_path / "theirs", tmp_path / "theirs/.git"):
        os.chown(path, 12345, 12345)
    with pytest.raises(InvalidSetting, match=r"git says: .*safe\.directory"):
        configure_clone(tmp_path / "theirs")


def test_p2phttp(local: Cloned, tmp_path: Path) -> None:
    """A trusted clone copies to a server that speaks git-annex's protocol over HTTP."""
    configure_clone(local.folder, trust=True)
    server = tmp_path / "server"
    run("git", "clone", "-q", "--bare", str(local.folder), str(server), cwd=tmp_path)
    run("git", "annex", "init", "-q", cwd=server)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["git-annex", "p2phttp", "-J2", "--wideopen", "--bind", "127.0.0.1", "--port", str(port)]
    serving = subprocess.Popen(command, cwd=server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port)
        local.run("git", "remote", "add", "lab", str(server))
        local.run("git", "config", "remote.lab.annexUrl", f"annex+http://127.0.0.1:{port}/git-annex/")
        local.run("git", "annex", "get", ONE)
        local.run("git", "annex", "copy", "--to", "lab", ONE)
    finally:
        serving.terminate()
        serving.wait(timeout=20)
    found = [path.read_bytes() for path in (server / "annex/objects").rglob("*.dcm") if path.is_file()]
    assert found == [CONTENTS[ONE]]


def test_a_ca_of_ones_own(tmp_path: Path) -> None:
    """It is needed, used by git-annex's transfers and 'icf-utils get', and taken back by --undo."""
    require("nginx", *CLONE_TOOLS)
    certificate = make_certificate(tmp_path, "localhost")
    (tmp_path / "nginx").mkdir()
    place, folder = make_visit(tmp_path / "store", MEMBERS), tmp_path / "clone"
    with nginx(place.root, tmp_path / "nginx", certificate=certificate) as server:
        clone(place, server.url, folder, dict(os.environ))
        environment = {**os.environ, **server.credential()}
        refused = attempt("git", "annex", "get", ONE, cwd=folder, env=environment)
        assert refused.returncode != 0
        assert b"--ca" in refused.stdout + refused.stderr
        ran = icf("configure-clone", "--ca", certificate.with_suffix(".cert"), folder)
        assert ran.code == 0, ran
        run("git", "annex", "get", ONE, cwd=folder, env=environment)
        ran = icf("get", "study_v1/s2", cwd=folder, env=server.credential())
        assert ran.code == 0, ran
    ran = icf("configure-clone", "--ca", tmp_path / "nothing.pem", folder)
    assert ran.code not in (0, 1, 70)
    assert "nothing.pem" in ran.err
    assert icf("configure-clone", "--undo", folder).code == 0
    assert "icf-ca" not in config(folder)
