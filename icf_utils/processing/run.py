"""Many visits: which of them have to be processed, and a pool of threads that does it.

The work itself is done by the programs, each in a process of its own; the threads arrange inputs and wait. Starts
threads; what they do is :mod:`icf_utils.processing.execute`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, field

from icf_utils.errors import IcfError
from icf_utils.pipeline.model import VisitInput
from icf_utils.processing.decide import decide
from icf_utils.processing.execute import ProcessConfig, process_visit
from icf_utils.processing.local import remove_leftovers
from icf_utils.processing.model import ProcessingResult, ResultState
from icf_utils.processing.supervisor_pool import SupervisorPool
from icf_utils.progress import SILENT, Progress
from icf_utils.store.layout import Study, Visit
from icf_utils.store.locks import remove_dead_locks

_STATES: tuple[ResultState, ...] = ("success", "partial", "up to date", "failed", "not reached")


@dataclass(frozen=True)
class ProcessRunResult:
    """What was done: one result for each visit, sorted; ``counts`` by state; ``seconds`` of wall time."""

    processing: str
    visits: tuple[ProcessingResult, ...]
    seconds: float
    counts: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        found = dict.fromkeys(_STATES, 0)
        for result in self.visits:
            found[result.state] += 1
        object.__setattr__(self, "counts", dict(found))

    @property
    def failed(self) -> tuple[ProcessingResult, ...]:
        return tuple(result for result in self.visits if result.state in ("failed", "not reached"))


@dataclass(frozen=True)
class PlannedProcessing:
    """Whether a visit would be processed: ``reasons`` why, or ``problem`` why it cannot be."""

    study: str
    visit: str
    reasons: tuple[str, ...]
    problem: str = ""


def plan_processing(
    visits: Sequence[VisitInput], config: ProcessConfig, with_program: bool = False
) -> list[PlannedProcessing]:
    """What :func:`run_processing` would do. Unless ``with_program``, the program need not exist on this machine."""
    return [_plan(visit, config, with_program) for visit in visits]


def _plan(visit: VisitInput, config: ProcessConfig, with_program: bool) -> PlannedProcessing:
    place = Visit(config.root, visit.study, visit.visit)
    try:
        found = decide(place, config.processing, config.arguments, config.always, with_digests=with_program)
    except IcfError as error:
        return PlannedProcessing(visit.study, visit.visit, (), str(error))
    return PlannedProcessing(visit.study, visit.visit, found.reasons)


def run_processing(
    visits: Sequence[VisitInput],
    config: ProcessConfig,
    *,
    jobs: int = 0,
    progress: Progress = SILENT,
    on_visit: Callable[[ProcessingResult, int, int], None] | None = None,
) -> ProcessRunResult:
    """Process visits, ``jobs`` programs at a time (0: as the settings say).

    One visit more is worked on: its input is arranged, or its output deposited, while the programs run.

    A failed visit is part of the result and stops no other. ``on_visit`` is called for each visit that is finished,
    with its number (from 1) and how many there are. An interrupt ends the programs; it is raised again when they are
    gone.
    """
    started = time.monotonic()
    remove_leftovers()
    for name in sorted({visit.study for visit in visits}):
        remove_dead_locks(Study(config.root, name))
    programs = jobs or config.processing.workers
    supervisors = SupervisorPool(programs)
    done: list[ProcessingResult] = []

    def work(visit: VisitInput) -> ProcessingResult:
        if supervisors.is_stopped:
            return ProcessingResult(visit.study, visit.visit, config.processing.name, "not reached")
        return process_visit(config, visit.study, visit.visit, supervisors=supervisors, progress=progress)

    with (
        supervisors if len(visits) > 1 else nullcontext(),
        progress.task(config.processing.name, len(visits), "visit") as bar,
        ThreadPoolExecutor(programs + 1) as pool,
    ):
        pending: set[Future[ProcessingResult]] = {pool.submit(work, visit) for visit in visits}
        try:
            while pending:
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in finished:
                    done.append(future.result())
                    bar.advance(1)
                    if on_visit:
                        on_visit(done[-1], len(done), len(visits))
        except BaseException:
            supervisors.stop()
            raise
    done.sort(key=lambda result: (result.study, result.visit))
    return ProcessRunResult(config.processing.name, tuple(done), time.monotonic() - started)
