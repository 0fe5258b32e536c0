"""What is compared with what. Each case prepares its inputs and returns the table's lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Command, paired, remover, rows
from benchmarks.visits import make_visit

_PEERS = Path(__file__).parent / "peers"
_STUDY, _VISIT = "study", "visit"
_ID = ["--id", _STUDY, _VISIT]


@dataclass(frozen=True)
class Bench:
    """Where files go, and how often everything is run."""

    work: Path
    runs: int
    sizes: tuple[int, ...]

    @property
    def program(self) -> str:
        return str(Path(sys.executable).with_name("icf-utils"))

    def ours(self, name: str, *arguments: str | Path, before: Callable[[], None] = lambda: None) -> Command:
        """A command of this project."""
        return Command(name, [self.program, *map(str, arguments), "--quiet"], before)

    def peer(self, name: str, *arguments: str | Path, before: Callable[[], None] = lambda: None) -> Command:
        """A script of the ``peers`` folder."""
        script, *rest = arguments
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return Command(name, [sys.executable, str(_PEERS / script), *map(str, rest)], before, {"PATH": path})

    def store(self, images: int, size: int | None = None) -> Path:
        """A store that has the archive and the metadata of a visit."""
        store = self.work / f"store-{images}-{size or 'mixed'}"
        source = make_visit(self.work, images, size=size)
        for stage in (["make_studyvisit_archive", "--new", str(source)], ["deposit_visit_metadata"]):
            subprocess.run([self.program, stage[0], "-o", store, *_ID, "--quiet", *stage[1:]], check=True)
        return store


def archive(bench: Bench) -> list[str]:
    """Folder to TAR and checksum: beside the pipeline that does nothing else, and beside a plain script."""
    lines = []
    for images in bench.sizes:
        source, out = make_visit(bench.work, images), bench.work / "out"
        tar = out / "limit.tar"
        limit = f"mkdir -p {out} && cd {source} && tar --sort=name -cf - . | tee {tar} | md5sum > {tar}.md5sum"
        commands = [
            bench.ours("icf-utils", "make_studyvisit_archive", "-o", out, *_ID, "--new", source, before=remover(out)),
            Command("limit: `tar \\| tee \\| md5sum`", ["bash", "-c", limit], remover(out)),
        ]
        if images <= 10_000:
            naive = bench.peer(
                "tarfile + pydicom + md5", "naive_archive.py", source, out / "naive.tar", before=_fresh(out)
            )
            commands.append(naive)
        lines += rows(f"archive, {images:,} images", paired(commands, bench.runs))
    return lines


def large_file(bench: Bench) -> list[str]:
    """One file of 4 GB: memory must not grow with it."""
    source, out = bench.work / "large", bench.work / "out"
    if not source.exists():
        source.mkdir(parents=True)
        small = make_visit(bench.work, 400)
        first = next(path for path in sorted(small.rglob("*.dcm")))
        (source / "large.dcm").write_bytes(first.read_bytes())
        os.truncate(source / "large.dcm", 4 << 30)
    limit = f"mkdir -p {out} && cd {source} && tar --sort=name -cf - . | tee {out}/limit.tar | md5sum"
    commands = [
        bench.ours("icf-utils", "make_studyvisit_archive", "-o", out, *_ID, "--new", source, before=remover(out)),
        Command("limit: `tar \\| tee \\| md5sum`", ["bash", "-c", limit], remover(out)),
    ]
    return rows("archive, one file of 4 GiB", paired(commands, bench.runs, warm_up=False))


def metadata(bench: Bench) -> list[str]:
    """TAR to JSON, with every image's MD5 and the archive's: beside the archive's MD5 alone."""
    lines = []
    for images in bench.sizes:
        store = bench.store(images, 250_000 if images == 10_000 else None)
        tar = store / _STUDY / f"{_VISIT}_dicom.tar"
        json_files = remover(*(store / _STUDY).glob("*_metadata_*.json"))
        commands = [
            bench.ours("icf-utils", "deposit_visit_metadata", "-o", store, *_ID, before=json_files),
            Command("limit: `md5sum` of the TAR", ["md5sum", str(tar)]),
        ]
        if images <= 10_000:
            listing = ["ls-file-collection", "tarfile", str(tar), "--hash", "md5"]
            commands.append(Command("datalad ls-file-collection", [_tool("datalad"), "-f", "json", *listing]))
        size = " of 250 kB" if images == 10_000 else ""
        lines += rows(f"metadata, {images:,} images{size}", paired(commands, bench.runs))
    return lines


