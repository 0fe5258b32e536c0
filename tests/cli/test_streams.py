"""Outputs that are closed, broken or full: never a traceback, and what was done counts."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.program import COMMANDS, PROGRAM, PYTHON, icf, run, stage_commands, surrounding
from tests.verify.stores import STUDY, contents, make_visit


@contextmanager
def broken_pipe() -> Iterator[int]:
    """The writing end of a pipe that nobody reads, as after ``| head -0``."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        yield writing
    finally:
        os.close(writing)


def attempt(arguments: tuple[str | Path, ...], *, stdout: int, stderr: int = subprocess.PIPE) -> tuple[int, str]:
    done = subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        env=surrounding(),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        check=False,
    )
    text = (done.stderr or b"").decode()
    assert "Traceback" not in text
    assert "Exception ignored" not in text
    return done.returncode, text


def test_nobody_reads_the_result(source: Path, root: Path) -> None:
    for arguments in stage_commands(root, source):
        with broken_pipe() as pipe:
            code, err = attempt((*arguments, "--json"), stdout=pipe)
        assert (code, err) == (0, "")
    assert icf(*stage_commands(root, source)[4]).code == 0


def test_nobody_reads_anything(source: Path, root: Path) -> None:
    for arguments in stage_commands(root, source):
        with broken_pipe() as pipe:
            assert attempt(arguments, stdout=pipe, stderr=pipe) == (0, "")
    (root / STUDY / "v1_dicom.tar.md5sum").write_text("x")
    with broken_pipe() as pipe:
        assert attempt(stage_commands(root, source)[4], stdout=pipe, stderr=pipe)[0] == 1
        assert attempt(stage_commands(root, source / "nowhere")[0], stdout=pipe, stderr=pipe)[0] == 3
        assert attempt(stage_commands(root, source / "nowhere")[0], stdout=pipe)[0] == 3


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("verify", "--help"), ("nonsense",)])
def test_nobody_reads_the_help(arguments: tuple[str, ...]) -> None:
    with broken_pipe() as pipe:
        assert attempt(arguments, stdout=pipe)[0] in (0, 2)
        assert attempt(arguments, stdout=pipe, stderr=pipe)[0] in (0, 2)


def test_no_room_for_the_result(source: Path, root: Path) -> None:
    """The deposit is made; that nobody could be told of it is an error."""
    for at, arguments in enumerate(stage_commands(root, source)):
        full = os.open("/dev/full", os.O_WRONLY)
        code, err = attempt((*arguments, *([] if at % 2 else ["--json"])), stdout=full)
        os.close(full)
        assert code == 6
        assert "cannot write to 'standard output': No space left on device" in err
    assert icf(*stage_commands(root, source)[4]).code == 0


def test_no_room_for_messages(source: Path, root: Path) -> None:
    for arguments in stage_commands(root, source):
        full = os.open("/dev/full", os.O_WRONLY)
        assert attempt(arguments, stdout=subprocess.DEVNULL, stderr=full)[0] == 0
        os.close(full)


_CLOSED = """
import os, sys
for descriptor in map(int, sys.argv[1].split(",")):
    os.close(descriptor)
os.execv(sys.executable, [sys.executable, "-W", "error", "-m", "icf_utils.cli.main", *sys.argv[2:]])
"""


@pytest.mark.parametrize("closed", ["1", "2", "0,1,2"])
def test_closed_streams(source: Path, root: Path, tmp_path: Path, closed: str) -> None:
    """Nothing that is printed may end in a file of the store that got the stream's number."""
    make_visit(source, tmp_path / "expected")
    for arguments in stage_commands(root, source):
        ran = run(*PYTHON, "-c", _CLOSED, closed, *arguments)
        assert ran.code == 0
        assert bool(ran.out) != ("1" in closed)
        assert bool(ran.err) != ("2" in closed)
    assert contents(root) == contents(tmp_path / "expected")
    assert run(*PYTHON, "-c", _CLOSED, closed, *stage_commands(root, source / "nowhere")[0]).code == 3


@contextmanager
def small_disk(folder: Path, kibibytes: int) -> Iterator[None]:
    command = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(path: Path, leave: int) -> None:
    """Take all room but ``leave`` bytes."""
    with open(path, "wb", buffering=0) as handle:
        try:
            while True:
                handle.write(bytes(4096))
        except OSError:
            handle.truncate(max(0, handle.tell() - leave))


@pytest.mark.parametrize("leave", [0, 8192])
def test_a_full_disk(source: Path, root: Path, tmp_path: Path, leave: int) -> None:
    """Every stage says so, leaves nothing, and completes when there is room."""
    make_visit(source, tmp_path / "expected")
    with small_disk(root, 16384):
        for arguments in stage_commands(root, source)[:4]:
            before = contents(root)
            fill(root / "ballast", leave if arguments[0] != COMMANDS[1] else 0)
            ran = icf(*arguments)
            (root / "ballast").unlink()
            assert ran.code == 6, ran
            assert "No space left on device. Nothing half-written was left behind; free some space" in ran.err
            if arguments[0] != COMMANDS[3]:
                assert contents(root) == before
            else:  # a catalog's files are whole one by one
                expected = contents(tmp_path / "expected")
                assert all(expected[name] == data for name, data in contents(root).items())
            assert icf(*arguments).code == 0
        assert icf(*stage_commands(root, source)[4]).code == 0
        assert contents(root) == contents(tmp_path / "expected")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("verify", "--json", "-o", "nowhere"), 2, "'nowhere' is not a store"),
        (("nonsense", "--json"), 2, "unknown command"),
        (("--help",), 6, "cannot write to 'standard output': No space left on device"),
        (("--version",), 6, "cannot write to 'standard output': No space left on device"),
    ],
)
def test_no_room_for_an_error_or_the_help(arguments: tuple[str, ...], code: int, message: str) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    found, err = attempt(arguments, stdout=full)
    os.close(full)
    assert found == code
    assert message in err
    assert "Traceback" not in err
