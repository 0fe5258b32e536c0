"""Find the visits that a run refuses before it works on any, and for a dry run also those that it would refuse later.

Reads headers; writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from icf_utils.errors import DepositDiffers, IcfError, InputRefused
from icf_utils.pipeline.model import RunConfig, VisitPlan
from icf_utils.pipeline.renamed import refuse_renamed_visits
from icf_utils.pipeline.shared_studies import refuse_shared_studies
from icf_utils.pipeline.stages import check_archive_input, check_config
from icf_utils.progress import SILENT, Progress

#: Visits that are refused, each with its error.
Refusals = Sequence[tuple[VisitPlan, IcfError]]


def refuse_visits(
    plans: Sequence[VisitPlan], config: RunConfig, progress: Progress = SILENT
) -> list[tuple[VisitPlan, IcfError]]:
    """Find the visits that a run does not begin because of other visits, each with its error."""
    refused: list[tuple[VisitPlan, IcfError]] = [*refuse_renamed_visits(plans, config)]
    if "shared-study" in config.options.refuse:
        refused += refuse_shared_studies(without_refused(plans, refused), config, progress)
    return refused


def without_refused(plans: Sequence[VisitPlan], refused: Refusals) -> list[VisitPlan]:
    """The plans of the other visits."""
    names = {plan.visit_input.name for plan, _ in refused}
    return [plan for plan in plans if plan.visit_input.name not in names]


def preview_refusals(
    plans: Sequence[VisitPlan], config: RunConfig, progress: Progress = SILENT
) -> list[tuple[VisitPlan, IcfError]]:
    """Find the visits that a run would refuse, each with its error, for a dry run; in the order of ``plans``.

    The headers of all images of new visits are read; what only the rest of the files shows is not found. Raises what
    :func:`~icf_utils.pipeline.stages.check_config` raises.
    """
    todo = [plan for plan in plans if plan.runs]
    if not todo:
        return []
    check_config(config)
    refused = {plan.visit_input.name: error for plan, error in refuse_visits(todo, config, progress)}
    with progress.task("checking inputs", len(todo), "visit") as task:
        for plan in todo:
            if plan.visit_input.name not in refused and (error := _input_error(plan, config)):
                refused[plan.visit_input.name] = error
            task.advance(1)
    return [(plan, refused[plan.visit_input.name]) for plan in plans if plan.visit_input.name in refused]


def _input_error(plan: VisitPlan, config: RunConfig) -> IcfError | None:
    if not any(decision.stage == "archive" for decision in plan.runs):
        return None
    try:
        check_archive_input(plan.visit_input, config)
    except DepositDiffers as error:
        return None if config.options.replace_reason else error
    except IcfError as error:
        return error
    return None


def refusal_text(error: IcfError) -> str:
    """The reason of a refusal, without the words that nothing was written: a dry run writes nothing."""
    return error.reasons if isinstance(error, InputRefused) else str(error)
