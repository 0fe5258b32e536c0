"""How work reports its progress: to an object that the caller passes in. The library itself never prints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """A piece of work that is in progress."""

    def advance(self, amount: int) -> None:
        """Report that ``amount`` more units (bytes or items) are done."""


class Progress(Protocol):
    """What progress is reported to: :class:`Silent`, or the command line's bars and log lines."""

    def task(self, label: str, total: int, unit: str) -> AbstractContextManager[Task]:
        """Open a task of ``total`` units; ``unit`` is ``'B'`` for bytes, or a singular noun for items."""

    def message(self, text: str) -> None:
        """Report in one line what is not a result, such as waiting for a lock."""


class _SilentTask:
    def advance(self, amount: int) -> None:
        pass


class Silent:
    """Progress that goes nowhere."""

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Task]:
        yield _SilentTask()

    def message(self, text: str) -> None:
        pass


SILENT: Progress = Silent()


class RecurringProblem:
    """Reports a recurring error, such as that of a full disk, only once, until it has ended or its message changes."""

    def __init__(self, progress: Progress, who: str = "") -> None:
        self._progress, self._who, self._last = progress, who, ""

    def report(self, error: Exception) -> None:
        """Say what the problem is, unless this was said last."""
        text = f"{self._who}: {error}" if self._who else str(error)
        if text != self._last:
            self._progress.message(text)
        self._last = text

    def end(self) -> None:
        """Note that the problem is over."""
        self._last = ""
