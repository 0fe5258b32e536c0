"""Which process owns a lock, as a line of text, and whether it is certainly dead. Reads ``/proc``; writes nothing.

A host name and a process ID do not identify a process. IDs are reused, so the line has the process's start time;
containers may have their host's name and process IDs of their own, so it has the pid namespace; and a host restarts, so
it has the boot ID. A process that cannot be examined from here counts as alive.

A process of another boot is dead if that was an earlier boot of this machine. Two things show it. The lock is on a disk
of the machine, for its owner as well as for this process: a kernel shares such a disk with no other, so its processes
are those of this machine, in whatever container. Or the host's name and the machine's ID are the same; an ID that may
be the one of a container's image does not count.

The line ends with a newline. What does not is the rest of a lock whose name reached the disk before its content, when
the power failed: it is not a lock (:func:`is_torn`).
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

from icf_utils.store.mounts import is_mount, is_on_own_disk

HOST = socket.gethostname()

#: The pid namespace that a Linux host starts with; containers have others (proc_ns.h, ``PROC_PID_INIT_INO``).
_HOSTS_OWN = "pid:[4026531836]"
_UNKNOWN, _OWN_DISK = "-", "own"
_OF_APPTAINER = ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER")
_MACHINE_ID, _NO_ADDRESS = "/etc/machine-id", "00:00:00:00:00:00"


@dataclass(frozen=True)
class LockOwner:
    """A process. ``start`` is its start time in clock ticks since boot; ``-`` is what is not known.

    ``disk`` is ``own`` if the lock is on a disk of the machine that the process runs on.
    """

    host: str
    pid: int
    start: str
    namespace: str = _UNKNOWN
    boot: str = _UNKNOWN
    machine: str = _UNKNOWN
    disk: str = _UNKNOWN

    @property
    def mark(self) -> bytes:
        """The content of the locks of this process."""
        words = (self.host, str(self.pid), self.start, self.namespace, self.boot, self.machine, self.disk)
        return (" ".join(words) + "\n").encode("utf-8", "surrogateescape")


#: The owner of a lock that does not name one.
UNKNOWN_OWNER = LockOwner("an unknown host", 0, _UNKNOWN)


def this_process(folder: Path | None = None) -> LockOwner:
    """The owner of the locks that this process takes in ``folder``."""
    disk = _OWN_DISK if folder is not None and is_on_own_disk(folder) else _UNKNOWN
    return LockOwner(HOST, os.getpid(), process_start(os.getpid()), *_this_machine(), disk)


def parse_owner(raw: bytes) -> LockOwner:
    """The owner that a lock's bytes name; :data:`UNKNOWN_OWNER` if they name none."""
    words = raw.decode("utf-8", "replace").split()
    if is_torn(raw) or len(words) not in (3, 6, 7) or not re.fullmatch("[0-9]{1,10}", words[1]):
        return UNKNOWN_OWNER
    return LockOwner(words[0], int(words[1]), *words[2:])


def is_torn(raw: bytes) -> bool:
    """Whether these bytes are the rest of a lock that lost its content when the power failed: nothing, or a part.

    While a process with hard links takes a lock, it is never seen in this state; without them, for a moment.
    """
    return not raw.endswith(b"\n") or b"\0" in raw


def is_dead(owner: LockOwner, folder: Path | None = None) -> bool:
    """Whether the process has certainly ended, whose lock is in ``folder``."""
    if not owner.pid:
        return False
    namespace, boot, machine = _this_machine()
    if owner.boot != boot and _UNKNOWN not in (owner.boot, boot):
        if owner.disk == _OWN_DISK and folder is not None and is_on_own_disk(folder):
            return True
        return owner.host == HOST and owner.machine == machine != _UNKNOWN
    if owner.host != HOST or owner.namespace not in (_UNKNOWN, namespace):
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
    """Whether the process cannot be examined from here: of another host or another container, or unknown."""
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
    """The pid namespace, the boot ID, and a digest of the machine's ID, which itself must not be published."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = _UNKNOWN
    machine = _machine_id(namespace)
    if machine != _UNKNOWN:
        machine = hashlib.sha256(f"icf-utils {machine}".encode()).hexdigest()[:16]
    return namespace, _text("/proc/sys/kernel/random/boot_id"), machine


def _machine_id(namespace: str) -> str:
    """What distinguishes this machine from others, across restarts: its ID, or else its network cards' addresses.

    The ID in a container is its image's, the same on every machine, unless the host's file is mounted there. A
    container sees network cards only if it shares the host's network, as those of Apptainer do.
    """
    in_container = namespace != _HOSTS_OWN or any(name in os.environ for name in _OF_APPTAINER)
    if not in_container or is_mount(_MACHINE_ID):
        found = _text(_MACHINE_ID)
        if found != _UNKNOWN:
            return found
    cards = {_text(os.fspath(card.parent / "address")) for card in Path("/sys/class/net").glob("*/device")}
    return " ".join(sorted(cards - {_UNKNOWN, _NO_ADDRESS})) or _UNKNOWN


def _text(path: str) -> str:
    try:
        words = Path(path).read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return _UNKNOWN
    return words[0] if words else _UNKNOWN
