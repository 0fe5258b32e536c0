"""Outputs in the store: published, read, and checked again. Reads and writes the two files of an output.

An output is its TAR and its provenance. Both take their names in one transaction (:mod:`icf_utils.store.transaction`),
together with the list of outputs in the study's catalog, if the catalog shows the visit. A new version replaces both;
the old ones are kept as ``<visit>_<processing>_output.v<n>.tar`` and ``..._provenance.v<n>.json`` on request
(``docs/decisions/0023-processing.md``). The caller has the visit's lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from icf_utils.archive.checksum import file_md5
from icf_utils.archive.reader import ArchivePass
from icf_utils.errors import DepositDamaged, DepositMissing, IcfError, StorageFailure, storage_errors
from icf_utils.interrupts import remove_file
from icf_utils.outputs.listing import OUTPUTS_PATH, changed_list, output_line, read_list
from icf_utils.outputs.packing import RECORD_NAME
from icf_utils.outputs.provenance import OutputFiles, Provenance, encode_provenance, encode_record, read_provenance
from icf_utils.progress import SILENT, Progress
from icf_utils.regular_files import open_regular
from icf_utils.store.files import (
    link_or_copy,
    make_folders,
    new_part,
    part_name,
    rename_file,
)
from icf_utils.store.layout import Visit, find_deposit, list_kept_outputs
from icf_utils.store.locks import catalog_lock
from icf_utils.store.sums import format_sums, read_sums, sum_files
from icf_utils.store.transaction import Change, Step

_AGAIN = "restore it from a copy, or move both files of this output away and run 'icf-utils process' again"


def member_root(place: Visit, processing: str) -> str:
    """The folder of all members of an output."""
    return f"{place.member_root}_{processing}"


@dataclass(frozen=True)
class OutputProblem:
    """Something wrong with an output: the file, and the problem in words."""

    path: Path
    problem: str


def check_output(place: Visit, processing: str, archive_md5: str) -> list[OutputProblem]:
    """Re-read an output and compare it with its provenance, and that with the MD5 of the visit's archive.

    Finds a byte that changed in either file, and a provenance that is not the one with which the output was made.
    """
    provenance, problems = _check_files(place, processing, 0)
    if provenance is None:
        return problems
    path = place.provenance(processing)
    if archive_md5 and provenance.recipe.archive_md5 != archive_md5:
        expected, named = archive_md5, provenance.recipe.archive_md5
        problems.append(OutputProblem(path, f"names an archive with the MD5 {named}, but the visit's has {expected}"))
    if provenance.recipe.input_from:
        problems += _check_input(place, provenance)
    return problems


def check_kept_output(place: Visit, processing: str, number: int) -> list[OutputProblem]:
    """Re-read an earlier output that was kept, and compare it with its provenance."""
    return _check_files(place, processing, number)[1]


def _check_files(place: Visit, processing: str, kept: int) -> tuple[Provenance | None, list[OutputProblem]]:
    path, tar = place.provenance(processing, kept), place.output(processing, kept)
    try:
        provenance = read_provenance(place, processing, kept)
        if provenance is None:
            return None, [OutputProblem(path, "does not exist although the output does")]
        found, record = _read(tar)
    except IcfError as error:
        return None, [OutputProblem(Path(getattr(error, "path", path)), _words(error))]
    problems = [OutputProblem(tar, text) for text in _differences(provenance.output, found)]
    if record != encode_record(provenance.recipe, provenance.state):
        problems.append(OutputProblem(path, "is not the record with which the output was made"))
    return provenance, problems


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
    with storage_errors(path, "read"), open_regular(path) as handle, SILENT.task("", 0, "B") as task:
        archive = ArchivePass(handle, path, task)
        try:
            for member in archive.members():
                if member.name.endswith(f"/{RECORD_NAME}") and not record and not files:
                    record = b"".join(iter(lambda: archive.content(1 << 20), b""))
                else:
                    files, total = files + 1, total + member.size
            (md5, _), size = archive.finish()
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


def publish_output(
    place: Visit, provenance: Provenance, *, keeps_old: bool = False, progress: Progress = SILENT
) -> Literal["written", "unchanged", "replaced"]:
    """Give a new output, which is a finished part in the work folder, its names; what was there before is replaced.

    A process that is killed leaves the output before or the new one, whole. ``keeps_old`` gives the one before a name
    of its own. The caller has the visit's lock. Raises :class:`~icf_utils.errors.StorageFailure`.
    """
    study, processing = place.of_study, provenance.recipe.processing
    tar, path, data = place.output(processing), place.provenance(processing), encode_provenance(provenance)
    before = find_deposit(path)
    if before == data and _is_intact(tar, provenance.output):
        discard_output(place, processing)
        return "unchanged"
    change = Change(study, place.visit)
    try:
        staged = Visit(change.root, place.study, place.visit)
        with storage_errors(tar, "create"):
            make_folders(study.root, staged.of_study.folder)
            rename_file(part_name(study, tar), staged.output(processing))
        with catalog_lock(study, progress):
            steps = _keep_old(change, place, processing) if keeps_old and before not in (None, data) else []
            steps += [Step(tar.name, change.path_of(staged.output(processing))), change.prepare(path.name, data)]
            steps += _list_steps(change, place, provenance)
            change.commit([*steps, *_sums_steps(change, place, steps)])
    finally:
        change.close()
    return "written" if before is None else "replaced"


def _is_intact(tar: Path, expected: OutputFiles) -> bool:
    """Whether an output that is there has the bytes that its provenance says; those of a damaged one are put back."""
    try:
        return tar.stat().st_size == expected.size and file_md5(tar) == expected.md5
    except (OSError, StorageFailure):
        return False


def _keep_old(change: Change, place: Visit, processing: str) -> list[Step]:
    """Prepare the present files under names that keep them."""
    number = 1 + max(
        (one[2] for one in list_kept_outputs(place.of_study) if one[:2] == (place.visit, processing)), default=0
    )
    steps = []
    for old, new in (
        (place.output(processing), place.output(processing, number)),
        (place.provenance(processing), place.provenance(processing, number)),
    ):
        if old.exists():
            with storage_errors(new, "keep the output as"):
                link_or_copy(old, change.root / new.name)
            steps.append(Step(new.name, change.path_of(change.root / new.name)))
    return steps


def _list_steps(change: Change, place: Visit, provenance: Provenance) -> list[Step]:
    """The step that brings the catalog's list up to date, if the catalog shows the visit."""
    study = place.of_study
    if not place.catalog_file.exists():
        return []
    raw = read_list(study)
    data = changed_list(study, raw, [output_line(provenance)])
    return [change.prepare(f"{study.catalog.name}/{OUTPUTS_PATH}", data)] if data != raw else []


def _sums_steps(change: Change, place: Visit, steps: list[Step]) -> list[Step]:
    """The steps that add the output's files to the visit's SHA-256 sums, if it has one."""
    sums = read_sums(place)
    if sums is None:
        return []
    own = {step.target: change.root / step.new for step in steps if "/" not in step.target}
    data = format_sums(sums | sum_files(own, {}))
    return [Step(place.signature.name), change.prepare(place.sums.name, data)]


def discard_output(place: Visit, processing: str) -> None:
    """Remove a finished part that is not published."""
    remove_file(part_name(place.of_study, place.output(processing)))


@contextmanager
def new_output(place: Visit, processing: str) -> Iterator[BinaryIO]:
    """Make the part that will be the output, open for writing; :func:`publish_output` brings it to the device."""
    with new_part(place.of_study, place.output(processing)) as handle:
        yield handle
