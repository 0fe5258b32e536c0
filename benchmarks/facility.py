"""A whole facility's store, by simulation: 200 studies of 100 visits of 2,500 images, that is 50 million image records.

    python -m benchmarks.facility [--work FOLDER] [--studies N] [--visits N] [--images N] [--runs N] [--write PAGE]

The first study is real: its visits go through all stages. The others are copies of it under names and UIDs of their
own, with the records of a run, but without pixels: their archives are sparse files of the right size. So everything
that works from names, records, metadata and catalogs meets what it would meet at a facility, and only what reads
archives does not. Takes about half an hour and, with all sizes, 60 GB below FOLDER.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.cases import machine
from benchmarks.measure import Command, Run, paired, run_once
from benchmarks.run import publish
from benchmarks.visits import make_visit
from icf_utils.catalog.content import study_files
from icf_utils.catalog.index_page import build_index
from icf_utils.catalog.study import parse_study_page, study_id
from icf_utils.catalog.study_description import study_catalog
from icf_utils.catalog.study_index import INDEX_PATH
from icf_utils.formatting import format_size
from icf_utils.pipeline.catalog_state import read_catalog_state
from icf_utils.pipeline.fingerprints import Fingerprinter
from icf_utils.pipeline.model import RunConfig, VisitInput
from icf_utils.pipeline.run import run_visits
from icf_utils.pipeline.state import WHOLE_STUDY, read_records, write_record
from icf_utils.settings import CatalogSettings, load_settings
from icf_utils.store.layout import Study, Visit, visit_uuid
from icf_utils.verify.fixity import record_fixity

_FIRST = "study-000"
_UID_ROOT = b"1.2.826.0.1.3680043.8.498."
_URL = "https://data.example.org"
_UUID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
#: Bytes of a file above which it is metadata of images, which has no UUIDs.
_LARGE = 1_000_000
_HEADER = ["| what | command | wall time | CPU time | peak memory |", "| --- | --- | --- | --- | --- |"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "icf-utils-benchmarks"))
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--visits", type=int, default=100)
    parser.add_argument("--images", type=int, default=2500)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    work = args.work.absolute()
    store = make_store(work, args.studies, args.visits, args.images)
    table = [*_HEADER, *_measure(store, args.runs)]
    size = (
        f"{args.studies} studies, {args.studies * args.visits:,} visits, {args.studies * args.visits * args.images:,}"
    )
    note = f"{size} image records. Medians of {args.runs} runs. {machine()}."
    publish("facility", "\n".join([*table, "", note, *_growth(store, args.visits, args.images)]), args.write)


def make_store(work: Path, studies: int, visits: int, images: int) -> Path:
    """The store, made once for each size."""
    store = work / f"facility-{studies}-{visits}-{images}"
    if (store / ".complete").exists():
        return store
    shutil.rmtree(store, ignore_errors=True)
    store.mkdir(parents=True)
    (store / "icf.toml").write_text(f'[store]\nurl = "{_URL}"\n')
    _make_first_study(store, work / "facility-input", visits, images)
    build_index(store)  # the studies' pages link to it
    for number in range(1, studies):
        _copy_study(store, number)
        print(f"  study {number} of {studies}", file=sys.stderr, end="\r", flush=True)
    (store / ".complete").touch()
    return store


def _make_first_study(store: Path, inputs: Path, visits: int, images: int) -> None:
    """Archive small images, a few visits at a time, and remove the inputs."""
    for begin in range(0, visits, 10):
        batch = [
            VisitInput(_FIRST, f"visit-{at:04}", make_visit(inputs, images, size=2000, seed=at, per_series=250))
            for at in range(begin, min(begin + 10, visits))
        ]
        result = run_visits(batch, RunConfig(root=store, settings=load_settings(store)), jobs=2)
        if result.failed:
            raise SystemExit(f"the first study cannot be made: {result.failed[0]}")
        shutil.rmtree(inputs)


def _copy_study(store: Path, number: int) -> None:
    """The first study under another name, with UIDs of its own, archives without content, and records that match."""
    first, study = Study(store, _FIRST), Study(store, f"study-{number:03}")
    names = _new_names(first, study, number)
    for source in _files(first.folder):
        copy = study.folder / _renamed(source.relative_to(first.folder).as_posix().encode(), names).decode()
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.name.endswith("_dicom.tar"):
            copy.touch()
            os.truncate(copy, source.stat().st_size)
        elif source.name.endswith("_XDLRA--repo-export"):
            os.link(source, copy)
        else:
            copy.write_bytes(_renamed(source.read_bytes(), names))
    settings = load_settings(store).catalog
    _write_study_page(study, settings)
    _renew_records(study, settings)
    for visit in study.visits():
        record_fixity(Visit(store, study.study, visit), 1, 0)


def _new_names(first: Study, study: Study, number: int) -> dict[bytes, bytes]:
    """What the first study's files call something, and what the copy's do; UUIDs come last."""
    names = {_FIRST.encode(): study.study.encode(), _UID_ROOT: _UID_ROOT.replace(b".498.", b".%03d." % (500 + number))}
    uuids = {study_id(_FIRST): study_id(study.study)}
    for visit in first.visits():
        old, new = (str(visit_uuid(_URL, each.study, visit, "dataset")) for each in (first, study))
        uuids[old] = new
    return {**names, **{old.encode(): new.encode() for old, new in uuids.items()}}


def _renamed(data: bytes, names: dict[bytes, bytes]) -> bytes:
    for old in (_FIRST.encode(), _UID_ROOT):
        data = data.replace(old, names[old])
    return _UUID.sub(lambda found: names.get(found[0], found[0]), data) if len(data) < _LARGE else data


def _files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


def _write_study_page(study: Study, settings: CatalogSettings) -> None:
    """The files that all visits share; the names of some depend on the study's."""
    (former,) = (study.catalog / "metadata" / study_id(study.study)).glob("latest/*/*.json")
    page = parse_study_page(former.read_bytes(), study.study, (study.catalog / INDEX_PATH).read_bytes())
    former.unlink()
    look = study_catalog(study, settings)
    for name, data in study_files(study.study, study_id(study.study), page, look).items():
        (study.catalog / name).parent.mkdir(parents=True, exist_ok=True)
        (study.catalog / name).write_bytes(data)


