"""Who does the tasks: this process, or several worker processes. Starts, feeds and ends processes.

Workers are started afresh (``spawn``), so that nothing depends on the threads of whoever calls. Interrupts from the
terminal reach this process only, which then asks the workers to end: they unwind, so that nothing half-written and no
lock stays behind. A worker that dies, for want of memory perhaps, costs its own task; another takes its place.
"""

from __future__ import annotations

import multiprocessing
import signal
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any, NoReturn, Protocol

from icf_utils.interrupts import on_signal, quiet_interrupts, remove_unfinished
from icf_utils.pipeline.execute import MessagesOnly, Result, Task, failed, perform
from icf_utils.pipeline.model import Chain, Failure
from icf_utils.progress import SILENT, Progress

#: Seconds that a worker has to unwind before it is killed.
_GRACE = 60.0

#: What a terminal sends to every process of its group; workers inherit that it is blocked.
_LEFT_TO_THE_PARENT = {signal.SIGINT, signal.SIGHUP}


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
        self._free: list[_Worker] = []
        self._at_work: dict[Connection, tuple[_Worker, Task]] = {}
        for _ in range(size):
            self._free.append(_Worker(chain))

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
            self._free.append(_Worker(self._chain))
            return [(task, failed(task, self._chain, worker.last_words()))]
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
            worker.end()


class _Worker:
    def __init__(self, chain: Chain) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, chain), daemon=True)
        resource_tracker.ensure_running()  # if start() did that, it would unblock the interrupt
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_TO_THE_PARENT)
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    def ask_to_end(self) -> None:
        self._process.terminate()

    def end(self) -> None:
        self._process.join(_GRACE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self.connection.close()

    def last_words(self) -> Failure:
        """Why the process is no more."""
        self._process.join(_GRACE)
        code = self._process.exitcode or 0
        self.connection.close()
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        memory = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
        return Failure("WorkerEnded", f"the process that worked on it {how}{memory}; run the same command again", 70)


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
    quiet_interrupts()
    signal.signal(signal.SIGTERM, _end)
    signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_TO_THE_PARENT)
    progress = _Messenger(connection)
    try:
        with suppress(EOFError, OSError):
            while True:
                connection.send(("done", perform(connection.recv(), chain, progress)))
    except SystemExit:
        remove_unfinished()
        raise


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    """Unwind, once."""
    on_signal(number)
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)
