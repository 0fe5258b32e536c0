"""The work of a catalog job: update the catalog of a study with the visits that the jobs before it have made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from icf_utils.catalog.index_page import renew_index
from icf_utils.pipeline.execute import MessagesOnly, make_catalog
from icf_utils.pipeline.model import RunConfig, StageOutcome, VisitInput, VisitOutcome
from icf_utils.pipeline.plan import make_plan
from icf_utils.progress import Progress


@dataclass(frozen=True)
class CatalogJobResult:
    """The outcomes of the visits that were ready. ``not_ready`` are those that failed, or whose jobs ended early."""

    visits: tuple[VisitOutcome, ...]
    not_ready: tuple[VisitInput, ...]

    @property
    def failed(self) -> tuple[VisitOutcome, ...]:
        return tuple(visit for visit in self.visits if visit.failed)


def run_catalog_job(visits: Sequence[VisitInput], config: RunConfig, progress: Progress) -> CatalogJobResult:
    """Bring the visits that have been made into the catalog of their study.

    A visit that has not been made is left out rather than made here: a catalog job has other resources.
    """
    plans = make_plan(visits, replace(config, always_make=False))
    waiting = [plan.visit_input for plan in plans if any(decision.stage != "catalog" for decision in plan.runs)]
    ready = [
        plan.visit_input for plan in plans if plan.visit_input not in waiting and (plan.runs or config.always_make)
    ]
    outcomes: Sequence[StageOutcome] = make_catalog(ready, config, MessagesOnly(progress)) if ready else []
    for notice in renew_index(config.root, config.settings):
        progress.message(notice.message)
    made = [
        VisitOutcome(visit_input.study, visit_input.visit, (stage,))
        for visit_input, stage in zip(ready, outcomes, strict=True)
    ]
    return CatalogJobResult(tuple(made), tuple(waiting))
