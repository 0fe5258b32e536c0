"""What the program says of itself, and that it costs nothing."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

import pytest

import icf_utils
from icf_utils.cli.main import build_parser
from tests.cli.program import COMMANDS, PYTHON, icf, run, steps

#: What takes long to load; each is loaded by the commands that need it, when they need it.
HEAVY = ("datalad", "datalad_catalog", "datalad_next", "git", "jsonschema", "numpy", "pydicom", "tqdm", "zstandard")

_MODULES = """
import json, sys
from icf_utils.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
print("\\n" + json.dumps([code, sorted(sys.modules)]))
"""


def loaded(*arguments: str | Path) -> set[str]:
    """The modules in memory after a command that succeeds."""
    code, modules = json.loads(run(*PYTHON, "-c", _MODULES, *arguments).out.splitlines()[-1])
    assert code == 0
    return set(modules)


def subcommands() -> list[str]:
    """All there are, from the program itself."""
    (choices,) = (item.choices for item in build_parser()._actions if isinstance(item, argparse._SubParsersAction))
    return list(choices)


def test_the_steps_are_subcommands() -> None:
    assert set(COMMANDS) <= set(subcommands())


@pytest.mark.parametrize("command", subcommands())
def test_help_of_a_command(command: str) -> None:
    ran = icf(command, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert f"usage: icf-utils {command}" in ran.out
    (example,) = ran.out.split("example:\n")[1:]
    words = shlex.split(example)
    assert words[:2] == ["icf-utils", command]
    assert build_parser().parse_args(words[1:]).command == command


def test_help_of_the_program() -> None:
    ran = icf("--help")
    assert (ran.code, ran.err) == (0, "")
    for command in subcommands():
        assert f"\n    {command} " in ran.out or f"\n    {command}\n" in ran.out


def test_version() -> None:
    ran = icf("--version")
    assert (ran.code, ran.out, ran.err) == (0, f"icf-utils {icf_utils.__version__}\n", "")


@pytest.mark.parametrize("command", ["", *subcommands()])
def test_help_loads_nothing_heavy(command: str) -> None:
    modules = loaded(*filter(None, [command]), "--help")
    assert not modules & {*HEAVY, "asyncio", "importlib.metadata", "urllib.request"}
    assert not [name for name in modules if name.startswith("icf_utils.") and name.endswith(".stage")]


def test_steps_load_what_they_need(source: Path, root: Path) -> None:
    """pydicom loads tqdm, for downloads of its own."""
    needed: tuple[set[str], ...] = (
        set(),
        {"pydicom", "tqdm"},
        {"git"},
        {"jsonschema"},
        {"pydicom", "tqdm", "jsonschema"},
    )
    for arguments, allowed in zip(steps(root, source), needed, strict=True):
        assert (loaded(*arguments) & set(HEAVY)) <= allowed, arguments[0]


def test_importing_the_package_loads_nothing() -> None:
    program = "import json, sys; before = set(sys.modules); import icf_utils; print(json.dumps(sorted(sys.modules)))"
    modules = set(json.loads(run(*PYTHON, "-c", program).out))
    assert not modules & {*HEAVY, "argparse", "tarfile", "zipfile"}
    assert {name for name in modules if name.startswith("icf_utils")} == {"icf_utils"}
