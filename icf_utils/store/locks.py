"""Locks of a store: one writer at a time, on network file systems as well. Touches files below ``<study>/.icf/``.

A lock is a small file that is created by a hard link, which is atomic on local disks and on NFS (``flock`` is not, on
some mounts). It names the process that owns it (:mod:`icf_utils.store.lock_owner`), so that the lock of a dead process
on the same host is recognised and taken over with a message, and a living owner is named while others wait. The owner
touches its lock at intervals. If an owner that cannot be examined from here stops doing so, waiting ends early with an
error. Its lock is not taken over: a host that was only suspended would continue to write. A lock of an earlier boot of
this machine is taken over, and so is a file that is not a whole lock, as a power failure leaves it.

First in this module come the locks that others use, then waiting, then the files: created, read, removed.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from icf_utils.errors import Busy, InvalidSetting, StorageFailure, printable, storage_errors
from icf_utils.interrupts import expect_unfinished, remove_file
from icf_utils.progress import SILENT, Progress
from icf_utils.store.files import is_same_file, make_workdir, remove_parts, share_file, tidy_workdir
from icf_utils.store.layout import Study, Visit
from icf_utils.store.lock_owner import (
    HOST,
    UNKNOWN_OWNER,
    LockOwner,
    files_of_ended_processes,
    is_dead,
    is_out_of_sight,
    is_torn,
    parse_owner,
    this_process,
)
from icf_utils.store.transaction import (
    discard_change,
    finish_changes,
    has_decided_changes,
    list_undecided_changes,
)
from icf_utils.waiting import poll

#: Seconds that a process waits for another one before it fails with exit code 8, unless ICF_LOCK_TIMEOUT is set.
PATIENCE = 3600.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5

#: Seconds for which :func:`run_lock` tries to get a lock that seems to be free, even if it does not wait.
_LOOKING = 1.0

#: Seconds for which a lock must stay torn to be removed: without hard links, a lock is torn while it is being written.
_TORN_FOR = 1.0

#: Seconds between two touches of a lock, and after how many without one its owner counts as lost. Network file systems
#: may show a change to other hosts after a minute. Times are only compared for change, so clocks need not agree.
HEARTBEAT, SILENCE = 15.0, 300.0

#: The prefixes of the locks of runs and of processings; identifiers have no ``+``.
_RUN, _PROCESS = "+run.", "+process."


@contextmanager
def visit_lock(visit: Visit, progress: Progress) -> Iterator[None]:
    """Keep others from writing this visit's files; unfinished files of a killed process are removed.

    A change that a killed process had decided is finished (:mod:`icf_utils.store.transaction`).
    """
    study = visit.of_study
    with _held(study, f"{visit.visit}.lock", progress):
        remove_parts(visit)
        discard_change(study, visit.visit)
        settle_changes(study, progress)
        try:
            yield
        except BaseException:
            with suppress(StorageFailure):  # a signal may have arrived where nothing else cleans up
                remove_parts(visit)
            raise


@contextmanager
def catalog_lock(study: Study, progress: Progress) -> Iterator[None]:
    """Keep others from writing this study's catalog; changes that killed processes had decided are finished."""
    with _held(study, "+catalog.lock", progress):
        finish_changes(study)
        yield


def settle_changes(study: Study, progress: Progress) -> None:
    """Wait for changes of the study that another process makes just now, and finish those of a killed one.

    Raises :class:`~icf_utils.errors.Busy` and :class:`~icf_utils.errors.StorageFailure`.
    """
    if has_decided_changes(study):
        with catalog_lock(study, progress):
            pass


@contextmanager
def run_lock(visit: Visit, progress: Progress, wait: bool = True) -> Iterator[str]:
    """Keep other runs from starting on this visit; stages take :func:`visit_lock` inside.

    Yields an empty text; without ``wait``, if another process has the lock, yields that process's name.
    """
    with _held_or_named(visit.of_study, f"{_RUN}{visit.visit}.lock", progress, wait) as owner:
        yield owner


@contextmanager
def processing_lock(visit: Visit, processing: str, progress: Progress, wait: bool = True) -> Iterator[str]:
    """Keep others from running this processing on this visit, as :func:`run_lock` does for runs."""
    with _held_or_named(visit.of_study, f"{_PROCESS}{visit.visit}+{processing}.lock", progress, wait) as owner:
        yield owner


@contextmanager
def _held_or_named(study: Study, name: str, progress: Progress, wait: bool) -> Iterator[str]:
    path, owner = study.workdir / name, ""
    try:
        if wait:
            _acquire(study, path, progress)
        else:
            owner = _try_once(study, path, progress)
        if owner:
            yield owner
            return
        try:
            with _heartbeat(path):
                yield ""
        finally:
            release_lock(path)
    finally:
        tidy_workdir(study)


def list_running_visits(study: Study) -> dict[str, str]:
    """The visits that runs are working on, with the process of each; certainly dead processes are left out."""
    found = {}
    for path in study.workdir.glob(f"{_RUN}*.lock"):
        owner = read_owner(path)
        if owner and owner.pid and not is_dead(owner, path.parent):
            found[path.name[len(_RUN) : -len(".lock")]] = _describe(owner)
    return found


