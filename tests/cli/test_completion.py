"""Completion as shells do it, with the script that ``icf-utils completion`` prints."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cli.program import icf

#: Calls the function that the script registers, as bash does when the Tab key is pressed.
_BASH = """
eval "$(icf-utils completion bash)"
COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9
read -ra COMP_WORDS <<<"$1"
[[ $1 == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_python_argcomplete "${COMP_WORDS[0]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
_FISH = 'icf-utils completion fish | source; complete -C "$argv[1]"'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a store in it, and the programs under their names."""
    for visit in ("study-a/v1", "study-a/v2", "study-b/w1"):
        archive = tmp_path / "store" / f"{visit}_dicom.tar"
        archive.parent.mkdir(parents=True, exist_ok=True)
        archive.touch()
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("icf-utils", "make_studyvisit_archive"):
        call = "main()" if name == "icf-utils" else f"main([{name!r}, *sys.argv[1:]])"
        (programs / name).write_text(
            f"#!{sys.executable}\nimport sys\nfrom icf_utils.cli.main import main\nsys.exit({call})\n", encoding="utf-8"
        )
        (programs / name).chmod(0o755)
    return tmp_path


def completions(place: Path, shell: Sequence[str], line: str) -> list[str]:
    """What the shell offers for a line, without descriptions and the blank after the only one."""
    if shutil.which(shell[0]) is None:
        pytest.skip(f"{shell[0]} is not installed")
    paths = {"PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [*shell, line], cwd=place, env={**os.environ, **paths}, capture_output=True, text=True, check=True, timeout=120
    )
    return sorted(found.partition("\t")[0].strip() for found in ran.stdout.splitlines() if found.strip())


LINES = [
    ("icf-utils st", ["status", "study-uid"]),
    ("icf-utils sessions --settings x g", ["get"]),
    ("icf-utils sessions get --se", ["--sender", "--settings"]),
    ("icf-utils run --until a", ["archive"]),
    ("icf-utils verify -o store ", ["study-a", "study-b"]),
    ("icf-utils verify -o store study-a/", ["study-a/v1", "study-a/v2"]),
    ("icf-utils verify -o store --id study-b ", ["w1"]),
    ("icf-utils run -j ", []),
    ("make_studyvisit_archive -o store --id study-a ", ["v1", "v2"]),
]


@pytest.mark.parametrize(("line", "expected"), LINES)
def test_bash(place: Path, line: str, expected: list[str]) -> None:
    assert completions(place, ("bash", "-c", _BASH, "bash"), line) == expected


@pytest.mark.parametrize(("line", "expected"), LINES[::3])
def test_fish(place: Path, line: str, expected: list[str]) -> None:
    assert completions(place, ("fish", "--no-config", "-c", _FISH), line) == expected


def test_zsh(place: Path) -> None:
    """In a terminal: zsh completes in its line editor only."""
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    pexpect = pytest.importorskip("pexpect")
    paths = {"PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(sys.path)}
    shell = pexpect.spawn("zsh -f", cwd=place, env={**os.environ, **paths}, encoding="utf-8", timeout=120)
    try:
        shell.sendline("autoload -U compinit; compinit -u -D; PS1='>> '")
        shell.expect_exact(">> ", timeout=60)
        shell.sendline('eval "$(icf-utils completion zsh)"; echo lo""aded')
        shell.expect_exact("loaded")
        shell.send("icf-utils verify -o store --id study-b \t")
        shell.expect_exact("w1")
        shell.send("\x15icf-utils se\t")
        shell.expect_exact("list the receiver's sessions")
    finally:
        shell.close(force=True)


def test_the_script_is_printed_even_if_quiet() -> None:
    assert icf("completion", "bash", "-q").out == icf("completion", "bash").out
    assert icf("completion", "tcsh").code == 2
