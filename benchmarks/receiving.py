"""How many images a second are received by C-STORE: ``python -m benchmarks.receiving [--runs N] [--write PAGE]``.

384 images of 212 kB are sent by dcmtk's ``storescu``: over one association, over four at once, and each over one of its
own (a ``storescu`` for each image). They go into ``icf-utils receive``, the same without syncing to the disk, Orthanc,
and dcmtk's ``storescp``, which parses and syncs nothing and is the limit (with ``--fork`` for four at once). All in
turn, so that a machine whose speed drifts gives fair ratios. All programs run with TCP_NODELAY where they have a switch
for it: without, dcmtk waits 40 ms for each image. ``--way`` takes one of the three ways only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from benchmarks.cases import machine
from benchmarks.visits import make_visit
from icf_utils import init_store

IMAGES, SIZE = 384, 212_000
_BEGIN, _END = "<!-- table receiving -->", "<!-- end of table receiving -->"
WAYS = ("one association", "four at once", "one image each")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--way", choices=WAYS, action="append")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    ways = args.way or WAYS
    with tempfile.TemporaryDirectory(prefix="receiving-") as name:
        work = Path(name)
        images = sorted(make_visit(work, IMAGES, size=SIZE).rglob("*.dcm"))
        speeds: dict[tuple[str, str], list[float]] = {(way, server): [] for way in ways for server in SERVERS}
        for _ in range(args.runs):
            for (way, server), found in speeds.items():
                found.append(measure(SERVERS[server], work / "server", images, way))
                print(f"  {way}: {server}: {found[-1]:.0f} images/s", file=sys.stderr, flush=True)
    lines = [*table(speeds), "", f"Medians of {args.runs} runs in turn; the ratio is of the pairs. {machine()}."]
    if args.write:
        write(args.write, "\n".join(lines))
    else:
        print("\n".join(lines))


def table(speeds: Mapping[tuple[str, str], Sequence[float]]) -> list[str]:
    """Speeds, and their ratios to those of storescp in the same way, run by run."""
    lines = ["| images | receiver | images/s | of storescp's |", "| --- | --- | --- | --- |"]
    shown = ""
    for (way, server), own in speeds.items():
        limit = speeds[way, _LIMIT]
        ratios = sorted(mine / other for mine, other in zip(own, limit, strict=True))
        text = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})" if own is not limit else ""
        lines.append(f"| {way if way != shown else ''} | {server} | {statistics.median(own):.0f} | {text} |")
        shown = way
    return lines


def write(page: Path, text: str) -> None:
    """Put the table between its marks."""
    before, _, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    page.write_text(f"{before}{_BEGIN}\n{text}\n{_END}{rest.partition(_END)[2]}", encoding="utf-8")


def measure(start: Callable[[Path, int], list[str]], folder: Path, images: Sequence[Path], way: str) -> float:
    """Images a second, from the start of the first sender to the end of the last."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    port = free_port()
    command = start(folder, port)
    if way == "four at once" and start is _storescp:
        command.insert(1, "--fork")
    with running(command, folder, port):
        started = time.perf_counter()
        if way == "one image each":
            for image in images:
                _send(port, [image])
        else:
            parts = 4 if way == "four at once" else 1
            with ThreadPoolExecutor(parts) as pool:
                list(pool.map(lambda at: _send(port, images[at::parts]), range(parts)))
        seconds = time.perf_counter() - started
    return len(images) / seconds


def _send(port: int, images: Sequence[Path]) -> None:
    command = ["/usr/bin/storescu", "-nh", "-aec", "BENCH", "127.0.0.1", str(port), *map(str, images)]
    subprocess.run(command, check=True, env={**os.environ, "TCP_NODELAY": "1"}, capture_output=True)


@contextmanager
def running(command: list[str], folder: Path, port: int) -> Iterator[int]:
    """A server from where it answers to its end; its process ID."""
    server = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "TCP_NODELAY": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        time.sleep(0.5)
        yield server.pid
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ours(durable: bool) -> Callable[[Path, int], list[str]]:
    def command(folder: Path, port: int) -> list[str]:
        init_store(folder / "store", url="https://data.example.org")
        settings = folder / "receiver.toml"
        settings.write_text(
            f'store = "store"\nspool = "spool"\n[listen]\nport = {port}\n'
            f"reserve = 0\ndurable = {str(durable).lower()}\n"
            '[[rule]]\ncalled_ae = "BENCH"\nstudy = "bench"\nquiet = 600\n',
            encoding="utf-8",
        )
        return [sys.executable, "-m", "icf_utils.cli.main", "receive", "-q", str(settings)]

    return command


def _orthanc(folder: Path, port: int) -> list[str]:
    settings = {
        "StorageDirectory": str(folder / "orthanc"),
        "IndexDirectory": str(folder / "orthanc"),
        "DicomPort": port,
        "HttpServerEnabled": False,
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowStore": True,
        "Plugins": [],
    }
    (folder / "orthanc.json").write_text(json.dumps(settings), encoding="utf-8")
    return ["Orthanc", str(folder / "orthanc.json")]


def _storescp(folder: Path, port: int) -> list[str]:
    (folder / "received").mkdir()
    return ["/usr/bin/storescp", "-od", str(folder / "received"), str(port)]


_LIMIT = "limit: dcmtk storescp"

SERVERS: dict[str, Callable[[Path, int], list[str]]] = {
    "icf-utils receive": _ours(durable=True),
    "icf-utils receive, `durable = false`": _ours(durable=False),
    "Orthanc 1.10 (Debian)": _orthanc,
    _LIMIT: _storescp,
}

if __name__ == "__main__":
    main()
