"""Run a program on this machine: its folders, words and environment, and how it ended.

Starts processes, and writes below the scratch folder only (``TMPDIR``). What a killed process left there is removed by
the next one of the same user.
"""

from __future__ import annotations

import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icf_utils.errors import InvalidSetting, MissingRequirement, storage_errors
from icf_utils.outputs.provenance import Recipe
from icf_utils.processing.arrange import READ_ONLY_FOLDER
from icf_utils.processing.container import container_environment, container_words, find_runtime
from icf_utils.processing.digests import find_program
from icf_utils.processing.model import Processing, ProgramEnd, Scratch
from icf_utils.processing.sandbox import find_bubblewrap, sandbox_words
from icf_utils.processing.supervisor_pool import SupervisorPool
from icf_utils.processing.task import INSIDE, Places, encode_task, fill_words, task_environment
from icf_utils.store.lock_owner import HOST, files_of_ended_processes

#: Bytes of a log that are kept of its beginning.
LOG_LIMIT = 8 << 20

#: Bytes that must stay free on the disk of the scratch folder, or a program is ended.
RESERVE = 64 << 20

#: Seconds between TERM and KILL.
GRACE = 10.0

_PREFIX = "icf-process"

#: The name of a folder that is moved to the top of a tree that is removed; a number follows.
_MOVED = "+"


@contextmanager
def scratch_folder() -> Iterator[Scratch]:
    """Folders for one execution, removed in the end. Raises :class:`~icf_utils.errors.StorageFailure`."""
    base = Path(tempfile.gettempdir())
    number = time.monotonic_ns()
    root = base / f"{_PREFIX}-{os.getuid()}.{HOST.replace('.', '-')}.{os.getpid()}.{number}"
    scratch = Scratch(root)
    try:
        with storage_errors(root, "create"):
            root.mkdir(mode=0o700)
            for folder in (scratch.input, scratch.output, scratch.home, scratch.temporary):
                folder.mkdir()
        yield scratch
    finally:
        remove_tree(root)


def remove_leftovers() -> None:
    """Remove scratch folders of processes of this user that were killed on this host."""
    pattern = f"{_PREFIX}-{os.getuid()}.{HOST.replace('.', '-')}.*.*"
    for path in files_of_ended_processes(Path(tempfile.gettempdir()).glob(pattern)):
        remove_tree(path)


def remove_tree(root: Path) -> None:
    """Remove a folder with all that a program left in it, also in folders that it made unreadable. Never raises.

    Folders are moved to the top before they are emptied: a program can make them deeper than a path can be long.
    """
    for _ in range(3):
        with suppress(OSError):
            _remove_flattened(root)
        if not root.exists():
            return


def _remove_flattened(root: Path) -> None:
    folders, number = [root], 0
    for folder in folders:  # grows meanwhile
        os.chmod(folder, stat.S_IRWXU)
        with os.scandir(folder) as items:
            entries = list(items)
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            os.chmod(entry.path, stat.S_IRWXU)  # a folder that is moved must be writable
            target = root / entry.name
            while os.path.lexists(target) and folder != root:
                number += 1
                target = root / f"{_MOVED}{number}"
            os.rename(entry.path, target)
            folders.append(target)
    for folder in reversed(folders):
        os.rmdir(folder)


def run_program(processing: Processing, recipe: Recipe, scratch: Scratch, supervisors: SupervisorPool) -> ProgramEnd:
    """Run the program on the input in ``scratch``; returns how it ended, when nothing of it is left running.

    Raises :class:`~icf_utils.errors.MissingRequirement` if it, the container runtime, or a sandbox that the settings
    require is not there, and :class:`~icf_utils.errors.StorageFailure`.
    """
    call = _container_call if processing.container is not None else _command_call
    job, places, remarks = call(processing, recipe, scratch)
    task = encode_task(processing, recipe, places)
    with storage_errors(scratch.root, "write"):
        scratch.task.write_bytes(task)
        if processing.layout == "mercure" and not (scratch.input / "task.json").exists():
            scratch.input.chmod(stat.S_IRWXU)
            (scratch.input / "task.json").write_bytes(task)
            scratch.input.chmod(READ_ONLY_FOLDER)
        scratch.log.write_text("".join(f"[icf-utils: {remark}]\n" for remark in remarks), encoding="utf-8")
    return _program_end(supervisors.run(_order(job, processing, scratch)))


@dataclass(frozen=True)
class _Job:
    """Words and environment of a process; ``own`` counts the processes that its sandbox may leave for a moment."""

    words: list[str]
    environment: dict[str, str]
    own: int


_Call = tuple[_Job, Places, list[str]]


def _command_call(processing: Processing, recipe: Recipe, scratch: Scratch) -> _Call:
    """The words of a command, in a sandbox where there is one; and what could not be isolated."""
    bubblewrap, why = find_bubblewrap() if processing.isolation != "none" else ("", "the settings say so")
    if not bubblewrap and processing.isolation == "required":
        raise MissingRequirement("a working bubblewrap (bwrap)", f"install it, or change 'isolation': {why}")
    places = INSIDE if bubblewrap else _outside(scratch)
    words = list(fill_words(processing.command, recipe, places))
    words[0] = find_program(words[0])
    environment = task_environment(processing, recipe, places, os.environ.get("PATH", ""))
    if bubblewrap:
        return _Job(sandbox_words(bubblewrap, processing, scratch, words), environment, 1), places, []
    remark = f"not isolated: the program can read and write what its user can, and use the network ({why})"
    return _Job(words, environment, 0), places, [remark]


def _outside(scratch: Scratch) -> Places:
    """The paths where there is neither a sandbox nor a container."""
    return Places(*map(str, (scratch.input, scratch.output, scratch.task, scratch.home, scratch.temporary)))


def _container_call(processing: Processing, recipe: Recipe, scratch: Scratch) -> _Call:
    image = processing.container
    if image is None:
        raise InvalidSetting("container", "is missing")
    runtime = find_runtime()
    path = os.environ.get("PATH", "")
    words = fill_words(processing.args, recipe, INSIDE)
    variables = task_environment(processing, recipe, INSIDE, path)
    environment = container_environment(runtime, variables, scratch, path)
    return _Job(container_words(runtime, processing, image, scratch, words), environment, 0), INSIDE, []


def _order(job: _Job, processing: Processing, scratch: Scratch) -> dict[str, Any]:
    """What the supervisor gets."""
    return {
        "argv": job.words,
        "environment": job.environment,
        "own": job.own,
        "folder": str(scratch.output),
        "scratch": str(scratch.root),
        "log": str(scratch.log),
        "log_limit": LOG_LIMIT,
        "timeout": processing.timeout,
        "grace": GRACE,
        "memory": processing.memory,
        "reserve": RESERVE,
    }


def _program_end(value: dict[str, Any]) -> ProgramEnd:
    status = value["status"]
    code = os.waitstatus_to_exitcode(status) if status is not None else None
    return ProgramEnd(
        exit_code=code if code is not None and code >= 0 else None,
        signal=-code if code is not None and code < 0 else None,
        reason=value["reason"],
        error=value["error"],
        left=value["left"],
        log_size=value["log_size"],
        seconds=value.get("seconds", 0.0),
    )


def not_started(end: ProgramEnd, word: str) -> MissingRequirement | None:
    """The error for a program that could not be started."""
    if end.reason != "not-started":
        return None
    why = os.strerror(end.error or 0)
    return MissingRequirement(f"a program that can be started ('{word}': {why})", "check 'command' in the settings")
