"""What SLURM has not finished: waiting for it, what is left afterwards, and the queue in a status. Asks squeue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from icf_utils.errors import ClusterRefused, MissingRequirement
from icf_utils.pipeline.model import RunConfig, VisitInput
from icf_utils.pipeline.plan import make_plan
from icf_utils.pipeline.state import read_errors
from icf_utils.pipeline.status import StageStatus, VisitStatus
from icf_utils.progress import Progress
from icf_utils.slurm import records
from icf_utils.slurm.model import QueuedTask
from icf_utils.slurm.submit import ActiveSubmission, find_active_submissions
from icf_utils.store.layout import Study
from icf_utils.waiting import poll

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 20.0

#: Ordinary reasons for a job to be pending; any other is reported to the user.
_ORDINARY = ("None", "Priority", "Resources", "Dependency", "BeginTime", "JobArrayTaskLimit", "Cleaning")


@dataclass(frozen=True)
class UnfinishedVisit:
    """A visit that is unfinished after its jobs have ended: the next stage, and why it was not made."""

    study: str
    visit: str
    stage: str
    reason: str


def wait_for_jobs(studies: Sequence[Study], progress: Progress, processing: str = "") -> None:
    """Wait until SLURM has finished all jobs of the studies: of the stages, or of a processing.

    Raises what :func:`icf_utils.slurm.commands.list_queue` raises.
    """
    reported: set[tuple[str, str]] = set()
    for _ in poll(_FIRST_PAUSE, _LONGEST_PAUSE, factor=1.5):
        active = find_active_submissions(studies, processing)
        if not active:
            return
        for task in (task for found in active.values() for one in found for task in one.tasks):
            if task.is_pending and task.reason not in _ORDINARY and (task.job, task.reason) not in reported:
                reported.add((task.job, task.reason))
                progress.message(f"job {task.job} is pending: {task.reason} (cancel it with 'scancel {task.job}')")


def find_unfinished_visits(visits: Sequence[VisitInput], config: RunConfig) -> list[UnfinishedVisit]:
    """Find the visits with stages still to run, and the errors recorded for them."""
    found = []
    errors = {name: read_errors(Study(config.root, name)) for name in {visit_input.study for visit_input in visits}}
    for plan in make_plan(visits, config):
        if not plan.runs:
            continue
        visit_input, stage = plan.visit_input, plan.runs[0].stage
        failed = [name for name in config.stage_names if (visit_input.visit, name) in errors[visit_input.study]]
        stage = failed[0] if failed else stage
        failure = errors[visit_input.study].get((visit_input.visit, stage))
        found.append(
            UnfinishedVisit(
                visit_input.study, visit_input.visit, stage, failure.message if failure else _ended(config, visit_input)
            )
        )
    return found


def _ended(config: RunConfig, visit_input: VisitInput) -> str:
    """Say where to look if a visit was not made although no stage failed."""
    study = Study(config.root, visit_input.study)
    for submission in reversed(records.read_submissions(study)):
        folder = records.slurm_folder(study) / f"{submission.number:04}"
        for task, shard in enumerate(submission.shards):
            if visit_input.visit in shard:
                return f"its job ended before the visit was complete; see {_shown_log(folder / f'visits-{task}.log')}"
        if visit_input.visit in submission.catalog:
            return f"its job ended before the visit was complete; see {_shown_log(folder / 'catalog.log')}"
    return "no job was submitted for it"


def _shown_log(log: Path) -> str:
    """The log's path, and SLURM's own last message in it."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return f"'{log}'"
    words = [line.partition("***")[2].strip(" *") for line in lines if "slurm" in line and "***" in line]
    return f"'{log}': {words[-1]}" if words else f"'{log}'"


def add_queue_states(root: Path, visits: Sequence[VisitStatus]) -> tuple[list[VisitStatus], str]:
    """Mark what waits in SLURM's queue as ``queued``; also returns why SLURM could not be asked, if so."""
    studies = [Study(root, name) for name in sorted({visit.study for visit in visits})]
    try:
        active = find_active_submissions(studies)
    except (ClusterRefused, MissingRequirement) as error:
        return list(visits), f"queued jobs are not shown: {error}"
    return [_with_tasks(visit, active.get(visit.study, [])) for visit in visits], ""


def _with_tasks(visit: VisitStatus, active: Sequence[ActiveSubmission]) -> VisitStatus:
    making = next((one.visits[visit.visit] for one in active if visit.visit in one.visits), None)
    catalogs = [one.catalog_task for one in active if visit.visit in one.submission.catalog]
    catalog = next((task for task in catalogs if task), None)
    stages: list[StageStatus] = []
    for stage in visit.stages:
        task = catalog if stage.stage == "catalog" else making
        reached = all(before.state in ("done", "queued", "running") for before in stages)
        stages.append(_with_task(stage, task) if task and reached else stage)
    return replace(visit, stages=tuple(stages))


def _with_task(stage: StageStatus, task: QueuedTask) -> StageStatus:
    """A failure stays visible until the visit's next job starts."""
    waits = stage.state == "not made" or (stage.state == "failed" and task.is_pending)
    return replace(stage, state="queued", failure=None) if waits else stage
