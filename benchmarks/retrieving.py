"""``icf-utils retrieve`` of a whole visit, next to what fetches and unpacks it: curl or obstore, md5sum and tar.

    python -m benchmarks.retrieving [--work FOLDER] [--runs N] [--only small,large,bucket] [--write docs/performance.md]

The visits have 400 and 10,000 images of 205 kB (82 MB and 2 GB). nginx serves them with basic authentication and
without a limit of the rate. ``icf-utils retrieve`` compares each image with its MD5 as it arrives, and brings it to the
disk; the peers are curl and tar in a pipe, which compare nothing, and curl, ``md5sum -c`` and tar one after the other,
with and without ``sync`` of the files in the end. Needs 9 GB below FOLDER.

``bucket`` is a series of 400 images of 205 kB in a COD bucket, from the tests' server, which is a Python program: its
time is in all figures. The peer gets the archive with obstore alone, and unpacks it with tar; it compares nothing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

from benchmarks.access import make_store
from benchmarks.cases import machine
from benchmarks.measure import Command, paired, remover, rows
from benchmarks.run import publish
from benchmarks.visits import make_visit
from tests.data.make_cod import CodSeries
from tests.dataset.servers import PASSWORD, USER, Server, nginx
from tests.fetch.server import serving
from tests.retrieve.bucket_server import BUCKET, BucketServer

_HEADER = [
    "| what | how | wall time | CPU time | peak memory | icf-utils / this |",
    "| --- | --- | --- | --- | --- | --- |",
]
_STUDY = "1.2.3"

#: Gets an object in pieces, as obstore's documentation does.
_OBSTORE = """
import sys, obstore
from obstore.store import S3Store
store = S3Store("my-bucket", endpoint=sys.argv[1], skip_signature=True, client_options={"allow_http": True})
with open("a.tar", "wb") as file:
    for piece in obstore.get(store, sys.argv[2]).stream():
        file.write(piece)
"""
_SIZES = {"small": ("a visit of 400 images, 82 MB", "small"), "large": ("a visit of 10,000 images, 2 GB", "visit")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "icf-utils-benchmarks"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default="small,large,bucket")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    work = args.work.absolute()
    lines, wanted = list(_HEADER), args.only.split(",")
    if visits := [_SIZES[name] for name in wanted if name != "bucket"]:
        lines += _from_store(work, visits, args.runs)
    if "bucket" in wanted:
        lines += _from_bucket(work, args.runs)
    load = f"load average {os.getloadavg()[2]:.0f} during the runs"
    note = (
        f"Medians of {args.runs} runs in turn; the ratio is the median (and range) of the pairs. {machine()}; {load}."
    )
    publish("retrieving", "\n".join([*lines, "", note]), args.write)


def _from_store(work: Path, visits: list[tuple[str, str]], runs: int) -> list[str]:
    store, scratch = make_store(work), work / "nginx"
    _add_small_visit(work, store)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    with nginx(store, scratch) as server:
        return [line for what, visit in visits for line in rows(what, paired(_commands(work, server, visit), runs))]


def _from_bucket(work: Path, runs: int) -> list[str]:
    target = work / "retrieved"
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_serve_bucket, args=(theirs,))
    process.start()
    try:
        url = ours.recv()
        source = ["--public", "--bucket", f"s3://{BUCKET}", "--prefix", "dicomweb", "--endpoint", url]
        retrieve = ["icf-utils", "retrieve", "-q", *source, "-d", str(target), _STUDY]
        tar = f"dicomweb/studies/{_STUDY}/series/{_STUDY}.1.tar"
        peer = f"mkdir {target} && cd {target} && {sys.executable} -c '{_OBSTORE}' {url} {tar} && tar xf a.tar"
        commands = [
            Command("icf-utils retrieve", retrieve, remover(target)),
            Command("obstore, tar x", ["sh", "-c", peer], remover(target)),
            Command("the same, and sync -f", ["sh", "-c", f"{peer} && sync -f ."], remover(target)),
        ]
        return rows("a series of 400 images in a bucket, 82 MB", paired(commands, runs))
    finally:
        process.terminate()
        process.join()


def _serve_bucket(connection: Connection) -> None:
    """Serve a bucket of one series until the process is ended; its address goes into ``connection``."""
    random = Random(1)
    images = {f"{_STUDY}.1.{at}": random.randbytes(205_000) for at in range(400)}
    server = BucketServer()
    server.fill(CodSeries(_STUDY, f"{_STUDY}.1", images).objects())
    server.page = 1000
    with serving(server):
        connection.send(server.url)
        signal.pause()


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
