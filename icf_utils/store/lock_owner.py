"""Which process owns a lock, as a line of text, and whether it is certainly dead. Reads ``/proc``; writes nothing.

A host name and a process ID do not identify a process. IDs are reused, so the line has the process's start time;
containers may have their host's name and process IDs of their own, so it has the pid namespace; and a host restarts, so
it has the boot ID. A process that cannot be examined from here counts as alive.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HOST = socket.gethostname()

#: The pid namespace that a Linux host starts with; containers have others (proc_ns.h, ``PROC_PID_INIT_INO``).
_HOSTS_OWN = "pid:[4026531836]"
_UNKNOWN = "-"


@dataclass(frozen=True)
class LockOwner:
    """A process. ``start`` is its start time in clock ticks since boot; ``-`` is what is not known."""

    host: str
    pid: int
    start: str
    namespace: str = _UNKNOWN
    boot: str = _UNKNOWN
    machine: str = _UNKNOWN

    @property
    def mark(self) -> bytes:
        """The content of the locks of this process."""
        words = (self.host, str(self.pid), self.start, self.namespace, self.boot, self.machine)
        return (" ".join(words) + "\n").encode("utf-8", "surrogateescape")


#: The owner of a lock that does not name one.
UNKNOWN_OWNER = LockOwner("an unknown host", 0, _UNKNOWN)


def this_process() -> LockOwner:
    """The owner of the locks that this process takes."""
    return LockOwner(HOST, os.getpid(), process_start(os.getpid()), *_this_machine())


def parse_owner(raw: bytes) -> LockOwner:
    """The owner that a lock's bytes name; :data:`UNKNOWN_OWNER` if they name none."""
    words = raw.decode("utf-8", "replace").split()
    if len(words) not in (3, 6) or not re.fullmatch("[0-9]{1,10}", words[1]):
        return UNKNOWN_OWNER
    return LockOwner(words[0], int(words[1]), *words[2:])


def is_dead(owner: LockOwner) -> bool:
    """Whether the process has certainly ended."""
    if owner.host != HOST or not owner.pid:
        return False
    namespace, boot, machine = _this_machine()
    if owner.boot not in (_UNKNOWN, boot):  # this host before a restart, or another of the same name
        return owner.machine == machine != _UNKNOWN and owner.namespace == namespace == _HOSTS_OWN
    if owner.namespace not in (_UNKNOWN, namespace):
        return False
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # another user's, whose processes may be hidden below /proc
        pass
    now = process_start(owner.pid)
    return now == "ended" or (_UNKNOWN not in (now, owner.start) and now != owner.start)


def is_out_of_sight(owner: LockOwner) -> bool:
    """Whether the process cannot be examined from here: it runs on another host or in another container, or is unknown.

    A power failure can leave a lock without content, whose owner is unknown.
    """
    if not owner.pid:
        return True
    return (owner.host, owner.namespace, owner.boot) != (HOST, *_this_machine()[:2]) and owner.boot != _UNKNOWN


def files_of_ended_processes(files: Iterable[Path]) -> Iterable[Path]:
    """Those of the files ``NAME.HOST.PID.NUMBER`` whose process does not run on this host."""
    return [path for path in files if not os.path.exists(f"/proc/{path.name.split('.')[-2]}")]


def process_start(pid: int) -> str:
    """The start time of a process in clock ticks since boot (proc(5), field 22), which distinguishes a reused ID.

    ``-`` where it is not known, ``ended`` for a zombie.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _UNKNOWN
    fields = text.rpartition(")")[2].split()
    return "ended" if fields[0] in "ZX" else fields[19]


@cache
def _this_machine() -> tuple[str, str, str]:
    """The pid namespace, the boot ID, and a digest of the machine ID, which itself must not be published."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = _UNKNOWN
    machine = _text("/etc/machine-id")
    if machine != _UNKNOWN:
        machine = hashlib.sha256(f"icf-utils {machine}".encode()).hexdigest()[:16]
    return namespace, _text("/proc/sys/kernel/random/boot_id"), machine


def _text(path: str) -> str:
    try:
        words = Path(path).read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return _UNKNOWN
    return words[0] if words else _UNKNOWN
