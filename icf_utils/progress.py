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
        """Open a task of ``total`` units; ``unit`` is ``'B'`` for bytes or a plural noun for items."""

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


def readable_size(size: int) -> str:
    """A number of bytes for people, in decimal units.

    >>> readable_size(8570880)
    '8.6 MB'
    """
    amount, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 999.5 or unit == "TB":
            break
        amount /= 1000
    return f"{size} B" if unit == "B" else f"{amount:.1f} {unit}"
