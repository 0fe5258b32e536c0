"""Progress is injected: the library reports to whatever it is handed and never prints by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """One piece of work under way."""

    def advance(self, amount: int) -> None:
        """Say that ``amount`` more units (bytes or items) are done."""


class Progress(Protocol):
    """Who is told of progress. Implementations: :class:`Silent`, and the command line's bar and log lines."""

    def task(self, label: str, total: int, unit: str) -> AbstractContextManager[Task]:
        """Open a task of ``total`` units; ``unit`` is ``'B'`` for bytes, or a singular noun for items."""

    def message(self, text: str) -> None:
        """Say one line that is not a result (waiting for a lock, a stale lock taken over)."""


class _SilentTask:
    def advance(self, amount: int) -> None:
        pass


class Silent:
    """Tell nobody."""

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Task]:
        yield _SilentTask()

    def message(self, text: str) -> None:
        pass


SILENT: Progress = Silent()
