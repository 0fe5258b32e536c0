"""Export visits as bags or OCFL objects. Reads the store; writes to the folder of the export only.

The files of a visit get second names by hard links, or are copied where the folder is on another file system. A bag or
an object is made under another name and takes its own when it is complete: what has its name is whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from icf_utils.dataset.origin import LATEST_TIME
from icf_utils.dataset.reader import read_dataset
from icf_utils.errors import (
    DepositDamaged,
    ExistingFileDiffers,
    IcfError,
    InvalidSetting,
    printable,
    storage_errors,
)
from icf_utils.export import bagit, ocfl
from icf_utils.export.model import ExportResult, PayloadFile, list_payload
from icf_utils.settings import Settings, load_settings
from icf_utils.store.address import check_store_url
from icf_utils.store.files import link_or_copy, sync_names
from icf_utils.store.layout import Visit, read_deposit, store_identity, visit_uuid

_OTHER = "it was exported before, from another version of the visit"
_REMEDY = "remove it, or export to another folder"


def export_bag(
    store_dir: Path, study: str, visit: str, folder: Path, *, fetch: bool = False, settings: Settings | None = None
) -> ExportResult:
    """Export a visit as a bag (RFC 8493) to ``folder/STUDY/VISIT``.

    With ``fetch``, archives and outputs are not in the bag: ``fetch.txt`` says where they are on the web.
    Digests are those of the visit's SHA-256 sums: a validator that reads the bag proves them. Raises an
    :class:`~icf_utils.errors.IcfError`: ``DepositMissing``, ``DepositDamaged``, ``ExistingFileDiffers`` for a bag of
    another version, ``InvalidSetting``, ``StorageFailure``.
    """
    place = Visit(store_dir, study, visit)
    chosen = load_settings(place.root) if settings is None else settings
    _refuse_store(place, folder)
    files = list_payload(place)
    fetched = [name for name in files if name.endswith(".tar")] if fetch else []
    address = check_store_url(chosen.store.url) if fetch else ""
    tags = bagit.tag_files(study, visit, files, address, fetched)
    inside = {name: file for name, file in files.items() if name not in fetched}
    return _write(place, folder, tags, bagit.PAYLOAD, files, inside)


def export_ocfl(
    store_dir: Path, study: str, visit: str, folder: Path, *, settings: Settings | None = None
) -> ExportResult:
    """Export a visit as an object of OCFL 1.1 to ``folder/STUDY/VISIT``; ``folder`` becomes a storage root.

    Raises what :func:`export_bag` raises.
    """
    place = Visit(store_dir, study, visit)
    chosen = load_settings(place.root) if settings is None else settings
    name, declaration = ocfl.ROOT_DECLARATION
    _refuse_store(place, folder)
    with storage_errors(folder, "create"):
        if not folder.is_dir() or set(os.listdir(folder)) <= {name}:  # perhaps left by a power failure
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / name, "wb") as file:
                file.write(declaration)
                file.flush()
                os.fsync(file.fileno())
        if not (folder / name).exists():
            raise InvalidSetting("--to", "expected an OCFL storage root, or a new or empty folder")
    identity = store_identity(chosen.store.url, chosen.store.id)
    identifier = f"urn:uuid:{visit_uuid(identity, study, visit, 'dataset')}"
    files = list_payload(place)
    return _write(place, folder, ocfl.object_files(identifier, files, _time(place)), ocfl.PAYLOAD, files, files)


def _refuse_store(place: Visit, folder: Path) -> None:
    """Refuse a folder in the store, whose files a web server may show and no command of icf-utils knows."""
    if folder.resolve().is_relative_to(place.root.resolve()):
        raise InvalidSetting("--to", f"'{printable(folder)}' is in the store; name a folder outside of it")


def _time(place: Visit) -> int:
    with suppress(IcfError):
        if dataset := read_dataset(place):
            return min(dataset.origin.time, LATEST_TIME)
    return 0


def _write(
    place: Visit,
    folder: Path,
    made: Mapping[str, bytes],
    payload: str,
    files: Mapping[str, PayloadFile],
    inside: Mapping[str, PayloadFile],
) -> ExportResult:
    target = folder / place.study / place.visit
    total = sum(file.size for file in files.values())
    result = ExportResult(place.study, place.visit, target, "written", len(files), total, len(files) - len(inside))
    if os.path.lexists(target):
        if not _is_there(target, made, payload, inside.keys()):
            raise ExistingFileDiffers(target, _OTHER, _REMEDY)
        return replace(result, state="unchanged")
    before = read_deposit(place.sums, "")
    part = target.with_name(f".{place.visit}.part")
    with storage_errors(part, "write"):
        if part.exists():
            shutil.rmtree(part)
        try:
            for name, file in inside.items():
                _make_parent(part / payload / name)
                link_or_copy(file.path, part / payload / name)
                if (part / payload / name).stat().st_size != file.size:
                    raise DepositDamaged(file.path, f"{file.size} bytes", "another size", "export the visit once more")
            for name, data in made.items():
                _make_parent(part / name)
                (part / name).write_bytes(data)
            if read_deposit(place.sums, "") != before:
                raise DepositDamaged(place.sums, "an unchanged file", "another content", "export the visit once more")
            _sync(part)
            os.rename(part, target)
            sync_names(target.parent)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    return result


def _make_parent(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)


def _sync(folder: Path) -> None:
    """Make everything below a folder durable."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            descriptor = os.open(Path(parent, name), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_names(Path(parent))


def _is_there(target: Path, made: Mapping[str, bytes], payload: str, names: Collection[str]) -> bool:
    """Whether an export that exists is of the same files."""
    try:
        return all((target / name).read_bytes() == data for name, data in made.items()) and all(
            (target / payload / name).is_file() for name in names
        )
    except OSError:
        return False
