"""Signals, and the files and folders that must not outlive an interrupt.

Remembers, for this process, which files are unfinished: a signal may arrive between any two steps, also where no
``finally`` block is active yet. Removes files and empty folders; knows nothing of what the files mean.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_ATTEMPTS = 3

#: Unfinished files of this process, by path: the content that only its own have, for those of fixed names, and the
#: folders that go with them.
_unfinished: dict[Path, tuple[bytes | None, Sequence[Path]]] = {}

#: Folders above the studies that this process has made, the innermost first, by store.
_made: dict[Path, list[Path]] = {}

#: Numbers of the signals that this process has heard, and ends for.
_heard: list[int] = []


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


def remember_made_folders(root: Path, folders: list[Path]) -> None:
    """Remember that this process makes the store's folder at ``root``, or folders above it, the innermost first."""
    _made[root] = folders


def remove_made_folders(root: Path) -> None:
    """Remove the store's folder, and those above it, if this process has made them and nothing is in them."""
    with suppress(OSError):
        for path in _made.get(root, []):
            path.rmdir()
        _made.pop(root, None)


def on_signal(number: int) -> None:
    """Say that a signal has come which ends this process."""
    _heard.append(number)


def leave_behind(error: BaseException, what: str) -> None:
    """Say with what ends a command, an error or an interrupt, what could not be taken away, and how to go on."""
    vars(error)["left_behind"] = what


def left_behind(error: BaseException) -> str:
    """What :func:`leave_behind` has said of an error, or of one that it came upon; empty where all is as it was."""
    found: BaseException | None = error
    while found:  # such as a second Ctrl-C during the tidying up after the first
        if what := vars(found).get("left_behind", ""):
            return str(what)
        found = found.__context__
    return ""


def quiet_interrupts() -> None:
    """Say nothing of an interrupt that is heard where Python cannot pass it on, such as in a finaliser.

    Python would print a traceback for it; the command ends by the next thing that it does. Nor of what an interrupt
    left open between being opened and being looked after, of which Python can be told to warn.
    """

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        ending = isinstance(unraisable.exc_value, (KeyboardInterrupt, SystemExit))
        left_open = isinstance(unraisable.exc_value, ResourceWarning) and bool(_heard)
        if not ending and not left_open:
            sys.__unraisablehook__(unraisable)

    sys.unraisablehook = hook
