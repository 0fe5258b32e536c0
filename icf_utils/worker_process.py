"""Worker processes: the one way to start, feed and end them, used by the runner and by the receiver.

Starts and ends processes. A worker is started afresh (``spawn``), so that it does not depend on its parent's threads.
Interrupts from the terminal are left to the parent, which then asks its workers to end. A worker that is asked to end
(``SIGTERM``) unwinds, once, and removes its unfinished files, so that no half-written file and no lock remains.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Collection
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from traceback import extract_tb
from types import FrameType
from typing import Any, NoReturn

from icf_utils.child_environment import drop_secrets
from icf_utils.interrupts import on_signal, quiet_interrupts, remove_unfinished

#: Seconds that a worker has to unwind before it is killed.
GRACE = 60.0

#: What a terminal sends to every process of its group; blocked in workers.
_LEFT_TO_THE_PARENT = {signal.SIGINT, signal.SIGHUP}


class WorkerProcess:
    """A process that runs ``work(connection, *arguments)``; ``connection`` here is the other end of its pipe.

    ``work`` must be a function of a module, and the arguments must be picklable. ``secrets`` names the variables with
    secrets that the work needs; it starts without the others (:mod:`icf_utils.child_environment`). Reading from
    ``connection`` raises ``EOFError`` once the process has ended.
    """

    def __init__(self, work: Callable[..., None], *arguments: Any, secrets: Collection[str] = ()) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._last_words, last_words = context.Pipe(duplex=False)
        self._crash = ""
        work_of_it = (theirs, last_words, work, arguments, frozenset(secrets))
        self._process = context.Process(target=_run, args=work_of_it, daemon=True)
        resource_tracker.ensure_running()  # if start() did that, it would unblock the interrupt
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_TO_THE_PARENT)  # the child inherits the mask
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        last_words.close()

    def ask_to_end(self) -> None:
        """Ask the process to unwind and end; returns at once."""
        self._process.terminate()

    def kill(self) -> None:
        """End the process at once; it cannot clean up."""
        self._process.kill()

    def join(self) -> None:
        """Wait until the process has ended, kill it after :data:`GRACE` seconds, and close the connection."""
        self._process.join(GRACE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self.connection.close()
        with self._last_words, suppress(EOFError, OSError):
            self._crash = self._last_words.recv()

    @property
    def exit_reason(self) -> str:
        """How a process that was joined has ended: ``was ended by signal 9 ...`` or ``ended with exit code 1``.

        For an exception that nobody expected, this names its class and where it was raised; what it says could
        identify somebody, and is only on the standard error output of the process.
        """
        code = self._process.exitcode or 0
        if code >= 0:
            crash = f" (a fault of icf-utils: {self._crash})" if self._crash else ""
            return f"ended with exit code {code}{crash}"
        memory = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
        return f"was ended by signal {-code}{memory}"


def _run(
    connection: Connection,
    last_words: Connection,
    work: Callable[..., None],
    arguments: tuple[Any, ...],
    secrets: frozenset[str],
) -> None:
    """What the process does."""
    drop_secrets(keep=secrets)
    quiet_interrupts()
    signal.signal(signal.SIGTERM, _unwind)
    signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_TO_THE_PARENT)
    try:
        work(connection, *arguments)
    except BaseException as error:
        if isinstance(error, Exception):
            last_words.send(_class_and_place(error))
        remove_unfinished()
        raise


def _class_and_place(error: Exception) -> str:
    """The class of an exception, and the last place in this package that it came through: no values."""
    frames = [frame for frame in extract_tb(error.__traceback__) if f"{os.sep}icf_utils{os.sep}" in frame.filename]
    if not frames:
        return type(error).__name__
    place = frames[-1].filename.rpartition(f"{os.sep}icf_utils{os.sep}")[2]
    return f"{type(error).__name__} in icf_utils/{place}, line {frames[-1].lineno}"


def _unwind(number: int, _frame: FrameType | None) -> NoReturn:
    on_signal(number)
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)
