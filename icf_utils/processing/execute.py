"""Run one processing on one visit and deposit what it made. The same function for the command, a job and the receiver.

Reads the store, starts the program, and writes the output; a failure is a value, not an exception. While the program
runs, a lock keeps others from running the same processing on the visit; the visit itself is locked only while the
output gets its names.
"""

from __future__ import annotations

import os
import re
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from icf_utils.errors import DepositMissing, IcfError, InputChanged, StorageFailure
from icf_utils.formatting import format_count
from icf_utils.metadata.records import read_visit_metadata
from icf_utils.outputs.deposit import discard_output, member_root, new_output, publish_output
from icf_utils.outputs.packing import OutputListing, list_output, write_output
from icf_utils.outputs.provenance import OutputState, Provenance, Recipe, encode_record
from icf_utils.processing.arrange import arrange_images, input_state, list_output_files, write_input
from icf_utils.processing.decide import Decision, decide, is_same_program, read_tarball
from icf_utils.processing.local import LOG_LIMIT, not_started, run_program, scratch_folder
from icf_utils.processing.model import Outcome, Processing, ProcessingResult, Scratch
from icf_utils.processing.outcome import (
    LARGEST_STATE_FILE,
    STATE_FILES,
    describe_log,
    program_outcome,
    refused_outcome,
)
from icf_utils.processing.records import keep_log, remove_failure, remove_log, write_failure
from icf_utils.processing.supervisor_pool import SupervisorPool
from icf_utils.progress import SILENT, Progress
from icf_utils.store.files import remove_study_folders
from icf_utils.store.layout import Visit
from icf_utils.store.locks import processing_lock, visit_lock


@dataclass(frozen=True)
class ProcessConfig:
    """What is run, and how: ``always``, whether needed or not.

    ``arguments`` of ``None`` are those of the output that is there, if there is one. ``settings`` is the file that has
    the processing, for jobs; ``None`` for the store's ``icf.toml``.
    """

    root: Path
    processing: Processing
    arguments: tuple[str, ...] | None = None
    always: bool = False
    settings: Path | None = None


def process_visit(
    config: ProcessConfig,
    study: str,
    visit: str,
    *,
    wait: bool = False,
    supervisors: SupervisorPool | None = None,
    progress: Progress = SILENT,
) -> ProcessingResult:
    """Process one visit if it has to be. Raises nothing but interrupts: every error is in the result.

    ``wait`` says what to do while another process is running this processing on the visit: wait, or return at once.
    """
    started = time.monotonic()
    result = ProcessingResult(study, visit, config.processing.name, "failed")
    try:
        place = Visit(config.root, study, visit)
        try:
            result = _process(config, place, result, wait, supervisors or SupervisorPool(), progress)
        except IcfError as error:
            result = replace(result, code=_code(error), message=str(error))
            result = _record_failure(config.processing, place, result, progress)
        _leave_no_folder(place)
    except IcfError as error:
        result = replace(result, code=_code(error), message=str(error))
    except OSError as error:
        name = error.filename if isinstance(error.filename, str) else "a file"
        failure = StorageFailure(name, "use", error)
        result = replace(result, code=_code(failure), message=str(failure))
    except Exception as error:
        place_of_error = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(place_of_error.filename)}:{place_of_error.lineno}"
        message = f"internal error ({type(error).__name__} at {where}); please report it"
        result = replace(result, code="internal-error", message=message)
        if os.environ.get("ICF_DEBUG"):
            raise
    return replace(result, seconds=time.monotonic() - started)


def _leave_no_folder(place: Visit) -> None:
    """Remove the folders of a study whose last visit was removed while the processing had its lock there."""
    if not place.tarball_json.exists():
        remove_study_folders(place.of_study)


