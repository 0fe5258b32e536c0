# ruff: noqa: T201 - prints figures
"""The long trials, by hand: ``python -m tests.trust.trials --kills 500 --faults 500 --flips 5000 --fuzz 600``.

Prints the figures that ``docs/trust.md`` states. Any loss ends them with the place and the seed.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.trust import disturb
from tests.trust.scene import CURATION, OPERATIONS, Scene
from tests.trust.server import Server

#: The options that count disturbances.
_DISTURBANCES = ("kills", "changes", "faults", "disks", "signals")


def _disturbances(options: argparse.Namespace, folder: Path) -> None:
    scene = Scene(folder / "scene", curation=bool(options.changes))
    (folder / "work").mkdir()
    with Server() as server:
        trial = disturb.Trial(scene, server, folder / "work")
        disturb.kill_anywhere(trial, options.kills, options.seed)
        disturb.faults_anywhere(
            trial, scene, server, folder / "work", options.faults, options.seed, (*OPERATIONS[:5], OPERATIONS[6])
        )
        disturb.kill_anywhere(trial, options.changes // 2, options.seed, CURATION)
        disturb.faults_anywhere(
            trial, scene, server, folder / "work", options.changes - options.changes // 2, options.seed, CURATION
        )
        disturb.small_disks(trial, options.disks, options.seed)
        disturb.signals_anywhere(trial, options.signals, options.seed)
    print("\n".join(trial.figures.lines()))
    print(f"  disturbances: {trial.figures.tried.total()}, losses: 0")


def _power_cuts(options: argparse.Namespace, folder: Path) -> None:
    from tests.trust.powercut import PowerCuts, cut_anywhere

    with Server() as server:
        cuts = PowerCuts(Scene(folder / "scene", curation=True), server, folder / "disk")
        cut_anywhere(cuts, options.cuts, options.seed)
    print("\n".join(f"  {kind}: {count}" for kind, count in sorted(cuts.tried.items())))
    print(f"  power cuts: {cuts.tried.total()}, losses: 0, blocked: 0, locks without content: {cuts.torn}")


def _flips(options: argparse.Namespace, folder: Path) -> None:
    from tests.trust.flips import flip_anywhere

    figures = flip_anywhere(folder, options.flips, options.seed)
    print("\n".join(f"  {kind}: {count}" for kind, count in sorted(figures.items())))
    print(f"  flips: {figures.total()}, not found: 0")


def _fuzz(options: argparse.Namespace, folder: Path) -> None:
    from tests.trust.fuzz import fuzz_for

    figures = fuzz_for(folder, options.fuzz, options.seed)
    print("\n".join(f"  {line}" for line in figures.lines()))


def main() -> None:
    """Run what the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0, help="SIGKILL at seeded moments of seven operations")
    parser.add_argument("--changes", type=int, default=0, help="kills and faults in changes of a deposited visit")
    parser.add_argument("--signals", type=int, default=0, help="SIGINT and SIGTERM at seeded moments")
    parser.add_argument("--faults", type=int, default=0, help="failing or last system calls")
    parser.add_argument("--disks", type=int, default=0, help="full disks and inode tables (needs mount)")
    parser.add_argument("--cuts", type=int, default=0, help="power cuts (needs mount and mkfs.ext4)")
    parser.add_argument("--flips", type=int, default=0, help="single bits in all files of a store")
    parser.add_argument("--fuzz", type=float, default=0, help="seconds of mutated inputs")
    parser.add_argument("--seed", default="1")
    options = parser.parse_args()
    _calm()
    parts: list[tuple[str, float, Callable[[argparse.Namespace, Path], None]]] = [
        (
            "disturbances",
            options.kills + options.changes + options.faults + options.disks + options.signals,
            _disturbances,
        ),
        ("power cuts", options.cuts, _power_cuts),
        ("bit rot", options.flips, _flips),
        ("hostile input", options.fuzz, _fuzz),
    ]
    for name, amount, part in parts:
        if amount:
            started = time.monotonic()
            print(f"{name} (seed {options.seed}):", flush=True)
            with tempfile.TemporaryDirectory() as folder:
                part(options, Path(folder))
            print(f"  {time.monotonic() - started:.0f} s", flush=True)


def _calm() -> None:
    """No setting of the user's takes part."""
    for name in list(os.environ):
        if name.startswith(("GIT_", "DATALAD_", "ICF_")):
            del os.environ[name]
    os.environ |= {"GIT_CONFIG_NOSYSTEM": "1", "ICF_RUN_SETTLE": "0", "ICF_NEW_STORE": "1"}  # as in tests/conftest.py


if __name__ == "__main__":
    main()