def list_running_processings(study: Study) -> dict[tuple[str, str], str]:
    """The visits and processings that are being worked on, with the process of each, as :func:`list_running_visits`."""
    found = {}
    for path in study.workdir.glob(f"{_PROCESS}*.lock"):
        owner = read_owner(path)
        if owner and owner.pid and not is_dead(owner, path.parent):
            visit, _, processing = path.name[len(_PROCESS) : -len(".lock")].partition("+")
            found[visit, processing] = _describe(owner)
    return found


@contextmanager
def _held(study: Study, name: str, progress: Progress) -> Iterator[None]:
    path = study.workdir / name
    try:
        _acquire(study, path, progress)
        try:
            _clear_leftovers(study)
            with _heartbeat(path):
                yield
        finally:
            release_lock(path)
    finally:
        tidy_workdir(study)


@contextmanager
def _heartbeat(path: Path) -> Iterator[None]:
    """Touch the lock at intervals, on another thread."""
    done: queue.SimpleQueue[None] = queue.SimpleQueue()  # unlike an event, safe to set in a signal handler

    def beat() -> None:
        while not _is_over(done):
            with suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=beat, daemon=True)
    try:
        thread.start()
        yield
    finally:
        done.put(None)
        if thread.ident is not None:
            thread.join()


def _is_over(done: queue.SimpleQueue[None]) -> bool:
    """Whether the end comes before the next touch is due."""
    try:
        done.get(timeout=HEARTBEAT)
    except queue.Empty:
        return False
    return True


def remove_dead_locks(study: Study) -> None:
    """Remove torn locks and those of certainly dead processes, and what they had prepared and not decided."""
    _clear_leftovers(study)
    for path in study.workdir.glob("*.lock"):
        owner = read_owner(path)
        if owner and is_dead(owner, path.parent):
            remove_dead_lock(study, path, owner)
        elif owner == UNKNOWN_OWNER:
            remove_torn_lock(study, path)
    for visit in list_undecided_changes(study):
        if not (study.workdir / f"{visit}.lock").exists():
            with visit_lock(Visit(study.root, study.study, visit), SILENT):
                pass
    tidy_workdir(study)


def _clear_leftovers(study: Study) -> None:
    """Remove what processes left that were killed, or lost their power, while they took or removed a lock."""
    for left in files_of_ended_processes(study.workdir.glob(f"*.lock.{HOST}.*")):
        remove_file(left)
    for left in study.workdir.glob("*.lock.*.*.*"):
        owner = read_owner(left)
        if owner and is_dead(owner, left.parent):
            remove_file(left)


def _acquire(study: Study, path: Path, progress: Progress) -> None:
    waited, reported, owner, watch = 0.0, False, UNKNOWN_OWNER, _Watch(path)
    for waited in poll(_FIRST_PAUSE, _LONGEST_PAUSE, timeout=_patience()):
        while True:
            if try_lock(study, path):
                return
            # unreadable: released meanwhile, or not yet visible on a network file system
            owner = read_owner(path) or UNKNOWN_OWNER
            if not _take_away(study, path, owner, progress):
                break
        silent = watch.silent_for()
        if silent > SILENCE and is_out_of_sight(owner):
            raise Busy(path, _describe(owner), silent, silent=True)
        if not reported and waited > 1:
            progress.message(f"waiting for {_describe(owner)}, which holds '{printable(path)}'")
            reported = True
    raise Busy(path, _describe(owner), waited)


def _take_away(study: Study, path: Path, owner: LockOwner, progress: Progress) -> bool:
    """Remove the lock if nobody owns it any more, with a message; whether this process did so."""
    if is_dead(owner, path.parent) and remove_dead_lock(study, path, owner):
        progress.message(f"taking over the lock of a dead process: '{printable(path)}' ({_describe(owner)})")
        return True
    if owner == UNKNOWN_OWNER and remove_torn_lock(study, path):
        progress.message(f"removed a lock that lost its content in a power failure: '{printable(path)}'")
        return True
    return False


class _Watch:
    """Measures how long a lock has not changed, by this process's own clock."""

    def __init__(self, path: Path) -> None:
        self._path, self._seen, self._since = path, (0, 0), time.monotonic()

    def silent_for(self) -> float:
        """Seconds since a change of the lock was last seen."""
        with suppress(OSError):
            found = self._path.stat()
            now = (found.st_ino, found.st_mtime_ns)
            if now != self._seen:
                self._seen, self._since = now, time.monotonic()
        return time.monotonic() - self._since


def _try_once(study: Study, path: Path, progress: Progress) -> str:
    """Take a lock unless a process that may be alive owns it; returns that process's name, else an empty text."""
    for _ in poll(_FIRST_PAUSE, _FIRST_PAUSE, timeout=_LOOKING):
        if try_lock(study, path):
            return ""
        owner = read_owner(path) or UNKNOWN_OWNER
        if owner != UNKNOWN_OWNER and not is_dead(owner, path.parent):
            return _describe(owner)
        if _take_away(study, path, owner, progress) and try_lock(study, path):
            return ""
    return _describe(UNKNOWN_OWNER)


