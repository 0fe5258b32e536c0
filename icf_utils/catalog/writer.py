"""The catalog's folder on disk: reading its files, replacing them one by one, removing stale ones.

Catalog files are derived and may be replaced. Each one is written in ``STORE/STUDY/.icf/``, synced and moved over its
name, unless the same bytes are already there. The marker comes first and says whose the folder is, so that a run that
was interrupted at any point can be repeated. Callers hold the catalog's lock.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from icf_utils.catalog.application import FOLDERS
from icf_utils.catalog.feed import FEED_PATH
from icf_utils.catalog.html_pages import INDEX_PAGE, LISTS
from icf_utils.catalog.study_description import CITATIONS
from icf_utils.errors import ExistingFileDiffers, storage_errors
from icf_utils.regular_files import read_regular
from icf_utils.store.files import make_folders, replace_bytes, sync_folder
from icf_utils.store.layout import Study

#: The file that marks a folder as the catalog of a study: a line with the catalog's id. If dates are hidden, a second
#: line says so, as the study's page can be lost and made again.
MARKER = ".icf-catalog"

#: The names of icf-utils' files and folders in a catalog's folder, in every version of its application.
OWN_NAMES = frozenset({*FOLDERS, *CITATIONS, INDEX_PAGE, FEED_PATH, LISTS, "metadata", "data", "config.json"})

_REMEDY = "move it away to get a catalog here"
_HIDES_DATES = b"hides dates\n"


@dataclass
class Tally:
    """How many files were written, and how many had the right content already."""

    written: int = 0
    unchanged: int = 0
    #: Folders whose names are not durable yet.
    pending: set[Path] = field(default_factory=set)


def marker_bytes(catalog_id: str, hides_dates: bool) -> bytes:
    """The content of the marker."""
    return f"{catalog_id}\n".encode("ascii") + (_HIDES_DATES if hides_dates else b"")


def read_marker(study: Study, catalog_id: str) -> bool | None:
    """Whether the marker says that dates are hidden; ``None`` if it is not this catalog's marker."""
    return _meaning(read_file(study, MARKER), catalog_id)


def _meaning(marker: bytes | None, catalog_id: str) -> bool | None:
    return {marker_bytes(catalog_id, hides): hides for hides in (False, True)}.get(marker or b"")


def refuse_foreign(study: Study, catalog_id: str) -> None:
    """Raise :class:`~icf_utils.errors.ExistingFileDiffers` if the folder is not the catalog of this study."""
    marker = read_file(study, MARKER)
    if _meaning(marker, catalog_id) is not None:
        return
    if marker is not None:
        how = "it is the catalog of another study"
        raise ExistingFileDiffers(study.catalog, how, _REMEDY)
    with storage_errors(study.catalog, "read"):
        try:
            foreign = any(study.catalog.iterdir())
        except FileNotFoundError:
            foreign = False
        except NotADirectoryError:
            foreign = True
    if foreign or study.catalog.is_symlink():
        raise ExistingFileDiffers(study.catalog, "it was not made by icf-utils", _REMEDY)


def read_file(study: Study, name: str) -> bytes | None:
    """Read a file below the catalog's folder; ``None`` if it does not exist."""
    path = study.catalog / name
    with storage_errors(path, "read"):
        try:
            return read_regular(path)
        except (FileNotFoundError, NotADirectoryError):
            return None


def list_names(study: Study, folder: str) -> list[str]:
    """List the names in a folder below the catalog's, sorted; a folder that does not exist has none."""
    path = study.catalog / folder
    with storage_errors(path, "read"):
        try:
            return sorted(os.listdir(path))
        except (FileNotFoundError, NotADirectoryError):
            return []


def read_logo(root: Path, logo: str) -> bytes | None:
    """Read the configured logo below the store's folder ``root``; ``None`` if it does not exist."""
    path = root / logo
    with storage_errors(path, "read"):
        return path.read_bytes() if path.is_file() else None


