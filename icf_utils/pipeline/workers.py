"""Where the tasks of a run are executed: in this process, or in worker processes (:mod:`icf_utils.worker_process`).

If a worker dies, perhaps because memory ran out, its task fails and a new worker takes its place.
"""

from __future__ import annotations

from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from icf_utils.pipeline.execute import MessagesOnly, RunTask, TaskResult, failed_result, perform_task
from icf_utils.pipeline.model import RunConfig, StageFailure
from icf_utils.progress import SILENT, Progress
from icf_utils.worker_process import WorkerProcess


class WorkerPool(Protocol):
    """Runs tasks and returns their results."""

    @property
    def is_busy(self) -> bool:
        """Whether no further task can be started now."""

    @property
    def is_idle(self) -> bool:
        """Whether no task is running."""

    def start(self, task: RunTask) -> None:
        """Start a task."""

    def collect(self) -> list[tuple[RunTask, TaskResult]]:
        """Wait until a task is done; return all that are."""

    def close(self) -> None:
        """End everything, running tasks included."""


def start_workers(size: int, config: RunConfig, progress: Progress) -> WorkerPool:
    """Start a pool of ``size`` processes; a pool of one runs its tasks in this process."""
    return _ProcessPool(size, config, progress) if size > 1 else _InProcess(config, progress)


class _InProcess:
    def __init__(self, config: RunConfig, progress: Progress) -> None:
        self._config, self._progress = config, MessagesOnly(progress)
        self._done: list[tuple[RunTask, TaskResult]] = []

    @property
    def is_busy(self) -> bool:
        return bool(self._done)

    @property
    def is_idle(self) -> bool:
        return not self._done

    def start(self, task: RunTask) -> None:
        self._done.append((task, perform_task(task, self._config, self._progress)))

    def collect(self) -> list[tuple[RunTask, TaskResult]]:
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        pass


class _ProcessPool:
    def __init__(self, size: int, config: RunConfig, progress: Progress) -> None:
        self._config, self._progress = config, progress
        self._free: list[WorkerProcess] = []
        self._running: dict[Connection, tuple[WorkerProcess, RunTask]] = {}
        for _ in range(size):
            self._free.append(WorkerProcess(_work, config))

    @property
    def is_busy(self) -> bool:
        return not self._free

    @property
    def is_idle(self) -> bool:
        return not self._running

    def start(self, task: RunTask) -> None:
        worker = self._free.pop()
        self._running[worker.connection] = (worker, task)
        with suppress(OSError):  # a dead worker is found by collect()
            worker.connection.send(task)

    def collect(self) -> list[tuple[RunTask, TaskResult]]:
        done: list[tuple[RunTask, TaskResult]] = []
        while not done and self._running:
            for connection in wait(list(self._running)):
                assert isinstance(connection, Connection)
                done += self._receive(connection)
        return done

    def _receive(self, connection: Connection) -> list[tuple[RunTask, TaskResult]]:
        worker, task = self._running[connection]
        try:
            kind, value = connection.recv()
        except (EOFError, OSError):
            del self._running[connection]
            self._free.append(WorkerProcess(_work, self._config))
            worker.join()
            problem = f"the process that worked on it {worker.exit_reason}; run the same command again"
            return [(task, failed_result(task, self._config, StageFailure("WorkerEnded", problem, 70)))]
        if kind == "message":
            self._progress.message(value)
            return []
        del self._running[connection]
        self._free.append(worker)
        return [(task, value)]

    def close(self) -> None:
        workers = [*self._free, *(worker for worker, _ in self._running.values())]
        for worker in workers:
            worker.ask_to_end()
        for worker in workers:
            worker.join()


class _Messenger:
    """Sends messages to the process that collects."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def task(self, label: str, total: int, unit: str) -> Any:
        return SILENT.task(label, total, unit)

    def message(self, text: str) -> None:
        self._connection.send(("message", text))


def _work(connection: Connection, config: RunConfig) -> None:
    """Execute tasks in a worker until it is asked to end or the parent has gone."""
    progress = _Messenger(connection)
    with suppress(EOFError, OSError):
        while True:
            connection.send(("done", perform_task(connection.recv(), config, progress)))
