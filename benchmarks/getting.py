"""What it costs to get many images of a clone: ``icf-utils get`` beside ``git annex get`` and the transfer alone.

    python -m benchmarks.getting [--work FOLDER] [--with-annex] [--write docs/performance.md]

The visit, the server and the clones are those of :mod:`benchmarks.access`. One connection is used, so that the server's
rate is that of the whole transfer. ``--with-annex`` also measures ``git annex get``, which takes minutes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.access import OURS, SERIES, Got, Way, get_all, make_clone, make_store
from benchmarks.cases import machine
from benchmarks.run import publish
from tests.dataset.servers import nginx

_GET = Way("`icf-utils get`", command=("icf-utils", "get", "-q", "--connections", "1"))
_HEADER = [
    "| what | MB/s | how | wall time | requests | transferred | wall time / transfer |",
    "| --- | --- | --- | --- | --- | --- | --- |",
]
_CASES = (("a series of 400", 10, SERIES), ("a series of 400", 100, SERIES), ("all 10,000 images", 100, "study_visit"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "icf-utils-benchmarks"))
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--with-annex", action="store_true")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    work = args.work.absolute()
    ways: Sequence[Way] = (_GET, OURS) if args.with_annex else (_GET,)
    store, lines = make_store(work), list(_HEADER)
    for what, rate, target in _CASES:
        scratch = work / "nginx"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        with nginx(store, scratch, f"limit_rate {rate * 1_000_000};") as server:
            template = make_clone(work, store, server)
            for way in ways:
                lines.append(_row(what, rate, way, get_all(server, template, way, [target], args.runs)))
                print(lines[-1], file=sys.stderr)
    load = f"load average {os.getloadavg()[2]:.0f} during the runs"
    note = f"Medians of {args.runs} run(s), each in a fresh clone. {machine()}; {load}."
    publish("getting", "\n".join([*lines, "", note]), args.write)


def _row(what: str, rate: int, way: Way, got: Got) -> str:
    name = "`git annex get`" if way is OURS else way.name
    ratio = got.seconds / (got.size / rate / 1_000_000)
    size = f"{got.size / 1e6:,.2f} MB"
    return f"| {what} | {rate} | {name} | {got.seconds:.1f} s | {got.requests} | {size} | {ratio:.2f} |"


if __name__ == "__main__":
    main()
