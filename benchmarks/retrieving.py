"""``icf-utils retrieve`` of a whole visit, beside what fetches and unpacks the archive: curl, md5sum and tar.

    python -m benchmarks.retrieving [--work FOLDER] [--runs N] [--only small,large] [--write docs/performance.md]

The visits have 400 and 10,000 images of 205 kB (82 MB and 2 GB). nginx serves them with basic authentication and
without a limit of the rate. ``icf-utils retrieve`` compares each image with its MD5 as it arrives, and brings it to the
disk; the peers are curl and tar in a pipe, which compare nothing, and curl, ``md5sum -c`` and tar one after the other,
with and without ``sync`` of the files in the end. Needs 9 GB below FOLDER.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmarks.access import make_store
from benchmarks.cases import machine
from benchmarks.measure import Command, paired, remover, rows
from benchmarks.run import publish
from benchmarks.visits import make_visit
from tests.dataset.servers import PASSWORD, USER, Server, nginx

_HEADER = [
    "| what | how | wall time | CPU time | peak memory | icf-utils / this |",
    "| --- | --- | --- | --- | --- | --- |",
]
_SIZES = {"small": ("a visit of 400 images, 82 MB", "small"), "large": ("a visit of 10,000 images, 2 GB", "visit")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "icf-utils-benchmarks"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default="small,large")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    work = args.work.absolute()
    store, lines = make_store(work), list(_HEADER)
    _add_small_visit(work, store)
    scratch = work / "nginx"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    with nginx(store, scratch) as server:
        for name in args.only.split(","):
            what, visit = _SIZES[name]
            lines += rows(what, paired(_commands(work, server, visit), args.runs))
    load = f"load average {os.getloadavg()[2]:.0f} during the runs"
    note = (
        f"Medians of {args.runs} runs in turn; the ratio is the median (and range) of the pairs. {machine()}; {load}."
    )
    publish("retrieving", "\n".join([*lines, "", note]), args.write)


def _add_small_visit(work: Path, store: Path) -> None:
    if (store / "study/small_metadata_dicoms.json").exists():
        return
    source = make_visit(work, 400, size=205_000, per_series=400)
    for stage in (["make_studyvisit_archive", str(source)], ["deposit_visit_metadata"]):
        command = ["icf-utils", stage[0], "-q", "-o", str(store), "--id", "study", "small", *stage[1:]]
        subprocess.run(command, check=True)


def _commands(work: Path, server: Server, visit: str) -> list[Command]:
    target, netrc = work / "retrieved", work / "netrc"
    address = server.url.removeprefix("http://").partition(":")[0]
    netrc.write_text(f"machine {address} login {USER} password {PASSWORD}\n")
    netrc.chmod(0o600)
    tar = f"{visit}_dicom.tar"
    curl = f"curl -sSf --netrc-file {netrc}"
    url = f"{server.url}/study/{tar}"
    into = f"mkdir {target} && cd {target}"
    ours = ["retrieve", "-q", "--store", server.url, "--id", "study", visit, "-d", str(target)]
    fetch = f"{into} && {curl} -O {url} -O {url}.md5sum && md5sum -c {tar}.md5sum && tar xf {tar}"
    return [
        Command("icf-utils retrieve", ["icf-utils", *ours], remover(target), {"NETRC": str(netrc)}),
        Command("curl \\| tar x", ["sh", "-c", f"{into} && {curl} {url} | tar x"], remover(target)),
        Command(
            "curl, md5sum -c, tar x",
            ["sh", "-c", fetch],
            remover(target),
        ),
        Command(
            "the same, and sync -f",
            ["sh", "-c", f"{fetch} && sync -f ."],
            remover(target),
        ),
    ]


if __name__ == "__main__":
    main()
