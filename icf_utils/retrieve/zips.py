"""One zip for each study. Touches the target directory: images are staged in its work folder, then packed.

A zip appears when all images of its study are there, and is never half-written. Entries are stored as they are, with
the same times everywhere.
"""

from __future__ import annotations

import os
import shutil
import threading
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from icf_utils.errors import storage_errors
from icf_utils.fetch.source import CHUNK
from icf_utils.retrieve.saving import FolderShelf, Incoming, digest_of
from icf_utils.retrieve.values import Wanted

#: The time of all entries: the earliest that a zip can say, so that the same images are the same zip.
_WHEN = (1980, 1, 1, 0, 0, 0)


class ZipShelf:
    """Zips that images go to, ``<box>.zip`` in a directory."""

    def __init__(self, root: Path, work: Path) -> None:
        self._root, self._work = root, work
        self._opened: dict[str, zipfile.ZipFile | None] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the zips that were looked into."""
        with self._lock:
            for file in self._opened.values():
                if file:
                    file.close()
            self._opened.clear()

    def has(self, wanted: Wanted) -> bool:
        """Whether the image is in the zip, or staged for it, with the right size and checksum."""
        return self._stage(wanted.box).has(wanted) or self._has_entry(wanted)

    def is_taken(self, wanted: Wanted) -> bool:
        """Images in a zip are replaced with the zip as a whole."""
        return False

    def path(self, wanted: Wanted) -> Path:
        return self._zip(wanted.box) / wanted.path

    def new(self, wanted: Wanted) -> Incoming:
        """Begin to write an image, which is staged."""
        return self._stage(wanted.box).new(wanted)

    def pack(self, box: str, items: Sequence[Wanted]) -> Path:
        """Make the zip of these images and what else was in it; nothing happens if it has them all."""
        path, part = self._zip(box), self._work / f"{os.getpid()}-zip.part"
        if not (self._work / box).exists() and path.exists():
            return path
        with storage_errors(path, "write"), part.open("xb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as new:
                self._fill(new, box, items)
            file.flush()
            os.fsync(file.fileno())
            self.close()
            os.replace(part, path)
            shutil.rmtree(self._work / box, ignore_errors=True)
        return path

    def _fill(self, new: zipfile.ZipFile, box: str, items: Sequence[Wanted]) -> None:
        """What is staged goes in, else what the old zip has; names in their order."""
        stage, old = self._stage(box), self._open(box)
        staged = {_entry(item): stage.path(item) for item in items if stage.path(item).exists()}
        for name in sorted(staged.keys() | set(old.namelist() if old else ())):
            if name in staged:
                _copy(new, name, staged[name].open("rb"))
            elif old:
                _copy(new, name, old.open(name))

    def _has_entry(self, wanted: Wanted) -> bool:
        old = self._open(wanted.box)
        if old is None:
            return False
        with suppress(KeyError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error):
            if old.getinfo(_entry(wanted)).file_size == wanted.image.span.size:
                with old.open(_entry(wanted)) as entry:
                    return digest_of(_chunks(entry), wanted.image.digest) == wanted.image.digest
        return False

    def _open(self, box: str) -> zipfile.ZipFile | None:
        """The zip that is there, opened once; none where it is missing or damaged."""
        with self._lock, storage_errors(self._zip(box), "read"):
            if box not in self._opened:
                try:
                    self._opened[box] = zipfile.ZipFile(self._zip(box))
                except (FileNotFoundError, zipfile.BadZipFile):
                    self._opened[box] = None
            return self._opened[box]

    def _zip(self, box: str) -> Path:
        return self._root / f"{box}.zip"

    def _stage(self, box: str) -> FolderShelf:
        return FolderShelf(self._work / box, self._work)


def _entry(wanted: Wanted) -> str:
    return str(wanted.path)


def _copy(new: zipfile.ZipFile, name: str, file: IO[bytes]) -> None:
    info = zipfile.ZipInfo(name, _WHEN)
    info.external_attr = 0o644 << 16
    with file, new.open(info, "w", force_zip64=True) as entry:
        for chunk in _chunks(file):
            entry.write(chunk)


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk
