"""What is handed out: complete, the same bytes wherever it is built, and true in what it declares."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from scripts.matrix import EXTRAS, RESOLUTIONS, declared_pythons
from tests.cli.program import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

#: Files of the repository that are not handed out.
KEPT_BACK = (".ci/", ".github/", ".gitignore")


def tracked() -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("this is not a Git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout.decode()
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def build(source: Path, target: Path, *, umask: int) -> dict[str, str]:
    """The digests of what hatchling builds from a folder."""
    command = [sys.executable, "-W", "ignore", "-m", "hatchling", "build", "-d", str(target)]
    environment = {key: value for key, value in os.environ.items() if key != "SOURCE_DATE_EPOCH"}
    done = subprocess.run(
        command, cwd=source, env=environment, check=False, capture_output=True, text=True, umask=umask
    )
    assert done.returncode == 0, done.stderr
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(target.iterdir())}


@pytest.mark.skipif(find_spec("hatchling") is None, reason="hatchling, which builds the wheel, is not installed")
def test_the_same_bytes_and_all_files(tmp_path: Path) -> None:
    names = tracked()
    for name in names:  # a copy with other times and modes
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / "copy" / name)
        (tmp_path / "copy" / name).chmod(0o700 if os.access(ROOT / name, os.X_OK) else 0o600)
    digests = build(tmp_path / "copy", tmp_path / "first", umask=0o077)
    (sdist,) = (tmp_path / "first").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        packed = {member.name.partition("/")[2] for member in archive}
        if sys.version_info >= (3, 12):
            archive.extractall(tmp_path / "unpacked", filter="data")
        else:
            archive.extractall(tmp_path / "unpacked")
    assert packed - {"PKG-INFO", ".gitignore"} == {name for name in names if not name.startswith(KEPT_BACK)}
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert build(unpacked, tmp_path / "second", umask=0o022) == digests


def test_bounds_keep_private_parts_known() -> None:
    """What is used beyond the public interface of a package has an upper bound."""
    extras = PROJECT["optional-dependencies"]
    every = [*PROJECT["dependencies"], *(requirement for extra in extras.values() for requirement in extra)]
    for package in ("pynetdicom", "datalad-catalog", "urllib3"):
        found = {requirement for requirement in every if re.match(rf"{package}\b", requirement)}
        assert found
        assert all(re.search(r",<\d", requirement) for requirement in found), found


def test_declared_pythons() -> None:
    versions = declared_pythons((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert PROJECT["requires-python"] == f">={versions[0]}"
    assert versions == [f"3.{minor}" for minor in range(10, 10 + len(versions))]


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_all_extras_can_be_resolved(resolution: str, tmp_path: Path) -> None:
    """For every declared Python, at the same time: nearly all of it is waiting for the package index."""
    if find_spec("uv") is None:
        pytest.skip("uv, which resolves requirements for other versions of Python, is not installed")
    versions = declared_pythons((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    started = {version: _resolve(version, resolution, tmp_path / version) for version in versions}
    ended = {version: (process, process.communicate()[1]) for version, process in started.items()}
    for version, (process, message) in ended.items():
        if re.search(r"Failed to fetch|error sending request|dns error", message):
            pytest.skip("no package index can be reached")
        assert process.returncode == 0, f"{version}: {message}"
        assert "obstore==" in (tmp_path / version).read_text(encoding="utf-8")


def _resolve(version: str, resolution: str, locked: Path) -> subprocess.Popen[str]:
    options = ["--python-version", version, *RESOLUTIONS[resolution]]
    options += [part for extra in EXTRAS.split(",") for part in ("--extra", extra)]
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", *options, "-o", str(locked)]
    return subprocess.Popen([*command, "pyproject.toml"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
