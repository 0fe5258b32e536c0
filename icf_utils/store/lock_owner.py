"""Who holds a lock: a process, as a line of text, and whether it is dead for certain. Reads ``/proc``; writes nothing.

A host's name and a process id are not enough. Ids are used again, so the line has the time at which the process began;
containers have process ids of their own under their host's name, so it has the pid namespace; and a host starts anew,
so it has the boot. What cannot be seen from here counts as alive.
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
class Holder:
    """``start``: clock ticks from boot to the process's begin. ``-`` stands for what is not known."""

    host: str
    pid: int
    start: str
    namespace: str = _UNKNOWN
    boot: str = _UNKNOWN
    machine: str = _UNKNOWN

    @property
    def mark(self) -> bytes:
        """The content of this holder's locks."""
        words = (self.host, str(self.pid), self.start, self.namespace, self.boot, self.machine)
        return (" ".join(words) + "\n").encode("utf-8", "surrogateescape")


#: Stands for the holder of a lock that names none.
NOBODY = Holder("an unknown host", 0, _UNKNOWN)


def own_holder() -> Holder:
    """What others have to know of this process."""
    return Holder(HOST, os.getpid(), process_start(os.getpid()), *_own_place())


def parse_holder(raw: bytes) -> Holder:
    """The holder that a lock's bytes name; process 0 of an unknown host where they name none."""
    words = raw.decode("utf-8", "replace").split()
    if len(words) not in (3, 6) or not re.fullmatch("[0-9]{1,10}", words[1]):
        return NOBODY
    return Holder(words[0], int(words[1]), *words[2:])


def is_dead(holder: Holder) -> bool:
    """Whether the process has ended for certain."""
    if holder.host != HOST or not holder.pid:
        return False
    namespace, boot, machine = _own_place()
    if holder.boot not in (_UNKNOWN, boot):  # this host before it was started anew, or one of the same name
        return holder.machine == machine != _UNKNOWN and holder.namespace == namespace == _HOSTS_OWN
    if holder.namespace not in (_UNKNOWN, namespace):
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # it is another user's, whose processes may be hidden below /proc
        pass
    now = process_start(holder.pid)
    return now == "ended" or (_UNKNOWN not in (now, holder.start) and now != holder.start)


def is_out_of_sight(holder: Holder) -> bool:
    """Whether nobody here can look at the process: it runs on another host or in another container, or is not named.

    The latter is what a machine that lost its power can leave of a lock.
    """
    if not holder.pid:
        return True
    return (holder.host, holder.namespace, holder.boot) != (HOST, *_own_place()[:2]) and holder.boot != _UNKNOWN


def leavers_gone(files: Iterable[Path]) -> Iterable[Path]:
    """Those of the files ``NAME.HOST.PID.NUMBER`` whose process does not run here."""
    return [path for path in files if not os.path.exists(f"/proc/{path.name.split('.')[-2]}")]


def process_start(pid: int) -> str:
    """When the process began, in clock ticks since boot (proc(5), field 22): tells a reused process id apart.

    ``-`` where that cannot be known, ``ended`` for a process whose parent has only not asked for it yet.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _UNKNOWN
    fields = text.rpartition(")")[2].split()
    return "ended" if fields[0] in "ZX" else fields[19]


@cache
def _own_place() -> tuple[str, str, str]:
    """The pid namespace, the boot, and a digest of the machine's id, which itself is not for others to see."""
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
