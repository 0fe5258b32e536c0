"""How many images a second are sent by C-STORE: ``python -m benchmarks.sending [--runs N]``.

384 images of 212 kB go over one association into dcmtk's ``storescp``: by ``icf-utils send`` and by dcmtk's
``storescu``, in turn, each from its start to its end.
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
from pathlib import Path

from benchmarks.cases import machine
from benchmarks.receiving import IMAGES, SERVERS, SIZE, free_port, running
from benchmarks.visits import make_visit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory(prefix="sending-") as name:
        work = Path(name)
        images = make_visit(work, IMAGES, size=SIZE)
        found: dict[str, list[float]] = {"icf-utils send": [], "dcmtk storescu": []}
        for _ in range(runs):
            for sender, speeds in found.items():
                speeds.append(measure(sender, work / "server", images))
    ours, theirs = found.values()
    ratios = sorted(one / other for one, other in zip(ours, theirs, strict=True))
    print("| sender | images/s | of storescu's |\n| --- | --- | --- |")
    print(
        f"| icf-utils send | {statistics.median(ours):.0f} | {statistics.median(ratios):.2f} ({ratios[0]:.2f} to ",
        end="",
    )
    print(f"{ratios[-1]:.2f}) |\n| dcmtk storescu | {statistics.median(theirs):.0f} | |")
    print(f"\nMedians of {runs} runs in turn; the ratio is of the pairs. {machine()}.")


def measure(sender: str, folder: Path, images: Path) -> float:
    """Images a second."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    port = free_port()
    own = [
        sys.executable,
        "-m",
        "icf_utils.cli.main",
        "send",
        "-q",
        "--aec",
        "BENCH",
        str(images),
        "127.0.0.1",
        str(port),
    ]
    theirs = ["/usr/bin/storescu", "-nh", "-aec", "BENCH", "+sd", "+r", "127.0.0.1", str(port), str(images)]
    with running(SERVERS["limit: dcmtk storescp"](folder, port), folder, port):
        started = time.perf_counter()
        command = own if sender.startswith("icf") else theirs
        subprocess.run(command, check=True, env={**os.environ, "TCP_NODELAY": "1"}, capture_output=True)
        return IMAGES / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