def handover(bench: Bench) -> list[str]:
    """TAR to JSON just after the archive was made: it is not read again."""
    source, store = make_visit(bench.work, 10_000), bench.work / "out"
    tar = store / _STUDY / f"{_VISIT}_dicom.tar"

    def archived() -> None:
        remover(store)()
        stage = [bench.program, "make_studyvisit_archive", "-o", str(store), *_ID, "--new", "--quiet", str(source)]
        subprocess.run(stage, check=True)

    commands = [
        bench.ours("icf-utils", "deposit_visit_metadata", "-o", store, *_ID, before=archived),
        Command("limit: `md5sum` of the TAR", ["md5sum", str(tar)]),
    ]
    return rows("metadata, 10,000 images, archive just made", paired(commands, bench.runs))


def whole_visit(bench: Bench) -> list[str]:
    """All stages of one visit, folder to catalog: beside the pipeline that only makes an archive and its checksum."""
    source, out = make_visit(bench.work, 10_000), bench.work / "out"
    table, tar = bench.work / "visit.csv", out / "limit.tar"
    table.write_text(f"study,visit,input\n{_STUDY},{_VISIT},{source}\n")
    limit = f"mkdir -p {out} && cd {source} && tar --sort=name -cf - . | tee {tar} | md5sum > {tar}.md5sum"
    more = ("--store-url", "https://example.org/store", "--new", "--allow", "several-patients")
    commands = [
        bench.ours("icf-utils run", "run", "-o", out, "--table", table, *more, before=remover(out)),
        Command("limit: `tar \\| tee \\| md5sum`", ["bash", "-c", limit], remover(out)),
    ]
    return rows("folder to catalog, 10,000 images", paired(commands, bench.runs))


def dataset(bench: Bench) -> list[str]:
    """JSON to dataset: beside the known recipe and git-annex's batch commands (400 images are enough for these)."""
    lines = []
    for images in bench.sizes:
        store = bench.store(images)
        deposit = [store / _STUDY / f"{_VISIT}_XDLRA--{end}" for end in ("refs", "repo-export")]
        url = ["--store-url", f"file://{store}"]
        commands = [bench.ours("icf-utils", "deposit_visit_dataset", "-o", store, *_ID, *url, before=remover(*deposit))]
        if images == min(bench.sizes):
            commands.append(bench.peer("git-annex batch commands", "batch_dataset.py", store, _STUDY, _VISIT))
            place = bench.work / "deposit"
            arguments = ("addurls_dataset.py", store, _STUDY, _VISIT, place)
            commands.append(bench.peer("addurls + setpresentkey + push", *arguments, before=_fresh(place)))
        lines += rows(f"dataset, {images:,} images", paired(commands, bench.runs))
    return lines


def catalog(bench: Bench) -> list[str]:
    """JSON to catalog pages: one visit of 2,000 images, and one more visit in a study of 1,000."""
    store, other = bench.store(2_000), bench.work / "peer-catalog"
    dicoms = store / _STUDY / f"{_VISIT}_metadata_dicoms.json"
    ours = bench.ours(
        "icf-utils", "catalogify_studyvisit_from_meta", "-o", store, *_ID, before=remover(store / _STUDY / "catalog")
    )
    theirs = bench.peer("datalad catalog-add", "catalog_add.py", other, dicoms, _VISIT, before=remover(other))
    lines = rows("catalog, a visit of 2,000 images", paired([ours, theirs], bench.runs, warm_up=False))
    return lines + _large_study(bench)


