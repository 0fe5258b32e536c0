"""The work of a run: the stages of one visit in their order, or the catalog of one study. Runs stages, keeps records.

A task is executed in one go, in this process or in a worker. A failed stage is a value, not an exception, and so is an
internal error: it becomes a failure of the task's visits and stops no other task. Interrupts pass through.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from icf_utils.errors import IcfError, StorageFailure
from icf_utils.pipeline.catalog_state import CatalogState, read_catalog_state
from icf_utils.pipeline.fingerprints import Fingerprint, SourceFingerprint
from icf_utils.pipeline.model import RunConfig, StageFailure, StageOutcome, VisitInput, VisitOutcome
from icf_utils.pipeline.plan import Planner
from icf_utils.pipeline.stages import STAGES, Stage, StageResult, run_stage, stored_visit
from icf_utils.pipeline.state import WHOLE_STUDY, StageRecord, remove_error, write_error, write_record
from icf_utils.progress import SILENT, Progress, Task
from icf_utils.store.layout import Study
from icf_utils.store.locks import run_lock

#: How many visits come into a catalog before the files that they share are written.
_TOGETHER = 500

#: The exit code of an internal error (EX_SOFTWARE of sysexits.h).
_INTERNAL_ERROR = 70


@dataclass(frozen=True)
class VisitTask:
    """Make the files of a visit, but not its catalog pages.

    ``wait`` says what to do while another run is working on the visit: wait for it, or return at once.
    """

    visit_input: VisitInput
    wait: bool = False


@dataclass(frozen=True)
class CatalogTask:
    """Bring visits of one study into its catalog."""

    visits: tuple[VisitInput, ...]


@dataclass(frozen=True)
class AlreadyRunning:
    """The visit was left alone because another run is working on it; ``holder`` names that run's process."""

    holder: str


RunTask = VisitTask | CatalogTask
TaskResult = VisitOutcome | AlreadyRunning | tuple[StageOutcome, ...]


class MessagesOnly:
    """Passes messages on, but not the progress of single stages."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Task]:
        with SILENT.task(label, total, unit) as silent:
            yield silent

    def message(self, text: str) -> None:
        self._progress.message(text)


def perform_task(task: RunTask, config: RunConfig, progress: Progress) -> TaskResult:
    """Execute a task. Raises nothing but interrupts: every error is in the result."""
    try:
        if isinstance(task, CatalogTask):
            return tuple(make_catalog(task.visits, config, progress))
        return make_visit(task.visit_input, config, progress, task.wait)
    except OSError as error:  # one that no stage could describe better
        name = error.filename if isinstance(error.filename, str) else "a file"
        return failed_result(task, config, stage_failure(StorageFailure(name, "use", error)))
    except Exception as error:  # noqa: BLE001 - an internal error must not stop the other visits
        return failed_result(task, config, _internal_error(error))


def failed_result(task: RunTask, config: RunConfig, failure: StageFailure) -> VisitOutcome | tuple[StageOutcome, ...]:
    """The result of a task that failed as a whole."""
    if isinstance(task, CatalogTask):
        return tuple(StageOutcome("catalog", "failed", failure=failure) for _ in task.visits)
    return _failed_visit(task.visit_input, config, failure)


def _failed_visit(visit_input: VisitInput, config: RunConfig, failure: StageFailure) -> VisitOutcome:
    """The outcome of a visit none of whose stages was reached."""
    first, *others = _visit_stages(config)
    stages = (StageOutcome(first, "failed", failure=failure), *_not_reached(others))
    return VisitOutcome(visit_input.study, visit_input.visit, stages)


def _visit_stages(config: RunConfig) -> list[str]:
    return [name for name in config.stage_names if name != "catalog"]


def _not_reached(names: Sequence[str]) -> Iterator[StageOutcome]:
    return (StageOutcome(name, "not reached") for name in names)


def stage_failure(error: IcfError) -> StageFailure:
    """The failure that an error is."""
    return StageFailure(type(error).__name__, str(error), error.exit_code)


def _internal_error(error: Exception) -> StageFailure:
    """Name the place and kind of an internal error, not its text, which may contain header values."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{os.path.basename(place.filename)}:{place.lineno}"
    details = "ICF_DEBUG=1 shows the details, which may contain header values"
    if os.environ.get("ICF_DEBUG"):
        details = "".join(traceback.format_exception(error))
    message = f"internal error ({type(error).__name__} at {where}); please report it. {details}"
    return StageFailure("InternalError", message, _INTERNAL_ERROR)


def make_visit(
    visit_input: VisitInput, config: RunConfig, progress: Progress, wait: bool = True
) -> VisitOutcome | AlreadyRunning:
    """Make the files of a visit, but not its catalog pages.

    Without ``wait``, a visit on which another run is working is left alone.
    """
    try:
        with run_lock(stored_visit(visit_input, config), progress, wait) as holder:
            return AlreadyRunning(holder) if holder else _make_visit(visit_input, config, progress)
    except IcfError as error:  # the lock itself: it cannot be created, or is held for too long
        return _failed_visit(visit_input, config, stage_failure(error))


