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
from icf_utils.pipeline.catalog_state import Shelf, look
from icf_utils.pipeline.model import Chain, Failure, StageOutcome, VisitInput, VisitOutcome
from icf_utils.pipeline.plan import Finding, Judge
from icf_utils.pipeline.stages import STAGES, Made, place_of, run_stage
from icf_utils.pipeline.state import WHOLE_STUDY, State, forget_error, write_error, write_state
from icf_utils.progress import SILENT, Progress
from icf_utils.progress import Task as ProgressTask
from icf_utils.store.layout import Study
from icf_utils.store.locks import run_lock

#: Exit code that stands for a fault of the program.
_FAULT = 70


@dataclass(frozen=True)
class VisitTask:
    """The stages of a visit before the catalog; ``wait`` for another run that has it in hand, or leave it."""

    wanted: VisitInput
    wait: bool = False


@dataclass(frozen=True)
class CatalogTask:
    """Visits of one study that go into its catalog."""

    visits: tuple[VisitInput, ...]


@dataclass(frozen=True)
class InOtherHands:
    """Another run works on the visit; ``holder`` names its process."""

    holder: str


Task = VisitTask | CatalogTask
Result = VisitOutcome | InOtherHands | tuple[StageOutcome, ...]


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


def perform(task: Task, chain: Chain, progress: Progress) -> Result:
    """Do a task."""
    try:
        if isinstance(task, CatalogTask):
            return tuple(make_catalog(task.visits, chain, progress))
        outcome = make_visit(task.wanted, chain, progress, task.wait)
        return InOtherHands(outcome) if isinstance(outcome, str) else outcome
    except OSError as error:  # one that no stage could name better
        name = error.filename if isinstance(error.filename, str) else "a file"
        problem = StorageFailure(name, "use", error)
        return failed(task, chain, Failure("StorageFailure", str(problem), problem.exit_code))
    except Exception as error:  # noqa: BLE001 - a fault of ours must not stop the other visits
        return failed(task, chain, _fault(error))


def failed(task: Task, chain: Chain, failure: Failure) -> VisitOutcome | tuple[StageOutcome, ...]:
    """The result of a task that came to nothing."""
    if isinstance(task, CatalogTask):
        return tuple(StageOutcome("catalog", "failed", failure=failure) for _ in task.visits)
    first, *others = [name for name in chain.stage_names if name != "catalog"]
    stages = [StageOutcome(first, "failed", failure=failure), *(StageOutcome(name, "not reached") for name in others)]
    return VisitOutcome(task.wanted.study, task.wanted.visit, tuple(stages))


