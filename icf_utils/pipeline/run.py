"""A run: visits in parallel, and each study's catalog by one writer at a time. Decides which task comes next.

Tasks are executed by the processes of :mod:`icf_utils.pipeline.workers`; this module reads and writes no deposits.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace

from icf_utils.catalog.index_page import renew_index
from icf_utils.errors import IcfError
from icf_utils.pipeline.checks import refuse_visits, without_refused
from icf_utils.pipeline.execute import (
    AlreadyRunning,
    CatalogTask,
    RunTask,
    TaskResult,
    VisitTask,
    failed_result,
    stage_failure,
)
from icf_utils.pipeline.model import RunConfig, RunResult, StageOutcome, VisitInput, VisitOutcome, VisitPlan
from icf_utils.pipeline.plan import make_plan
from icf_utils.pipeline.stages import check_config
from icf_utils.pipeline.state import remove_unfinished_records
from icf_utils.pipeline.workers import RunPool, start_run_workers
from icf_utils.progress import SILENT, Progress
from icf_utils.store.layout import Study
from icf_utils.store.locks import remove_dead_locks

#: While there are visits to make, a catalog is updated for at least so many of them at a time.
_CATALOG_BATCH = 25


def count_processors() -> int:
    """The number of processors that this process may use."""
    return len(os.sched_getaffinity(0))


def run_visits(
    visits: Sequence[VisitInput],
    config: RunConfig,
    *,
    jobs: int = 1,
    keep_going: bool = True,
    progress: Progress = SILENT,
    on_visit: Callable[[VisitOutcome, int, int], None] | None = None,
) -> RunResult:
    """Bring visits up to date: run the stages that are needed, for ``jobs`` visits at a time.

    A failed visit is part of the result and stops the others only if ``keep_going`` is false. ``on_visit`` is called
    for each visit that was worked on, when it is finished: with its outcome, its number (from 1) and how many there
    are. With ``jobs`` above 1, worker processes are started; they import the caller's main module, so a program must
    guard it by ``if __name__ == "__main__"``.

    Raises :class:`~icf_utils.errors.InvalidSetting` for options that apply to no visit, and
    :class:`~icf_utils.errors.StorageFailure` for a store that cannot be read.
    """
    started = time.monotonic()
    plans = make_plan(visits, config)
    for name in {plan.visit_input.study for plan in plans}:
        remove_dead_locks(Study(config.root, name))
    todo = [plan for plan in plans if plan.runs]
    outcomes = [_up_to_date(plan) for plan in plans if not plan.runs]
    if todo:
        check_config(config)
        refused = refuse_visits(todo, config, progress)
        outcomes += [_refused(plan, error, config) for plan, error in refused]
        todo = without_refused(todo, refused)
    if todo:
        for name in {plan.visit_input.study for plan in todo}:
            remove_unfinished_records(Study(config.root, name))
        scheduler = _Scheduler(todo, config, keep_going, progress, on_visit)
        size = min(jobs, len(todo))
        with (
            progress.task("visits", len(todo), "visit") as bar,
            closing(start_run_workers(size, config, progress)) as pool,
        ):
            scheduler.work(pool, bar.advance)
        outcomes += scheduler.finished
    outcomes.sort(key=lambda outcome: (outcome.study, outcome.visit))
    notices = renew_index(config.root, config.settings) if "catalog" in config.stage_names else ()
    return RunResult(tuple(outcomes), time.monotonic() - started, notices)


def _refused(plan: VisitPlan, error: IcfError, config: RunConfig) -> VisitOutcome:
    """The outcome of a visit whose input is not read, since it is refused."""
    outcome = failed_result(VisitTask(plan.visit_input), config, stage_failure(error))
    assert isinstance(outcome, VisitOutcome)
    return outcome


def _up_to_date(plan: VisitPlan) -> VisitOutcome:
    stages = tuple(StageOutcome(decision.stage, "up to date") for decision in plan.decisions)
    return VisitOutcome(plan.visit_input.study, plan.visit_input.visit, stages)


class _Scheduler:
    """Starts tasks and collects their results until every visit is finished."""

    def __init__(
        self,
        plans: Sequence[VisitPlan],
        config: RunConfig,
        keep_going: bool,
        progress: Progress,
        on_visit: Callable[[VisitOutcome, int, int], None] | None,
    ) -> None:
        self._config, self._keep_going, self._progress, self._on_visit = config, keep_going, progress, on_visit
        self._waiting: deque[VisitTask] = deque()
        self._for_catalog: dict[str, list[VisitInput]] = {}
        self._in_catalog: set[str] = set()
        self._unmade: dict[str, int] = {}
        self._made: dict[str, VisitOutcome] = {}
        self._advance: Callable[[int], None] | None = None
        self._total = len(plans)
        self.finished: list[VisitOutcome] = []
        for plan in plans:
            self._add(plan)

    def _add(self, plan: VisitPlan) -> None:
        visit_input = plan.visit_input
        if {decision.stage for decision in plan.runs} == {"catalog"}:
            stages = tuple(StageOutcome(item.stage, "up to date") for item in plan.decisions if not item.runs)
            self._queue_for_catalog(visit_input, VisitOutcome(visit_input.study, visit_input.visit, stages))
        else:
            self._waiting.append(VisitTask(visit_input))
            self._unmade[visit_input.study] = self._unmade.get(visit_input.study, 0) + 1

    def work(self, pool: RunPool, advance: Callable[[int], None]) -> None:
        """Execute all tasks on ``pool``; ``advance`` is called with the number of visits that were finished."""
        self._advance = advance
        while True:
            while not pool.is_busy and (task := self._next(pool.is_idle)):
                pool.start(task)
            if pool.is_idle:
                return
            for task, result in pool.collect():
                self._add_result(task, result)

    def _next(self, is_idle: bool) -> RunTask | None:
        """The next task: a catalog that is worth updating, else a visit, else any catalog."""
        ready = [study for study in self._for_catalog if study not in self._in_catalog]
        worth_it = [study for study in ready if self._is_worth_it(study)]
        if worth_it:
            return self._catalog_task(worth_it[0])
        if self._waiting and (is_idle or not self._waiting[0].wait):
            return self._waiting.popleft()
        return None

    def _is_worth_it(self, study: str) -> bool:
        return not self._unmade.get(study) or len(self._for_catalog[study]) >= _CATALOG_BATCH

    def _catalog_task(self, study: str) -> CatalogTask:
        self._in_catalog.add(study)
        return CatalogTask(tuple(self._for_catalog.pop(study)))

    def _add_result(self, task: RunTask, result: TaskResult) -> None:
        if isinstance(task, CatalogTask):
            assert isinstance(result, tuple)
            self._in_catalog.discard(task.visits[0].study)
            for visit_input, stage in zip(task.visits, result, strict=True):
                made = self._made.pop(visit_input.name)
                self._finish(replace(made, stages=(*made.stages, stage)))
        elif isinstance(result, AlreadyRunning):
            self._progress.message(
                f"{task.visit_input.name}: {result.holder} is working on it; it will be tried again last"
            )
            self._waiting.append(VisitTask(task.visit_input, wait=True))
        else:
            assert isinstance(result, VisitOutcome)
            self._unmade[task.visit_input.study] -= 1
            self._add_visit(task.visit_input, result)

    def _add_visit(self, visit_input: VisitInput, outcome: VisitOutcome) -> None:
        if self._config.until != "catalog":
            self._finish(outcome)
        elif outcome.failed:
            self._finish(replace(outcome, stages=(*outcome.stages, StageOutcome("catalog", "not reached"))))
        else:
            self._queue_for_catalog(visit_input, outcome)

    def _queue_for_catalog(self, visit_input: VisitInput, outcome: VisitOutcome) -> None:
        self._made[visit_input.name] = outcome
        self._for_catalog.setdefault(visit_input.study, []).append(visit_input)

    def _finish(self, outcome: VisitOutcome) -> None:
        self.finished.append(outcome)
        if self._advance:
            self._advance(1)
        if self._on_visit:
            self._on_visit(outcome, len(self.finished), self._total)
        if outcome.failed and not self._keep_going:
            self._give_up()

    def _give_up(self) -> None:
        """Start no other visit; the catalogs of the visits that were made are still updated."""
        for task in self._waiting:
            stages = tuple(StageOutcome(name, "not reached") for name in self._config.stage_names)
            self.finished.append(VisitOutcome(task.visit_input.study, task.visit_input.visit, stages))
            self._unmade[task.visit_input.study] -= 1
        self._waiting.clear()
