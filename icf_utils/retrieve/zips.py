"""The target directory with one zip for each study: images are staged in its work folder, then packed.

A zip appears when all images of its study have arrived, and is never partial. Its entries are exactly the planned
images, stored without compression and with the same time everywhere, so that the same images give the same zip. An
existing file of that name is replaced only if icf-utils has made it and all of its images are planned. Reads and
writes files.
"""

from __future__ import annotations

import os
import shutil
import threading
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from icf_utils.errors import printable, storage_errors
from icf_utils.fetch.source import CHUNK
from icf_utils.retrieve.files import FolderDestination, IncomingFile, digest_of
from icf_utils.retrieve.model import Digest, PlannedFile
from icf_utils.store.files import new_file, rename_file, sync_file

#: The time of all entries: the earliest that a zip can express.
_WHEN = (1980, 1, 1, 0, 0, 0)

#: The mode of all entries, in the upper half of ``external_attr``.
_MODE = 0o644 << 16


class ZipDestination:
    """Zips ``<box>.zip`` in the directory ``root``; ``items`` are all images that belong into them."""

    def __init__(self, root: Path, work: Path, items: Iterable[PlannedFile]) -> None:
        self._root, self._work = root, work
        self._items: dict[str, list[PlannedFile]] = {}
        for item in items:
            self._items.setdefault(item.box, []).append(item)
        self._opened: dict[str, zipfile.ZipFile | None] = {}
        self._renamed: dict[str, dict[str, Digest]] = {}
        self._by_digest: dict[str, dict[Digest, str]] = {}
        self._entries: dict[PlannedFile, str] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the existing zips that were read."""
        with self._lock:
            for file in self._opened.values():
                if file:
                    file.close()
            self._opened.clear()

    def has_correct(self, planned: PlannedFile) -> bool:
        """Whether the image is staged for the zip, or in it under any name, with the right size and checksum."""
        return self._stage(planned.box).has_correct(planned) or self._has_entry(planned)

    def find_obstacle(self, planned: PlannedFile) -> str:
        """Why the zip of an image must not be written, and what to do; empty if it may be."""
        path = self._zip(planned.box)
        if not os.path.lexists(path):
            return ""
        old = self._open(planned.box)
        if old is None:
            return (
                f"'{printable(path)}' is not a zip that icf-utils has made, and was left unchanged: "
                "move it away, or choose another folder"
            )
        if self._others(planned.box, old) > len(self._renamed_ones(planned.box, old)):
            return (
                f"'{printable(path)}' contains files that are not selected now, and was left unchanged: "
                "select them as well, move it away, or choose another folder"
            )
        return ""

    def exists(self, planned: PlannedFile) -> bool:
        """Images in a zip are replaced with the zip as a whole."""
        return False

    def path(self, planned: PlannedFile) -> Path:
        return self._zip(planned.box) / planned.path

    def begin(self, planned: PlannedFile) -> IncomingFile:
        """Begin to write an image to its stage."""
        return self._stage(planned.box).begin(planned)

    def pack(self, box: str, items: Sequence[PlannedFile]) -> Path:
        """Make the zip of these images, all of which must be correct; does nothing if the zip is already right.

        :meth:`find_obstacle` and :meth:`has_correct` must have been called for each before.
        """
        path, part, old = self._zip(box), self._work / f"{os.getpid()}-zip.part", self._open(box)
        if old and old.namelist() == sorted(map(_entry, items)) and all(map(self._is_in_place, items)):
            return path
        with new_file(part, like=path) as file:
            with storage_errors(path, "write"), zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as new:
                self._fill(new, box, items)
            sync_file(file, path)
        self.close()
        with storage_errors(path, "write"):
            rename_file(part, path)
            shutil.rmtree(self._stage_folder(box), ignore_errors=True)
        return path

    def _fill(self, new: zipfile.ZipFile, box: str, items: Sequence[PlannedFile]) -> None:
        """Write the entries in the order of their names, from the old zip or from the stage."""
        stage, old = self._stage(box), self._open(box)
        for item in sorted(items, key=_entry):
            known = self._entries.get(item)
            _copy(new, _entry(item), old.open(known) if old and known else stage.path(item).open("rb"))

    def _is_in_place(self, planned: PlannedFile) -> bool:
        return self._entries.get(planned) == _entry(planned)

    def _has_entry(self, planned: PlannedFile) -> bool:
        """Whether the old zip has the image; remembers under which name."""
        old = self._open(planned.box)
        if old is None:
            return False
        name, digest = _entry(planned), planned.image.digest
        if name not in old.NameToInfo or _digest_in(old, name, planned.image.span.size, digest) != digest:
            self._renamed_ones(planned.box, old)
            name = self._by_digest[planned.box].get(digest, "")
        if name:
            self._entries[planned] = name
        return bool(name)

    def _others(self, box: str, old: zipfile.ZipFile) -> int:
        """How many files the zip has under names that are not planned."""
        return len(set(old.namelist()) - set(map(_entry, self._items[box])))

    def _renamed_ones(self, box: str, old: zipfile.ZipFile) -> dict[str, Digest]:
        """Planned images that the zip has under names of another layout; searched once."""
        with self._lock:
            if box not in self._renamed:
                found = dict(self._find_renamed(box, old))
                self._by_digest[box] = {digest: name for name, digest in found.items()}
                self._renamed[box] = found
            return self._renamed[box]

    def _find_renamed(self, box: str, old: zipfile.ZipFile) -> Iterator[tuple[str, Digest]]:
        planned = {(item.image.span.size, item.image.digest) for item in self._items[box]}
        like = self._items[box][0].image.digest
        for name in sorted(set(old.namelist()) - set(map(_entry, self._items[box]))):
            size = old.getinfo(name).file_size
            found = _digest_in(old, name, size, like)
            if found is not None and (size, found) in planned:
                yield name, found

    def _open(self, box: str) -> zipfile.ZipFile | None:
        """The existing zip, opened once; ``None`` if it is missing, damaged, or not made by icf-utils."""
        with self._lock, storage_errors(self._zip(box), "read"):
            if box not in self._opened:
                self._opened[box] = _open_own(self._zip(box))
            return self._opened[box]

    def _zip(self, box: str) -> Path:
        return self._root / f"{box}.zip"

    def _stage(self, box: str) -> FolderDestination:
        return FolderDestination(self._stage_folder(box), self._work)

    def _stage_folder(self, box: str) -> Path:
        """A study can have the name of any other file in the work folder, such as ``lock``."""
        return self._work / f"{box}.stage"


def _open_own(path: Path) -> zipfile.ZipFile | None:
    try:
        file = zipfile.ZipFile(path)
    except (FileNotFoundError, IsADirectoryError, PermissionError, zipfile.BadZipFile):
        return None
    if not file.comment and all(map(_is_own, file.infolist())) and not _has_prefix(file):
        return file
    file.close()
    return None


def _is_own(info: zipfile.ZipInfo) -> bool:
    """Whether an entry is like those of :func:`_copy`; in the zips of other programs, some time differs."""
    is_stored = info.compress_type == zipfile.ZIP_STORED and not info.comment and info.external_attr == _MODE
    return is_stored and info.date_time == _WHEN


def _has_prefix(file: zipfile.ZipFile) -> bool:
    """Whether there is something before the first entry, as in a self-extracting program."""
    return min((info.header_offset for info in file.infolist()), default=0) > 0


def _digest_in(file: zipfile.ZipFile, name: str, size: int, like: Digest) -> Digest | None:
    """The checksum of an entry; ``None`` if it is damaged, or has another size."""
    with suppress(zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error):
        if file.getinfo(name).file_size == size:
            with file.open(name) as entry:
                return digest_of(_chunks(entry), like)
    return None


def _entry(planned: PlannedFile) -> str:
    return str(planned.path)


def _copy(new: zipfile.ZipFile, name: str, file: IO[bytes]) -> None:
    info = zipfile.ZipInfo(name, _WHEN)
    info.external_attr = _MODE
    with file, new.open(info, "w", force_zip64=True) as entry:
        for chunk in _chunks(file):
            entry.write(chunk)


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk
