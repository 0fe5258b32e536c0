"""Measure whole processes in turn (A B A B ...), so that a machine whose speed drifts still gives fair ratios.

Wall time, CPU time and peak memory are the operating system's own account of the finished process and of the children
that it waited for.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """One finished process: seconds of wall and CPU time, peak memory of its largest process in MiB."""

    wall: float
    cpu: float
    peak: float


@dataclass(frozen=True)
class Command:
    """A command with a name for the table, and what must be done, unmeasured, before each run."""

    name: str
    arguments: Sequence[str]
    before: Callable[[], None] = lambda: None
    environment: Mapping[str, str] | None = None


def run_once(command: Command) -> Run:
    """Run a command and account for it; its output is shown only if it fails."""
    command.before()
    os.sync()
    new_stores = {"ICF_NEW_STORE": "1", "ICF_STORE_URL": "https://data.example.org"}
    environment = {**new_stores, **os.environ, **(command.environment or {})}
    started = time.perf_counter()
    process = subprocess.Popen(
        command.arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, start_new_session=True
    )
    assert process.stdout
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if process.returncode:
        raise SystemExit(f"{command.name} failed ({process.returncode}):\n{output.decode(errors='replace')[-4000:]}")
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


@dataclass(frozen=True)
class Paired:
    """Several commands run in turn; ``runs[i]`` belongs to ``commands[i]``."""

    commands: Sequence[Command]
    runs: Sequence[Sequence[Run]]

    def median(self, at: int, what: str = "wall") -> float:
        """The median of one figure of one command."""
        return float(statistics.median(getattr(run, what) for run in self.runs[at]))

    def ratios(self, at: int, what: str = "wall") -> list[float]:
        """The first command's figure over another's, pair by pair, sorted."""
        pairs = zip(self.runs[0], self.runs[at], strict=True)
        return sorted(getattr(mine, what) / getattr(other, what) for mine, other in pairs)


def paired(commands: Sequence[Command], count: int, warm_up: bool = True) -> Paired:
    """Run the commands in turn ``count`` times; before that, the first two once uncounted, for warm caches."""
    if warm_up:
        for command in commands[:2]:
            run_once(command)
    runs: list[list[Run]] = [[] for _ in commands]
    for turn in range(count):
        for own, command in zip(runs, commands, strict=True):
            own.append(run_once(command))
            print(f"  {turn + 1}/{count} {command.name}: {own[-1].wall:.2f} s", file=sys.stderr, flush=True)
    return Paired(commands, runs)


def rows(title: str, result: Paired) -> list[str]:
    """The table's lines for one comparison; the ratio is ours over theirs, median and range."""
    lines = []
    for at, command in enumerate(result.commands):
        ratio = "" if at == 0 else _spread(result.ratios(at))
        figures = f"{result.median(at):.2f} s | {result.median(at, 'cpu'):.2f} s | {result.median(at, 'peak'):.0f} MiB"
        lines.append(f"| {title if at == 0 else ''} | {command.name} | {figures} | {ratio} |")
    return lines


def _spread(ratios: list[float]) -> str:
    middle = statistics.median(ratios)
    return f"{_short(middle)} ({_short(ratios[0])} to {_short(ratios[-1])})"


def _short(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= 0.1 else f"1/{1 / ratio:.0f}"


def remover(*paths: Path) -> Callable[[], None]:
    """A preparation that removes what an earlier run has made."""

    def remove() -> None:
        for path in paths:
            subprocess.run(["rm", "-rf", str(path)], check=True)

    return remove
