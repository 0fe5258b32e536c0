"""What is done in one go, in this process or a worker: a visit's stages, or a study's catalog for several visits.

Whatever goes wrong inside becomes a failure of the visits concerned; interrupts pass through.


The work itself, in whatever process: the stages of one visit in their order, and one study's catalog.

Runs stage functions and keeps state. A failed stage is a value, not an exception; only what ends a whole run
(interrupts, faults of the program) passes through.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from icf_utils.errors import IcfError, StorageFailure
from icf_utils.pipeline.catalog_state import CatalogState, read_catalog_state
from icf_utils.pipeline.model import RunConfig, StageFailure, StageOutcome, VisitInput, VisitOutcome
from icf_utils.pipeline.plan import PlannedStage, Planner
from icf_utils.pipeline.stages import STAGES, StageResult, run_stage, stored_visit
from icf_utils.pipeline.state import WHOLE_STUDY, StageRecord, remove_error, write_error, write_record
from icf_utils.progress import SILENT, Progress
from icf_utils.progress import Task as ProgressTask
from icf_utils.store.layout import Study
from icf_utils.store.locks import run_lock

#: Exit code that stands for a fault of the program.
_FAULT = 70


@dataclass(frozen=True)
class VisitTask:
    """The stages of a visit before the catalog; ``wait`` for another run that has it in hand, or leave it."""

    visit_input: VisitInput
    wait: bool = False


@dataclass(frozen=True)
class CatalogTask:
    """Visits of one study that go into its catalog."""

    visits: tuple[VisitInput, ...]


@dataclass(frozen=True)
class AlreadyRunning:
    """Another run works on the visit; ``holder`` names its process."""

    holder: str


RunTask = VisitTask | CatalogTask
TaskResult = VisitOutcome | AlreadyRunning | tuple[StageOutcome, ...]


class MessagesOnly:
    """Passes on messages, and not the progress of every stage."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[ProgressTask]:
        with SILENT.task(label, total, unit) as silent:
            yield silent

    def message(self, text: str) -> None:
        self._progress.message(text)


def perform_task(task: RunTask, config: RunConfig, progress: Progress) -> TaskResult:
    """Do a task."""
    try:
        if isinstance(task, CatalogTask):
            return tuple(make_catalog(task.visits, config, progress))
        outcome = make_visit(task.visit_input, config, progress, task.wait)
        return AlreadyRunning(outcome) if isinstance(outcome, str) else outcome
    except OSError as error:  # one that no stage could name better
        name = error.filename if isinstance(error.filename, str) else "a file"
        problem = StorageFailure(name, "use", error)
        return failed_result(task, config, StageFailure("StorageFailure", str(problem), problem.exit_code))
    except Exception as error:  # noqa: BLE001 - a fault of ours must not stop the other visits
        return failed_result(task, config, _fault(error))


def failed_result(task: RunTask, config: RunConfig, failure: StageFailure) -> VisitOutcome | tuple[StageOutcome, ...]:
    """The result of a task that came to nothing."""
    if isinstance(task, CatalogTask):
        return tuple(StageOutcome("catalog", "failed", failure=failure) for _ in task.visits)
    first, *others = [name for name in config.stage_names if name != "catalog"]
    stages = [StageOutcome(first, "failed", failure=failure), *(StageOutcome(name, "not reached") for name in others)]
    return VisitOutcome(task.visit_input.study, task.visit_input.visit, tuple(stages))


