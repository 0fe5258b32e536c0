"""Pack what a program left in its output folder: a TAR whose bytes depend on names and content alone.

The TAR has the same form as an archive of images (:mod:`icf_utils.archive.tar_headers`): sorted, normalised members,
here all with the time 0. First comes the record of the output (:mod:`icf_utils.outputs.provenance`), then the files
below ``OUTPUT/``. Symbolic links to regular files within the output are stored as the file; links that lead elsewhere,
FIFOs, sockets and devices are refused by name. Folders without a file in them are not stored.

:func:`list_output` examines a folder and :func:`write_output` reads its files; both follow no link out of it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from icf_utils.archive.tar_headers import content_padding, end_of_archive, member_header
from icf_utils.errors import storage_errors
from icf_utils.outputs.provenance import OutputFiles

#: The folder of the program's files in the TAR, as MagickBox calls it.
OUTPUT_FOLDER = "OUTPUT"

#: The name of the record in the TAR.
RECORD_NAME = "provenance.json"

_CHUNK = 1 << 20

#: Bytes of a folder's path below the output: a system call takes 4,095, the scratch folder and a name included.
_LONGEST_PATH = 3000
_TOO_LONG = "is a folder whose path is too long"
_TIME = 0.0
_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFBLK: "a device", stat.S_IFCHR: "a device"}


@dataclass(frozen=True)
class OutputListing:
    """What is in an output folder: the files by their path below it, sorted by path parts, with sizes in bytes.

    ``refusals`` are names and reasons of what cannot be stored, ``empty`` the folders without a file in them.
    """

    files: tuple[tuple[str, int], ...]
    refusals: tuple[tuple[str, str], ...] = ()
    empty: tuple[str, ...] = ()


def list_output(folder: Path) -> OutputListing:
    """Examine an output folder. What the program made unreadable for its own user is made readable again.

    Raises :class:`~icf_utils.errors.StorageFailure`.
    """
    files: list[tuple[str, int]] = []
    refusals: list[tuple[str, str]] = []
    empty: list[str] = []
    root = os.path.realpath(folder)
    with storage_errors(folder, "read"):
        for below, names in _walk(folder, refusals):
            if not names and below:
                empty.append(below)
            for name in names:
                path = f"{below}/{name}" if below else name
                size, reason = _examine(root, path)
                if reason:
                    refusals.append((path, reason))
                elif size is not None:
                    files.append((path, size))
    files.sort(key=lambda item: PurePosixPath(item[0]).parts)
    return OutputListing(tuple(files), tuple(sorted(refusals)), tuple(sorted(empty)))


def _walk(folder: Path, refusals: list[tuple[str, str]]) -> Iterator[tuple[str, list[str]]]:
    """Each folder below, by its relative path, with the names in it; ``refusals`` gets those with too long a path."""
    pending = [""]
    while pending:
        below = pending.pop()
        place = os.path.join(folder, below)
        os.chmod(place, stat.S_IMODE(os.lstat(place).st_mode) | stat.S_IRWXU)
        with os.scandir(place) as items:
            entries = list(items)
        folders = [os.path.join(below, item.name) for item in entries if item.is_dir(follow_symlinks=False)]
        refusals += [
            (f"{path[:100]}...", "is a folder whose path is too long") for path in folders if _is_too_long(path)
        ]
        pending += [path for path in folders if not _is_too_long(path)]
        yield below, [item.name for item in entries]


def _is_too_long(path: str) -> bool:
    return len(os.fsencode(path)) > _LONGEST_PATH


def _examine(root: str, path: str) -> tuple[int | None, str]:
    """The size of a regular file or of the one that a link leads to; none for a folder; and why it is refused."""
    place = os.path.join(root, path)
    found = os.lstat(place)
    if stat.S_ISLNK(found.st_mode):
        target = os.path.realpath(place)
        if not target.startswith(f"{root}/"):
            return None, "is a link that leads out of the output"
        try:
            found = os.stat(target)
        except OSError:
            return None, "is a link that leads nowhere"
        if stat.S_ISDIR(found.st_mode):
            return None, "is a link to a folder"
        place = target
    if stat.S_ISDIR(found.st_mode):
        return None, ""
    if not stat.S_ISREG(found.st_mode):
        return None, f"is {_KINDS.get(stat.S_IFMT(found.st_mode), 'a special file')}"
    if not found.st_mode & stat.S_IRUSR:
        os.chmod(place, stat.S_IMODE(found.st_mode) | stat.S_IRUSR)
    return found.st_size, ""


def write_output(
    folder: Path, listing: OutputListing, member_root: str, record: bytes, part: BinaryIO, target: Path
) -> OutputFiles:
    """Write the TAR of a listed output to an open file, which will be ``target``.

    Raises :class:`~icf_utils.errors.StorageFailure`, also for a file that is not any more what the listing says, and
    before anything is written if there is not enough space: files with holes can be larger than any disk.
    """
    with storage_errors(target, "write"):
        found = os.fstatvfs(part.fileno())
        if sum(size for _, size in listing.files) > found.f_bavail * found.f_frsize:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    writer = _Writer(part, target)
    writer.add_bytes(f"{member_root}/{RECORD_NAME}", record)
    for path, size in listing.files:
        writer.add_file(f"{member_root}/{OUTPUT_FOLDER}/{path}", Path(os.path.realpath(folder / path)), size)
    md5, total = writer.finish()
    return OutputFiles(md5, total, len(listing.files), sum(size for _, size in listing.files))


class _Writer:
    def __init__(self, part: BinaryIO, target: Path) -> None:
        self._part, self._target = part, target
        self._md5, self._position = hashlib.md5(usedforsecurity=False), 0

    def add_bytes(self, name: str, data: bytes) -> None:
        self._write(member_header(name, len(data), _TIME) + data + content_padding(len(data)))

    def add_file(self, name: str, path: Path, size: int) -> None:
        self._write(member_header(name, size, _TIME))
        left = size
        with storage_errors(path, "read"), open(path, "rb", buffering=0) as handle:
            while data := handle.read(min(_CHUNK, left + 1)):
                left -= len(data)
                if left < 0:
                    break
                self._write(data)
            if left:
                raise OSError(0, "its size changed while it was read")
        self._write(content_padding(size))

    def finish(self) -> tuple[str, int]:
        self._write(end_of_archive(self._position))
        return self._md5.hexdigest(), self._position

    def _write(self, data: bytes) -> None:
        with storage_errors(self._target, "write"):
            self._part.write(data)
        self._md5.update(data)
        self._position += len(data)