def write_files(study: Study, files: Mapping[str, bytes], tally: Tally) -> None:
    """Write ``files`` (by their path below the catalog's folder) in their order, durable on return."""
    for name, data in files.items():
        if read_file(study, name) == data:
            tally.unchanged += 1
        else:
            _replace(study, study.catalog / name, data, tally)
            tally.written += 1
    _sync(tally)


def _replace(study: Study, path: Path, data: bytes, tally: Tally) -> None:
    _make_folder(study, path.parent, tally)
    replace_bytes(study, path, data)
    tally.pending.add(path.parent)


def _make_folder(study: Study, folder: Path, tally: Tally) -> None:
    if folder.is_dir():
        return
    if folder != study.catalog:
        _make_folder(study, folder.parent, tally)
    with storage_errors(folder, "create"):
        make_folders(study.root, folder)
    tally.pending.add(folder.parent)


def _sync(tally: Tally) -> None:
    for folder in sorted(tally.pending):
        if folder.is_dir():
            sync_folder(folder)
    tally.pending.clear()


def replace_file(study: Study, name: str, data: bytes) -> None:
    """Write one file below the catalog's folder, durable on return."""
    tally = Tally()
    _replace(study, study.catalog / name, data, tally)
    _sync(tally)


def remove_unfinished_files(study: Study) -> None:
    """Remove unfinished files that an interrupted run of this catalog left in the work folder."""
    with storage_errors(study.workdir, "tidy"):
        for path in study.workdir.glob(f"{study.catalog.name}+*.part"):
            path.unlink()


def list_own_files(study: Study) -> list[Path]:
    """List the catalog's files except those of others: hidden ones, and what has an unknown name at the top.

    The marker comes last.
    """
    found = []
    for parent, _, names in sorted(os.walk(study.catalog)):
        below = [Path(parent, name).relative_to(study.catalog) for name in sorted(names)]
        found += [path for path in below if path.parts[0] in OWN_NAMES and not path.name.startswith(".")]
    return [*(study.catalog / path for path in found), study.catalog / MARKER]


def stale_assets(study: Study, wanted: Collection[str]) -> list[Path]:
    """Files in the application's folders that are not ``wanted``, such as those of an older version."""
    return [path for folder in FOLDERS for path in _files_below(study, study.catalog / folder, wanted)]


def stale_lists(study: Study, folder: str, wanted: Collection[str]) -> list[Path]:
    """Files in one folder of pages that list visits, that are not ``wanted``."""
    return list(_files_below(study, study.catalog / folder, wanted))


def has_pages(study: Study, dataset_id: str) -> bool:
    """Whether the catalog has a folder of this dataset's pages."""
    folder = study.catalog / "metadata" / dataset_id
    with storage_errors(folder, "examine"):
        return folder.exists()


def stale_nodes(study: Study, dataset_id: str, wanted: Collection[str]) -> list[Path]:
    """Files of a dataset, in all its versions, that are not ``wanted``."""
    return list(_files_below(study, study.catalog / "metadata" / dataset_id, wanted))


def _files_below(study: Study, folder: Path, wanted: Collection[str]) -> Iterable[Path]:
    with storage_errors(folder, "read"):
        for parent, _, names in sorted(os.walk(folder)):
            paths = [Path(parent) / name for name in sorted(names)]
            yield from (path for path in paths if path.relative_to(study.catalog).as_posix() not in wanted)


def remove_files(study: Study, paths: Iterable[Path]) -> None:
    """Remove stale files, and the folders that become empty."""
    for path in paths:
        with storage_errors(path, "remove"):
            path.unlink(missing_ok=True)
        _remove_empty(study, path.parent)


def _remove_empty(study: Study, folder: Path) -> None:
    with suppress(OSError):
        while folder != study.catalog:
            folder.rmdir()
            folder = folder.parent
