"""Stores with whole visits in them, and what can be asked of a store's folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from icf_utils import (
    catalogify_studyvisit_from_meta,
    deposit_visit_dataset,
    deposit_visit_metadata,
    make_studyvisit_archive,
    verify_visit,
)
from icf_utils.dataset.study_stage import read_study_dataset
from icf_utils.errors import IcfError
from icf_utils.store.layout import Study, Visit
from icf_utils.store.sums import list_summed, sum_files, write_sums
from icf_utils.verify.verify import VisitCheck
from tests.data.make_dicom import write_visit

URL = "https://data.example.org/store"
STUDY = "study-a"


def write_input(folder: Path, **keywords: object) -> Path:
    """A small visit with two series and a companion."""
    write_visit(folder, {1: ("localizer", 2), 2: ("t1 mprage", 3)}, companions={"notes.txt": b"n\n"}, **keywords)
    return folder


def make_visit(
    source: Path,
    root: Path,
    visit: str = "v1",
    study: str = STUDY,
    *,
    tags: Path | None = None,
    store_url: str | None = URL,
    store_id: str | None = None,
    commit_date: str | None = None,
    time_zone: str = "UTC",
) -> Visit:
    """All four steps for one visit."""
    make_studyvisit_archive(source, root, study, visit, time_zone=time_zone)
    make_derived(root, visit, study, tags=tags, store_url=store_url, store_id=store_id, commit_date=commit_date)
    return Visit(root, study, visit)


def renew_sums(place: Visit) -> None:
    """Make the visit's SHA-256 sums anew from the files that are there, as if no others had been made."""
    write_sums(place, sum_files({name: place.of_study.folder / name for name in list_summed(place)}, {}))


def are_sums(name: str, data: bytes, *whole: bytes) -> bool:
    """Whether this is a SHA-256 sums with lines of these: of fewer files, as after the first stages of a visit."""
    lines = {line for form in whole for line in form.splitlines(keepends=True)}
    return name.endswith("_SHA256SUMS") and data != b"" and set(data.splitlines(keepends=True)) <= lines


def make_derived(
    root: Path,
    visit: str = "v1",
    study: str = STUDY,
    *,
    tags: Path | None = None,
    store_url: str | None = URL,
    store_id: str | None = None,
    commit_date: str | None = None,
) -> None:
    """The three steps after the archive."""
    deposit_visit_metadata(root, study, visit, tags=tags)
    deposit_visit_dataset(root, study, visit, store_url=store_url, store_id=store_id, commit_date=commit_date)
    catalogify_studyvisit_from_meta(root, study, visit)


def files_of(place: Visit) -> dict[str, Path]:
    """The six files of a visit, by a word for each."""
    return {
        "archive": place.archive,
        "checksum": place.checksum,
        "dicoms": place.dicoms_json,
        "tarball": place.tarball_json,
        "refs": place.refs,
        "export": place.export,
    }


def catalog_files(place: Visit) -> list[Path]:
    return sorted(path for path in place.of_study.catalog.rglob("*") if path.is_file())


def contents(root: Path) -> dict[str, bytes]:
    """The bytes of every file below a folder."""
    return {os.fspath(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def in_any_order(root: Path, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Files of a store in which a study's dataset is its last tree: its history tells in which order visits came."""
    found = dict(files)
    for study in (Study(root, name.split("/")[0]) for name in files if name.count("/") == 1):
        refs, export = (path.relative_to(root).as_posix() for path in (study.refs, study.export))
        if refs in found and export in found:
            with suppress(IcfError):  # it is compared as it is
                dataset = read_study_dataset(study)
                assert dataset is not None
                found[refs] = found[export] = dataset.tree + dataset.modules
    return found


def differing_files(one: Path, other: Path) -> list[str]:
    """Files that differ between two stores, or are only in one of them, whatever the order in which visits came."""
    stores = []
    for root in (one, other):
        files = {name: data for name, data in contents(root).items() if ".icf" not in Path(name).parts}
        stores.append(in_any_order(root, files))
    return sorted(name for name in stores[0].keys() | stores[1].keys() if stores[0].get(name) != stores[1].get(name))


def snapshot(root: Path) -> Mapping[str, tuple[object, ...]]:
    """Everything that writing could change: names, kinds, modes, times, bytes."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [root, *sorted(root.rglob("*"))]:
        status = path.lstat()
        data = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[os.fspath(path)] = (status.st_mode, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, data)
    return found


def check(place: Visit) -> VisitCheck:
    return verify_visit(place.root, place.study, place.visit)


def blamed(found: VisitCheck) -> set[Path]:
    """The files that the findings are about."""
    return {finding.path for finding in found.findings}


def names(paths: Iterable[Path]) -> list[str]:
    return sorted(path.name for path in paths)


@contextmanager
def damaged(path: Path, content: bytes) -> Iterator[None]:
    """For a while, a file with other content."""
    before, status = path.read_bytes(), path.stat()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
