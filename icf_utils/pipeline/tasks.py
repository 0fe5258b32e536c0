"""What is done in one go, in this process or a worker: a visit's stages, or a study's catalog for several visits.

Whatever goes wrong inside becomes a failure of the visits concerned; interrupts pass through.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from icf_utils.errors import StorageFailure
from icf_utils.pipeline.values import Chain, Failure, StageOutcome, VisitInput, VisitOutcome
from icf_utils.pipeline.work import make_catalog, make_visit
from icf_utils.progress import SILENT, Progress
from icf_utils.progress import Task as ProgressTask

#: Exit code that stands for a fault of the program.
_FAULT = 70


@dataclass(frozen=True)
class VisitTask:
    """The stages of a visit before the catalog; ``wait`` for another run that has it in hand, or leave it."""

    wanted: VisitInput
    wait: bool = False


@dataclass(frozen=True)
class CatalogTask:
    """Visits of one study that go into its catalog."""

    visits: tuple[VisitInput, ...]


@dataclass(frozen=True)
class InOtherHands:
    """Another run works on the visit; ``holder`` names its process."""

    holder: str


Task = VisitTask | CatalogTask
Result = VisitOutcome | InOtherHands | tuple[StageOutcome, ...]


class MessagesOnly:
    """Passes on messages, and not the progress of every stage."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[ProgressTask]:
        with SILENT.task(label, total, unit) as silent:
            yield silent

    def message(self, text: str) -> None:
        self._progress.message(text)


def perform(task: Task, chain: Chain, progress: Progress) -> Result:
    """Do a task."""
    try:
        if isinstance(task, CatalogTask):
            return tuple(make_catalog(task.visits, chain, progress))
        outcome = make_visit(task.wanted, chain, progress, task.wait)
        return InOtherHands(outcome) if isinstance(outcome, str) else outcome
    except OSError as error:  # one that no stage could name better
        name = error.filename if isinstance(error.filename, str) else "a file"
        problem = StorageFailure(name, "use", error)
        return failed(task, chain, Failure("StorageFailure", str(problem), problem.exit_code))
    except Exception as error:  # noqa: BLE001 - a fault of ours must not stop the other visits
        return failed(task, chain, _fault(error))


def failed(task: Task, chain: Chain, failure: Failure) -> VisitOutcome | tuple[StageOutcome, ...]:
    """The result of a task that came to nothing."""
    if isinstance(task, CatalogTask):
        return tuple(StageOutcome("catalog", "failed", failure=failure) for _ in task.visits)
    first, *others = [name for name in chain.stage_names if name != "catalog"]
    stages = [StageOutcome(first, "failed", failure=failure), *(StageOutcome(name, "not reached") for name in others)]
    return VisitOutcome(task.wanted.study, task.wanted.visit, tuple(stages))


def _fault(error: Exception) -> Failure:
    """A fault of ours: its place and kind, not its text, which may hold header values."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{os.path.basename(place.filename)}:{place.lineno}"
    details = "ICF_DEBUG=1 shows the details, which may hold header values"
    if os.environ.get("ICF_DEBUG"):
        details = "".join(traceback.format_exception(error))
    return Failure(
        "InternalError", f"internal error ({type(error).__name__} at {where}); please report it. {details}", _FAULT
    )
