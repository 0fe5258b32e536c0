"""Locks of the operating system, flock(2), for what lies on a local disk: a spool, a journal, a folder of downloads.

The system releases such a lock when its process ends, however it ends, so nobody ever has to clear one away. On some
network file systems it keeps nobody out: a store has locks of another kind (:mod:`icf_utils.store.locks`). Opens,
creates and locks files.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import IO, Any


def try_flock(file: IO[Any], *, shared: bool = False) -> bool:
    """Lock an open file without waiting; false where another process holds it.

    A ``shared`` lock keeps out those that want it for themselves. Closing the file releases the lock.
    Raises ``OSError`` where the file system has no such locks.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def open_locked(path: Path) -> IO[bytes] | None:
    """Open a file for reading and appending, made where it is missing, and lock it; ``None`` if another process has it.

    The file under the name is the locked one: a holder may remove it before it lets go. Raises ``OSError``.
    """
    while True:
        file = path.open("a+b")
        try:
            if not try_flock(file):
                file.close()
                return None
            with suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                    return file
        except BaseException:
            file.close()
            raise
        file.close()
