"""One writer at a time, also on network file systems. Touches lock files below ``<store>/<study>/.icf/``.

A lock is a small file made by hard link, which is atomic on local disks and on NFS alike (``flock`` is not, on some
mounts). It says which process holds it (:mod:`icf_utils.store.lock_owner`), so that the lock of a dead process on the
same host is recognised and taken over with a message, and a live one is named while others wait. The holder touches
its lock again and again; where it lives out of sight and gives no such sign, waiting ends early and says so. Nothing is
taken over then: a host that was only asleep would go on writing.

Waiting and messages come first in this module, then the files that locks are: taken, read, given back, and those of
dead processes removed.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from icf_utils.errors import Busy, InvalidSetting, StorageFailure, printable, storage_errors
from icf_utils.interrupts import expect_unfinished, remove_file
from icf_utils.progress import Progress
from icf_utils.store.files import clear_parts, prepare_workdir, share_file, tidy_workdir
from icf_utils.store.layout import Study, Visit
from icf_utils.store.lock_owner import (
    HOST,
    NOBODY,
    Holder,
    is_dead,
    is_out_of_sight,
    leavers_gone,
    own_holder,
    parse_holder,
)
from icf_utils.waiting import poll

#: Seconds that a process waits for another one before it gives up with exit code 8, unless ICF_LOCK_TIMEOUT says.
PATIENCE = 3600.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5

#: Seconds for which a lock that seems to be free is tried by who does not wait.
_LOOKING = 1.0

#: Seconds between two signs of life, and how long a holder out of sight may give none. Network file systems show a
#: change to other hosts after a minute or so. Only changes are looked at, so that clocks need not agree.
HEARTBEAT, SILENCE = 15.0, 300.0

#: Begins the lock of a run's visit; no visit's identifier has a ``+``.
_RUN = "+run."


@contextmanager
def visit_lock(visit: Visit, progress: Progress) -> Iterator[None]:
    """Keep others from writing this visit's files; what a process that was killed left of them is removed."""
    with _held(visit.of_study, f"{visit.visit}.lock", progress):
        clear_parts(visit)
        try:
            yield
        except BaseException:
            with suppress(StorageFailure):  # a signal may have been heard where nothing else tidies up
                clear_parts(visit)
            raise


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
        if holder:
            yield holder
            return
        try:
            with _signs_of_life(path):
                yield ""
        finally:
            release(path)
    finally:
        tidy_workdir(study)


def running_visits(study: Study) -> dict[str, str]:
    """The visits that a run has in hand, and which process; locks of processes that are dead for certain left out."""
    found = {}
    for path in study.workdir.glob(f"{_RUN}*.lock"):
        holder = read_holder(path)
        if holder and not is_dead(holder):
            found[path.name[len(_RUN) : -len(".lock")]] = _named(holder)
    return found


@contextmanager
def _held(study: Study, name: str, progress: Progress) -> Iterator[None]:
    path = study.workdir / name
    try:
        _acquire(study, path, progress)
        try:
            _clear_leftovers(study)
            with _signs_of_life(path):
                yield
        finally:
            release(path)
    finally:
        tidy_workdir(study)


@contextmanager
def _signs_of_life(path: Path) -> Iterator[None]:
    """Touch the lock from time to time, on another thread."""
    done: queue.SimpleQueue[None] = queue.SimpleQueue()  # unlike an event, safe to set while a signal is heard

    def beat() -> None:
        while not _told(done):
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


def _told(done: queue.SimpleQueue[None]) -> bool:
    """Whether it is over before the next sign of life is due."""
    try:
        done.get(timeout=HEARTBEAT)
    except queue.Empty:
        return False
    return True


def clear_dead(study: Study) -> None:
    """Remove locks of processes that are dead for certain, whoever may need them next."""
    _clear_leftovers(study)
    for path in study.workdir.glob("*.lock"):
        holder = read_holder(path)
        if holder and is_dead(holder):
            clear_stale(study, path, holder)
    tidy_workdir(study)


def _clear_leftovers(study: Study) -> None:
    """Remove what processes of this host that were killed while they took or cleared a lock have left."""
    for left in leavers_gone(study.workdir.glob(f"*.lock.{HOST}.*")):
        remove_file(left)


def _acquire(study: Study, path: Path, progress: Progress) -> None:
    waited, told, holder, watch = 0.0, False, NOBODY, _Watch(path)
    for waited in poll(_FIRST_PAUSE, _LONGEST_PAUSE, timeout=_patience()):
        while True:
            if try_to_take(study, path):
                return
            # nothing to read: released between two looks, or not to be seen yet on a network file system
            holder = read_holder(path) or NOBODY
            if not (is_dead(holder) and clear_stale(study, path, holder)):
                break
            progress.message(f"taking over the lock of a dead process: '{printable(path)}' ({_named(holder)})")
        silent = watch.silent_for()
        if silent > SILENCE and is_out_of_sight(holder):
            raise Busy(path, _named(holder), silent, silent=True)
        if not told and waited > 1:
            progress.message(f"waiting for {_named(holder)}, which holds '{printable(path)}'")
            told = True
    raise Busy(path, _named(holder), waited)


