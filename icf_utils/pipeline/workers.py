"""Who does the tasks: this process, or several worker processes (see :mod:`icf_utils.worker_process`).

A worker that dies, perhaps because memory ran out, costs its own task; another takes its place.
"""

from __future__ import annotations

from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from icf_utils.pipeline.execute import MessagesOnly, Result, Task, failed, perform
from icf_utils.pipeline.model import Chain, Failure
from icf_utils.progress import SILENT, Progress
from icf_utils.worker_process import WorkerProcess


class Team(Protocol):
    """Takes tasks and gives results."""

    @property
    def is_busy(self) -> bool:
        """Whether no further task can be started now."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""

    def start(self, task: Task) -> None:
        """Begin a task."""

    def collect(self) -> list[tuple[Task, Result]]:
        """Wait until a task is done, and return all that are."""

    def close(self) -> None:
        """End everything, what is under way too."""


def new_team(size: int, chain: Chain, progress: Progress) -> Team:
    """A team of ``size`` processes; one is this process itself."""
    return _Workers(size, chain, progress) if size > 1 else _Alone(chain, progress)


class _Alone:
    def __init__(self, chain: Chain, progress: Progress) -> None:
        self._chain, self._progress = chain, MessagesOnly(progress)
        self._done: list[tuple[Task, Result]] = []

    @property
    def is_busy(self) -> bool:
        return bool(self._done)

    @property
    def is_idle(self) -> bool:
        return not self._done

    def start(self, task: Task) -> None:
        self._done.append((task, perform(task, self._chain, self._progress)))

    def collect(self) -> list[tuple[Task, Result]]:
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        pass


class _Workers:
    def __init__(self, size: int, chain: Chain, progress: Progress) -> None:
        self._chain, self._progress = chain, progress
        self._free: list[WorkerProcess] = []
        self._at_work: dict[Connection, tuple[WorkerProcess, Task]] = {}
        for _ in range(size):
            self._free.append(WorkerProcess(_work, chain))

    @property
    def is_busy(self) -> bool:
        return not self._free

    @property
    def is_idle(self) -> bool:
        return not self._at_work

    def start(self, task: Task) -> None:
        worker = self._free.pop()
        self._at_work[worker.connection] = (worker, task)
        with suppress(OSError):  # a dead worker is found by collect()
            worker.connection.send(task)

    def collect(self) -> list[tuple[Task, Result]]:
        done: list[tuple[Task, Result]] = []
        while not done and self._at_work:
            for connection in wait(list(self._at_work)):
                assert isinstance(connection, Connection)
                done += self._hear(connection)
        return done

    def _hear(self, connection: Connection) -> list[tuple[Task, Result]]:
        worker, task = self._at_work[connection]
        try:
            kind, value = connection.recv()
        except (EOFError, OSError):
            del self._at_work[connection]
            self._free.append(WorkerProcess(_work, self._chain))
            worker.join()
            problem = f"the process that worked on it {worker.exit_reason}; run the same command again"
            return [(task, failed(task, self._chain, Failure("WorkerEnded", problem, 70)))]
        if kind == "message":
            self._progress.message(value)
            return []
        del self._at_work[connection]
        self._free.append(worker)
        return [(task, value)]

    def close(self) -> None:
        workers = [*self._free, *(worker for worker, _ in self._at_work.values())]
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


def _work(connection: Connection, chain: Chain) -> None:
    """What a worker does: tasks, until it is told to end or nobody is there any more."""
    progress = _Messenger(connection)
    with suppress(EOFError, OSError):
        while True:
            connection.send(("done", perform(connection.recv(), chain, progress)))