def _make_visit(visit_input: VisitInput, config: RunConfig, progress: Progress) -> VisitOutcome:
    planner, outcomes = Planner(visit_input, config), []
    names = _visit_stages(config)
    for name in names:
        outcome, record = _make_stage(planner, name, progress)
        if record is not None:
            _save_record(planner, name, record, progress)
        outcomes.append(outcome)
        if outcome.state == "failed":
            break
    if config.until != "catalog" and any(outcome.state == "done" for outcome in outcomes):
        _publish_visit(planner, progress)
    outcomes += _not_reached(names[len(outcomes) :])
    return VisitOutcome(visit_input.study, visit_input.visit, tuple(outcomes))


def _publish_visit(planner: Planner, progress: Progress) -> None:
    """List a visit that a run does not bring into the catalog; ``verify --repair`` can do so later."""
    from icf_utils.catalog.visit_list import publish_visit

    try:
        publish_visit(planner.place, planner.config.settings, progress)
    except IcfError as error:
        progress.message(f"{planner.visit_input.name}: is not in the study's list of visits: {error}")


def _make_stage(planner: Planner, name: str, progress: Progress) -> tuple[StageOutcome, StageRecord | None]:
    """Run a stage if it has to run; returns its outcome and, unless it failed, its record."""
    started = time.monotonic()
    reasons: tuple[str, ...] = ()
    try:
        decision, record = planner.decide(name)
        reasons, result = decision.reasons, StageResult()
        runs = record is None
        if record is None:
            result, record = _run_stage(planner, name, progress)
    except IcfError as error:
        return _failed_stage(planner, name, reasons, started, error, progress), None
    seconds = time.monotonic() - started
    return _outcome(planner, name, result, record, runs=runs, reasons=reasons, seconds=seconds), record


def _outcome(
    planner: Planner,
    name: str,
    result: StageResult,
    record: StageRecord,
    *,
    runs: bool,
    reasons: tuple[str, ...],
    seconds: float,
) -> StageOutcome:
    before = planner.recorded.get(name)
    return StageOutcome(
        stage=name,
        state="done" if runs and not _was_only_compared(name, planner.config, before, record) else "up to date",
        reasons=reasons,
        seconds=seconds,
        size=sum(fingerprint.size for fingerprint in record.outputs.values()),
        notices=result.notices,
        skipped=result.skipped,
    )


def _was_only_compared(name: str, config: RunConfig, before: StageRecord | None, after: StageRecord) -> bool:
    """Whether the input was read only to find that it gives the archive that is there, as ``--paranoid`` does."""
    return name == "archive" and not config.always_make and before is not None and before.outputs == after.outputs


def _run_stage(planner: Planner, name: str, progress: Progress) -> tuple[StageResult, StageRecord]:
    """Run a stage. Its inputs are examined before it runs, so that the next run notices a later change."""
    stage = STAGES[name]
    was_archived = name == "archive" and planner.is_archive_unchanged()
    inputs, source = planner.current_inputs(stage), planner.source() if name == "archive" else None
    result = run_stage(stage, planner.visit_input, planner.config, progress, was_archived)
    for file, digest in result.digests.items():
        planner.fingerprinter.record_digest(file, digest)
    return result, _record_after(planner, stage, result, inputs, source)


def _record_after(
    planner: Planner,
    stage: Stage,
    result: StageResult,
    inputs: dict[str, Fingerprint],
    source: SourceFingerprint | None = None,
) -> StageRecord:
    """The record of a stage that has run, with the inputs as they were before."""
    after = planner.current_record(stage, outputs=result.outputs)
    return StageRecord(after.version, after.parameters, inputs, after.outputs, source=source)


def _save_record(planner: Planner, name: str, record: StageRecord, progress: Progress) -> None:
    """Save the record of a stage that is now up to date, if it is new."""
    visit, study = planner.visit_input.visit, planner.place.of_study
    if planner.recorded.get(name) == record:
        remove_error(study, visit, name)
        return
    planner.recorded[name] = record
    _write_record(study, visit, name, record, progress)


def _write_record(study: Study, visit: str, stage: str, record: StageRecord, progress: Progress) -> None:
    """Write a record; if that fails, say that the next run has to check the stage again."""
    try:
        write_record(study, visit, stage, record)
    except StorageFailure as error:
        progress.message(f"{error}; the next run will check this stage again")


def _failed_stage(
    planner: Planner, name: str, reasons: tuple[str, ...], started: float, error: IcfError, progress: Progress
) -> StageOutcome:
    failure = stage_failure(error)
    try:
        write_error(planner.place.of_study, planner.visit_input.visit, name, failure)
    except StorageFailure as problem:
        progress.message(str(problem))
    return StageOutcome(name, "failed", reasons, time.monotonic() - started, failure=failure)


