"""Power cuts: an operation on a file system of its own is killed, and only what was on the device then is left.

The file system is an image on a loop device. After the kill, its bytes are copied while it is still mounted, so that
whatever the system holds in memory is missing from the copy, and the copy is mounted in its place: the journal is
replayed, as after a power failure. With ``commit=600``, nothing but ``fsync`` brings anything to the device. The locks
that are left get the boot ID and the host name of a machine, or container, that is gone.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from icf_utils.store.lock_owner import this_process
from tests.trust.scene import CURATION, OPERATIONS, TRANSFERS, Done, Scene, leftovers, visible
from tests.trust.server import Ended, Server

#: Mount options: no commit but by ``fsync``, and the defaults of the file system (a commit every 5 seconds).
OPTIONS = ("loop,commit=600", "loop")

_GONE = "00000000-0000-4000-8000-000000000000"


def can_mount(folder: Path) -> bool:
    """Whether this process may make and mount a file system."""
    disk = Disk(folder, OPTIONS[0])
    try:
        disk.make()
    except (OSError, subprocess.CalledProcessError):
        return False
    disk.unmount()
    return True


class Disk:
    """A file system in a file of ``size`` bytes, mounted at ``root``."""

    def __init__(self, folder: Path, options: str, size: int = 160 << 20) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.root, self._image, self._cut, self._options = folder / "m", folder / "disk", folder / "cut", options
        self._size = size
        self.root.mkdir(exist_ok=True)

    def make(self) -> None:
        self._image.unlink(missing_ok=True)
        with open(self._image, "wb") as file:
            file.truncate(self._size)
        _do("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", self._image)
        self._mount()
        (self.root / "lost+found").rmdir()

    def _mount(self) -> None:
        _do("mount", "-o", self._options, self._image, self.root)

    def sync(self) -> None:
        _do("sync", "-f", self.root)

    def cut_power(self) -> None:
        """Lose what is not on the device. The caller has ended all processes; those that are ending still lose it."""
        _do("cp", "--sparse=always", self._image, self._cut)
        _do("umount", "--lazy", self.root)
        os.replace(self._cut, self._image)
        self._mount()

    def unmount(self) -> None:
        _do("umount", self.root)


def _do(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True)


@dataclass
class PowerCuts:
    """Trials in a scene, by a server, and what came of them."""

    scene: Scene
    server: Server
    folder: Path
    tried: Counter[str] = field(default_factory=Counter)
    torn: int = 0
    _seconds: dict[str, float] = field(default_factory=dict)

    def trial(self, operation: str, moment: float, options: str) -> None:
        """Cut at a moment, given as a part of the time that the operation takes; 1 or more: after it has ended."""
        disk = Disk(self.folder, options)
        disk.make()
        try:
            root = disk.root / "store"
            done = self.scene.store(operation, root)
            disk.sync()
            after = None if moment >= 1 else moment * self._duration(operation)
            ended = self.server.run(*self.scene.arguments(operation, root), after=after)
            disk.cut_power()
            self._judge(operation, root, done, ended, f"{options}, after {after}")
        finally:
            disk.unmount()
        self.tried[f"{operation} ({'ended' if ended.code == 0 else 'killed'})"] += 1

    def _duration(self, operation: str) -> float:
        if operation not in self._seconds:
            disk = Disk(self.folder / "timed", OPTIONS[0])
            disk.make()
            self.scene.store(operation, disk.root / "store")
            ended = self.server.run(*self.scene.arguments(operation, disk.root / "store"))
            disk.unmount()
            assert ended.code == 0, ended
            self._seconds[operation] = ended.seconds
        return self._seconds[operation]

    def _judge(self, operation: str, root: Path, done: Done, ended: Ended, what: str) -> None:
        scene, place = self.scene, (operation, what)
        torn = scene.half_written(operation, root)
        assert torn == [], (place, ended, torn)
        assert Done.of(root, "v0") == done, place
        expected = scene.expected[operation]
        if ended.code == 0:
            assert visible(root) == expected, (place, "lost after success")
        self.torn += age_locks(root)
        again = self.server.run(*scene.arguments(operation, root))
        is_over = again.code == 5 and operation in ("visit merge", "visit rename", "visit remove")
        assert again.code == 0 or is_over, (place, ended, again)
        made = visible(root)
        assert made.keys() == expected.keys(), (place, made.keys() ^ expected.keys())
        assert [name for name in made if made[name] != expected[name]] == [], place
        assert leftovers(root) == [], (place, ended, leftovers(root))


def age_locks(root: Path) -> int:
    """Make the locks those of another boot and a container that is gone; returns how many have no whole content."""
    torn = 0
    for path in root.glob("*/.icf/*.lock*"):
        raw = path.read_bytes()
        if not raw.endswith(b"\n"):
            torn += 1
            continue
        words = raw.split()
        assert words[4] == this_process().boot.encode(), raw
        path.write_bytes(b" ".join([b"f00", words[1], words[2], b"pid:[7]", _GONE.encode(), b"-", words[6]]) + b"\n")
    return torn


#: All operations that are cut.
ALL = (*OPERATIONS, *CURATION, *TRANSFERS)


def cut_anywhere(cuts: PowerCuts, count: int, seed: str, operations: Sequence[str] = ALL) -> None:
    """Cut the power of each operation at seeded moments; a third after it has ended."""
    chance = random.Random(f"power {seed}")
    for number in range(count):
        options = OPTIONS[number // len(operations) % 4 == 3]
        cuts.trial(operations[number % len(operations)], chance.random() * 1.5, options)
