"""Supervise one program: limits, time, log, and the end of everything that it started. A program of its own.

Run as ``python -I -S supervisor.py run``, with a socket as standard input, from which it reads a job: its length in
eight bytes, and ``marshal``. When nothing that the program started is left, it writes how the program ended, by
``marshal`` as well (:mod:`icf_utils.processing.supervisor_pool` is the other side). ``supervisor.py fork`` receives
such sockets over its standard input and forks a supervisor for each. Imports nothing of the package and little else,
since it may be started for every visit.

The supervisor adopts what the program leaves (PR_SET_CHILD_SUBREAPER, prctl(2)), so that a process that forks, changes
its session and stays is found and killed. It ends the program if the other side shuts the socket down, if the process
that started the supervisor dies (PR_SET_PDEATHSIG), and if it gets TERM. The program's output goes through a pipe, of
which the log keeps the beginning and the end.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import resource
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from typing import Any
else:
    try:
        import _signal as signal  # what the module signal is made of: its enumerations take half of the start
    except ImportError:
        import signal

_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36

#: Seconds between looks at the free space, and the longest wait for killed processes to disappear.
_LOOK, _LONGEST_END = 1.0, 30.0

#: Bytes of the end of a long log that are kept.
_TAIL = 1 << 16

_libc = ctypes.CDLL(None, use_errno=True)


class _Log:
    """A file that holds the first ``limit`` bytes that it gets, and at the end the last ones."""

    def __init__(self, path: str, limit: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._left, self._tail, self.size = limit, b"", 0

    def write(self, data: bytes) -> None:
        self.size += len(data)
        kept, rest = data[: self._left], data[self._left :]
        self._left -= len(kept)
        self._append(kept)
        self._tail = (self._tail + rest)[-_TAIL:] if rest else self._tail

    def _append(self, data: bytes) -> None:
        try:
            os.write(self._file, data)
        except OSError:  # a full disk; the space is looked at elsewhere
            self._left = 0

    def close(self, limit: int) -> None:
        left_out = self.size - limit - len(self._tail)
        if left_out > 0:
            self._append(f"\n[icf-utils: {left_out} bytes of the log are left out here]\n".encode("ascii"))
        self._append(self._tail)
        os.close(self._file)


def fork_supervisors() -> None:
    """Fork a supervisor for each socket that comes over standard input, until that is closed."""
    import _socket  # the module socket takes long to load

    orders = _socket.socket(fileno=0)
    parent = os.getpid()
    while True:
        data, received, *_ = orders.recvmsg(1, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
        _ignore(ChildProcessError, _wait_for_children, os.WNOHANG if data else 0)
        if not data:
            return
        channel = int.from_bytes(received[0][2][:4], sys.byteorder)
        try:
            if not os.fork():
                os.setsid()
                os.close(0)
                supervise(channel, parent)
                os._exit(0)
        except OSError:  # too many processes: the closed socket says so
            pass
        os.close(channel)


def _wait_for_children(options: int) -> None:
    while os.waitpid(-1, options)[0]:
        pass


def supervise(channel: int, parent: int) -> None:
    """Run the job that comes over a socket, unless the process that started this one is gone."""
    with os.fdopen(os.dup(channel), "rb") as handle:
        size = int.from_bytes(handle.read(8), "little")
        data = handle.read(size)
    if not size or len(data) < size:
        return
    job: dict[str, Any] = marshal.loads(data)  # noqa: S302 - from icf-utils
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopped.append(number))
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    _libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    _libc.prctl(_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it died before
        return
    end = _Supervision(job, wake_read, channel, stopped).run()
    os.write(channel, marshal.dumps(end))


class _Supervision:
    def __init__(self, job: dict[str, Any], wake: int, channel: int, stopped: list[int]) -> None:
        self._job, self._wake, self._channel, self._stopped = job, wake, channel, stopped
        self._log = _Log(job["log"], job["log_limit"])
        self._status: int | None = None
        self._reason = ""
        self._left = 0
        self._is_closed = False  # the program's output: it may run on without

    def run(self) -> dict[str, Any]:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reader, False)
        try:
            program = self._start(writer)
        except OSError as error:
            os.close(writer)
            return {"error": error.errno, "reason": "not-started", "status": None, "left": 0, "log_size": 0}
        os.close(writer)
        started = time.monotonic()
        self._watch(program, reader, started)
        self._end_everything()
        self._read(reader)
        self._log.close(self._job["log_limit"])
        return {
            "error": None,
            "reason": self._reason,
            "status": self._status,
            "left": self._left,
            "log_size": self._log.size,
            "seconds": time.monotonic() - started,
        }

    def _start(self, output: int) -> int:
        """Start the program; raises ``OSError`` if it cannot be. By hand: the module subprocess takes long to load."""
        problem_read, problem_write = os.pipe2(os.O_CLOEXEC)
        program = os.fork()
        if not program:
            try:
                self._become_program(output)
            except OSError as error:
                os.write(problem_write, marshal.dumps(error.errno or 0))
            finally:
                os._exit(127)
        os.close(problem_write)
        with os.fdopen(problem_read, "rb") as handle:
            problem = handle.read()
        if problem:
            os.waitpid(program, 0)
            raise OSError(marshal.loads(problem), "cannot be started")  # noqa: S302 - this process's own
        return program

    def _become_program(self, output: int) -> None:
        environment: dict[str, str] = self._job["environment"]
        os.setsid()
        for number in (1, 2):
            os.dup2(output, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(self._job["folder"])
        _libc.prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if self._job["memory"]:
            resource.setrlimit(resource.RLIMIT_AS, (self._job["memory"], self._job["memory"]))
        for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.execve(self._job["argv"][0], self._job["argv"], env=environment)  # noqa: S606

    def _watch(self, program: int, reader: int, started: float) -> None:
        """Until the program itself has ended, by itself or by one of the limits."""
        ends, kills = started + self._job["timeout"], 0.0
        while True:
            watched = [self._wake] if self._is_closed else [self._wake, reader]
            ready, _, _ = select.select([*watched, *([] if self._stopped else [self._channel])], [], [], _LOOK)
            if self._channel in ready:  # nothing more is sent: the other side has shut it down, or is gone
                self._stopped.append(0)
            _ignore(BlockingIOError, os.read, self._wake, 4096)
            self._read(reader)
            self._reap(program)
            now = time.monotonic()
            if self._status is not None:
                return
            if not self._reason:
                self._reason = self._why_end(now, ends)
                if self._reason:
                    _signal_group(program, signal.SIGTERM)
                    kills = now + self._job["grace"]
            elif now >= kills:
                _signal_group(program, signal.SIGKILL)

    def _why_end(self, now: float, ends: float) -> str:
        if self._stopped:
            return "stopped"
        if now >= ends:
            return "timeout"
        free = os.statvfs(self._job["scratch"])
        return "no-space" if free.f_bavail * free.f_frsize < self._job["reserve"] else ""

    def _read(self, reader: int) -> None:
        for _ in range(64):  # then look at the time again
            try:
                data = os.read(reader, 1 << 16)
            except BlockingIOError:
                return
            if not data:
                self._is_closed = True
                return
            self._log.write(data)

    def _reap(self, program: int) -> bool:
        """Take note of children that have ended; returns whether any is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if not pid:
                return True
            if pid == program:
                self._status = status

    def _end_everything(self) -> None:
        """Kill what the program left running, children of children first adopted by this process."""
        ends = time.monotonic() + _LONGEST_END
        seen: set[int] = set()
        while self._reap(0):
            left = _descendants()
            seen |= left
            for pid in left:
                _ignore(OSError, os.kill, pid, signal.SIGKILL)
            if time.monotonic() > ends:
                self._reason = self._reason or "left-running"
                break
            time.sleep(0.002)
        self._left = max(0, len(seen) - self._job["own"])


def _signal_group(program: int, number: int) -> None:
    _ignore(OSError, os.killpg, program, number)


def _ignore(kind: type[Exception], function: Callable[..., object], *arguments: object) -> None:
    """Call a function; the module contextlib takes long to load."""
    try:
        function(*arguments)
    except kind:  # the process is gone, or there is nothing to read
        return


def _descendants() -> set[int]:
    """All processes below this one that are not zombies, by the parents that proc(5) names."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as handle:
                state, parent = handle.read().rpartition(b")")[2].split()[:2]
        except (OSError, ValueError):
            continue
        if state not in b"ZX":
            parents[int(name)] = int(parent)
    found: set[int] = set()
    above = {os.getpid()}
    while above:
        above = {pid for pid, parent in parents.items() if parent in above} - found
        found |= above
    return found


if __name__ == "__main__":
    if sys.argv[1] == "fork":
        fork_supervisors()
    else:
        supervise(0, os.getppid())
