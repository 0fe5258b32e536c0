"""What the program says of itself, and that it costs nothing."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from pathlib import Path

import pytest

import icf_utils
from icf_utils.cli.parser import build_parser
from tests.cli.program import COMMANDS, PYTHON, icf, run, stage_commands
from tests.verify.stores import make_visit

#: What takes long to load; each is loaded by the commands that need it, when they need it.
HEAVY = (
    *("datalad", "datalad_catalog", "datalad_next", "git", "jsonschema", "numpy", "pydicom", "tqdm", "zstandard"),
    *("pynetdicom", "requests", "flask", "waitress", "psycopg", "obstore", "PIL", "sqlite3"),
)

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


def subcommands(parser: argparse.ArgumentParser | None = None, above: str = "") -> list[str]:
    """All there are, from the program itself: a command of a group with the group's name before it."""
    found = []
    for action in (parser or build_parser())._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                words = f"{above} {name}".lstrip()
                found += subcommands(child, words) or [words]
    return found


def test_the_stages_are_subcommands() -> None:
    assert set(COMMANDS) <= set(subcommands())


@pytest.mark.parametrize("command", subcommands())
def test_help_of_a_command(command: str) -> None:
    ran = icf(*command.split(), "--help")
    assert (ran.code, ran.err) == (0, "")
    assert f"usage: icf-utils {command}" in ran.out
    (example,) = ran.out.split("example:\n")[1:]
    words = shlex.split(example)
    assert words[: 1 + len(command.split())] == ["icf-utils", *command.split()]
    assert build_parser().parse_args(words[1:]).command == command
    usage, sections = ran.out.split("\n\n", 1)
    required = _required_options(command)
    assert [option for option in required if f"[{option} " in usage] == []
    assert set(re.findall(r"^  (?:-\w [^,]*, )?(--[a-z-]+)", _section(sections, "required options:"), re.M)) == required


def _required_options(command: str) -> set[str]:
    parser: argparse.ArgumentParser = build_parser()
    for word in command.split():
        (below,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        parser = below.choices[word]
    return {action.option_strings[-1] for action in parser._actions if action.option_strings and action.required}


def _section(text: str, title: str) -> str:
    return next((part for part in text.split("\n\n") if part.startswith(title)), "")


def test_required_options_after_a_mistake() -> None:
    ran = icf("visit", "replace", "--id", "a", "b", "input")
    assert (ran.code, "[--reason" in ran.err, "--reason TEXT" in ran.err) == (2, False, True)


def test_help_of_the_program() -> None:
    ran = icf("--help")
    assert (ran.code, ran.err) == (0, "")
    for command in {words.split()[0] for words in subcommands()}:
        assert f"\n    {command} " in ran.out or f"\n    {command}\n" in ran.out


def test_version() -> None:
    ran = icf("--version")
    assert (ran.code, ran.out, ran.err) == (0, f"icf-utils {icf_utils.__version__}\n", "")


def test_versions_for_a_report() -> None:
    ran = icf("--version", "-v")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0].split() == ["icf-utils", icf_utils.__version__]
    names = [line.split()[0] for line in lines]
    assert {"Python", "git", "git-annex", "datalad", "pydicom", "extras:"} <= set(names)
    result = icf("--json", "--version", "--verbose").json["result"]
    assert result["version"] == icf_utils.__version__
    assert set(result["extras"]) == {"clone", "cloud", "intake", "previews", "xnat"}
    assert "-v/--verbose needs --version" in icf("-v").err


def test_doctor(source: Path, root: Path) -> None:
    make_visit(source, root)
    (root / "icf.toml").write_text(f"[store]\nurl = '{root.as_uri()}'\n", encoding="utf-8")
    ran = icf("doctor", root)
    assert ran.code == 0
    assert f"\nok       store: '{root}': 1 study, 1 visit\n" in ran.out
    assert f"\nok       address: {root.as_uri()}\n" in ran.out
    assert re.fullmatch(r"\d+ checks: 0 failed, \d+ warnings?", ran.out.splitlines()[-1])
    quiet = icf("doctor", "-q", root)  # the same warnings, nothing else
    assert (quiet.code, quiet.out) == (0, "")
    assert quiet.err.count("warning: ") == len(re.findall("(?m)^warning ", ran.out))
    (root / "icf.toml").write_text("[store]\nadress = ''\n", encoding="utf-8")
    ran = icf("doctor", "-o", root, "--json")
    assert (ran.code, ran.json["ok"]) == (1, False)
    assert "failed" in {check["state"] for check in ran.json["result"]["checks"] if check["subject"] == "settings"}
    assert icf("doctor", root, "-o", root).code == 2


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("command", ["", *subcommands()])
def test_help_loads_nothing_heavy(command: str) -> None:
    modules = loaded(*command.split(), "--help")
    assert not modules & {*HEAVY, "asyncio", "importlib.metadata", "urllib.request"}
    assert not [name for name in modules if name.startswith("icf_utils.") and name.endswith(".stage")]


@pytest.mark.usefixtures("unmeasured")
def test_stages_load_what_they_need(source: Path, root: Path) -> None:
    """pydicom loads libraries of its own: for downloads, and for pixels where they are there."""
    dicom = {"pydicom", "tqdm", "requests", "numpy", "PIL"}
    needed: tuple[set[str], ...] = (dicom, dicom, {"git"}, {"jsonschema"}, {*dicom, "jsonschema"})
    for arguments, allowed in zip(stage_commands(root, source), needed, strict=True):
        assert (loaded(*arguments) & set(HEAVY)) <= allowed, arguments[0]


@pytest.mark.usefixtures("unmeasured")
def test_importing_the_package_loads_nothing() -> None:
    program = "import json, sys; before = set(sys.modules); import icf_utils; print(json.dumps(sorted(sys.modules)))"
    modules = set(json.loads(run(*PYTHON, "-c", program).out))
    assert not modules & {*HEAVY, "argparse", "tarfile", "zipfile"}
    assert {name for name in modules if name.startswith("icf_utils")} == {"icf_utils"}
