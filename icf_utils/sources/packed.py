"""What zip and tar inputs have in common. Reads the packed file; nothing is ever extracted under a name.

Members that are no regular files, leave the archive, or stand in it twice are refused by name; links to files of the
same archive become these files.
"""

from __future__ import annotations

import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, BinaryIO

from icf_utils.errors import InputRefused, StorageFailure, storage_errors
from icf_utils.results import Notice
from icf_utils.sources.entries import (
    Entry,
    Reader,
    clean_member_name,
    empty_folder_notices,
    follow_links,
    name_notices,
    path_order,
    strip_components,
)

#: What the readers of the standard library and zstandard raise for damaged, cut, encrypted or unknown packing.
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


class Listing:
    """What a packed file says of its members, by clean name: size, how to open it, links, folders, refusals."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.openers: dict[str, Callable[[], IO[bytes]]] = {}
        self.links: dict[str, str | None] = {}
        self.folders: list[str] = []
        self.refused: list[tuple[str, str]] = []

    def place(self, raw_name: str) -> str | None:
        """The clean name of a new member, or ``None`` after noting why there is none."""
        name = clean_member_name(raw_name)
        if not name:
            self.refused.append((raw_name, "is an absolute name, leaves the archive, or is no name at all"))
        elif name in self.sizes or name in self.links:
            self.refused.append((raw_name, "stands in the archive twice"))
        else:
            return name
        return None

    def add_folder(self, raw_name: str) -> None:
        """Note a folder; the top one has no name."""
        name = clean_member_name(raw_name)
        if name is None:
            self.refused.append((raw_name, "is an absolute name or leaves the archive"))
        elif name:
            self.folders.append(name)

    def add_file(self, name: str, size: int, opener: Callable[[], IO[bytes]]) -> None:
        """Note a regular file under its clean name."""
        self.sizes[name] = size
        self.openers[name] = opener


class PackedSource:
    """The files of a zip or tar. ``strip`` folders are taken off the front of every name.

    ``list_members`` reads the packed file's directory. Raises :class:`~icf_utils.errors.InputRefused`.
    """

    def __init__(self, path: str, packed: BinaryIO, list_members: Callable[[], Listing], strip: int) -> None:
        self.label = path
        self._packed = packed
        self._status = self._fingerprint()
        with self.refusing(path):
            listing = list_members()
        self._openers = listing.openers
        self._members = self._name_members(listing, strip)
        entries = [Entry(name, listing.sizes[member]) for name, member in self._members.items()]
        self.entries = tuple(sorted(entries, key=path_order))
        folders = [strip_components(name, strip) for name in listing.folders]
        self.notices: tuple[Notice, ...] = (*name_notices(self.entries), *empty_folder_notices(folders, self.entries))

    @contextmanager
    def open(self, entry: Entry) -> Iterator[Reader]:
        """Open one member; a damaged one is refused by name."""
        with self.refusing(entry.name):
            handle = self._openers[self._members[entry.name]]()
        with handle:
            yield _MemberReader(self, entry, handle)

    def check_unchanged(self) -> None:
        """The packed file itself must be as it was."""
        if self._fingerprint() != self._status:
            refusals = [(self.label, "changed while it was read")]
            raise InputRefused(self.label, refusals, "Wait until nothing writes to it any more.")

    def _fingerprint(self) -> tuple[int, ...]:
        with storage_errors(self.label, "examine"):
            now = os.fstat(self._packed.fileno())
            named = os.stat(self.label)
        return (named.st_dev, named.st_ino, now.st_size, now.st_mtime_ns)

    def _name_members(self, listing: Listing, strip: int) -> dict[str, str]:
        """Name of each file in the archive to be -> name of the member that holds its content."""
        links, refused = follow_links(listing.links, listing.sizes)
        refused += listing.refused
        members: dict[str, str] = {}
        for name in (*listing.sizes, *links):
            short = strip_components(name, strip)
            if not short:
                refused.append((name, f"has no name left without its first {strip} parts"))
            elif short in members:
                refused.append((name, "stands in the archive twice"))
            else:
                members[short] = links.get(name, name)
        refused += [(name, "is a file and a folder at once") for name in _files_that_are_folders(members)]
        if refused:
            raise InputRefused(self.label, sorted(refused), "Pack the visit again without these members.")
        return members

    @contextmanager
    def refusing(self, name: str) -> Iterator[None]:
        """Turn what a reader of packed files raises into a refusal of ``name``."""
        try:
            yield
        except _DAMAGED as error:
            raise InputRefused(self.label, [(name, _reason(error))], "Check the file, or pack it again.") from error
        except OSError as error:
            if error.errno is not None:
                raise StorageFailure(self.label, "read", error) from error
            raise InputRefused(self.label, [(name, _reason(error))], "Check the file, or pack it again.") from error


def _files_that_are_folders(names: dict[str, str]) -> list[str]:
    found = set()
    for name in names:
        parent = name.rpartition("/")[0]
        while parent:
            if parent in names:
                found.add(parent)
            parent = parent.rpartition("/")[0]
    return sorted(found)


def _reason(error: BaseException) -> str:
    if isinstance(error, RuntimeError) and "encrypted" in str(error):
        return "is encrypted, and there is no way to give a password"
    if isinstance(error, NotImplementedError):
        return "is packed by a method that cannot be read here"
    return f"is damaged or cut, or neither a zip nor a tar ({type(error).__name__}: {error})"


class _MemberReader:
    def __init__(self, source: PackedSource, entry: Entry, handle: IO[bytes]) -> None:
        self._source, self._entry, self._handle = source, entry, handle
        self._left = entry.size

    def read(self, size: int) -> bytes:
        with self._source.refusing(self._entry.name):
            data = self._handle.read(size)
            self._left -= len(data)
            if size and not data and self._left > 0:
                raise EOFError(f"{self._left} bytes are missing")
        return data