def _large_study(bench: Bench) -> list[str]:
    full, empty = bench.work / "study-1000", bench.work / "study-0"
    for store, visits in ((full, 1_000), (empty, 0)):
        if not (store / ".complete").exists():
            _make_study(bench, store, visits)
    add = [
        bench.ours(
            f"icf-utils, {name}", "catalogify_studyvisit_from_meta", "-o", store, "--id", _STUDY, "new", before=undo
        )
        for name, store, undo in (
            ("into 1,000 visits", full, _restore(full)),
            ("into an empty study", empty, _restore(empty)),
        )
    ]
    return rows("catalog, one more visit of 20 images", paired(add, bench.runs))


def _make_study(bench: Bench, store: Path, visits: int) -> None:
    """A study whose catalog shows ``visits`` visits, and the metadata of one more that it does not show yet."""
    source = make_visit(bench.work, 20)
    script = (
        "import sys; from icf_utils import *\n"
        "s, src, n = sys.argv[1], sys.argv[2], int(sys.argv[3])\n"
        "for name in [f'v{i:04}' for i in range(n)] + ['new']:\n"
        "    make_studyvisit_archive(src, s, 'study', name); deposit_visit_metadata(s, 'study', name)\n"
        "    name == 'new' or catalogify_studyvisit_from_meta(s, 'study', name)\n"
    )
    subprocess.run([sys.executable, "-c", script, store, source, str(visits)], check=True)
    (store / ".complete").touch()
    if visits:
        subprocess.run(["cp", "-a", store / _STUDY / "catalog", store / "catalog-before"], check=True)


def _restore(store: Path) -> Callable[[], None]:
    """Put a study's catalog back to how it was before the visit was added."""
    before, now = store / "catalog-before", store / _STUDY / "catalog"

    def restore() -> None:
        subprocess.run(["rm", "-rf", now], check=True)
        if before.exists():
            subprocess.run(["cp", "-a", before, now], check=True)

    return restore


def start_up(bench: Bench) -> list[str]:
    """How long a command takes that has next to nothing to do."""
    source, out = make_visit(bench.work, 1), bench.work / "out"
    commands = [
        bench.ours(
            "icf-utils, a visit of one image",
            "make_studyvisit_archive",
            "-o",
            out,
            *_ID,
            "--new",
            source,
            before=remover(out),
        ),
        Command("icf-utils --help", [bench.program, "--help"]),
        Command("python3 -c pass", [sys.executable, "-c", "pass"]),
    ]
    return rows("start-up", paired(commands, bench.runs))


def chain(bench: Bench) -> list[str]:
    """All stages of 200 visits of 40 images, with one worker and with two."""
    source, out, table = make_visit(bench.work, 40), bench.work / "out", bench.work / "visits.csv"
    lines = [f"study-{at % 4},v{at:03},{source}" for at in range(200)]
    table.write_text("study,visit,input\n" + "\n".join(lines) + "\n")
    checks = ("several-patients", "shared-study")
    more = ("--store-url", "https://example.org/store", "--new", *(f"--allow={check}" for check in checks))
    commands = [
        bench.ours(
            f"icf-utils run -j {jobs}", "run", "-o", out, "--table", table, "-j", jobs, *more, before=remover(out)
        )
        for jobs in ("2", "1")
    ]
    return rows("chain, 200 visits of 40 images", paired(commands, bench.runs, warm_up=False))


def _fresh(folder: Path) -> Callable[[], None]:
    def prepare() -> None:
        remover(folder)()
        folder.mkdir(parents=True)

    return prepare


def _tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def machine() -> str:
    """What the figures were taken on, as far as it matters."""
    processors = os.cpu_count()
    python = ".".join(map(str, sys.version_info[:3]))
    tools = {name: _version(name) for name in ("datalad", "datalad_catalog", "pydicom")}
    return f"{processors} processors, Linux, Python {python}, {json.dumps(tools)[1:-1]}".replace('"', "")


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name)
