"""Runs tasks side by side: in worker processes (:mod:`icf_utils.worker_process`), or one by one in this process.

The runner and ``verify`` use it. If a worker dies, perhaps because memory ran out, its task gets the result that
``on_lost`` makes, and a new worker takes its place.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Generic, Protocol, TypeVar

from icf_utils.worker_process import WorkerProcess

Task = TypeVar("Task")
Result = TypeVar("Result")

#: Prints a line for people, in the process that collects the results.
Say = Callable[[str], None]

#: Does a task. For worker processes, a function of a module, or a ``functools.partial`` of one; its arguments must be
#: picklable.
Perform = Callable[[Task, Say], Result]

#: Makes the result of a task whose worker has died, from the reason in words.
OnLost = Callable[[Task, str], Result]


class WorkerPool(Protocol[Task, Result]):
    """Runs tasks and returns their results."""

    @property
    def is_busy(self) -> bool:
        """Whether no further task can be started now."""

    @property
    def is_idle(self) -> bool:
        """Whether no task is running."""

    def start(self, task: Task) -> None:
        """Start a task."""

    def collect(self) -> list[tuple[Task, Result]]:
        """Wait until a task is done; return all that are."""

    def close(self) -> None:
        """End everything, running tasks included."""


def start_workers(
    size: int, perform: Perform[Task, Result], on_lost: OnLost[Task, Result], say: Say
) -> WorkerPool[Task, Result]:
    """Start a pool of ``size`` processes; a pool of one does its tasks in this process."""
    return _ProcessPool(size, perform, on_lost, say) if size > 1 else _InProcess(perform, say)


class _InProcess(Generic[Task, Result]):
    def __init__(self, perform: Perform[Task, Result], say: Say) -> None:
        self._perform, self._say = perform, say
        self._done: list[tuple[Task, Result]] = []

    @property
    def is_busy(self) -> bool:
        return bool(self._done)

    @property
    def is_idle(self) -> bool:
        return not self._done

    def start(self, task: Task) -> None:
        self._done.append((task, self._perform(task, self._say)))

    def collect(self) -> list[tuple[Task, Result]]:
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        pass


class _ProcessPool(Generic[Task, Result]):
    def __init__(self, size: int, perform: Perform[Task, Result], on_lost: OnLost[Task, Result], say: Say) -> None:
        self._perform, self._on_lost, self._say = perform, on_lost, say
        self._running: dict[Connection, tuple[WorkerProcess, Task]] = {}
        self._free = [WorkerProcess(_work, perform) for _ in range(size)]

    @property
    def is_busy(self) -> bool:
        return not self._free

    @property
    def is_idle(self) -> bool:
        return not self._running

    def start(self, task: Task) -> None:
        worker = self._free.pop()
        self._running[worker.connection] = (worker, task)
        with suppress(OSError):  # a dead worker is found by collect()
            worker.connection.send(task)

    def collect(self) -> list[tuple[Task, Result]]:
        done: list[tuple[Task, Result]] = []
        while not done and self._running:
            for connection in wait(list(self._running)):
                assert isinstance(connection, Connection)
                done += self._receive(connection)
        return done

    def _receive(self, connection: Connection) -> list[tuple[Task, Result]]:
        worker, task = self._running[connection]
        try:
            kind, value = connection.recv()
        except (EOFError, OSError):
            del self._running[connection]
            self._free.append(WorkerProcess(_work, self._perform))
            worker.join()
            return [(task, self._on_lost(task, worker.exit_reason))]
        if kind == "message":
            self._say(value)
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


def _work(connection: Connection, perform: Perform[Task, Result]) -> None:
    """Do tasks in a worker until it is asked to end or the parent has gone."""

    def say(text: str) -> None:
        connection.send(("message", text))

    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        done = perform(task, say)
        with suppress(OSError):
            connection.send(("done", done))
