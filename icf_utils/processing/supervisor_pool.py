"""Start supervisors, one for each run of a program, and ask them to end. Starts processes.

A supervisor (:mod:`icf_utils.processing.supervisor`) gets its job over a socket and answers over it. Starting Python
for each takes longer than many a program: for a run over many visits one process is started that forks a supervisor
for each job. A supervisor ends its program on request, and also if its socket is closed or the process that forked
it has ended, so no program outlives the command that waits for it.
"""

from __future__ import annotations

import marshal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from icf_utils.child_environment import interpreter_environment
from icf_utils.errors import StorageFailure, storage_errors

_PROGRAM = str(Path(__file__).with_name("supervisor.py"))
_BLOCK = 1 << 16


class SupervisorPool:
    """Runs jobs, from one or several threads. :meth:`stop` ends all of them; no job can begin afterwards.

    Inside a ``with`` block, supervisors are forked by one process; otherwise each is started anew. At most ``programs``
    of them run at a time (0: no limit); the others wait.
    """

    def __init__(self, programs: int = 0) -> None:
        self._places = threading.Semaphore(programs) if programs else nullcontext()
        self._lock, self._running, self.is_stopped = threading.Lock(), set[socket.socket](), False
        self._parent: subprocess.Popen[bytes] | None = None
        self._orders: socket.socket | None = None

    def __enter__(self) -> SupervisorPool:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._parent = _start(theirs, "fork")
            except BaseException:
                ours.close()
                raise
        self._orders = ours
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._orders is not None
        assert self._parent is not None
        self._orders.close()
        self._parent.wait()

    def stop(self) -> None:
        """Ask all to end their programs."""
        self.is_stopped = True
        with self._lock:
            for channel in self._running:
                _ask_to_end(channel)

    def run(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Run a job; returns what the supervisor says of its end, when nothing of its program is left.

        An interrupt ends the program first. Raises :class:`~icf_utils.errors.StorageFailure` if it does not answer.
        """
        ours, theirs = socket.socketpair()
        with ours, self._places:
            with theirs:
                child = self._send_or_start(theirs)
            try:
                answer = self._talk(ours, job)
            except BaseException:  # an interrupt: the program ends before its folders are removed
                _ask_to_end(ours)
                _read_all(ours)
                raise
            finally:
                if child is not None:
                    child.wait()
        try:
            found = marshal.loads(answer)  # noqa: S302 - from the supervisor
        except (ValueError, EOFError, TypeError):
            problem = OSError(0, "it ended without an answer")
            raise StorageFailure("the program's supervisor", "use", problem) from None
        assert isinstance(found, dict)
        return found

    def _send_or_start(self, theirs: socket.socket) -> subprocess.Popen[bytes] | None:
        if self._orders is None:
            return _start(theirs, "run")
        with storage_errors(_PROGRAM, "start"), self._lock:
            socket.send_fds(self._orders, [b"+"], [theirs.fileno()])
        return None

    def _talk(self, ours: socket.socket, job: Mapping[str, Any]) -> bytes:
        data = marshal.dumps(dict(job))
        with suppress(BrokenPipeError, ConnectionResetError):
            ours.sendall(len(data).to_bytes(8, "little") + data)
        with self._watching(ours):
            if self.is_stopped:
                _ask_to_end(ours)
            return _read_all(ours)

    @contextmanager
    def _watching(self, channel: socket.socket) -> Iterator[None]:
        with self._lock:
            self._running.add(channel)
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(channel)


def _start(channel: socket.socket, mode: str) -> subprocess.Popen[bytes]:
    with storage_errors(_PROGRAM, "start"):
        return subprocess.Popen(  # noqa: S603 - this package's own program
            [sys.executable, "-I", "-S", _PROGRAM, mode],
            stdin=channel.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=interpreter_environment(),
            start_new_session=True,  # an interrupt from the terminal comes by way of this process
        )


def _ask_to_end(channel: socket.socket) -> None:
    with suppress(OSError):
        channel.shutdown(socket.SHUT_WR)


def _read_all(channel: socket.socket) -> bytes:
    blocks = []
    with suppress(ConnectionResetError):
        while block := channel.recv(_BLOCK):
            blocks.append(block)
    return b"".join(blocks)
