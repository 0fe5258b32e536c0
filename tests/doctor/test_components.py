"""Programs, packages and extras: what is there, what is missing, what is too old, what does not work."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from icf_utils.doctor import components
from icf_utils.doctor.components import EXTRAS, Program, check_extra, check_installation, list_components


def test_the_versions_that_a_report_should_name() -> None:
    found = {one.name: one for one in list_components()}
    assert list(found)[:2] == ["icf-utils", "Python"]
    assert {"git", "git-annex", "datalad", "pydicom", "datalad-catalog"} <= set(found)
    assert found["pydicom"].version


def test_every_extra_for_users_is_examined() -> None:
    subjects = [check.subject for check in check_installation()]
    assert {f"extra {extra}" for extra in EXTRAS} < set(subjects)


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "good", "echo good version 1.20.3 of 2024")
    program(tmp_path, "bad", "echo cannot find my library >&2; exit 127")
    program(tmp_path, "nosy", 'test -z "$XNAT_PASS" && echo 1.0')
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XNAT_PASS", "hunter2")
    found = [components._check_program(Program(name, "for a test")) for name in ("good", "bad", "nosy", "no-such")]
    assert [check.state for check in found] == ["ok", "warning", "ok", "absent"]
    assert found[0].message == f"1.20.3 ({tmp_path}/good)"
    assert "cannot find my library" in found[1].message
    assert found[3].message == "not found; for a test"


def test_a_program_whose_version_another_one_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Like ``ssh-keygen``, which has no option for it."""
    program(tmp_path, "keys", "exit 1")
    program(tmp_path, "shell", "echo OpenSSH_8.4p1 Invented, OpenSSL 3.0 >&2")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = [
        components._check_program(Program("keys", "for a test", ("-V",), asked="shell", least=least))
        for least in ("8.4", "8.9", "")
    ]
    assert [check.state for check in found] == ["ok", "warning", "ok"]
    assert found[1].message == f"8.4, expected 8.9 or later ({tmp_path}/keys)"


def test_a_program_beside_python_but_not_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "hidden", "echo 1.0")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    found = components._check_program(Program("hidden", "for a test"))
    assert (found.state, found.remedy) == ("warning", f"activate the environment, or add '{tmp_path}' to PATH")


def recorded(monkeypatch: pytest.MonkeyPatch, *requirements: str) -> None:
    """What the package's metadata says of an extra: data of an installation, not code."""
    monkeypatch.setattr(components, "requirements_of", lambda extra="": list(requirements))


def test_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(monkeypatch, "pydicom>=1.0", "numpy; python_version < '3'")
    assert check_extra("cloud").state == "ok"
    recorded(monkeypatch, "pydicom>=99.0", "tqdm>=1")
    found = check_extra("cloud")
    assert (found.state, "expected >=99.0" in found.message, bool(found.remedy)) == ("warning", True, True)
    recorded(monkeypatch, "no-such-package-at-all")
    assert check_extra("cloud").state == "absent"
    recorded(monkeypatch)
    assert check_extra("cloud").state == "skipped"


def test_a_required_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(monkeypatch, "pydicom>=99.0", "no-such-package-at-all")
    found = {check.subject: check for check in check_installation()}["Python packages"]
    assert found.state == "failed"
    assert "no-such-package-at-all is not installed" in found.message
