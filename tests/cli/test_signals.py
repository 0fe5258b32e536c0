"""Ended at any moment: nothing half-written under a final name, and the same command again completes."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from icf_utils.cli.main import main
from tests.cli.program import COMMANDS, PROGRAM, PYTHON, stage_commands, surrounding
from tests.verify.stores import STUDY, are_sums, contents, make_visit, write_input


def start(arguments: tuple[str | Path, ...], *, ignoring: int = 0) -> subprocess.Popen[str]:
    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if ignoring:
            signal.signal(ignoring, signal.SIG_IGN)

    return subprocess.Popen(
        [*PROGRAM, *map(str, arguments)],
        env=surrounding(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=prepare,  # noqa: PLW1509 - no threads of ours
    )


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An input that takes a while: a file with a hole."""
    source = write_input(tmp_path_factory.mktemp("large") / "in")
    with open(source / "hole.bin", "wb") as handle:
        handle.truncate(600 << 20)
    return source


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated"), (signal.SIGHUP, 143, "terminated")],
)
def test_in_the_middle_of_an_archive(large: Path, root: Path, number: int, code: int, word: str) -> None:
    part = root / STUDY / ".icf" / "v1_dicom.tar.part"
    options = ("--json",) if number == signal.SIGTERM else ()
    with start((*stage_commands(root, large)[0], *options)) as process:
        wait_for(lambda: part.exists() and part.stat().st_size > 1 << 20)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert err == f"icf-utils {COMMANDS[0]}: {word}; nothing half-written was left behind\n"
    assert bool(out) == bool(options)
    if options:
        assert f'"exit_code": {code}, "error": {{"type": "{word.capitalize()}"' in out
    assert list(root.iterdir()) == []


def test_nohup(source: Path, root: Path, large: Path) -> None:
    """Whoever says that the terminal may go is obeyed."""
    part = root / STUDY / ".icf" / "v1_dicom.tar.part"
    with start(stage_commands(root, large)[0], ignoring=signal.SIGHUP) as process:
        wait_for(lambda: part.exists() and part.stat().st_size > 1 << 20)
        process.send_signal(signal.SIGHUP)
        time.sleep(0.1)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 143


#: Sends a signal to itself before or after the n-th time that the program changes something on the disk.
_AT = """
import os, signal, sys
when, number, at = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
signal.signal(signal.SIGINT, signal.default_int_handler)
count = 0
def wrapped(call):
    def counting(*args, **options):
        global count
        count += 1
        now = count == at
        if now and when == "before":
            os.kill(os.getpid(), number)
        try:
            return call(*args, **options)
        finally:
            if now and when == "after":
                os.kill(os.getpid(), number)
    return counting
from icf_utils.cli.main import main
for name in ("open", "link", "unlink", "rename", "replace", "fsync", "mkdir", "rmdir", "writev", "pwrite"):
    setattr(os, name, wrapped(getattr(os, name)))
code = main(sys.argv[4:])
print(count, file=sys.stderr)
sys.exit(code)
"""


CODES: dict[int, int] = {signal.SIGTERM: 143, signal.SIGKILL: -9}


def run_until(arguments: tuple[str | Path, ...], when: str, number: int, at: int) -> tuple[int, str]:
    done = subprocess.run(
        [*PYTHON, "-c", _AT, when, str(number), str(at), *map(str, arguments)],
        env=surrounding(),
        capture_output=True,
        check=False,
        text=True,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_at_any_moment(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: int, number: int
) -> None:
    expected = contents(make_visit(source, tmp_path / "expected").root)
    chance = random.Random(f"{stage} {number}")
    code, err = run_until(prepared(source, tmp_path / "count", stage, capsys), "before", number, at=10**6)
    assert code == 0
    moments = int(err.splitlines()[-1])
    assert moments >= 10
    for at in chance.sample(range(1, moments + 1), 3):
        for when in ("before", "after"):
            root = tmp_path / f"{at}{when}"
            arguments = prepared(source, root, stage, capsys)
            code, err = run_until(arguments, when, number, at)
            assert code == CODES[number], (at, when, err)
            left = contents(root)
            whole = {name: data for name, data in left.items() if f"{STUDY}/.icf/" not in name}
            assert all(is_right(name, data, expected) for name, data in whole.items()), (at, when)
            assert main(list(map(str, arguments))) == 0
            assert "Traceback" not in capsys.readouterr().err
            made = {name: data for name, data in contents(root).items() if "/handover/" not in name}
            assert all(is_right(name, data, expected) for name, data in made.items()), (at, when, number)
            assert {path.name for path in (root / STUDY / ".icf").glob("*")} <= ({"handover"} if stage == 0 else set())


def is_right(name: str, data: bytes, expected: Mapping[str, bytes]) -> bool:
    return data == expected[name] or are_sums(name, data, expected[name])


def prepared(source: Path, root: Path, stage: int, capsys: pytest.CaptureFixture[str]) -> tuple[str | Path, ...]:
    """Run the stages before one; returns the arguments of that one."""
    for arguments in stage_commands(root, source)[:stage]:
        assert main(list(map(str, arguments))) == 0
    capsys.readouterr()
    return stage_commands(root, source)[stage]


def test_a_second_signal_does_not_stop_the_tidying(large: Path, root: Path) -> None:
    part = root / STUDY / ".icf" / "v1_dicom.tar.part"
    with start(stage_commands(root, large)[0]) as process:
        wait_for(lambda: part.exists() and part.stat().st_size > 1 << 20)
        for _ in range(20):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.001)
        process.communicate(timeout=30)
    assert process.returncode == 143
    assert list(root.iterdir()) == []
