"""Signals, and the files and folders that must not outlive an interrupt.

A register of this process's unfinished files: a signal may arrive between any two steps, also where no ``finally``
block is active yet. Removes files and empty folders; knows nothing of what the files mean.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_ATTEMPTS = 3

#: Unfinished files of this process, by path: the content that only its own have, for those of fixed names, and the
#: folders that go with them.
_unfinished: dict[Path, tuple[bytes | None, Sequence[Path]]] = {}

#: Folders that this process has created for stores, the innermost first, by store: those of studies, the store's own
#: and those above it. Folders that others prepared are never removed.
_made: dict[Path, list[Path]] = {}

#: Held while a store's folders are created or removed, so that the register and the disk agree: threads of one process
#: work on the same study. Reentrant: an interrupt may arrive while its own thread has it.
made_folders_lock = threading.RLock()

#: Numbers of the signals that this process has received and ends because of.
_received: list[int] = []


def expect_unfinished(path: Path, content: bytes | None = None, folders: Sequence[Path] = ()) -> None:
    """Register a file, before it is made, that must not outlive an interrupt; with ``content``, only one that has it.

    ``folders`` are removed with it where they are empty then, in their order.
    """
    _unfinished[path] = (content, folders)


def forget_unfinished(path: Path) -> None:
    """Remove a file from the register: it is gone, or has its final name."""
    _unfinished.pop(path, None)


def remove_file(path: Path) -> None:
    """Remove a file that is not needed any more, if it exists; tried again after a transient fault. Never raises."""
    for _ in range(_ATTEMPTS):
        with suppress(OSError):
            path.unlink(missing_ok=True)
            forget_unfinished(path)
            return


def remove_unfinished() -> None:
    """Remove what an interrupt left of this process's unfinished files, and their folders that are empty then."""
    for path, (content, folders) in list(_unfinished.items()):
        with suppress(OSError):
            if content is None or path.read_bytes() == content:
                remove_file(path)
        forget_unfinished(path)
        with suppress(OSError):  # up to the first that is not empty
            for folder in folders:
                folder.rmdir()
    for root in list(_made):
        remove_made_folders(root)


def remember_made_folders(root: Path, folders: Sequence[Path]) -> None:
    """Register that this process creates folders for the store at ``root``, the innermost first.

    The caller has :data:`made_folders_lock` until they are created.
    """
    _made[root] = [*folders, *(path for path in _made.get(root, ()) if path not in folders)]


def forget_made_folders(root: Path) -> None:
    """Remove a store's folders from the register: they have content now, and stay."""
    with made_folders_lock:
        _made.pop(root, None)


def remove_made_folders(root: Path) -> None:
    """Remove those folders of a store that this process has created, as far as they are empty."""
    with made_folders_lock:
        for path in list(_made.get(root, ())):
            try:
                path.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                continue
            _made[root].remove(path)


def on_signal(number: int) -> None:
    """Note that this process has received a signal and will end."""
    _received.append(number)


def note_leftovers(error: BaseException, what: str) -> None:
    """Note with the error or interrupt that ends a command what could not be removed, and how to continue."""
    vars(error)["leftovers"] = what


def noted_leftovers(error: BaseException) -> str:
    """What :func:`note_leftovers` noted with an error, or with one that it followed; empty if nothing is left."""
    found: BaseException | None = error
    while found:  # for instance a second Ctrl-C while the first is cleaned up after
        if what := vars(found).get("leftovers", ""):
            return str(what)
        found = found.__context__
    return ""


def quiet_interrupts() -> None:
    """Suppress what Python prints about an interrupt that arrives where it cannot be raised, as in a finalizer.

    The command ends at its next step all the same. Warnings about files that an interrupt left open, between being
    opened and being managed, are suppressed as well.
    """

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        ending = isinstance(unraisable.exc_value, (KeyboardInterrupt, SystemExit))
        left_open = isinstance(unraisable.exc_value, ResourceWarning) and bool(_received)
        if not ending and not left_open:
            sys.__unraisablehook__(unraisable)

    sys.unraisablehook = hook