class _Watch:
    """How long a lock has not changed, by this process's own clock."""

    def __init__(self, path: Path) -> None:
        self._path, self._seen, self._since = path, (0, 0), time.monotonic()

    def silent_for(self) -> float:
        """Seconds since the lock was last seen to change."""
        with suppress(OSError):
            found = self._path.stat()
            now = (found.st_ino, found.st_mtime_ns)
            if now != self._seen:
                self._seen, self._since = now, time.monotonic()
        return time.monotonic() - self._since


def _try_once(study: Study, path: Path, progress: Progress) -> str:
    """Take a lock unless a process that may be alive holds it; then return that one's name, else empty text."""
    for _ in poll(_FIRST_PAUSE, _FIRST_PAUSE, timeout=_LOOKING):
        if try_to_take(study, path):
            return ""
        holder = read_holder(path) or NOBODY
        if holder != NOBODY and not is_dead(holder):
            return _named(holder)
        if holder != NOBODY and clear_stale(study, path, holder):  # else just released, or another clears it
            progress.message(f"taking over the lock of a dead process: '{printable(path)}' ({_named(holder)})")
    return _named(NOBODY)


def _patience() -> float:
    text = os.environ.get("ICF_LOCK_TIMEOUT", "")
    try:
        seconds = float(text) if text else PATIENCE
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:  # which includes what is not a number
        raise InvalidSetting("ICF_LOCK_TIMEOUT", f"'{printable(text)}' is no number of seconds")
    return seconds


def _named(holder: Holder) -> str:
    return f"process {holder.pid} on {printable(holder.host)}"


def try_to_take(study: Study, path: Path) -> bool:
    """Take the lock at ``path`` for this process, unless it is there. Raises ``StorageFailure``."""
    mine = path.with_name(f"{path.name}.{HOST}.{os.getpid()}.{time.monotonic_ns()}")
    folders = (study.workdir, study.folder)
    expect_unfinished(mine, folders=folders)
    expect_unfinished(path, _own_mark(), folders)
    while True:
        prepare_workdir(study)
        try:
            with open(mine, "xb") as handle:
                share_file(study.root, handle.fileno())
                handle.write(_own_mark())
            break
        except FileNotFoundError:  # another process has just tidied the empty folder away
            continue
        except OSError as error:  # perhaps a full disk, after the name was made
            remove_file(mine)
            raise StorageFailure(mine, "create", error) from error
    try:
        os.link(mine, path)
        return True
    except (FileExistsError, FileNotFoundError):
        return _is_linked(mine, path)
    except OSError:
        return _is_linked(mine, path) or _take_without_links(study, path)
    finally:
        remove_file(mine)


def _is_linked(mine: Path, path: Path) -> bool:
    """Whether the link was made all the same: an NFS server's answer can get lost, and the question be repeated."""
    try:
        return os.path.samefile(mine, path)
    except OSError:
        return False


def _take_without_links(study: Study, path: Path) -> bool:
    """For file systems without hard links: exclusive creation."""
    try:
        handle = open(path, "xb")  # noqa: SIM115 - closed below
    except FileExistsError:
        return False
    except OSError as error:
        raise StorageFailure(path, "create", error) from error
    try:
        with handle:
            share_file(study.root, handle.fileno())
            handle.write(_own_mark())
    except OSError as error:
        remove_file(path)
        raise StorageFailure(path, "create", error) from error
    return True


def release(path: Path) -> None:
    """Give the lock back, unless somebody has taken it away and it is another's now."""
    with suppress(OSError):
        if path.read_bytes() == _own_mark():
            remove_file(path)


def _own_mark() -> bytes:
    return own_holder().mark


def read_holder(path: Path) -> Holder | None:
    """Who holds the lock; ``None`` where there is no such file. Raises ``StorageFailure``."""
    with storage_errors(path, "read"):
        try:
            return parse_holder(path.read_bytes())
        except FileNotFoundError:
            return None


def clear_stale(study: Study, path: Path, holder: Holder) -> bool:
    """Remove the lock of a dead process, if it is still there; whether this process did so.

    Between a look and a removal, another process may remove the dead lock and take its own. So only one process may
    remove locks of a certain dead holder: the one that has a second lock, which is called after that holder. It looks
    again then, and nobody else can change what it sees. Should it die on its way, its second lock is a dead one, too.
    """
    claim = study.workdir / f"+dead.{hashlib.sha256(os.fsencode(path.name) + holder.mark).hexdigest()[:32]}.lock"
    if not try_to_take(study, claim):
        other = read_holder(claim)
        if other and is_dead(other):
            clear_stale(study, claim, other)
        return False
    try:
        if read_holder(path) != holder:
            return False
        with storage_errors(path, "remove the stale lock"):
            path.unlink(missing_ok=True)
        return True
    finally:
        release(claim)
