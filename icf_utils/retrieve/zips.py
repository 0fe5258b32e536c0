"""One zip for each study. Touches the target directory: images are staged in its work folder, then packed.

A zip appears when all images of its study are there, and is never half-written. Entries are stored as they are, with
the same times everywhere; there is one for each wanted image and no other. A file under the zip's name is replaced only
if it is a zip of ours and nothing is lost by it.
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

#: The time of all entries: the earliest that a zip can say, so that the same images are the same zip.
_WHEN = (1980, 1, 1, 0, 0, 0)

#: The mode of all entries, where a zip has it.
_MODE = 0o644 << 16


class ZipDestination:
    """Zips that images go to, ``<box>.zip`` in a directory; ``items`` are all that belong into them."""

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
        """Close the zips that were looked into."""
        with self._lock:
            for file in self._opened.values():
                if file:
                    file.close()
            self._opened.clear()

    def has(self, wanted: PlannedFile) -> bool:
        """Whether the image is staged for the zip, or in it under any name, with the right size and checksum."""
        return self._stage(wanted.box).has(wanted) or self._has_entry(wanted)

    def obstacle(self, wanted: PlannedFile) -> str:
        """Why the zip of an image must not be written, and what to do; empty if it may."""
        path = self._zip(wanted.box)
        if not os.path.lexists(path):
            return ""
        old = self._open(wanted.box)
        if old is None:
            return (
                f"'{printable(path)}' cannot be read as a zip that icf-utils has made, and was left as it is: "
                "move it away, or choose another folder"
            )
        if self._others(wanted.box, old) > len(self._renamed_ones(wanted.box, old)):
            return (
                f"'{printable(path)}' holds other files than those that are asked for now, and was left as it is: "
                "ask for all, move it away, or choose another folder"
            )
        return ""

    def is_taken(self, wanted: PlannedFile) -> bool:
        """Images in a zip are replaced with the zip as a whole."""
        return False

    def path(self, wanted: PlannedFile) -> Path:
        return self._zip(wanted.box) / wanted.path

    def new(self, wanted: PlannedFile) -> IncomingFile:
        """Begin to write an image, which is staged."""
        return self._stage(wanted.box).new(wanted)

    def pack(self, box: str, items: Sequence[PlannedFile]) -> Path:
        """Make the zip of these images, all of which are there; nothing happens if it is what it should be.

        :meth:`obstacle` and :meth:`has` must have been asked about each before.
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
            shutil.rmtree(self._work / box, ignore_errors=True)
        return path

    def _fill(self, new: zipfile.ZipFile, box: str, items: Sequence[PlannedFile]) -> None:
        """What the old zip has goes in, else what is staged; names in their order."""
        stage, old = self._stage(box), self._open(box)
        for item in sorted(items, key=_entry):
            known = self._entries.get(item)
            _copy(new, _entry(item), old.open(known) if old and known else stage.path(item).open("rb"))

    def _is_in_place(self, wanted: PlannedFile) -> bool:
        return self._entries.get(wanted) == _entry(wanted)

    def _has_entry(self, wanted: PlannedFile) -> bool:
        """Whether the old zip has the image; under which name is kept in mind."""
        old = self._open(wanted.box)
        if old is None:
            return False
        name, digest = _entry(wanted), wanted.image.digest
        if name not in old.NameToInfo or _digest_in(old, name, wanted.image.span.size, digest) != digest:
            self._renamed_ones(wanted.box, old)
            name = self._by_digest[wanted.box].get(digest, "")
        if name:
            self._entries[wanted] = name
        return bool(name)

    def _others(self, box: str, old: zipfile.ZipFile) -> int:
        """How many files the zip has under names that are no wanted image's."""
        return len(set(old.namelist()) - set(map(_entry, self._items[box])))

    def _renamed_ones(self, box: str, old: zipfile.ZipFile) -> dict[str, Digest]:
        """Wanted images that the zip has under other names, as another layout gave them; looked for once."""
        with self._lock:
            if box not in self._renamed:
                found = dict(self._find_renamed(box, old))
                self._by_digest[box] = {digest: name for name, digest in found.items()}
                self._renamed[box] = found
            return self._renamed[box]

    def _find_renamed(self, box: str, old: zipfile.ZipFile) -> Iterator[tuple[str, Digest]]:
        wanted = {(item.image.span.size, item.image.digest) for item in self._items[box]}
        like = self._items[box][0].image.digest
        for name in sorted(set(old.namelist()) - set(map(_entry, self._items[box]))):
            size = old.getinfo(name).file_size
            found = _digest_in(old, name, size, like)
            if found is not None and (size, found) in wanted:
                yield name, found

    def _open(self, box: str) -> zipfile.ZipFile | None:
        """The zip of ours that is there, opened once; none where it is missing, damaged, or somebody else's."""
        with self._lock, storage_errors(self._zip(box), "read"):
            if box not in self._opened:
                self._opened[box] = _open_ours(self._zip(box))
            return self._opened[box]

    def _zip(self, box: str) -> Path:
        return self._root / f"{box}.zip"

    def _stage(self, box: str) -> FolderDestination:
        return FolderDestination(self._work / box, self._work)


def _open_ours(path: Path) -> zipfile.ZipFile | None:
    try:
        file = zipfile.ZipFile(path)
    except (FileNotFoundError, IsADirectoryError, PermissionError, zipfile.BadZipFile):
        return None
    if not file.comment and all(map(_is_ours, file.infolist())) and not _begins_late(file):
        return file
    file.close()
    return None


def _is_ours(info: zipfile.ZipInfo) -> bool:
    """Whether an entry is as :func:`_copy` makes it; of those that other programs make, some time differs."""
    plain = info.compress_type == zipfile.ZIP_STORED and not info.comment and info.external_attr == _MODE
    return plain and info.date_time == _WHEN


def _begins_late(file: zipfile.ZipFile) -> bool:
    """Whether something stands before the first entry, as in a program that unpacks itself."""
    return min((info.header_offset for info in file.infolist()), default=0) > 0


def _digest_in(file: zipfile.ZipFile, name: str, size: int, like: Digest) -> Digest | None:
    """The checksum of an entry; none where it is damaged, or has another size."""
    with suppress(zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error):
        if file.getinfo(name).file_size == size:
            with file.open(name) as entry:
                return digest_of(_chunks(entry), like)
    return None


def _entry(wanted: PlannedFile) -> str:
    return str(wanted.path)


def _copy(new: zipfile.ZipFile, name: str, file: IO[bytes]) -> None:
    info = zipfile.ZipInfo(name, _WHEN)
    info.external_attr = _MODE
    with file, new.open(info, "w", force_zip64=True) as entry:
        for chunk in _chunks(file):
            entry.write(chunk)


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk
