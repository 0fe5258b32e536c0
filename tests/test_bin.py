"""The commands by their former names: as programs, as modules, and in the wheel."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec, module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

from icf_utils import ArchiveResult, CatalogResult, DatasetResult, MetadataResult, __version__
from icf_utils.errors import InvalidIdentifier
from tests.cli.program import ROOT, Ran, icf, run, stage_commands
from tests.verify.stores import STUDY, contents, write_input

BIN = ROOT / "bin"
VERSIONED = f"icf_utils-{__version__}"
NAMES = (
    "make_studyvisit_archive",
    "deposit_visit_metadata",
    "deposit_visit_dataset",
    "catalogify_studyvisit_from_meta",
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_input(tmp_path / "in")


def load(name: str) -> Any:
    """The module in a file of ``bin``, as callers load it; nothing is written beside it."""
    loader = SourceFileLoader(f"bin_{name}", str(BIN / name))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


def test_the_files() -> None:
    assert sorted(path.name for path in BIN.iterdir() if path.name != "__pycache__") == sorted(NAMES)
    for name in NAMES:
        assert (BIN / name).read_text().startswith("#!/usr/bin/env python3\n")
        assert os.access(BIN / name, os.X_OK)


@pytest.mark.parametrize("name", NAMES)
def test_help_is_the_subcommands(name: str) -> None:
    assert run(sys.executable, BIN / name, "--help") == icf(name, "--help")
    usage = run(sys.executable, BIN / name)
    assert (usage.code, usage) == (2, icf(name))


def test_as_programs(source: Path, tmp_path: Path) -> None:
    """Executable as they are, and doing the same."""
    path = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    for arguments in stage_commands(tmp_path / "store", source)[:4]:
        name, *rest = arguments
        assert run(BIN / str(name), *rest, "-q", env=path) == Ran(0, "", "")
    for arguments in stage_commands(tmp_path / "expected", source)[:4]:
        assert icf(*arguments, "-q").code == 0
    assert contents(tmp_path / "store") == contents(tmp_path / "expected")
    ran = run(BIN / NAMES[1], "-o", tmp_path / "nowhere", "--id", "a", "b", "--json", env=path)
    assert (ran.code, ran.json["command"]) == (5, NAMES[1])


@pytest.mark.parametrize("kind", [str, Path])
def test_as_modules(source: Path, tmp_path: Path, kind: Callable[[Path], str | Path]) -> None:
    store = kind(tmp_path / "store")
    archive, metadata, dataset, catalog = (load(name).main for name in NAMES)
    assert isinstance(archive(kind(source), store, STUDY, "v1"), ArchiveResult)
    assert isinstance(metadata(store, STUDY, "v1"), MetadataResult)
    deposited = dataset(store, "https://data.example.org/store", STUDY, "v1")
    assert isinstance(deposited, DatasetResult)
    assert "https://data.example.org/store/study-a/v1_" in deposited.clone_url
    assert isinstance(catalog(store, STUDY, "v1"), CatalogResult)
    for arguments in stage_commands(tmp_path / "expected", source)[:4]:
        assert icf(*arguments, "-q").code == 0
    assert contents(tmp_path / "store") == contents(tmp_path / "expected")


def test_arguments_by_their_names(source: Path, tmp_path: Path) -> None:
    expected = (
        ["input_base_dir", "output_base_dir", "study_id", "visit_id"],
        ["store_dir", "study_id", "visit_id"],
        ["store_dir", "store_url", "study_id", "visit_id"],
        ["store_dir", "study_id", "visit_id"],
    )
    for name, parameters in zip(NAMES, expected, strict=True):
        assert list(inspect.signature(load(name).main).parameters) == parameters
    load(NAMES[0]).main(input_base_dir=source, output_base_dir=tmp_path, study_id="s", visit_id="v")
    assert (tmp_path / "s" / "v_dicom.tar").exists()


@pytest.mark.parametrize("name", NAMES)
def test_errors_of_a_module_are_raised(name: str, tmp_path: Path) -> None:
    main = load(name).main
    values = {"study_id": "../x", "visit_id": "v", "store_url": "https://example.org"}
    arguments = [values.get(parameter, tmp_path) for parameter in inspect.signature(main).parameters]
    with pytest.raises(InvalidIdentifier):
        main(*arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_spec("hatchling") is None or find_spec("pip") is None:
        pytest.skip("hatchling, which builds the wheel, is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "-q")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", str(ROOT), *options, "-w", str(folder)],
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (made,) = folder.glob("*.whl")
    return made


def test_what_a_wheel_holds(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "icf_utils").rglob("*.py")}
    assert modules <= names
    assert {"icf_utils/py.typed", "icf_utils/dicom/confidentiality_profile.txt"} <= names
    assert {f"{VERSIONED}.data/scripts/{name}" for name in NAMES} <= names
    data = {name.removeprefix(f"{VERSIONED}.data/data/share/") for name in names}
    examples = [path for path in (ROOT / "docs/examples").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert {"man/man1/icf-utils.1", "bash-completion/completions/icf-utils", "zsh/site-functions/_icf-utils"} <= data
    assert {f"doc/icf-utils/{path.relative_to(ROOT / 'docs')}" for path in examples} <= data
    assert {name.split("/")[0] for name in names} == {"icf_utils", f"{VERSIONED}.data", f"{VERSIONED}.dist-info"}
    assert not [name for name in names if re.search(r"(^|/)(tests|docs|bin|__pycache__)/|\.pyc$", name)]


def test_an_installed_wheel(wheel: Path, source: Path, tmp_path: Path) -> None:
    """The scripts run with the Python that they were installed with, away from this folder."""
    target = tmp_path / "site"
    options = ("--no-deps", "--no-index", "--disable-pip-version-check", "-q", "--target", str(target))
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True, capture_output=True)
    assert (target / "bin" / NAMES[0]).read_bytes().startswith(f"#!{sys.executable}\n".encode())
    environment = {"PYTHONPATH": str(target)}
    for arguments in stage_commands(tmp_path / "store", source):
        program: tuple[str | Path, ...] = (target / "bin" / str(arguments[0]), *arguments[1:])
        if arguments[0] == "verify":
            program = (target / "bin" / "icf-utils", *arguments)
        assert run(*program, "-q", env=environment, cwd=tmp_path) == Ran(0, "", "")
    where = run(sys.executable, "-c", "import icf_utils; print(icf_utils.__file__)", env=environment, cwd=tmp_path)
    assert where.out.startswith(str(target))
