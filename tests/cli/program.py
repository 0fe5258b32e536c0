"""Running the program as users do: in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from icf_utils.cli.json_results import output_schema, result_types
from icf_utils.cli.main import main

#: Python as the tests run it; a warning of the program's is an error.
PYTHON = (sys.executable, "-W", "error")
PROGRAM = (*PYTHON, "-m", "icf_utils.cli.main")
COMMANDS = (
    "make_studyvisit_archive",
    "deposit_visit_metadata",
    "deposit_visit_dataset",
    "catalogify_studyvisit_from_meta",
    "verify",
)
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ran:
    """How a program ended and what it said; both outputs must be UTF-8."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object that is all of the standard output."""
        assert self.out.endswith("}\n"), self.out
        assert self.out.count("\n") == 1, self.out
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


def surrounding(**environment: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **environment}


def icf(*arguments: str | bytes | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Ran:
    """Run ``icf-utils`` with ``arguments``; ``env`` is added to the environment."""
    ran = run(*PROGRAM, *arguments, env=env, cwd=cwd)
    if ran.out.startswith('{"command": '):
        check_output(ran.json)
    return ran


def check_output(printed: dict[str, Any]) -> None:
    """What a command printed with ``--json`` is what its schema says, and nothing else."""
    command = printed["command"] or "version"
    if command in result_types() and (printed["command"] or printed["ok"]):
        Draft202012Validator(output_schema(command, closed=True)).validate(printed)
    elif printed["ok"]:
        raise AssertionError(f"'{printed['command']}' has no schema: see icf_utils/cli/json_results.py")


def run(*command: str | bytes | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Ran:
    done = subprocess.run(
        command, env=surrounding(**(env or {})), cwd=cwd, capture_output=True, check=False, timeout=120, stdin=-3
    )
    ran = Ran(done.returncode, done.stdout.decode(), done.stderr.decode())
    for text in (ran.out, ran.err):
        assert "Traceback" not in text, text
        assert "Exception ignored" not in text, text
    return ran


def stage_commands(root: Path, source: Path, visit: str = "v1", study: str = "study-a") -> list[tuple[str | Path, ...]]:
    """The arguments of the four stages of a visit, and of its verification."""
    store: tuple[str | Path, ...] = ("-o", root, "--id", study, visit)
    return [
        (COMMANDS[0], *store, source),
        (COMMANDS[1], *store),
        (COMMANDS[2], *store, "--store-url", "https://data.example.org/store"),
        (COMMANDS[3], *store),
        (COMMANDS[4], *store),
    ]


class Inside:
    """The same in this process, which is much faster; for what does not depend on the process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str | Path) -> Ran:
        self._capsys.readouterr()
        code = main(list(map(str, arguments)))
        return Ran(code, *self._capsys.readouterr())
