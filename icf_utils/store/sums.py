"""``<visit>_SHA256SUMS``: the SHA-256 of each file of a visit, in the form that ``sha256sum -c`` reads.

One line ``SHA-256  NAME`` for each file, sorted by name, names relative to the study's folder. The catalog and the list
of visits, which belong to the study, are not in it. Code that writes a file of a visit adds its line, as the last step
and under the visit's lock; this removes the signature of the former list. The line of a lost file stays, because it
shows the loss.

A list that does not exist is made as a whole once the archive was read. Reads and writes the store.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from icf_utils.errors import DepositDamaged, ExistingFileDiffers, printable, storage_errors
from icf_utils.regular_files import open_regular
from icf_utils.results import Written
from icf_utils.store.files import publish_bytes, replace_bytes, sync_folder
from icf_utils.store.layout import Visit, find_deposit
from icf_utils.store.visit_files import visit_files

_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_][A-Za-z0-9._/-]*)", re.ASCII)
_CHUNK = 1 << 20
_REMEDY = "run 'icf-utils verify --repair' for this visit"


def format_sums(sums: Mapping[str, str]) -> bytes:
    """Make the bytes of the list from SHA-256s by file name."""
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode("ascii")


def parse_sums(raw: bytes, source: str) -> dict[str, str]:
    """Return the SHA-256s in a list by file name; ``source`` names it in errors.

    Raises :class:`~icf_utils.errors.DepositDamaged` for anything but the bytes that :func:`format_sums` makes.
    """
    sums = read_lines(raw)
    if format_sums(sums) != raw or not sums:
        raise DepositDamaged(source, "sorted lines 'SHA-256  NAME'", f"{len(raw)} other bytes", _REMEDY)
    return sums


def read_lines(raw: bytes) -> dict[str, str]:
    """The SHA-256s by file name of the lines that can be read, of a list that may be damaged."""
    found = map(_LINE.fullmatch, raw.decode("ascii", "replace").split("\n"))
    return {match[2]: match[1] for match in found if match}


def read_sums(place: Visit) -> dict[str, str] | None:
    """Read a visit's list; ``None`` if it has none.

    Raises :class:`~icf_utils.errors.DepositDamaged` and :class:`~icf_utils.errors.StorageFailure`.
    """
    raw = find_deposit(place.sums)
    return None if raw is None else parse_sums_of(place, raw)


def parse_sums_of(place: Visit, raw: bytes) -> dict[str, str]:
    """The SHA-256s in a visit's list, which was read before.

    Raises :class:`~icf_utils.errors.DepositDamaged`, also for a list that names files of others.
    """
    sums = parse_sums(raw, str(place.sums))
    if strange := [name for name in sums if not name.startswith(place.visit) or ".." in name.split("/")]:
        raise DepositDamaged(place.sums, f"files of the visit '{place.visit}'", f"'{strange[0]}'", _REMEDY)
    return sums


def file_sha256(path: Path) -> str:
    """Compute the SHA-256 of a file. Raises :class:`~icf_utils.errors.StorageFailure`."""
    digest = hashlib.sha256()
    with storage_errors(path, "read"), open_regular(path) as handle:
        while block := handle.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def list_summed(place: Visit) -> list[str]:
    """The names of all files of a visit that a list has, sorted; those in folders with ``/``."""
    own = (place.sums, place.signature)
    names = [name for path in visit_files(place) if path not in own for name in _below(path, place.of_study.folder)]
    return sorted(names)


def _below(path: Path, folder: Path) -> list[str]:
    if not path.is_dir():
        return [path.name]
    return [
        Path(parent, name).relative_to(folder).as_posix()
        for parent, _, names in os.walk(path)
        for name in sorted(names)
    ]


def publish_with_sums(
    place: Visit, files: Sequence[tuple[Path, bytes]], known: Sequence[tuple[Written, str]] = ()
) -> tuple[Written, ...]:
    """Publish small files of a visit as :func:`~icf_utils.store.files.publish_bytes` does, and add their lines.

    ``known`` are SHA-256s of files that the caller has just written or compared. The caller holds the visit's lock.
    """
    outcome = publish_bytes(place.of_study, files)
    made = {path: hashlib.sha256(data).hexdigest() for path, data in files}
    made |= {one.path: digest for one, digest in known}
    written = [one.path for one in (*outcome, *(one for one, _ in known)) if one.state == "written"]
    add_to_sums(place, made, written)
    return outcome


def add_to_sums(place: Visit, made: Mapping[Path, str], written: Collection[Path]) -> None:
    """Add lines to a visit's list; a list that does not exist is made if the archive's SHA-256 is among ``made``.

    Files that were ``written`` replace older lines; the others must agree with theirs. Raises
    :class:`~icf_utils.errors.ExistingFileDiffers` if they do not, and :class:`~icf_utils.errors.DepositDamaged` for a
    list that cannot be read.
    """
    folder = place.of_study.folder
    names = {path.relative_to(folder).as_posix(): digest for path, digest in made.items()}
    sums = read_sums(place)
    if sums is None:
        if place.archive not in made:
            return
        sums = sum_files({name: folder / name for name in list_summed(place)}, names)
    else:
        fresh = {path.relative_to(folder).as_posix() for path in written}
        for name, digest in names.items():
            if name not in fresh and sums.get(name, digest) != digest:
                raise ExistingFileDiffers(place.sums, f"it lists another SHA-256 for '{printable(name)}'", _REMEDY)
    write_sums(place, {**sums, **names})


def sum_files(files: Mapping[str, Path], known: Mapping[str, str]) -> dict[str, str]:
    """The SHA-256s of files by the names that they have or will have; those that are ``known`` are not computed."""
    return {name: known.get(name) or file_sha256(path) for name, path in files.items()}


def write_sums(place: Visit, sums: Mapping[str, str]) -> bool:
    """Write a visit's list, durable on return, unless it has these lines; returns whether it was written.

    A signature is removed first, because it does not apply to the new list.
    """
    data = format_sums(sums)
    with storage_errors(place.sums, "read"):
        if place.sums.is_file() and place.sums.read_bytes() == data:
            return False
    with storage_errors(place.signature, "remove"):
        place.signature.unlink(missing_ok=True)
    replace_bytes(place.of_study, place.sums, data)
    sync_folder(place.sums.parent)
    return True