def _code(error: IcfError) -> str:
    """The error's class as a code: ``storage-failure``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(error).__name__).lower()


def _record_failure(
    processing: Processing, place: Visit, result: ProcessingResult, progress: Progress
) -> ProcessingResult:
    with suppress(IcfError), _while_there(place, progress) as is_there:
        if is_there:
            write_failure(place, result, processing.version)
    return result


@contextmanager
def _while_there(place: Visit, progress: Progress) -> Iterator[bool]:
    """Whether the visit is in the store, which does not change in the block: of one that was removed, nothing is kept.

    Raises :class:`~icf_utils.errors.Busy` or :class:`~icf_utils.errors.StorageFailure`.
    """
    if not place.tarball_json.exists():  # the lock would make the folder of the study
        yield False
        return
    with visit_lock(place, progress):
        yield place.tarball_json.exists()


def _process(
    config: ProcessConfig,
    place: Visit,
    result: ProcessingResult,
    wait: bool,
    supervisors: SupervisorPool,
    progress: Progress,
) -> ProcessingResult:
    decision = decide(place, config.processing, config.arguments, config.always)
    if not decision.reasons:
        return _up_to_date(place, result, decision)
    with processing_lock(place, config.processing.name, progress, wait) as owner:
        if owner:
            return replace(result, state="not reached", code="in-use", message=f"{owner} is working on it")
        decision = decide(place, config.processing, config.arguments, config.always)  # it may just have been done
        if not decision.reasons:
            return _up_to_date(place, result, decision)
        return _run(
            config.processing, place, replace(result, reasons=decision.reasons), decision, supervisors, progress
        )


def _up_to_date(place: Visit, result: ProcessingResult, decision: Decision) -> ProcessingResult:
    assert decision.before is not None
    remove_failure(place, result.processing)
    output = decision.before.output
    message = "the program reported 'partial'" if decision.before.state == "partial" else ""
    return replace(result, state="up to date", message=message, files=output.files, size=output.size)


def _run(
    processing: Processing,
    place: Visit,
    result: ProcessingResult,
    decision: Decision,
    supervisors: SupervisorPool,
    progress: Progress,
) -> ProcessingResult:
    with scratch_folder() as scratch:
        outcome, listing, remarks = execute(processing, place, decision.recipe, scratch, supervisors)
        result = replace(result, state=outcome.state, code=outcome.code, message=outcome.message)
        if outcome.code == "stopped":
            return replace(result, state="not reached")
        if outcome.state != "failed":
            assert listing is not None
            provenance = _pack(place, decision.recipe, outcome.state, scratch, listing)
            _publish(processing, place, provenance, progress)
            result = replace(result, files=provenance.output.files, size=provenance.output.size)
            remove_failure(place, processing.name)
        result = replace(result, log=_keep_log(processing, place, result, scratch, remarks, progress))
    return _record_failure(processing, place, result, progress) if result.state == "failed" else result


def execute(
    processing: Processing, place: Visit, recipe: Recipe, scratch: Scratch, supervisors: SupervisorPool
) -> tuple[Outcome, OutputListing | None, str]:
    """Arrange the input, run the program, and examine what it left; nothing is written to the store.

    Returns the outcome, the output's files unless it failed before there were any, and remarks for the log.
    """
    before = _arrange(processing, place, recipe, scratch)
    end = run_program(processing, recipe, scratch, supervisors)
    if error := not_started(end, processing.command[0] if processing.command else "the container runtime"):
        raise error
    outcome = program_outcome(end, processing.timeout, _state_files(scratch.output))
    listing = list_output(scratch.output)
    if outcome.state != "failed":
        outcome = _check(processing, recipe, scratch, before, listing) or outcome
    remarks = [f"{outcome.state}: {outcome.message}"]
    remarks += [f"the program says: {outcome.words}"] if outcome.words else []
    remarks += [text] if (text := describe_log(end.log_size, LOG_LIMIT)) else []
    remarks += [f"{format_count(end.left, 'process', 'processes')} that it left running: ended"] if end.left else []
    remarks += [f"folders without a file are not stored: {', '.join(map(repr, listing.empty[:20]))}"] * bool(
        listing.empty
    )
    return outcome, listing, "".join(f"[icf-utils: {remark}]\n" for remark in remarks)


def _arrange(
    processing: Processing, place: Visit, recipe: Recipe, scratch: Scratch
) -> Mapping[str, tuple[int, int, int]]:
    if processing.input_from:
        tar = place.output(processing.input_from)
        if not tar.exists():
            raise DepositMissing(tar, f"run 'icf-utils process {processing.input_from}' first")
        return write_input(tar, list_output_files(tar, recipe.input_md5), scratch.input)
    metadata = read_visit_metadata(place)
    if metadata.tarball.md5 != recipe.archive_md5:
        raise InputChanged(place.tarball_json, place.archive, "the visit was replaced just now; run the command again")
    return write_input(place.archive, arrange_images(metadata.images, processing.layout), scratch.input)


def _state_files(output: Path) -> dict[str, bytes | None]:
    """The files with which the program says how it ended."""
    found: dict[str, bytes | None] = {}
    for name in STATE_FILES:
        path = output / name
        with suppress(OSError):
            if path.is_file() and not path.is_symlink():
                found[name] = path.read_bytes() if path.stat().st_size <= LARGEST_STATE_FILE else None
    return found


def _check(
    processing: Processing,
    recipe: Recipe,
    scratch: Scratch,
    before: Mapping[str, tuple[int, int, int]],
    listing: OutputListing,
) -> Outcome | None:
    """Why an output is not deposited although the program ended well."""
    if input_state(scratch.input, before) != before:
        return Outcome("failed", "input-changed", "it changed its input, which is read-only by contract")
    if not is_same_program(recipe, processing):
        return Outcome("failed", "program-changed", "its files were replaced while it ran; run it again")
    if listing.refusals:
        return refused_outcome(listing.refusals)
    if not listing.files:
        return Outcome("failed", "no-output", "it ended with exit code 0 but left no file in its output folder")
    return None


def _pack(place: Visit, recipe: Recipe, state: OutputState, scratch: Scratch, listing: OutputListing) -> Provenance:
    record, target = encode_record(recipe, state), place.output(recipe.processing)
    with new_output(place, recipe.processing) as part:
        files = write_output(scratch.output, listing, member_root(place, recipe.processing), record, part, target)
    return Provenance(recipe, state, files)


def _publish(processing: Processing, place: Visit, provenance: Provenance, progress: Progress) -> None:
    try:
        with visit_lock(place, progress):
            if read_tarball(place).md5 != provenance.recipe.archive_md5:
                how = "the visit was replaced while the program ran; run the command again"
                raise InputChanged(place.tarball_json, place.archive, how)
            publish_output(place, provenance, keeps_old=processing.keep_old, progress=progress)
    except BaseException:
        discard_output(place, processing.name)
        raise


def _keep_log(
    processing: Processing, place: Visit, result: ProcessingResult, scratch: Scratch, remarks: str, progress: Progress
) -> Path | None:
    keeps = {"always": True, "failed": result.state != "success", "never": False}[processing.keep_log]
    if not keeps:
        remove_log(place, processing.name)
        return None
    with _while_there(place, progress) as is_there:
        return keep_log(place, processing.name, scratch.log, remarks) if is_there else None
