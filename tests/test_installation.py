"""What a message says about installing more works for this copy, however it was installed."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from icf_utils import installation
from icf_utils.installation import Installation, find_installation, install_hint, missing_package, requirements_of
from tests.cli.program import ROOT, icf


def command(hint: str) -> list[str]:
    assert hint.startswith("install it with: ")
    return shlex.split(hint.removeprefix("install it with: "))


def test_this_copy_is_a_checkout() -> None:
    found = find_installation()
    assert (found.manager, found.source, found.editable) == ("pip", str(ROOT), True)
    assert command(install_hint("cloud")) == [sys.executable, "-m", "pip", "install", "--editable", f"{ROOT}[cloud]"]


def test_a_package_of_the_full_installation() -> None:
    (requirement,) = [found for found in requirements_of() if found.startswith("datalad-catalog")]
    assert command(install_hint(package="datalad_catalog"))[-1] == requirement


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Installation("pip", "/w/a b.whl", python="/p"), ["/p", "-m", "pip", "install", "/w/a b.whl[cloud]"]),
        (Installation("pip", python="/p"), ["/p", "-m", "pip", "install", "REQUIREMENT"]),
        (Installation("pipx", "/w/a.whl"), ["pipx", "inject", "icf-utils", "REQUIREMENT"]),
        (
            Installation("uv tool", "/w/a.whl"),
            ["uv", "tool", "install", "--force", "--with", "REQUIREMENT", "/w/a.whl"],
        ),
        (
            Installation("uv tool", "/src", editable=True),
            ["uv", "tool", "install", "--force", "--with", "REQUIREMENT", "--editable", "/src"],
        ),
    ],
)
def test_kinds_of_installations(found: Installation, expected: list[str]) -> None:
    (obstore,) = requirements_of("cloud")
    hint = install_hint("cloud", installation=found)
    assert command(hint) == [obstore if word == "REQUIREMENT" else word for word in expected]


def test_nothing_is_installed_into_an_image() -> None:
    assert "recipe" in install_hint("cloud", installation=Installation("container"))


@pytest.mark.parametrize(("file", "manager"), [("pipx_metadata.json", "pipx"), ("uv-receipt.toml", "uv tool")])
def test_managers_are_found_by_their_files(
    file: str, manager: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / file).write_text("")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert find_installation().manager == manager


@pytest.mark.parametrize("gone", [False, True])
def test_a_wheel_is_named_while_it_exists(gone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "icf utils.whl"
    if not gone:
        wheel.touch()
    record = json.dumps({"url": wheel.as_uri(), "archive_info": {}})
    # not of one class: a backport of importlib.metadata, which other packages import, finds packages by its own
    monkeypatch.setattr(type(metadata.distribution("icf-utils")), "read_text", lambda *_: record)
    found = find_installation()
    assert (found.source, found.editable) == ("" if gone else str(wheel), False)


def test_an_index_needs_no_name_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "find_installation", lambda: Installation("pip", python="/p"))
    assert "icf-utils" not in str(missing_package("pynetdicom", "intake"))


def test_the_package_runs_as_a_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "icf_utils", "--version"]
    done = subprocess.run(
        command, check=True, capture_output=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.stdout.decode() == icf("--version").out
