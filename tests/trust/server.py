"""A process that has loaded the program and runs commands in copies of itself, so that a trial costs no start.

Reads one job a line (JSON) and answers with one line: exit code, output, seconds. A job can be ended by a signal at a
moment, or run under strace, which lets system calls fail or kills at them. The copy runs ``main()`` as it is: nothing
of the program is replaced. Whatever a command has started is gone before the answer.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, or minus the number of the signal that ended it."""

    code: int
    out: str
    err: str
    seconds: float


class Server:
    """The process, as a context."""

    def __enter__(self) -> Server:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.trust.server"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def run(
        self,
        *arguments: str | Path,
        after: float | None = None,
        number: int = signal.SIGKILL,
        strace: Sequence[str] = (),
        group: bool = True,
        kill_at: int = 0,
    ) -> Ended:
        """Run ``icf-utils`` with these arguments; ``after`` so many seconds it gets the signal ``number``.

        ``group``: so do the processes that it has started. ``strace``: options of strace to run it under. ``kill_at``:
        it is killed just before its file operation of this number, counted from 1.
        """
        job = {
            "arguments": [str(item) for item in arguments],
            "after": after,
            "number": int(number),
            "strace": list(strace),
            "group": group,
            "kill_at": kill_at,
        }
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the server is gone"
        return Ended(**json.loads(answer))


def _load() -> None:
    """Load what commands load, so that copies need not."""
    import icf_utils.archive.stage
    import icf_utils.catalog.stage
    import icf_utils.cli.main
    import icf_utils.dataset.stage
    import icf_utils.metadata.stage
    import icf_utils.pipeline.run
    import icf_utils.pipeline.status
    import icf_utils.pipeline.visit_table
    import icf_utils.slurm.wait
    import icf_utils.verify.repair  # noqa: F401

    for name in ("git", "pydicom.datadict", "pydicom.dataset", "jsonschema", "datalad_catalog", "zstandard"):
        with suppress(ImportError):
            importlib.import_module(name)


def _serve() -> None:
    _load()
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for line in sys.stdin:
        answer = _perform(json.loads(line))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _perform(job: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        ready, go = os.pipe()
        here, there = os.pipe()
        child = os.fork()
        if not child:
            os.close(go)
            if job["kill_at"]:
                sys.addaudithook(_KillAt(job["kill_at"]))
            _be_the_command(job["arguments"], ready, there, out.fileno(), err.fileno())
        os.close(ready)
        os.close(there)
        os.read(here, 1)  # until it listens to signals
        os.close(here)
        with suppress(OSError):
            os.setpgid(child, child)
        tracer = _trace(child, job["strace"]) if job["strace"] else None
        started = time.monotonic()
        os.close(go)
        if job["after"] is not None:
            time.sleep(job["after"])
            with suppress(ProcessLookupError):
                (os.killpg if job["group"] else os.kill)(child, job["number"])
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        seconds = time.monotonic() - started
        _end_the_rest(child)
        if tracer:
            tracer.wait()
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode("utf-8", "replace"))
        return {"code": code, "out": texts[0], "err": texts[1], "seconds": seconds}


class _KillAt:
    """Kills this process just before a file operation: what Python announces to audit hooks, and changes a disk."""

    _EVENTS = frozenset(
        f"os.{name}"
        for name in ("rename", "remove", "rmdir", "mkdir", "link", "symlink", "truncate", "chmod", "chown", "setxattr")
    )

    def __init__(self, number: int) -> None:
        self._left = number

    def __call__(self, event: str, details: tuple[Any, ...]) -> None:
        is_writing = event == "open" and isinstance(details[2], int) and details[2] & (os.O_WRONLY | os.O_RDWR)
        if is_writing or event in self._EVENTS:
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)


def _be_the_command(arguments: list[str], ready: int, there: int, out: int, err: int) -> None:
    os.setpgid(0, 0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 70
    try:
        os.close(there)
        os.read(ready, 1)
        from icf_utils.cli.main import main
        from icf_utils.interrupts import quiet_interrupts

        quiet_interrupts()
        code = main(arguments)
    except KeyboardInterrupt:  # before or after the command itself
        code = 130
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 143
    except BaseException:  # noqa: BLE001 - is looked for by whoever asked
        import traceback

        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _trace(pid: int, options: list[str]) -> subprocess.Popen[bytes]:
    tracer = subprocess.Popen(
        ["strace", "-f", "-p", str(pid), "-o", "/dev/null", *options],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    assert tracer.stderr
    said = tracer.stderr.readline()
    assert b"attached" in said, said
    return tracer


def _end_the_rest(group: int) -> None:
    """Kill what the command has left running, and wait until it is gone."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            status = os.waitid(os.P_PGID, group, os.WEXITED)
        except ChildProcessError:
            return
        assert status


if __name__ == "__main__":
    _serve()