def make_catalog(visits: Sequence[VisitInput], config: RunConfig, progress: Progress) -> list[StageOutcome]:
    """Bring visits of one study into its catalog; returns an outcome for each, in their order.

    The caller makes sure that only one process does this for a study; the catalog's lock enforces it.
    """
    study = Study(config.root, visits[0].study)
    rest = [Planner(visit_input, config) for visit_input in visits]
    try:
        catalog_state = read_catalog_state(study, config.settings.catalog, config.paranoid)
    except IcfError as error:
        return [_failed_stage(planner, "catalog", (), time.monotonic(), error, progress) for planner in rest]
    outcomes, changed = [], []
    while rest:
        # a problem of the files that all visits share is mended with the first visit, and no reason for the others
        size = 1 if catalog_state.problem else _TOGETHER
        planners, rest = rest[:size], rest[size:]
        made = _make_in_catalog(planners, catalog_state, progress)
        for planner, (outcome, record) in zip(planners, made, strict=True):
            outcomes.append(outcome)
            if record is not None and outcome.state == "done":
                changed.append((planner, record))
            elif record is not None:
                _save_record(planner, "catalog", record, progress)
        if catalog_state.problem and outcomes[-1].state == "done":
            catalog_state = _record_catalog(study, config, progress)
    _record_entries(study, config, changed, progress)
    return outcomes


def _make_in_catalog(
    planners: Sequence[Planner], catalog_state: CatalogState, progress: Progress
) -> list[tuple[StageOutcome, StageRecord | None]]:
    """Run the catalog's stage for those visits for which it has to run; as :func:`_make_stage` for each."""
    stage = STAGES["catalog"]
    made: dict[Planner, tuple[StageOutcome, StageRecord | None]] = {}
    due: dict[Planner, _Due] = {}
    started = time.monotonic()
    for planner in planners:
        decided = _decide_in_catalog(planner, catalog_state, progress)
        if isinstance(decided, _Due):
            due[planner] = decided
        else:
            made[planner] = decided
    results = _run_together(stage, list(due), progress) if due else []
    share = (time.monotonic() - started) / max(len(due), 1)  # of the time
    for (planner, one), result in zip(due.items(), results, strict=True):
        if isinstance(result, IcfError):
            failed = _failed_stage(planner, stage.name, one.reasons, started, result, progress)
            made[planner] = replace(failed, seconds=share), None
        else:
            record = _record_after(planner, stage, result, one.inputs)
            done = _outcome(planner, stage.name, result, record, runs=True, reasons=one.reasons, seconds=share)
            made[planner] = done, record
    return [made[planner] for planner in planners]


@dataclass(frozen=True)
class _Due:
    """Why a stage has to run, and its inputs as they are before."""

    reasons: tuple[str, ...]
    inputs: dict[str, Fingerprint]


def _decide_in_catalog(
    planner: Planner, catalog_state: CatalogState, progress: Progress
) -> _Due | tuple[StageOutcome, StageRecord | None]:
    """Whether the stage is due; else the outcome and record of a visit that is up to date, or cannot be examined."""
    stage = STAGES["catalog"]
    try:
        decision, record = planner.decide(stage.name, catalog_state)
        if record is None:
            return _Due(decision.reasons, planner.current_inputs(stage))
    except IcfError as error:
        return _failed_stage(planner, stage.name, (), time.monotonic(), error, progress), None
    return _outcome(planner, stage.name, StageResult(), record, runs=False, reasons=(), seconds=0.0), record


def _run_together(stage: Stage, planners: Sequence[Planner], progress: Progress) -> list[StageResult | IcfError]:
    assert stage.batch
    try:
        return stage.batch([planner.visit_input for planner in planners], planners[0].config, progress)
    except IcfError as error:
        return [error] * len(planners)


def _record_catalog(study: Study, config: RunConfig, progress: Progress) -> CatalogState:
    """Record the current state of the catalog's shared files: the stage has just made or compared them."""
    catalog_state = read_catalog_state(study, config.settings.catalog, paranoid=config.paranoid)
    _write_record(study, WHOLE_STUDY, "catalog", catalog_state.record, progress)
    return read_catalog_state(study, config.settings.catalog)


def _record_entries(
    study: Study, config: RunConfig, changed: Sequence[tuple[Planner, StageRecord]], progress: Progress
) -> None:
    """Record the visits whose stage ran, with their entries on the study's page, which is complete only now."""
    if not changed:
        return
    catalog_state = _record_catalog(study, config, progress)
    for planner, record in changed:
        entry = catalog_state.entries.get(planner.visit_input.visit, "")
        _save_record(planner, "catalog", replace(record, facts={"entry on the study's page": entry}), progress)
