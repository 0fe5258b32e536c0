"""Progress for notebooks and interactive sessions: bars of tqdm, which draws them as the place allows.

Pass :class:`Bars` as ``progress`` to any function of this package. Writes to the notebook's page, or to standard error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from icf_utils.installation import missing_package
from icf_utils.progress import Task


class Bars:
    """A :class:`~icf_utils.progress.Progress` that shows a bar for each task, and messages above it.

    Bars that are complete disappear unless ``keep``. Raises :class:`~icf_utils.errors.MissingRequirement` without tqdm.
    """

    def __init__(self, keep: bool = False) -> None:
        try:
            from tqdm.auto import tqdm
        except ImportError as error:
            raise missing_package("tqdm") from error
        self._tqdm: Any = tqdm
        self._keep = keep

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Task]:
        """A bar; ``unit`` is a plural noun, or ``B`` for bytes."""
        shown = {"unit": unit if unit == "B" else f" {unit}", "unit_scale": unit == "B"}
        with self._tqdm(total=total, desc=label, leave=self._keep, **shown) as bar:
            yield _Bar(bar)

    def message(self, text: str) -> None:
        """One line above the bars."""
        self._tqdm.write(text)


class _Bar:
    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def advance(self, amount: int) -> None:
        """Add to what is done."""
        self._bar.update(amount)
