"""A clone of a store that has moved: one command, for both programs that get images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.program import icf
from tests.dataset.commands import attempt, run
from tests.dataset.servers import Server, nginx
from tests.dataset.special_remote.conftest import Cloned

ONE, OTHER = "study_v1/s1/007.dcm", "study_v1/s2/001.dcm"


@pytest.fixture
def moved(usual: Cloned, tmp_path: Path) -> Iterator[Server]:
    """The store at another address, to which the clone has been pointed; nothing is at the old one any more."""
    scratch = tmp_path / "moved"
    scratch.mkdir()
    (tmp_path / "new").mkdir()
    (tmp_path / "new/place").symlink_to(usual.place.root)
    with nginx(tmp_path / "new", scratch) as server:
        ran = icf("configure-clone", "--store-url", f"{server.url}/place", usual.folder)
        assert ran.code == 0, ran
        yield server


def test_single_images(usual: Cloned, moved: Server) -> None:
    environment = {**os.environ, **moved.credential()}
    run("git", "annex", "get", ONE, cwd=usual.folder, env=environment)
    assert usual.requests() == []
    ran = icf("get", "study_v1/s2", cwd=usual.folder, env=moved.credential())
    assert ran.code == 0, ran
    assert usual.requests() == []
    assert any("/place/study/v1_dicom.tar" in line for line in moved.requests())


def test_archivist_follows(usual: Cloned, moved: Server) -> None:
    usual.run("git", "config", "remote.archivist.annex-externaltype", "archivist")
    run("git", "annex", "get", ONE, cwd=usual.folder, env={**os.environ, **moved.credential()})
    assert (usual.folder / ONE).exists()
    assert usual.requests() == []


def test_undone(usual: Cloned) -> None:
    before = usual.run("git", "config", "--local", "--list")
    usual.run("git", "remote", "add", "store", "annex::http://127.0.0.1:9/a/study/v1.annex")
    ran = icf("configure-clone", "--store-url", "https://new.example.org/b", usual.folder)
    assert ran.code == 0, ran
    assert usual.run("git", "remote", "get-url", "store") == b"annex::https://new.example.org/b/study/v1.annex\n"
    assert icf("configure-clone", "--store-url", "https://new.example.org/b", usual.folder).out.count("already") == 1
    assert icf("configure-clone", "--undo", usual.folder).code == 0
    assert usual.run("git", "remote", "get-url", "store") == b"annex::http://127.0.0.1:9/a/study/v1.annex\n"
    usual.run("git", "remote", "remove", "store")
    assert icf("configure-clone", usual.folder).code == 0
    assert usual.run("git", "config", "--local", "--list") == before


def test_settings_of_ones_own(usual: Cloned) -> None:
    """They are followed, and not replaced."""
    usual.run("git", "config", "remote.uncurl.uncurl-url", "http://127.0.0.1:9/{nothing}")
    done = attempt("git", "annex", "get", OTHER, cwd=usual.folder, env=usual.environment)
    assert b"'{nothing}' has no value" in done.stdout + done.stderr
    ran = icf("configure-clone", "--store-url", "https://new.example.org/b", usual.folder)
    assert ran.code == 2
    assert "is set already" in ran.err
