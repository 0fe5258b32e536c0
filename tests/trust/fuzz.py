"""Mutated inputs for every reader: nothing but errors of ours, bounded memory, nothing written outside the store.

A mutation is a list of small changes to the bytes of a good input, given by numbers, so that Hypothesis can shrink it
and the long trial can draw it from a seed.
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import random
import resource
import shutil
import struct
import tarfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from icf_utils.archive.checksum import parse_checksum
from icf_utils.archive.reader import latest_time
from icf_utils.archive.stage import make_studyvisit_archive
from icf_utils.catalog.study import parse_study_page
from icf_utils.dataset.reader import parse_dataset
from icf_utils.errors import IcfError
from icf_utils.metadata.allowlist import AllowList, parse_allow_list
from icf_utils.metadata.describe import describe_archive
from icf_utils.metadata.records import read_unchecked_metadata
from icf_utils.metadata.stage import deposit_visit_metadata
from icf_utils.pipeline.visit_table import read_table
from icf_utils.progress import SILENT
from icf_utils.settings import parse_settings
from icf_utils.store.layout import Visit
from tests.conftest import VISITS
from tests.data.make_dicom import dicom_bytes
from tests.verify.stores import STUDY, make_visit, write_input

#: What a mutated input may take beyond what the process has, in bytes.
MEMORY = 512 << 20

#: One change: what is done, where (a part of the length), and with which number.
Change = tuple[int, float, int]

_WORDS = (
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\xfe\xff\xff\xff",
    b"\0\0\0\x80",
    b"../",
    b"/",
    b"\0",
    b"9" * 11,
    b"SQ\0\0",
)


def mutated(data: bytes, changes: Sequence[Change], other: bytes = b"") -> bytes:
    """``data`` after the changes; ``other`` is what pieces are spliced in from."""
    made = bytearray(data)
    for kind, where, number in changes:
        at = int(where * max(0, len(made) - 1))
        size = number % 65
        match kind % 7:
            case 0:
                made[at : at + 1] = bytes([number % 256])
            case 1 if made:
                made[at] ^= 1 << number % 8
            case 2:
                word = _WORDS[number % len(_WORDS)]
                made[at : at + len(word)] = word
            case 3:
                del made[at : at + size]
            case 4:
                made[at:at] = made[at : at + size] or b"\0"
            case 5:
                made[at : at + size] = other[at : at + size]
            case _:
                del made[at + (number % 1009) :]
    return bytes(made)


@dataclass(frozen=True)
class Target:
    """A reader with good inputs; ``read`` raises errors of ours only."""

    name: str
    seeds: tuple[bytes, ...]
    read: Callable[[bytes], object]


@dataclass
class Figures:
    """Executions by reader, and how many ended in an error of ours."""

    run: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        each = [f"{name}: {count} ({self.refused[name]} refused)" for name, count in sorted(self.run.items())]
        return [*each, f"executions: {self.run.total()}, crashes: 0, peak memory: {peak} MiB"]


class Readers:
    """All readers of the program that see bytes from outside, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.place = make_visit(write_input(folder / "in"), folder / "good")
        self.inside = folder / "inside"
        tar = self.place.archive.read_bytes()
        self.targets = {
            target.name: target
            for target in (
                Target("image", _images(), self._image),
                Target("zip", (_zip(folder / "in"),), self._packed),
                Target("tar", (tar,), self._packed),
                Target("tar.gz", (gzip.compress(tar, mtime=0),), self._packed),
                Target("tar.xz", (lzma.compress(tar),), self._packed),
                Target("archive", (tar,), self._archive),
                Target("metadata", (self.place.dicoms_json.read_bytes(),), self._metadata),
                Target("dataset", (self.place.export.read_bytes(), self.place.refs.read_bytes()), self._dataset),
                Target("checksum", (self.place.checksum.read_bytes(),), self._checksum),
                Target("page", self._pages(), self._page),
                Target("settings", (b'[store]\nurl = "x"\n[run]\njobs = 3\n',), self._settings),
                Target("tags", (b"EchoTime\n(0018,0080) # x\nallow_identifying: true\n",), self._tags),
                Target("table", (b"study,visit,input\nstudy-a,v1,in\nstudy-a,v2,in/x\n",), self._table),
            )
        }

    def _pages(self) -> tuple[bytes, ...]:
        pages = self.place.of_study.catalog.rglob("*.json")
        return tuple(data for page in sorted(pages) if b'"subdatasets"' in (data := page.read_bytes()))

    def attempt(self, target: Target, data: bytes) -> bool:
        """Read; whether that went through. Anything but an error of ours is an error of the trial's."""
        around, text = _listed(self._folder, self.inside), ""
        try:
            target.read(data)
        except IcfError as error:
            text = str(error)
        finally:
            shutil.rmtree(self.inside, ignore_errors=True)
            assert _listed(self._folder, self.inside) == around, "something was written outside of the store"
        assert "\x1b" not in text
        return not text

    def _image(self, data: bytes) -> None:
        (self.inside / "in").mkdir(parents=True)
        (self.inside / "in" / "image.dcm").write_bytes(data)
        self._chain(self.inside / "in")

    def _packed(self, data: bytes) -> None:
        self.inside.mkdir()
        (self.inside / "packed").write_bytes(data)
        self._chain(self.inside / "packed")

    def _chain(self, source: Path) -> None:
        make_studyvisit_archive(source, self.inside / "store", STUDY, "v1")
        deposit_visit_metadata(self.inside / "store", STUDY, "v1")
        outside = set(os.listdir(self.inside)) - {source.name, "store"}
        assert not outside, outside

    def _archive(self, data: bytes) -> None:
        self.inside.mkdir()
        path = self.inside / "x.tar"
        path.write_bytes(data)
        try:
            describe_archive(path, self.place.member_root, AllowList({}, allow_identifying=False), SILENT)
        finally:
            latest_time(path, len(data))

    def _metadata(self, data: bytes) -> None:
        place = Visit(self.inside, STUDY, "v1")
        place.of_study.folder.mkdir(parents=True)
        place.dicoms_json.write_bytes(data)
        place.tarball_json.write_bytes(self.place.tarball_json.read_bytes())
        read_unchecked_metadata(place)

    def _dataset(self, data: bytes) -> None:
        as_export = data[:2] == b"PK"
        refs = self.place.refs.read_bytes() if as_export else data
        parse_dataset(refs, data if as_export else self.place.export.read_bytes(), self.place)

    def _checksum(self, data: bytes) -> None:
        parse_checksum(data, self.place.archive.name, "x")

    def _page(self, data: bytes) -> None:
        parse_study_page(data, "x")

    def _settings(self, data: bytes) -> None:
        parse_settings(data, "x")

    def _tags(self, data: bytes) -> None:
        parse_allow_list(data.decode("utf-8", "replace"), "x")

    def _table(self, data: bytes) -> None:
        self.inside.mkdir()
        (self.inside / "table.csv").write_bytes(data)
        read_table(self.inside / "table.csv", self.inside)