def _fault(error: Exception) -> StageFailure:
    """A fault of ours: its place and kind, not its text, which may hold header values."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{os.path.basename(place.filename)}:{place.lineno}"
    details = "ICF_DEBUG=1 shows the details, which may hold header values"
    if os.environ.get("ICF_DEBUG"):
        details = "".join(traceback.format_exception(error))
    return StageFailure(
        "InternalError", f"internal error ({type(error).__name__} at {where}); please report it. {details}", _FAULT
    )


def make_visit(visit_input: VisitInput, config: RunConfig, progress: Progress, wait: bool = True) -> VisitOutcome | str:
    """Make a visit's files, but not its catalog pages.

    Without ``wait``, a visit that another run has in hand is left to it: its name comes back.
    """
    try:
        with run_lock(stored_visit(visit_input, config), progress, wait) as holder:
            return holder or _make_visit(visit_input, config, progress)
    except IcfError as error:  # the lock itself: no place for it, or held for too long
        return VisitOutcome(visit_input.study, visit_input.visit, _none_reached(config, _stage_failure(error)))


def _make_visit(visit_input: VisitInput, config: RunConfig, progress: Progress) -> VisitOutcome:
    planner, outcomes = Planner(visit_input, config), []
    names = [name for name in config.stage_names if name != "catalog"]
    for name in names:
        outcomes.append(_make_stage(planner, name, progress))
        if outcomes[-1].state == "failed":
            break
    outcomes += [StageOutcome(name, "not reached") for name in names[len(outcomes) :]]
    return VisitOutcome(visit_input.study, visit_input.visit, tuple(outcomes))


def _make_stage(planner: Planner, name: str, progress: Progress) -> StageOutcome:
    started = time.monotonic()
    reasons: tuple[str, ...] = ()
    try:
        planned = planner.decide(name)
        reasons = planned.decision.reasons
        if planned.decision.runs:
            made, state = _run(planner, name, progress)
        else:
            made, state = StageResult(), _settled(planned)
        _remember(planner, name, state, progress)
    except IcfError as error:
        return _failed_stage(planner, name, reasons, started, error, progress)
    return StageOutcome(
        stage=name,
        state="done" if planned.decision.runs else "up to date",
        reasons=reasons,
        seconds=time.monotonic() - started,
        size=sum(fingerprint.size for fingerprint in state.outputs.values()),
        notices=made.notices,
        skipped=made.skipped,
    )


def _run(planner: Planner, name: str, progress: Progress) -> tuple[StageResult, StageRecord]:
    """Run a stage. What it is made from is looked at before: a later change is then seen by the next run."""
    stage = STAGES[name]
    intact = name == "archive" and planner.is_archive_unchanged()
    inputs, source = planner.current_inputs(stage), planner.source() if name == "archive" else None
    made = run_stage(stage, planner.visit_input, planner.config, progress, intact)
    for file, digest in made.digests.items():
        planner.fingerprinter.record_digest(file, digest)
    after = planner.current_record(stage, outputs=made.outputs)
    return made, StageRecord(after.version, after.parameters, inputs, after.outputs, source=source)


def _settled(planned: PlannedStage) -> StageRecord:
    assert planned.state is not None  # because nothing has to run
    return planned.state


def _remember(planner: Planner, name: str, state: StageRecord, progress: Progress) -> None:
    """Keep the state where it is new; that it cannot be kept costs time only."""
    visit, study = planner.visit_input.visit, planner.place.of_study
    if planner.recorded.get(name) == state:
        remove_error(study, visit, name)
        return
    planner.recorded[name] = state
    save_record(study, visit, name, state, progress)


def save_record(study: Study, visit: str, stage: str, state: StageRecord, progress: Progress) -> None:
    """Write a state file; where that is not possible, say that the next run will look again."""
    try:
        write_record(study, visit, stage, state)
    except StorageFailure as error:
        progress.message(f"{error}; the next run will look at this stage again")


def _failed_stage(
    planner: Planner, name: str, reasons: tuple[str, ...], started: float, error: IcfError, progress: Progress
) -> StageOutcome:
    failure = _stage_failure(error)
    try:
        write_error(planner.place.of_study, planner.visit_input.visit, name, failure)
    except StorageFailure as problem:
        progress.message(str(problem))
    return StageOutcome(name, "failed", reasons, time.monotonic() - started, failure=failure)


def _stage_failure(error: IcfError) -> StageFailure:
    return StageFailure(type(error).__name__, str(error), error.exit_code)


def _none_reached(config: RunConfig, failure: StageFailure) -> tuple[StageOutcome, ...]:
    first, *others = [name for name in config.stage_names if name != "catalog"]
    return (StageOutcome(first, "failed", failure=failure), *(StageOutcome(name, "not reached") for name in others))


def make_catalog(visits: Sequence[VisitInput], config: RunConfig, progress: Progress) -> list[StageOutcome]:
    """Bring visits of one study into its catalog, one after the other; an outcome for each, in their order.

    The caller sees to it that only one process does this for a study; the catalog's lock stands behind that.
    """
    study = Study(config.root, visits[0].study)
    try:
        catalog_state = read_catalog_state(study, config.settings.catalog, config.paranoid)
    except IcfError as error:
        return [
            _failed_stage(Planner(visit_input, config), "catalog", (), time.monotonic(), error, progress)
            for visit_input in visits
        ]
    outcomes, fresh = [], []
    for visit_input in visits:
        planner = Planner(visit_input, config)
        outcome, state = _catalog_visit(planner, catalog_state, progress)
        outcomes.append(outcome)
        if outcome.state == "done" and catalog_state.problem:
            catalog_state = _record_catalog(study, config, progress)
        if state is not None:
            fresh.append((planner, state))
    _record_entries(study, config, fresh, progress)
    return outcomes


def _catalog_visit(
    planner: Planner, catalog_state: CatalogState, progress: Progress
) -> tuple[StageOutcome, StageRecord | None]:
    """One visit; the state lacks the visit's entry where the stage ran, as others may still change the page."""
    started = time.monotonic()
    reasons: tuple[str, ...] = ()
    try:
        planned = planner.decide("catalog", catalog_state)
        reasons = planned.decision.reasons
        if not planned.decision.runs:
            state = _settled(planned)
            _remember(planner, "catalog", state, progress)
            return StageOutcome("catalog", "up to date", (), time.monotonic() - started, _size(state)), None
        made, state = _run(planner, "catalog", progress)
    except IcfError as error:
        return _failed_stage(planner, "catalog", reasons, started, error, progress), None
    return StageOutcome("catalog", "done", reasons, time.monotonic() - started, _size(state), made.notices), state


def _size(state: StageRecord) -> int:
    return sum(fingerprint.size for fingerprint in state.outputs.values())


def _record_catalog(study: Study, config: RunConfig, progress: Progress) -> CatalogState:
    """Take the catalog's shared files as they are now for right: the stage has just made or compared them."""
    catalog_state = read_catalog_state(study, config.settings.catalog, paranoid=config.paranoid)
    save_record(study, WHOLE_STUDY, "catalog", catalog_state.state, progress)
    return read_catalog_state(study, config.settings.catalog)


def _record_entries(
    study: Study, config: RunConfig, fresh: Sequence[tuple[Planner, StageRecord]], progress: Progress
) -> None:
    """Remember visits together with their entries on the study's page, and the page as it is now."""
    if not fresh:
        return
    catalog_state = _record_catalog(study, config, progress)
    for planner, state in fresh:
        entry = catalog_state.entries.get(planner.visit_input.visit, "")
        whole = StageRecord(
            state.version, state.parameters, state.inputs, state.outputs, {"entry on the study's page": entry}
        )
        _remember(planner, "catalog", whole, progress)
