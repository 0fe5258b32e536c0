"""Where the tasks of a run are executed: in this process, or in worker processes (:mod:`icf_utils.worker_pool`)."""

from __future__ import annotations

from functools import partial
from typing import Any

from icf_utils.pipeline.execute import RunTask, TaskResult, failed_result, perform_task
from icf_utils.pipeline.model import RunConfig, StageFailure
from icf_utils.progress import SILENT, Progress
from icf_utils.worker_pool import Say, WorkerPool, start_workers

RunPool = WorkerPool[RunTask, TaskResult]


def start_run_workers(size: int, config: RunConfig, progress: Progress) -> RunPool:
    """Start a pool of ``size`` processes for the tasks of a run; a pool of one executes them in this process.

    The task of a worker that died has failed.
    """
    return start_workers(size, partial(_perform, config), partial(_lost, config), progress.message)


class _Messages:
    """Passes messages on, but not the progress of single stages."""

    def __init__(self, say: Say) -> None:
        self.message = say

    def task(self, label: str, total: int, unit: str) -> Any:
        return SILENT.task(label, total, unit)


def _perform(config: RunConfig, task: RunTask, say: Say) -> TaskResult:
    return perform_task(task, config, _Messages(say))


def _lost(config: RunConfig, task: RunTask, reason: str) -> TaskResult:
    problem = f"the process that worked on it {reason}; run the same command again"
    return failed_result(task, config, StageFailure("WorkerEnded", problem, 70))
