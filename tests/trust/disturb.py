"""Disturb an operation, look at the store at once, run it again: what must hold after every kind of disturbance."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.trust.scene import CURATION, OPERATIONS, Done, Scene, leftovers, visible
from tests.trust.server import Ended, Server

#: System calls that change something on the disk.
CALLS = ("write", "writev", "pwrite64", "fsync", "rename", "link", "unlink", "mkdir", "rmdir")
ERRORS = ("ENOSPC", "EIO", "EACCES", "EINTR", "EDQUOT")

#: Exit codes of a command that could not do its work: some visits failed, damaged, storage, a missing program, ...
_OUR_CODES = {0, 1, 2, 3, 4, 5, 6, 7, 8, -9, 130, 143, -15}


@dataclass
class Figures:
    """What was tried: disturbances by their kind, and how commands ended."""

    tried: Counter[str] = field(default_factory=Counter)
    ended: Counter[int] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        return [f"  {kind}: {count}" for kind, count in sorted(self.tried.items())]


class Trial:
    """Trials in a scene, by a server."""

    def __init__(self, scene: Scene, server: Server, folder: Path) -> None:
        self._scene, self._server, self._folder = scene, server, folder
        self.figures = Figures()
        self._seconds: dict[str, float] = {}

    def seconds(self, operation: str) -> float:
        """How long the operation takes when nobody disturbs it."""
        if operation not in self._seconds:
            with self._store(operation) as (root, _):
                ended = self._server.run(*self._scene.arguments(operation, root))
                assert ended.code == 0, ended
                self._seconds[operation] = ended.seconds
        return self._seconds[operation]

    @contextmanager
    def _store(self, operation: str, root: Path | None = None) -> Iterator[tuple[Path, Done]]:
        place = self._folder / "store" if root is None else root
        try:
            yield place, self._scene.store(operation, place)
        finally:
            if root is None:
                shutil.rmtree(place)

    def kill(self, operation: str, moment: float) -> None:
        """Kill at a moment, given as a part of the time that the operation takes."""
        after = moment * self.seconds(operation)
        with self._store(operation) as (root, done):
            ended = self._server.run(*self._scene.arguments(operation, root), after=after)
            self._judge(operation, root, done, ended, f"killed after {after:.4f} s")
        self.figures.tried[f"killed at a moment: {operation}"] += 1

    def interrupt(self, operation: str, moment: float, number: signal.Signals) -> None:
        """Ask it to end: beside the above, nothing unfinished may be left even before the next run."""
        after = moment * self.seconds(operation)
        with self._store(operation) as (root, done):
            ended = self._server.run(
                *self._scene.arguments(operation, root), after=after, number=number, group=number == signal.SIGINT
            )
            place = f"{number.name} after {after:.4f} s"
            if ended.code in (130, 143) and "nothing half-written was left behind" in ended.err:
                assert leftovers(root) == [], (operation, place, ended, leftovers(root))
            self._judge(operation, root, done, ended, place)
        self.figures.tried[f"{number.name} at a moment"] += 1

    def fault(self, operation: str, call: str, what: str, at: int) -> bool:
        """Let the ``at``-th ``call`` fail, or kill there; whether there was such a call."""
        how = "signal=KILL" if what == "KILL" else f"error={what}"
        options = ("-e", f"trace={call}", "-e", f"inject={call}:{how}:when={at}")
        with self._store(operation) as (root, done):
            ended = self._server.run(*self._scene.arguments(operation, root), strace=options)
            self._judge(operation, root, done, ended, f"{what} at {call} {at}")
        self.figures.tried[f"{what} at a {call}"] += 1
        return ended.code != 0

    def limited(self, operation: str, options: str, more: str) -> bool:
        """On a small file system of its own that grows for the second run; false where none can be mounted."""
        root = self._folder / "small"
        root.mkdir(exist_ok=True)
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", more, "tmpfs", root], capture_output=True, check=False
        ).returncode:
            return False
        try:
            with self._store(operation, root) as (_, done):
                if subprocess.run(
                    ["mount", "-o", f"remount,{options}", root], capture_output=True, check=False
                ).returncode:
                    return True  # what is there already needs more
                ended = self._server.run(*self._scene.arguments(operation, root))
                subprocess.run(["mount", "-o", f"remount,{more}", root], check=True)
                self._judge(operation, root, done, ended, options)
            self.figures.tried["a full disk" if "nr_inodes=100000" in options else "a full inode table"] += 1
        finally:
            subprocess.run(["umount", root], check=True)
        return True

    def _judge(self, operation: str, root: Path, done: Done, ended: Ended, what: str) -> None:
        scene, place = self._scene, (operation, what)
        self.figures.ended[ended.code] += 1
        assert ended.code in _OUR_CODES, (place, ended)
        assert "Traceback" not in ended.err, (place, ended)
        assert scene.half_written(operation, root) == [], (place, ended)
        assert Done.of(root, "v0") == done, place
        if operation in CURATION and self.figures.ended.total() % 2:  # a reader is the next one to come
            verified = self._server.run("verify", "-o", root)
            assert verified.code == 0, (place, ended, verified)
        again = self._server.run(*scene.arguments(operation, root))
        is_over = again.code == 5 and operation == "visit remove"
        assert again.code == 0 or is_over, (place, ended, again)
        made, expected = visible(root), scene.expected[operation]
        assert made.keys() == expected.keys(), (place, made.keys() ^ expected.keys())
        assert [name for name in made if made[name] != expected[name]] == [], place
        assert leftovers(root) == [], (place, ended, leftovers(root))
        assert Done.of(root, "v0") == done, place


def kill_anywhere(trial: Trial, count: int, seed: str, operations: Sequence[str] = OPERATIONS) -> None:
    """Kill each operation at seeded moments."""
    chance = random.Random(seed)
    for number in range(count):
        trial.kill(operations[number % len(operations)], chance.random())


def signals_anywhere(trial: Trial, count: int, seed: str) -> None:
    """Interrupt or terminate, to one process or to all, as a terminal and a batch system do it."""
    chance = random.Random(f"signals {seed}")
    for number in range(count):
        trial.interrupt(
            OPERATIONS[number % len(OPERATIONS)],
            chance.random(),
            (signal.SIGINT, signal.SIGTERM)[number // len(OPERATIONS) % 2],
        )


def calls_of(trial: Trial, scene: Scene, server: Server, folder: Path, operation: str) -> dict[str, int]:
    """How often an undisturbed operation makes each call."""
    log, root = folder / "calls", folder / "counting"
    scene.store(operation, root)
    ended = server.run(*scene.arguments(operation, root), strace=("-e", f"trace={','.join(CALLS)}", "-o", str(log)))
    assert ended.code == 0, ended
    shutil.rmtree(root)
    by_process: dict[str, Counter[str]] = {}
    for line in log.read_text(errors="replace").splitlines():
        process, _, text = line.partition(" ")
        name = text.strip().partition("(")[0]
        if name in CALLS:
            by_process.setdefault(process, Counter())[name] += 1
    log.unlink()
    counts = sorted(by_process.values(), key=Counter[str].total)
    return dict(counts[-1])  # strace counts in each process for itself


def faults_anywhere(
    trial: Trial, scene: Scene, server: Server, folder: Path, count: int, seed: str, operations: Sequence[str]
) -> None:
    """Let seeded calls fail, or be the last; every kind of call comes in turn."""
    chance = random.Random(seed)
    points = []
    for operation in operations:
        for call, number in sorted(calls_of(trial, scene, server, folder, operation).items()):
            points += [(operation, call, at) for at in range(1, number + 1)]
    by_call = {call: [point for point in points if point[1] == call] for call in CALLS}
    calls = [call for call in CALLS if by_call[call]]
    for number in range(count):
        operation, call, at = chance.choice(by_call[calls[number % len(calls)]])
        trial.fault(operation, call, (*ERRORS, "KILL")[number % (len(ERRORS) + 1)], at)


def small_disks(trial: Trial, count: int, seed: str) -> None:
    """Too little room, or too few inodes, for the operation."""
    chance = random.Random(seed)
    for number in range(count):
        operation = OPERATIONS[number % 5]
        if number % 2:
            options = f"size={chance.randrange(6000, 14000)}k,nr_inodes=100000"
        else:
            options = f"size=200m,nr_inodes={chance.randrange(70, 160)}"
        if not trial.limited(operation, options, "size=200m,nr_inodes=100000"):
            return
