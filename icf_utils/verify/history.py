"""The checks of a visit's history: against its archive, its dataset and the archives that were kept. Reads files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

from icf_utils.archive.checksum import file_md5
from icf_utils.dataset.reader import DepositedDataset, read_dataset
from icf_utils.dataset.versions import history_problems, versions_of
from icf_utils.errors import IcfError, storage_errors
from icf_utils.metadata.describe import ArchiveDescription
from icf_utils.metadata.history import VersionRecord, encode_history, kept_archive, read_history, read_history_bytes
from icf_utils.store.layout import Visit
from icf_utils.verify.checks import Finding, finding_from_error

_OTHER_BYTES = "has the right content, but not in the bytes that icf-utils writes"


def check_history(
    place: Visit,
    found: ArchiveDescription | None,
    read: Callable[[Visit], DepositedDataset | None] = read_dataset,
) -> list[Finding]:
    """Check the history of a visit; a visit with one version has none. ``read`` reads the dataset."""
    dataset = _read_dataset(place, read)
    try:
        history = read_history(place)
    except IcfError as error:
        return [finding_from_error(place.history, error)]
    if not history:
        known = versions_of(dataset) if dataset else ()
        if known and known[-1].version > 1:
            problem = f"is missing although the dataset has version {known[-1].version}"
            return [Finding(place.history, "", problem)]
        return []
    problems = list(_problems(history, dataset, found))
    if not problems and read_history_bytes(place) != encode_history(history):
        problems.append(_OTHER_BYTES)
    findings = [Finding(place.history, "", problem) for problem in problems]
    return [*findings, *(item for version in history for item in _check_kept(place, version))]


def _read_dataset(
    place: Visit, read: Callable[[Visit], DepositedDataset | None] = read_dataset
) -> DepositedDataset | None:
    with suppress(IcfError):  # reported where the dataset is checked
        return read(place)
    return None


def _problems(
    history: tuple[VersionRecord, ...], dataset: DepositedDataset | None, found: ArchiveDescription | None
) -> Iterator[str]:
    last = history[-1]
    if found and (found.md5, found.size) != (last.md5, last.size):
        yield f"says that version {last.version} is in the store, with the MD5 {last.md5}; the archive's is {found.md5}"
    if dataset:
        yield from history_problems(history, dataset)


def _check_kept(place: Visit, version: VersionRecord) -> Iterator[Finding]:
    if not version.kept:
        return
    path = place.of_study.folder / version.kept
    if path != kept_archive(place, version.version):
        yield Finding(place.history, "", f"names another file than '{kept_archive(place, version.version).name}'")
        return
    with storage_errors(path, "examine"):
        size = path.stat().st_size if path.exists() else None
    if size is None:
        yield Finding(path, "", f"is missing, although version {version.version} was kept")
        return
    md5 = file_md5(path)
    if (size, md5) != (version.size, version.md5):
        yield Finding(path, "", f"its MD5 is {md5}, but the history says {version.md5}")


def recover_history(place: Visit, md5: str) -> bytes | None:
    """The history as the dataset's commits and the kept archives show it; ``None`` if they do not show all of it.

    ``md5`` is that of the present archive.
    """
    dataset = _read_dataset(place)
    known = versions_of(dataset) if dataset else ()
    complete = [one.version for one in known] == list(range(1, len(known) + 1)) and len(known) > 1
    if not complete or known[-1].md5 != md5:
        return None
    return encode_history(
        replace(one, kept=path.name) if (path := kept_archive(place, one.version)).exists() else one for one in known
    )
