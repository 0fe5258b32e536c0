"""Some files of a folder as an input: a list of them, as a value or in a small JSON file. Reads the list and the files.

Nothing is copied or linked: the list says where the files are, and how large and how old they were when it was made,
so that a later change is noticed.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from icf_utils.errors import InputRefused, InvalidSetting, storage_errors
from icf_utils.sources.directory import DirectorySource
from icf_utils.sources.tree import TreeVisit

#: How the JSON file begins.
SELECTION_MAGIC = b'{"icf-selection": 1, '


@dataclass(frozen=True)
class SelectedFile:
    """A file: ``name`` relative to the selection's root, ``size`` in bytes, ``mtime_ns`` of its content."""

    name: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class FileSelection:
    """Files of one folder, sorted by name; ``root`` is absolute."""

    root: str
    files: tuple[SelectedFile, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def select_files(root: Path, names: Iterable[str]) -> FileSelection:
    """The selection of these files, as they are now; raises :class:`~icf_utils.errors.StorageFailure`."""
    return FileSelection(os.path.abspath(root), tuple(_chosen(root, name) for name in sorted(names)))


def select_visit(visit: TreeVisit) -> FileSelection:
    """All files of a visit's folder but those of the scans that are left out."""
    excluded = {scan.name for scan in visit.excluded}
    root = os.path.abspath(visit.path)
    return select_files(Path(root), list_files(root, lambda name: name not in excluded))


def list_files(root: str, takes: Callable[[str], bool] = lambda _: True) -> list[str]:
    """Relative names of all that is no folder; ``takes`` decides about each folder by its relative name."""
    found, pending = [], [""]
    while pending:
        below = pending.pop()
        with storage_errors(root, "read"), os.scandir(f"{root}/{below}") as items:
            for item in items:
                name = f"{below}{item.name}"
                if not item.is_dir(follow_symlinks=False):
                    found.append(name)
                elif takes(name):
                    pending.append(f"{name}/")
    return sorted(found)


def _chosen(root: Path, name: str) -> SelectedFile:
    with storage_errors(root / name, "examine"):
        status = os.stat(root / name)
    return SelectedFile(name, status.st_size, status.st_mtime_ns)


def encode_selection(selection: FileSelection) -> bytes:
    """The JSON file's bytes: one line for each file; bytes of names that are no UTF-8 stand as surrogates."""
    lines = ",\n".join(json.dumps([file.name, file.size, file.mtime_ns]) for file in selection.files)
    return SELECTION_MAGIC + f'"root": {json.dumps(selection.root)}, "files": [\n{lines}\n]}}\n'.encode("ascii")


def parse_selection(raw: bytes, source: str) -> FileSelection:
    """The selection in a JSON file's bytes. Raises :class:`~icf_utils.errors.InvalidSetting`."""
    try:
        value = json.loads(raw)
        files = tuple(SelectedFile(str(name), int(size), int(mtime)) for name, size, mtime in value["files"])
        root = str(value["root"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InvalidSetting(source, "this list of files is damaged; run 'icf-utils ingest' again") from error
    if not os.path.isabs(root) or any(_leaves(file.name) for file in files):
        raise InvalidSetting(source, "this list names files outside its folder; run 'icf-utils ingest' again")
    return FileSelection(root, files)


def _leaves(name: str) -> bool:
    return not name or name.startswith("/") or "\0" in name or ".." in name.split("/")


def open_selection(selection: FileSelection) -> DirectorySource:
    """The files as an input; those that changed since the list was made are refused by name."""
    source = DirectorySource(selection.root, [file.name for file in selection.files])
    sizes = {entry.name: entry.size for entry in source.entries}
    changed = [file.name for file in selection.files if not _is_as_listed(selection.root, file, sizes[file.name])]
    if changed:
        refusals = [(name, "has changed since the files were listed") for name in changed]
        raise InputRefused(selection.root, refusals, "Run 'icf-utils ingest' again.")
    return source


def _is_as_listed(root: str, file: SelectedFile, size: int) -> bool:
    with storage_errors(f"{root}/{file.name}", "examine"):
        status = os.stat(f"{root}/{file.name}")
    return (size, status.st_mtime_ns) == (file.size, file.mtime_ns) and stat.S_ISREG(status.st_mode)
