"""The program of a user that gets an event on its standard input. Starts processes.

It gets a clean environment and a process group of its own, all of which is ended after its time limit, or when the
receiver is closed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress

from icf_utils.errors import printable
from icf_utils.waiting import poll

#: What the program gets of the receiver's environment: where programs and files are, the language, the time zone.
_KEPT = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TZ", "LANG", "LC_ALL")

#: Bytes of its standard error from which the reason of a failure is taken.
_KEPT_OUTPUT = 1 << 13


class EventProgram:
    """Runs ``command`` for one event after another; ``timeout`` is in seconds."""

    def __init__(self, command: Sequence[str], timeout: float) -> None:
        self._command, self._timeout = list(command), timeout
        self._lock, self._closed = threading.Lock(), False
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, kind: str, key: str, body: bytes) -> str:
        """Run the program with ``body`` on standard input; returns why it failed, empty if it exited with 0."""
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        environment |= {"ICF_EVENT": kind, "ICF_EVENT_ID": key}
        with self._lock:
            if self._closed:
                return "the receiver was closed"
            try:
                process = self._process = subprocess.Popen(  # noqa: S603 - a command of the settings
                    self._command,
                    env=environment,
                    cwd="/",
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or "its words cannot be used"
                return f"'{printable(self._command[0])}' cannot be started ({reason})"
        errors = _LastBytes(process)
        try:
            with suppress(OSError):  # it need not read its input
                process.stdin.write(body)  # type: ignore[union-attr]
            with suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]
            in_time = self._wait(process)
        finally:
            self._end(process)
        if not in_time:
            return f"the program did not end within {self._timeout:g} s"
        return _reason(process.returncode, errors.read())

    def close(self) -> None:
        """End the program if it is running, and start it no more."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                _kill_group(self._process)

    def _wait(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait for the program, which stays a zombie, so that its number is not given to another one."""
        for _ in poll(0.01, 0.2, timeout=self._timeout):
            if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return True
        return False

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """End what the program has left in its process group."""
        with self._lock:
            _kill_group(process)
            self._process = None
        process.wait()


class _LastBytes:
    """The end of a program's standard error, which is read to its end, however long it is."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._stream, self._kept = process.stderr, b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._stream is not None
        with self._stream, suppress(OSError):
            while piece := os.read(self._stream.fileno(), _KEPT_OUTPUT):
                self._kept = (self._kept + piece)[-_KEPT_OUTPUT:]

    def read(self) -> bytes:
        """What there is, once the program has ended; a process that left its group may keep the stream open."""
        self._thread.join(1.0)
        return self._kept


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _reason(code: int, output: bytes) -> str:
    if code == 0:
        return ""
    words = f"the program was ended by signal {-code}" if code < 0 else f"the program ended with exit code {code}"
    lines = output.decode("utf-8", "replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"{words}: {printable(last[:200])}" if last else words
