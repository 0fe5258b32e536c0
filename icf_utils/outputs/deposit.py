"""Outputs in the store: published, read, and checked again. Reads and writes the two files of an output.

The TAR comes first and the provenance last: an output is there when its provenance is. A new version replaces both
(``docs/decisions/0023-processing.md``). The caller has the visit's lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from icf_utils.archive.reader import ArchivePass
from icf_utils.errors import DepositDamaged, DepositMissing, IcfError, storage_errors
from icf_utils.interrupts import remove_file
from icf_utils.outputs.packing import RECORD_NAME
from icf_utils.outputs.provenance import OutputFiles, Provenance, encode_provenance, encode_record, parse_provenance
from icf_utils.progress import SILENT
from icf_utils.store.files import new_part, part_name, publish_file, replace_with_part, sync_file, sync_folder
from icf_utils.store.layout import Visit, read_deposit

_AGAIN = "restore it from a copy, or move both files of this output away and run 'icf-utils process' again"


def member_root(place: Visit, processing: str) -> str:
    """The folder of all members of an output."""
    return f"{place.member_root}_{processing}"


def read_provenance(place: Visit, processing: str) -> Provenance | None:
    """Read the provenance of an output; ``None`` if there is none. Raises ``DepositDamaged``, ``StorageFailure``."""
    try:
        raw = read_deposit(place.provenance(processing), "run 'icf-utils process'")
    except DepositMissing:
        return None
    return parse_provenance(raw, place, processing)


@dataclass(frozen=True)
class OutputProblem:
    """Something wrong with an output: the file, and the problem in words."""

    path: Path
    problem: str


def check_output(place: Visit, processing: str, archive_md5: str) -> list[OutputProblem]:
    """Re-read an output and compare it with its provenance, and that with the MD5 of the visit's archive.

    Finds a byte that changed in either file, and a provenance that is not the one with which the output was made.
    """
    path, tar = place.provenance(processing), place.output(processing)
    try:
        provenance = read_provenance(place, processing)
        if provenance is None:
            return [OutputProblem(path, "does not exist although the output does")]
        found, record = _read(tar)
    except IcfError as error:
        return [OutputProblem(Path(getattr(error, "path", path)), _words(error))]
    problems = [OutputProblem(tar, text) for text in _differences(provenance.output, found)]
    if record != encode_record(provenance.recipe, provenance.state):
        problems.append(OutputProblem(path, "is not the record with which the output was made"))
    if archive_md5 and provenance.recipe.archive_md5 != archive_md5:
        expected, named = archive_md5, provenance.recipe.archive_md5
        problems.append(OutputProblem(path, f"names an archive with the MD5 {named}, but the visit's has {expected}"))
    if provenance.recipe.input_from:
        problems += _check_input(place, provenance)
    return problems


def _words(error: IcfError) -> str:
    if isinstance(error, DepositDamaged):
        return f"expected {error.expected}, found {error.found}; {error.remedy}"
    return str(error)


def _check_input(place: Visit, provenance: Provenance) -> list[OutputProblem]:
    """An output that was made from another one must name the one that is there."""
    recipe = provenance.recipe
    try:
        source = read_provenance(place, recipe.input_from)
    except IcfError:  # reported for that output
        return []
    if source is None or source.output.md5 == recipe.input_md5:
        return []
    problem = (
        f"was made from another output of '{recipe.input_from}'; run 'icf-utils process {recipe.processing}' again"
    )
    return [OutputProblem(place.provenance(recipe.processing), problem)]


def _read(path: Path) -> tuple[OutputFiles, bytes]:
    """Read an output from beginning to end: what it holds, and the record in it."""
    with storage_errors(path, "read"):
        if not path.exists():
            raise DepositMissing(path, _AGAIN)
    files = total = 0
    record = b""
    with storage_errors(path, "read"), open(path, "rb", buffering=0) as handle, SILENT.task("", 0, "B") as task:
        archive = ArchivePass(handle, path, task)
        try:
            for member in archive.members():
                if member.name.endswith(f"/{RECORD_NAME}") and not record and not files:
                    record = b"".join(iter(lambda: archive.content(1 << 20), b""))
                else:
                    files, total = files + 1, total + member.size
            md5, size = archive.finish()
        finally:
            archive.close()
    return OutputFiles(md5, size, files, total), record


def _differences(expected: OutputFiles, found: OutputFiles) -> list[str]:
    words = {"md5": "MD5", "size": "size", "files": "number of files", "bytes": "total size of files"}
    return [
        f"its {word} is {getattr(found, name)}, but its provenance says {getattr(expected, name)}"
        for name, word in words.items()
        if getattr(found, name) != getattr(expected, name)
    ]


def publish_output(place: Visit, provenance: Provenance) -> Literal["written", "unchanged", "replaced"]:
    """Give a new output, which is a finished part in the work folder, its names; the provenance last.

    An output that exists with another provenance is replaced: its provenance is removed first, so that nobody takes the
    new output for the old one. The caller has the visit's lock. Raises :class:`~icf_utils.errors.StorageFailure`.
    """
    study, processing = place.of_study, provenance.recipe.processing
    tar, path, data = place.output(processing), place.provenance(processing), encode_provenance(provenance)
    before = read_bytes(path)
    if before == data and tar.exists() and tar.stat().st_size == provenance.output.size:
        remove_file(part_name(study, tar))
        return "unchanged"
    if before is not None:
        with storage_errors(path, "replace"):
            path.unlink()
        sync_folder(path.parent)
    replace_with_part(study, tar)
    sync_folder(tar.parent)
    publish_file(study, path, data)
    return "written" if before is None else "replaced"


def read_bytes(path: Path) -> bytes | None:
    """The bytes of a small file; ``None`` if it does not exist. Raises ``StorageFailure``."""
    with storage_errors(path, "read"):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None


@contextmanager
def new_output(place: Visit, processing: str) -> Iterator[BinaryIO]:
    """Make the part that will be the output, open for writing; it is on the device when the block ends."""
    with new_part(place.of_study, place.output(processing)) as handle:
        yield handle
        sync_file(handle, place.output(processing))
