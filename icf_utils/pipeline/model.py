"""The values that the pipeline's modules exchange: plain frozen dataclasses. No I/O happens here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from icf_utils.errors import NotSettled
from icf_utils.results import Notice, name_visit
from icf_utils.settings import STAGE_NAMES, Settings


@dataclass(frozen=True)
class VisitInput:
    """A visit that belongs in the store, and what it is archived from; ``input`` may be ``None`` if its archive
    exists.
    """

    study: str
    visit: str
    input: Path | None = None

    @property
    def name(self) -> str:
        """The visit as ``study/visit``, the form in which targets are written."""
        return f"{self.study}/{self.visit}"


@dataclass(frozen=True)
class StageOptions:
    """Options of a run that override the store's settings; the single commands have the same options.

    ``replace_reason`` is why an input that has changed becomes the next version of its visit; without one, it fails.
    ``settle``: seconds for which an input must not have changed. ``refuse``: those of
    :data:`~icf_utils.settings.INPUT_CHECKS` for which a visit is not archived.
    """

    store_url: str | None = None
    store_id: str | None = None
    tags: Path | None = None
    time_zone: str = "UTC"
    strip: int = 0
    replace_reason: str = ""
    settle: float = 0.0
    refuse: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunConfig:
    """How visits are made: the store, its settings, the options, and which stages run.

    ``until`` is the last stage, ``always_make`` runs every stage whether needed or not, and ``paranoid`` reads every
    file again instead of trusting recorded digests.
    """

    root: Path
    settings: Settings = field(default_factory=Settings)
    options: StageOptions = field(default_factory=StageOptions)
    until: str = STAGE_NAMES[-1]
    always_make: bool = False
    paranoid: bool = False

    @property
    def stage_names(self) -> tuple[str, ...]:
        """The stages up to and including the last one."""
        return STAGE_NAMES[: STAGE_NAMES.index(self.until) + 1]


@dataclass(frozen=True)
class StageDecision:
    """Whether a stage of a visit has to run. ``reasons`` say why, for people; a stage without reasons is up to date."""

    stage: str
    reasons: tuple[str, ...] = ()

    @property
    def runs(self) -> bool:
        return bool(self.reasons)


@dataclass(frozen=True)
class VisitPlan:
    """What a run would do for a visit: one decision for each stage."""

    visit_input: VisitInput
    decisions: tuple[StageDecision, ...]

    @property
    def runs(self) -> tuple[StageDecision, ...]:
        """The decisions of the stages that would run."""
        return tuple(decision for decision in self.decisions if decision.runs)


@dataclass(frozen=True)
class StageFailure:
    """Why a stage failed: the name of the error's class, its whole message and its exit code."""

    type: str
    message: str
    exit_code: int


StageState = Literal["done", "up to date", "failed", "not reached"]


@dataclass(frozen=True)
class StageOutcome:
    """What a run did for one stage of a visit.

    ``seconds`` is wall time and ``size`` the bytes of the stage's outputs. ``skipped`` names the files that the
    stage left out on purpose; ``notices`` are what a user should know.
    """

    stage: str
    state: StageState
    reasons: tuple[str, ...] = ()
    seconds: float = 0.0
    size: int = 0
    notices: tuple[Notice, ...] = ()
    skipped: tuple[Notice, ...] = ()
    failure: StageFailure | None = None


@dataclass(frozen=True)
class VisitOutcome:
    """What a run did for a visit."""

    study: str
    visit: str
    stages: tuple[StageOutcome, ...]

    @property
    def name(self) -> str:
        return f"{self.study}/{self.visit}"

    @property
    def failed(self) -> StageOutcome | None:
        """The stage that failed, or ``None``."""
        return next((stage for stage in self.stages if stage.state == "failed"), None)

    @property
    def is_unsettled(self) -> bool:
        """Whether the visit was left for a later run, because its input may still be growing."""
        failed = self.failed
        return failed is not None and failed.failure is not None and failed.failure.type == NotSettled.__name__


@dataclass(frozen=True)
class RunHead:
    """What was run: when it began (POSIX seconds), the store's path, the version of icf-utils, and the command line."""

    began: float
    store: str
    version: str
    command: str


@dataclass(frozen=True)
class RunResult:
    """What a run did. ``visits`` are sorted by study and visit; ``seconds`` is wall time.

    ``store_notices`` are those that concern the store, not a visit.

    ``counts`` holds how many visits are done, up to date, failed and not reached.
    """

    visits: tuple[VisitOutcome, ...]
    seconds: float
    store_notices: tuple[Notice, ...] = ()
    counts: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        found = {"done": 0, "up to date": 0, "failed": 0, "not reached": 0}
        for visit in self.visits:
            found[visit_state(visit)] += 1
        object.__setattr__(self, "counts", found)

    @property
    def notices(self) -> list[Notice]:
        """The notices of all visits, which they name, and those of the store."""
        of_visits = [
            notice
            for visit in self.visits
            for stage in visit.stages
            for notice in name_visit(visit.study, visit.visit, stage.notices)
        ]
        return [*of_visits, *self.store_notices]

    @property
    def failed(self) -> tuple[VisitOutcome, ...]:
        return tuple(visit for visit in self.visits if visit.failed)

    @property
    def unsettled(self) -> tuple[VisitOutcome, ...]:
        """Those of the failed visits that were left for a later run."""
        return tuple(visit for visit in self.visits if visit.is_unsettled)


def visit_state(visit: VisitOutcome) -> StageState:
    """Sum up a visit's stages: ``failed`` or ``not reached`` if any stage is, else ``done`` if any stage ran."""
    states = {stage.state for stage in visit.stages}
    order: tuple[StageState, ...] = ("failed", "not reached", "done")
    return next((state for state in order if state in states), "up to date")
