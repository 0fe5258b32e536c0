"""One writer at a time, also on network file systems. Touches lock files below ``<store>/<study>/.icf/``.

A lock is a small file made by hard link, which is atomic on local disks and on NFS alike (``flock`` is not, on some
mounts). It says which process holds it, so that the lock of a dead process on the same host is recognised and
taken over with a message, and a live one is named while others wait.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from icf_utils.errors import Busy, InvalidSetting, StorageFailure, shown, storage_errors
from icf_utils.progress import Progress
from icf_utils.store import Study, Visit, clear_parts, prepare_workdir, tidy_workdir

#: Seconds that a process waits for another one before it gives up with exit code 8, unless ICF_LOCK_TIMEOUT says.
PATIENCE = 3600.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5

#: Begins the lock of a run's visit; no visit's identifier has a ``+``.
_RUN = "+run."


@contextmanager
def visit_lock(visit: Visit, progress: Progress) -> Iterator[None]:
    """Keep others from writing this visit's files; what a process that was killed left of them is removed."""
    with _held(visit.of_study, f"{visit.visit}.lock", progress):
        clear_parts(visit)
        yield


@contextmanager
def catalog_lock(study: Study, progress: Progress) -> Iterator[None]:
    """Keep others from writing this study's catalog. The name cannot be a visit's: identifiers have no ``+``."""
    with _held(study, "+catalog.lock", progress):
        yield


@contextmanager
def run_lock(visit: Visit, progress: Progress, wait: bool = True) -> Iterator[str]:
    """Keep other runs from taking up this visit; stages take :func:`visit_lock` within.

    Yields empty text, or without ``wait`` the name of the process that has it, in which case it is not held.
    """
    study, path = visit.of_study, visit.workdir / f"{_RUN}{visit.visit}.lock"
    holder = ""
    try:
        if wait:
            _acquire(study, path, progress)
        else:
            holder = _try_once(study, path, progress)
        try:
            yield holder
        finally:
            if not holder:
                _discard(path)
    finally:
        tidy_workdir(study)


def running_visits(study: Study) -> dict[str, str]:
    """The visits that a run has in hand, and which process; locks of processes that are dead for certain left out."""
    found = {}
    for path in study.workdir.glob(f"{_RUN}*.lock"):
        holder = _read_holder(path)
        if holder and not _is_dead(holder):
            found[path.name[len(_RUN) : -len(".lock")]] = _named(holder)
    return found


@contextmanager
def _held(study: Study, name: str, progress: Progress) -> Iterator[None]:
    path = study.workdir / name
    try:
        _acquire(study, path, progress)
        try:
            _clear_leftovers(path)
            yield
        finally:
            _discard(path)
    finally:
        tidy_workdir(study)


def _clear_leftovers(path: Path) -> None:
    """Remove what processes of this host that were killed while they took or cleared the lock have left."""
    for left in path.parent.glob(f"{path.name}.{socket.gethostname()}.*"):
        if not Path(f"/proc/{left.name.split('.')[-2]}").exists():
            _discard(left)


def _acquire(study: Study, path: Path, progress: Progress) -> None:
    started, pause, told, patience = time.monotonic(), _FIRST_PAUSE, False, _patience()
    while not _try_to_take(study, path):
        holder = _read_holder(path)
        if holder is None:  # released between two looks
            continue
        if _is_dead(holder):
            _clear_stale(path, holder)
            progress.message(f"taking over the lock of a dead process: '{shown(path)}' ({_named(holder)})")
            continue
        waited = time.monotonic() - started
        if waited > patience:
            raise Busy(path, _named(holder), waited)
        if not told and waited > 1:
            progress.message(f"waiting for {_named(holder)}, which holds '{shown(path)}'")
            told = True
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


def _try_once(study: Study, path: Path, progress: Progress) -> str:
    """Take a lock unless a process that may be alive holds it; then return that one's name, else empty text."""
    while not _try_to_take(study, path):
        holder = _read_holder(path)
        if holder is None:
            continue
        if not _is_dead(holder):
            return _named(holder)
        _clear_stale(path, holder)
        progress.message(f"taking over the lock of a dead process: '{shown(path)}' ({_named(holder)})")
    return ""


def _patience() -> float:
    text = os.environ.get("ICF_LOCK_TIMEOUT", "")
    try:
        return float(text) if text else PATIENCE
    except ValueError as error:
        raise InvalidSetting("ICF_LOCK_TIMEOUT", f"'{shown(text)}' is no number of seconds") from error


def _try_to_take(study: Study, path: Path) -> bool:
    mine = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}")
    while True:
        prepare_workdir(study)
        try:
            with open(mine, "x", encoding="utf-8") as handle:
                handle.write(_own_mark())
            break
        except FileNotFoundError:  # another process has just tidied the empty folder away
            continue
        except OSError as error:  # perhaps a full disk, after the name was made
            _discard(mine)
            raise StorageFailure(mine, "create", error) from error
    try:
        os.link(mine, path)
        return True
    except FileExistsError:
        return False
    except FileNotFoundError:
        return False
    except OSError:
        return _take_without_links(path)
    finally:
        _discard(mine)


def _take_without_links(path: Path) -> bool:
    """For file systems without hard links: exclusive creation."""
    try:
        handle = open(path, "x", encoding="utf-8")  # noqa: SIM115 - closed below
    except FileExistsError:
        return False
    except OSError as error:
        raise StorageFailure(path, "create", error) from error
    try:
        with handle:
            handle.write(_own_mark())
    except OSError as error:
        _discard(path)
        raise StorageFailure(path, "create", error) from error
    return True


def _discard(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _own_mark() -> str:
    return f"{socket.gethostname()} {os.getpid()} {_process_start(os.getpid())}\n"


def _process_start(pid: int) -> str:
    """When the process began, in clock ticks since boot (proc(5), field 22): tells a reused process id apart.

    ``-`` where that cannot be known, ``ended`` for a process whose parent has only not asked for it yet.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "-"
    fields = text.rpartition(")")[2].split()
    return "ended" if fields[0] in "ZX" else fields[19]


def _read_holder(path: Path) -> tuple[str, int, str] | None:
    with storage_errors(path, "read"):
        try:
            words = path.read_text(encoding="utf-8", errors="replace").split()
        except FileNotFoundError:
            return None
    if len(words) != 3 or not words[1].isdigit():
        return ("an unknown host", 0, "-")
    return (words[0], int(words[1]), words[2])


def _is_dead(holder: tuple[str, int, str]) -> bool:
    host, pid, start = holder
    if host != socket.gethostname() or not pid:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # it is another user's, whose processes may be hidden below /proc
        pass
    now = _process_start(pid)
    return now == "ended" or ("-" not in (now, start) and now != start)


def _clear_stale(path: Path, holder: tuple[str, int, str]) -> None:
    """Move the dead lock aside before removing it; put it back if it was not the dead one after all."""
    aside = path.with_name(f"{path.name}.{socket.gethostname()}.stale.{os.getpid()}.{time.monotonic_ns()}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageFailure(path, "remove the stale lock", error) from error
    if _read_holder(aside) != holder:
        with suppress(OSError):
            os.link(aside, path)
    _discard(aside)


def _named(holder: tuple[str, int, str]) -> str:
    return f"process {holder[1]} on {shown(holder[0])}"
