"""The files that locks are: taken, read, given back, and those of dead processes removed. Touches nothing else.

Who waits, how long, and what is said about it is not decided here (:mod:`icf_utils.lock` does).
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path

from icf_utils.errors import StorageFailure, storage_errors
from icf_utils.holder import HOST, Holder, is_dead, own_holder, parse_holder
from icf_utils.publishing import prepare_workdir
from icf_utils.store import Study
from icf_utils.traces import expect, remove, share_file


def try_to_take(study: Study, path: Path) -> bool:
    """Take the lock at ``path`` for this process, unless it is there. Raises ``StorageFailure``."""
    mine = path.with_name(f"{path.name}.{HOST}.{os.getpid()}.{time.monotonic_ns()}")
    expect(mine)
    expect(path, _own_mark())
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
            remove(mine)
            raise StorageFailure(mine, "create", error) from error
    try:
        os.link(mine, path)
        return True
    except (FileExistsError, FileNotFoundError):
        return _is_linked(mine, path)
    except OSError:
        return _is_linked(mine, path) or _take_without_links(study, path)
    finally:
        remove(mine)


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
        remove(path)
        raise StorageFailure(path, "create", error) from error
    return True


def release(path: Path) -> None:
    """Give the lock back, unless somebody has taken it away and it is another's now."""
    with suppress(OSError):
        if path.read_bytes() == _own_mark():
            remove(path)


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
