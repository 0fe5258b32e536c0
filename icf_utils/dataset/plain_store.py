"""The deposit for ``annex::`` addresses in the store: publishing, comparing. Reads and writes the study's folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from icf_utils.dataset.plain_annex import PlainFile
from icf_utils.errors import DepositDiffers, storage_errors
from icf_utils.publishing import sync_folder
from icf_utils.store import Visit
from icf_utils.traces import make_folders

_STRANGER = "it does not belong to this dataset"


def paths_of(visit: Visit, files: Sequence[PlainFile]) -> list[tuple[Path, bytes]]:
    """Where the files lie, and their bytes, for :func:`icf_utils.publishing.publish_bytes`."""
    return [(visit.of_study.folder / file.name, file.data) for file in files]


def has_plain(visit: Visit) -> bool:
    """Whether there is any file of such a deposit."""
    with storage_errors(visit.annex_url, "examine"):
        return visit.annex_url.exists() or next(stored_files(visit), None) is not None


def stored_files(visit: Visit) -> Iterator[Path]:
    """The files in the deposit's folder, whatever they are."""
    for folder, _, names in os.walk(visit.annex_folder):
        yield from (Path(folder, name) for name in sorted(names))


def prepare_folders(visit: Visit, files: Sequence[PlainFile]) -> None:
    """Make the folders of the deposit's keys, durably.

    Raises :class:`~icf_utils.errors.DepositDiffers` if files of another deposit are there.
    """
    wanted = {path for path, _ in paths_of(visit, files)}
    for path in stored_files(visit):
        if path not in wanted:
            raise DepositDiffers(path, _STRANGER)
    for path in sorted(wanted):
        make_folder(visit, path.parent)


def make_folder(visit: Visit, folder: Path) -> None:
    """Make a folder and those above it; the names above are synced as well."""
    if folder.is_dir():
        return
    with storage_errors(folder, "create"):
        make_folders(visit.root, folder)
    for above in [folder.parent, *folder.parent.parents]:
        sync_folder(above)
        if above == visit.of_study.folder:
            return
