"""What it costs to get images out of a dataset: the special remote for byte ranges beside DataLad's archivist.

    python -m benchmarks.access [--work FOLDER] [--runs N] [--rates MB,MB] [--write docs/performance.md]

Makes a visit of 10,000 images of 205 kB in 25 series, an archive of 2 GB, and serves it by nginx with basic
authentication, at most so many megabytes a second for each connection (``limit_rate``). Every figure is that of one
``git annex get`` in a fresh clone; what was transferred is what nginx's access log says. Needs 10 GB below FOLDER, and
half an hour for each of the runs at 10 MB/s.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cases import machine
from benchmarks.run import publish
from benchmarks.visits import make_visit
from icf_utils.dataset.origin import clone_url
from icf_utils.store.init_store import init_store
from icf_utils.store.layout import Visit
from tests.dataset.servers import Server, nginx

_IMAGES, _PER_SERIES, _SIZE = 10_000, 400, 205_000
_ID = ("study", "visit")
SERIES = "study_visit/012_series"
_HEADER = [
    "| what | MB/s | how | wall time | requests | transferred | icf-utils / this |",
    "| --- | --- | --- | --- | --- | --- | --- |",
]


@dataclass(frozen=True)
class Got:
    """One ``git annex get``: seconds, and what the server's log says of it."""

    seconds: float
    requests: int
    size: int


@dataclass(frozen=True)
class Way:
    """A way to get files: its name, git's configuration, options, and the command."""

    name: str
    settings: Sequence[str] = ()
    options: Sequence[str] = ()
    command: Sequence[str] = ("git", "annex", "get", "-q")


_ICF = ("remote.archivist.annex-externaltype=icf",)
OURS, OURS_4 = Way("icf-utils", _ICF), Way("icf-utils, `-J4`", _ICF, ("-J4",))
ARCHIVIST, ARCHIVIST_4 = Way("archivist"), Way("archivist, `-J4`", (), ("-J4",))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "icf-utils-benchmarks"))
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--rates", default="100,10")
    parser.add_argument("--only", default="image,series,all")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    work = args.work.absolute()
    lines = list(_HEADER)
    store = make_store(work)
    for rate in map(int, args.rates.split(",")):
        scratch = work / "nginx"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        with nginx(store, scratch, f"limit_rate {rate * 1_000_000};") as server:
            template = make_clone(work, store, server)
            for name, what, targets, ways in _cases(template):
                if name in args.only.split(","):
                    lines += _rows(
                        what, rate, [(way, get_all(server, template, way, targets, args.runs)) for way in ways]
                    )
    note = f"Medians of {args.runs} run(s), each in a fresh clone. {machine()}."
    publish("access", "\n".join([*lines, "", note]), args.write)


def _cases(template: Path) -> list[tuple[str, str, list[str], tuple[Way, ...]]]:
    one = sorted(path.name for path in (template / SERIES).iterdir())[_PER_SERIES // 2]
    return [
        ("image", "one image", [f"{SERIES}/{one}"], (OURS, ARCHIVIST)),
        ("series", f"a series of {_PER_SERIES}", [SERIES], (OURS, OURS_4, ARCHIVIST)),
        ("all", f"all {_IMAGES:,} images", ["study_visit"], (OURS, ARCHIVIST, OURS_4, ARCHIVIST_4)),
    ]


def make_store(work: Path) -> Path:
    store = work / "store-access"
    if not Visit(store, *_ID).dicoms_json.exists():
        source = make_visit(work, _IMAGES, size=_SIZE, per_series=_PER_SERIES)
        if not store.exists():
            init_store(store, "http://127.0.0.1")
        for stage in (["make_studyvisit_archive", str(source)], ["deposit_visit_metadata"]):
            _run(_tool("icf-utils"), stage[0], "-q", "-o", str(store), "--id", *_ID, *stage[1:])
    return store


def make_clone(work: Path, store: Path, server: Server) -> Path:
    """A clone of the dataset, deposited for this server's address."""
    visit, template = Visit(store, *_ID), work / "clone"
    visit.refs.unlink(missing_ok=True)
    visit.export.unlink(missing_ok=True)
    shutil.rmtree(template, ignore_errors=True)
    _run(
        _tool("icf-utils"),
        *("deposit_visit_dataset", "-q", "-o", str(store), "--id", *_ID, "--store-url", server.url),
    )
    # in a folder that is no repository: git-annex, asked for the store's files, takes the current one for its own
    address = clone_url(server.url, visit)
    _run(_tool("datalad"), "clone", address, str(template), folder=work, environment=_environment(server))
    return template


def get_all(server: Server, template: Path, way: Way, targets: Sequence[str], runs: int) -> Got:
    found = [_get(server, template, way, targets) for _ in range(runs)]
    middle = sorted(found, key=lambda got: got.seconds)[len(found) // 2]
    print(f"  {way.name}: {middle.seconds:.1f} s, {middle.size:,} bytes", file=sys.stderr, flush=True)
    return Got(statistics.median(got.seconds for got in found), middle.requests, middle.size)


def _get(server: Server, template: Path, way: Way, targets: Sequence[str]) -> Got:
    folder = template.with_name("clone-run")
    subprocess.run(["chmod", "-R", "u+w", str(folder)], check=False, stderr=subprocess.DEVNULL)
    shutil.rmtree(folder, ignore_errors=True)
    _run("cp", "-a", str(template), str(folder))
    for setting in way.settings:
        _run("git", "-C", str(folder), "config", *setting.split("=", 1))
    os.sync()
    before = len(server.requests())
    started = time.perf_counter()
    _run(*way.command, *way.options, *targets, folder=folder, environment=_environment(server))
    seconds = time.perf_counter() - started
    sent = [int(line.split()[9]) for line in server.requests()[before:]]
    return Got(seconds, len(sent), sum(sent))


def _rows(what: str, rate: int, results: list[tuple[Way, Got]]) -> list[str]:
    lines = []
    for at, (way, got) in enumerate(results):
        ours = next(other for mine, other in results if mine.settings and mine.options == way.options) if at else got
        ratio = "" if way.settings else f"{ours.seconds / got.seconds:.2f}"
        first = f"| {what} | {rate} " if at == 0 else "|  |  "
        size = f"{got.size / 1e6:,.2f} MB"
        lines.append(f"{first}| {way.name} | {got.seconds:.1f} s | {got.requests:,} | {size} | {ratio} |")
    return lines


def _environment(server: Server) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    quiet = {"DATALAD_LOG_LEVEL": "error", "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring"}
    return {**os.environ, **server.credential(), **quiet, "PATH": path, "GIT_TERMINAL_PROMPT": "0"}


def _run(*command: str, folder: Path | None = None, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[:4]} failed:\n{(done.stdout + done.stderr).decode(errors='replace')[-3000:]}")


def _tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


if __name__ == "__main__":
    main()