def _fault(error: Exception) -> Failure:
    """A fault of ours: its place and kind, not its text, which may hold header values."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{os.path.basename(place.filename)}:{place.lineno}"
    details = "ICF_DEBUG=1 shows the details, which may hold header values"
    if os.environ.get("ICF_DEBUG"):
        details = "".join(traceback.format_exception(error))
    return Failure(
        "InternalError", f"internal error ({type(error).__name__} at {where}); please report it. {details}", _FAULT
    )


def make_visit(wanted: VisitInput, chain: Chain, progress: Progress, wait: bool = True) -> VisitOutcome | str:
    """Make a visit's files, but not its catalog pages.

    Without ``wait``, a visit that another run has in hand is left to it: its name comes back.
    """
    try:
        with run_lock(place_of(wanted, chain), progress, wait) as holder:
            return holder or _make_visit(wanted, chain, progress)
    except IcfError as error:  # the lock itself: no place for it, or held for too long
        return VisitOutcome(wanted.study, wanted.visit, _none_reached(chain, _failure(error)))


def _make_visit(wanted: VisitInput, chain: Chain, progress: Progress) -> VisitOutcome:
    judge, outcomes = Judge(wanted, chain), []
    names = [name for name in chain.stage_names if name != "catalog"]
    for name in names:
        outcomes.append(_make_stage(judge, name, progress))
        if outcomes[-1].state == "failed":
            break
    outcomes += [StageOutcome(name, "not reached") for name in names[len(outcomes) :]]
    return VisitOutcome(wanted.study, wanted.visit, tuple(outcomes))


def _make_stage(judge: Judge, name: str, progress: Progress) -> StageOutcome:
    started = time.monotonic()
    reasons: tuple[str, ...] = ()
    try:
        finding = judge.find(name)
        reasons = finding.decision.reasons
        if finding.decision.runs:
            made, state = _run(judge, name, progress)
        else:
            made, state = Made(), _settled(finding)
        _remember(judge, name, state, progress)
    except IcfError as error:
        return _failed(judge, name, reasons, started, error, progress)
    return StageOutcome(
        stage=name,
        state="done" if finding.decision.runs else "up to date",
        reasons=reasons,
        seconds=time.monotonic() - started,
        size=sum(mark.size for mark in state.outputs.values()),
        notices=made.notices,
        skipped=made.skipped,
    )


def _run(judge: Judge, name: str, progress: Progress) -> tuple[Made, State]:
    """Run a stage. What it is made from is looked at before: a later change is then seen by the next run."""
    stage = STAGES[name]
    intact = name == "archive" and judge.archive_is_as_remembered()
    inputs, source = judge.inputs_now(stage), judge.source() if name == "archive" else None
    made = run_stage(stage, judge.wanted, judge.chain, progress, intact)
    for file, digest in made.digests.items():
        judge.marker.learn(file, digest)
    after = judge.state_now(stage, outputs=made.outputs)
    return made, State(after.version, after.parameters, inputs, after.outputs, source=source)


def _settled(finding: Finding) -> State:
    assert finding.state is not None  # because nothing has to run
    return finding.state


def _remember(judge: Judge, name: str, state: State, progress: Progress) -> None:
    """Keep the state where it is new; that it cannot be kept costs time only."""
    visit, study = judge.wanted.visit, judge.place.of_study
    if judge.remembered.get(name) == state:
        forget_error(study, visit, name)
        return
    judge.remembered[name] = state
    keep_state(study, visit, name, state, progress)


def keep_state(study: Study, visit: str, stage: str, state: State, progress: Progress) -> None:
    """Write a state file; where that is not possible, say that the next run will look again."""
    try:
        write_state(study, visit, stage, state)
    except StorageFailure as error:
        progress.message(f"{error}; the next run will look at this stage again")


def _failed(
    judge: Judge, name: str, reasons: tuple[str, ...], started: float, error: IcfError, progress: Progress
) -> StageOutcome:
    failure = _failure(error)
    try:
        write_error(judge.place.of_study, judge.wanted.visit, name, failure)
    except StorageFailure as problem:
        progress.message(str(problem))
    return StageOutcome(name, "failed", reasons, time.monotonic() - started, failure=failure)


def _failure(error: IcfError) -> Failure:
    return Failure(type(error).__name__, str(error), error.exit_code)


def _none_reached(chain: Chain, failure: Failure) -> tuple[StageOutcome, ...]:
    first, *others = [name for name in chain.stage_names if name != "catalog"]
    return (StageOutcome(first, "failed", failure=failure), *(StageOutcome(name, "not reached") for name in others))


def make_catalog(visits: Sequence[VisitInput], chain: Chain, progress: Progress) -> list[StageOutcome]:
    """Bring visits of one study into its catalog, one after the other; an outcome for each, in their order.

    The caller sees to it that only one process does this for a study; the catalog's lock stands behind that.
    """
    study = Study(chain.root, visits[0].study)
    try:
        shelf = look(study, chain.settings.catalog, chain.paranoid)
    except IcfError as error:
        return [_failed(Judge(wanted, chain), "catalog", (), time.monotonic(), error, progress) for wanted in visits]
    outcomes, fresh = [], []
    for wanted in visits:
        judge = Judge(wanted, chain)
        outcome, state = _catalog_visit(judge, shelf, progress)
        outcomes.append(outcome)
        if outcome.state == "done" and shelf.problem:
            shelf = _keep_shelf(study, chain, progress)
        if state is not None:
            fresh.append((judge, state))
    _keep_entries(study, chain, fresh, progress)
    return outcomes


def _catalog_visit(judge: Judge, shelf: Shelf, progress: Progress) -> tuple[StageOutcome, State | None]:
    """One visit; the state lacks the visit's entry where the stage ran, as others may still change the page."""
    started = time.monotonic()
    reasons: tuple[str, ...] = ()
    try:
        finding = judge.find("catalog", shelf)
        reasons = finding.decision.reasons
        if not finding.decision.runs:
            state = _settled(finding)
            _remember(judge, "catalog", state, progress)
            return StageOutcome("catalog", "up to date", (), time.monotonic() - started, _size(state)), None
        made, state = _run(judge, "catalog", progress)
    except IcfError as error:
        return _failed(judge, "catalog", reasons, started, error, progress), None
    return StageOutcome("catalog", "done", reasons, time.monotonic() - started, _size(state), made.notices), state


def _size(state: State) -> int:
    return sum(mark.size for mark in state.outputs.values())


def _keep_shelf(study: Study, chain: Chain, progress: Progress) -> Shelf:
    """Take the catalog's shared files as they are now for right: the stage has just made or compared them."""
    shelf = look(study, chain.settings.catalog, paranoid=chain.paranoid)
    keep_state(study, WHOLE_STUDY, "catalog", shelf.state, progress)
    return look(study, chain.settings.catalog)


def _keep_entries(study: Study, chain: Chain, fresh: Sequence[tuple[Judge, State]], progress: Progress) -> None:
    """Remember visits together with their entries on the study's page, and the page as it is now."""
    if not fresh:
        return
    shelf = _keep_shelf(study, chain, progress)
    for judge, state in fresh:
        entry = shelf.entries.get(judge.wanted.visit, "")
        whole = State(
            state.version, state.parameters, state.inputs, state.outputs, {"entry on the study's page": entry}
        )
        _remember(judge, "catalog", whole, progress)