def _renew_records(study: Study, settings: CatalogSettings) -> None:
    """Give the stages' records what the file system now says about the files that they name."""
    state = read_catalog_state(study, settings)
    write_record(study, WHOLE_STUDY, "catalog", state.record)
    look = Fingerprinter(study.folder, {}, quick=True)
    for visit in study.visits():
        for stage, record in read_records(Visit(study.root, study.study, visit)).items():
            inputs, outputs = (
                {name: replace(look.fingerprint(name) or known, digest=known.digest) for name, known in part.items()}
                for part in (record.inputs, record.outputs)
            )
            facts = dict.fromkeys(record.facts, state.entries[visit])
            write_record(study, visit, stage, replace(record, inputs=inputs, outputs=outputs, facts=facts))


def _measure(store: Path, runs: int) -> list[str]:
    icf = [sys.executable, "-m", "icf_utils"]
    place = ["-o", str(store)]
    commands = [
        ("progress of all visits", "status", [*icf, "status", *place]),
        ("what a run would do", "run -n", [*icf, "run", "-n", "-q", *place]),
        ("a run with nothing to do", "run", [*icf, "run", "-q", *place]),
        ("page of all studies", "catalog build --index", [*icf, "catalog", "build", "--index", *place]),
        ("a study's catalog again", f"catalog build {_FIRST}", [*icf, "catalog", "build", _FIRST, *place]),
        ("the visits verified longest ago", "verify --for 1s", [*icf, "verify", "--for", "1s", *place]),
        ("progress of verification", "status --fixity", [*icf, "status", "--fixity", *place]),
    ]
    lines = [_line(title, shown, paired([Command(shown, command)], runs).runs[0]) for title, shown, command in commands]
    more, less = zip(*(_come_and_go(store, icf, at) for at in range(runs)), strict=True)
    return [*lines, _line("one more visit of 40 images", "run", more), _line("without it again", "visit remove", less)]


def _come_and_go(store: Path, icf: Sequence[str], number: int) -> tuple[Run, Run]:
    """Another visit of the first study, from its input to the catalog, and its removal."""
    visit, place = f"more-{number}", ["-o", str(store)]
    source = make_visit(store.parent / "facility-more", 40, size=2000, seed=10_000 + number)
    table = store.parent / "facility-more.csv"
    table.write_text(f"study,visit,input\n{_FIRST},{visit},{source}\n")
    remove = ["--id", _FIRST, visit, "--reason", "benchmark", "--yes"]
    return (
        run_once(Command("run", [*icf, "run", "-q", *place, "--table", str(table), _FIRST])),
        run_once(Command("visit remove", [*icf, "visit", "remove", *place, *remove])),
    )


def _line(title: str, shown: str, runs: Sequence[Run]) -> str:
    wall, cpu, peak = (statistics.median(getattr(run, what) for run in runs) for what in ("wall", "cpu", "peak"))
    return f"| {title} | `{shown}` | {wall:.2f} s | {cpu:.2f} s | {peak:.0f} MiB |"


def _growth(store: Path, visits: int, images: int) -> list[str]:
    """What a visit adds to the store beside its archive."""
    study = store / "study-001"
    files = [path for path in _files(study) if not path.name.endswith("_dicom.tar")]
    groups = {"metadata": 0, "dataset": 0, "catalog": 0, "records of runs": 0, "rest": 0}
    for path in files:
        groups[_group(path.relative_to(study).as_posix())] += path.stat().st_size
    parts = ", ".join(f"{name} {format_size(size // visits)}" for name, size in groups.items())
    listed = format_size((study / "visits.json").stat().st_size)
    return [
        "",
        f"Without its archive, a visit of {images:,} images takes {len(files) / visits:.0f} files: {parts}. "
        f"`visits.json` of {visits} visits: {listed}.",
    ]


def _group(name: str) -> str:
    if name.startswith("catalog/"):
        return "catalog"
    if name.startswith(".icf/"):
        return "records of runs"
    if "_metadata_" in name:
        return "metadata"
    return "dataset" if "XDLRA" in name else "rest"


if __name__ == "__main__":
    main()