def _patience() -> float:
    text = os.environ.get("ICF_LOCK_TIMEOUT", "")
    try:
        seconds = float(text) if text else PATIENCE
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:  # also false for NaN
        raise InvalidSetting("ICF_LOCK_TIMEOUT", f"'{printable(text)}' is not a number of seconds")
    return seconds


def _describe(owner: LockOwner) -> str:
    return f"process {owner.pid} on {printable(owner.host)}"


def try_lock(study: Study, path: Path) -> bool:
    """Take the lock at ``path`` for this process, unless it exists. Raises ``StorageFailure``."""
    mine = path.with_name(f"{path.name}.{HOST}.{os.getpid()}.{time.monotonic_ns()}")
    folders = (study.workdir,)
    make_workdir(study)
    mark = this_process(study.workdir).mark
    expect_unfinished(mine, folders=folders)
    expect_unfinished(path, mark, folders)
    while True:
        make_workdir(study)
        try:
            with open(mine, "xb") as handle:
                share_file(study.root, handle.fileno())
                handle.write(mark)
            break
        except FileNotFoundError:  # another process has just removed the empty folder
            continue
        except OSError as error:  # perhaps a full disk, after the name was made
            remove_file(mine)
            raise StorageFailure(mine, "create", error) from error
    try:
        os.link(mine, path)
        return True
    except (FileExistsError, FileNotFoundError):
        return is_same_file(mine, path)
    except OSError:
        return is_same_file(mine, path) or _take_without_links(study, path, mark)
    finally:
        remove_file(mine)


def _take_without_links(study: Study, path: Path, mark: bytes) -> bool:
    """For file systems without hard links: exclusive creation.

    If writing took so long that another process removed the lock as a torn one, this one does not have it.
    """
    try:
        handle = open(path, "xb")  # noqa: SIM115 - closed below
    except FileExistsError:
        return False
    except OSError as error:
        raise StorageFailure(path, "create", error) from error
    try:
        with handle:
            share_file(study.root, handle.fileno())
            handle.write(mark)
        return path.read_bytes() == mark
    except FileNotFoundError:
        return False
    except OSError as error:
        remove_file(path)
        raise StorageFailure(path, "create", error) from error


def release_lock(path: Path) -> None:
    """Remove the lock, unless it has been removed and is another process's now."""
    with suppress(OSError):
        if replace(parse_owner(path.read_bytes()), disk=UNKNOWN_OWNER.disk) == this_process():
            remove_file(path)


def read_owner(path: Path) -> LockOwner | None:
    """The owner of the lock; ``None`` where the file does not exist. Raises ``StorageFailure``."""
    with storage_errors(path, "read"):
        try:
            return parse_owner(path.read_bytes())
        except FileNotFoundError:
            return None


def remove_dead_lock(study: Study, path: Path, owner: LockOwner) -> bool:
    """Remove the lock of a dead process if it still exists; returns whether this process did so.

    Between reading and removing, another process may remove the dead lock and take its own. Therefore only one process
    may remove the locks of a given dead owner: the one that has a second lock, named after that owner. It then reads
    again, and nobody else can change what it finds. If it dies meanwhile, its second lock is a dead one itself.
    """
    return _remove_checked(study, path, owner.mark, lambda: read_owner(path) == owner)


def remove_torn_lock(study: Study, path: Path) -> bool:
    """Remove a lock without whole content, if it stays so; returns whether this process did so. Takes a second.

    Another process may do the same and take the lock meanwhile, as for :func:`remove_dead_lock`.
    """
    seen, raw = _stamp(path), _read_torn(path)
    for waited in poll(_FIRST_PAUSE, _LONGEST_PAUSE, timeout=_TORN_FOR):
        if raw is None or _stamp(path) != seen:
            return False
        if waited >= _TORN_FOR:
            break
    return _remove_checked(study, path, b"torn", lambda: _stamp(path) == seen and _read_torn(path) is not None)


def _remove_checked(study: Study, path: Path, owner: bytes, is_unchanged: Callable[[], bool]) -> bool:
    claim = study.workdir / f"+dead.{hashlib.sha256(os.fsencode(path.name) + owner).hexdigest()[:32]}.lock"
    if not try_lock(study, claim):
        other = read_owner(claim)
        if other and is_dead(other, claim.parent):
            remove_dead_lock(study, claim, other)
        elif other == UNKNOWN_OWNER:
            remove_torn_lock(study, claim)
        return False
    try:
        if not is_unchanged():
            return False
        with storage_errors(path, "remove the stale lock"):
            path.unlink(missing_ok=True)
        return True
    finally:
        release_lock(claim)


def _read_torn(path: Path) -> bytes | None:
    """The content of a lock that is torn; ``None`` for one that is whole, or cannot be read."""
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    return raw if is_torn(raw) else None


def _stamp(path: Path) -> tuple[int, int, int]:
    """What changes when a lock is written or replaced; zeros where it does not exist."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_mtime_ns, found.st_size