def _images() -> tuple[bytes, ...]:
    """Invented ones of all encodings, hostile ones, and the heads of real ones where they are there."""
    syntaxes = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")
    made = [dicom_bytes(transfer_syntax=syntax) for syntax in syntaxes]
    made.append(_nested(2000))
    paths = sorted(path for path in VISITS.rglob("*") if path.is_file())[::200][:20] if VISITS.is_dir() else []
    return (*made, *(path.read_bytes()[:20000] for path in paths))


def _nested(depth: int) -> bytes:
    """Sequences within sequences."""
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    sequence = struct.pack("<HH", 0x0008, 0x1140) + b"SQ\0\0\xff\xff\xff\xff"
    return dicom_bytes(transfer_syntax="1.2.840.10008.1.2.1") + (sequence + item) * depth


def _zip(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                packed.writestr(zipfile.ZipInfo(path.relative_to(folder).as_posix()), path.read_bytes())
    return buffer.getvalue()


def _listed(folder: Path, without: Path) -> list[str]:
    """Everything in the folder and beside it, except what is below ``without``."""
    found = [entry.path for entry in os.scandir(folder.parent)]
    for parent, folders, names in os.walk(folder):
        if Path(parent) == folder and without.name in folders:
            folders.remove(without.name)
        found += [f"{parent}/{name}" for name in names]
    return sorted(found)


def hostile_tar(names: Sequence[str]) -> bytes:
    """A tar of files with these names, whatever they are."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as packed:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 3
            packed.addfile(info, io.BytesIO(b"abc"))
    return buffer.getvalue()


def limit_memory() -> None:
    """From here on this process gets :data:`MEMORY` more address space, and a ``MemoryError`` beyond."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


def fuzz_for(folder: Path, seconds: float, seed: str) -> Figures:
    """Mutate the inputs of all readers in turn, for so long, with bounded memory."""
    (folder / "here").mkdir()
    readers, figures = Readers(folder / "here"), Figures()
    limit_memory()
    chance, end = random.Random(seed), time.monotonic() + seconds
    targets = list(readers.targets.values())
    while time.monotonic() < end:
        target = targets[figures.run.total() % len(targets)]
        changes = [
            (chance.randrange(7), chance.random() ** chance.choice((1, 4)), chance.getrandbits(16))
            for _ in range(chance.choice((1, 1, 2, 3, 5, 9)))
        ]
        data = mutated(chance.choice(target.seeds), changes, chance.choice(target.seeds))
        try:
            through = readers.attempt(target, data)
        except BaseException:
            (folder.parent / "icf-utils-crash").write_bytes(data)
            raise
        figures.run[target.name] += 1
        figures.refused[target.name] += not through
    return figures
