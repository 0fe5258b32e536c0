"""Some files of a folder as input: a list of them, as a value or in a small JSON file. Reads the list and the files.

Nothing is copied or linked. The list records where the files are, and their sizes and modification times when it was
made, so that a later change is noticed.
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
from icf_utils.sources.leave_out import DEFAULT, LeftOut
from icf_utils.sources.tree import TreeVisit

#: The first bytes of the JSON file.
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
    """Select files and record their present state. Raises :class:`~icf_utils.errors.StorageFailure`."""
    return FileSelection(os.path.abspath(root), tuple(_chosen(root, name) for name in sorted(names)))


def select_visit(visit: TreeVisit, leave_out: LeftOut = DEFAULT) -> FileSelection:
    """Select all files of a visit's folder, except those of excluded scans and those with names in ``leave_out``."""
    excluded = {scan.name for scan in visit.excluded}
    root = os.path.abspath(visit.path)
    names = list_files(root, lambda name: name not in excluded)
    return select_files(Path(root), [name for name in names if not leave_out.path(name)])


def list_files(root: str, takes: Callable[[str], bool] = lambda _: True) -> list[str]:
    """List relative names of everything that is not a folder; ``takes`` says by its name whether to enter a folder."""
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
    """Encode a selection as JSON, one line for each file; bytes of names outside UTF-8 become surrogates."""
    lines = ",\n".join(json.dumps([file.name, file.size, file.mtime_ns]) for file in selection.files)
    return SELECTION_MAGIC + f'"root": {json.dumps(selection.root)}, "files": [\n{lines}\n]}}\n'.encode("ascii")


def parse_selection(raw: bytes, source: str) -> FileSelection:
    """Parse a selection from the bytes of a JSON file. Raises :class:`~icf_utils.errors.InvalidSetting`."""
    try:
        value = json.loads(raw)
        files = tuple(SelectedFile(str(name), int(size), int(mtime)) for name, size, mtime in value["files"])
        root = str(value["root"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InvalidSetting(source, "the list of files is damaged; run 'icf-utils ingest' again") from error
    if not os.path.isabs(root) or any(_leaves(file.name) for file in files):
        raise InvalidSetting(source, "the list names files outside its folder; run 'icf-utils ingest' again")
    return FileSelection(root, files)


def _leaves(name: str) -> bool:
    return not name or name.startswith("/") or "\0" in name or ".." in name.split("/")


def open_selection(selection: FileSelection, leave_out: LeftOut = DEFAULT) -> DirectorySource:
    """Open the selected files as an input.

    Raises :class:`~icf_utils.errors.InputRefused`, which names the files that changed since they were selected.
    """
    source = DirectorySource(selection.root, [file.name for file in selection.files], leave_out)
    sizes = {entry.name: entry.size for entry in source.entries}
    changed = [
        file.name
        for file in selection.files
        if file.name in sizes and not _is_as_listed(selection.root, file, sizes[file.name])
    ]
    if changed:
        refusals = [(name, "has changed since the files were listed") for name in changed]
        raise InputRefused(selection.root, refusals, "Run 'icf-utils ingest' again.")
    return source


def _is_as_listed(root: str, file: SelectedFile, size: int) -> bool:
    with storage_errors(f"{root}/{file.name}", "examine"):
        status = os.stat(f"{root}/{file.name}")
    return (size, status.st_mtime_ns) == (file.size, file.mtime_ns) and stat.S_ISREG(status.st_mode)
