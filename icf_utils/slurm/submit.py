"""From visits to jobs: what is submitted, and what is left out because it is done or already in the queue.

Reads records and the queue, writes the folders of submissions, and submits. SLURM does the scheduling.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from icf_utils.errors import IcfError
from icf_utils.formatting import format_count
from icf_utils.pipeline.checks import refuse_visits, without_refused
from icf_utils.pipeline.model import RunConfig, VisitInput, VisitPlan
from icf_utils.pipeline.plan import make_plan
from icf_utils.pipeline.stages import check_config
from icf_utils.progress import SILENT, Progress
from icf_utils.slurm import commands, records
from icf_utils.slurm.model import JobRequest, QueuedTask, Submission
from icf_utils.slurm.records import catalog_job_name, process_job_name, visits_job_name
from icf_utils.slurm.scripts import catalog_dependency, catalog_script, check_path, visits_script
from icf_utils.store.layout import Study

#: In a printed command, the placeholder for the number that SLURM will give the array job.
_NUMBER_TO_COME = "ARRAY"


@dataclass(frozen=True)
class StudyJobs:
    """The jobs to submit for a study: the visits of each array task, the visits for the catalog, and the jobs it waits
    for.

    ``queued`` are visits in no shard, because jobs that were submitted before will make them.
    """

    study: Study
    shards: tuple[tuple[VisitInput, ...], ...]
    catalog: tuple[VisitInput, ...]
    after: tuple[str, ...]
    queued: tuple[VisitInput, ...]

    @property
    def is_empty(self) -> bool:
        return not self.shards and not self.catalog


@dataclass(frozen=True)
class SubmissionPlan:
    """Everything to submit; ``up_to_date`` counts the visits with nothing to do.

    ``refused`` are visits that are not submitted: a job has only some of the visits, and would not find what is wrong.
    """

    studies: tuple[StudyJobs, ...]
    up_to_date: int
    refused: tuple[tuple[VisitPlan, IcfError], ...] = ()


@dataclass(frozen=True)
class JobScript:
    """A job script: its path, its text, and the command that submits it."""

    path: Path
    text: str
    command: str


def plan_jobs(
    visits: Sequence[VisitInput],
    config: RunConfig,
    request: JobRequest,
    ask_queue: bool = True,
    progress: Progress = SILENT,
) -> SubmissionPlan:
    """Plan what to submit. Without ``ask_queue``, plan as if nothing had been submitted yet.

    Raises what :func:`icf_utils.slurm.commands.list_queue` and the checks of options and settings raise.
    """
    check_config(config)
    check_path(config.root)
    todo = [plan for plan in make_plan(visits, config) if plan.runs]
    refused = tuple(refuse_visits(todo, config, progress))
    by_study: dict[str, list[VisitPlan]] = {}
    for plan in without_refused(todo, refused):
        by_study.setdefault(plan.visit_input.study, []).append(plan)
    studies = [Study(config.root, name) for name in sorted(by_study)]
    active = find_active_submissions(studies) if ask_queue else {}
    jobs = [_study_jobs(study, by_study[study.study], active.get(study.study, []), request) for study in studies]
    return SubmissionPlan(tuple(jobs), len(visits) - len(todo), refused)


@dataclass(frozen=True)
class ActiveSubmission:
    """A submission that SLURM has not finished, with its unfinished tasks."""

    submission: Submission
    tasks: tuple[QueuedTask, ...]

    @property
    def visits(self) -> dict[str, QueuedTask]:
        """The visits of unfinished array tasks."""
        shards = self.submission.shards
        tasks = [task for task in self.tasks if task.job == self.submission.array_job and task.task is not None]
        return {visit: task for task in tasks for visit in shards[task.task or 0]}

    @property
    def visits_for_catalog(self) -> tuple[str, ...]:
        """The visits that an unfinished catalog job will bring into the catalog, if they have been made by then."""
        return self.submission.catalog if self.catalog_task else ()

    @property
    def catalog_task(self) -> QueuedTask | None:
        return next((task for task in self.tasks if task.job == self.submission.catalog_job), None)


def find_active_submissions(studies: Iterable[Study], processing: str = "") -> dict[str, list[ActiveSubmission]]:
    """Find the unfinished submissions of each study: of the stages, or of a processing.

    Asks SLURM only about studies with submissions.
    """
    known = {study.study: (study, found) for study in studies if (found := _submissions(study, processing))}
    names = [name for study, _ in known.values() for name in _job_names(study, processing)]
    tasks = commands.list_queue(names)
    active: dict[str, list[ActiveSubmission]] = {}
    for name, (_, submissions) in known.items():
        for submission in submissions:
            own = tuple(task for task in tasks if task.job in (submission.array_job, submission.catalog_job))
            if own:
                active.setdefault(name, []).append(ActiveSubmission(submission, own))
    return active


def _submissions(study: Study, processing: str) -> list[Submission]:
    return [submission for submission in records.read_submissions(study) if submission.processing == processing]


def _job_names(study: Study, processing: str) -> list[str]:
    if processing:
        return [process_job_name(study, processing)]
    return [visits_job_name(study), catalog_job_name(study)]


def _study_jobs(
    study: Study, plans: Sequence[VisitPlan], active: Sequence[ActiveSubmission], request: JobRequest
) -> StudyJobs:
    in_arrays = {visit for one in active for visit in one.visits}
    in_catalogs = {visit for one in active for visit in one.visits_for_catalog}
    make = [plan.visit_input for plan in plans if _makes_files(plan) and plan.visit_input.visit not in in_arrays]
    new = {visit_input.visit for visit_input in make}
    catalog = [
        plan.visit_input
        for plan in plans
        if plan.runs[-1].stage == "catalog"
        and (plan.visit_input.visit in new or plan.visit_input.visit not in in_catalogs)
    ]
    made_elsewhere = {visit_input.visit for visit_input in catalog} - new
    after = [one.submission.array_job for one in active if made_elsewhere & set(one.visits)]
    queued = [plan.visit_input for plan in plans if plan.visit_input.visit in (in_arrays | in_catalogs) - new]
    return StudyJobs(
        study, split_visits(make, request.array_size, request.cpus), tuple(catalog), tuple(after), tuple(queued)
    )


def _makes_files(plan: VisitPlan) -> bool:
    return any(decision.stage != "catalog" for decision in plan.runs)


def split_visits(visits: Sequence[VisitInput], array_size: int, at_a_time: int) -> tuple[tuple[VisitInput, ...], ...]:
    """Distribute visits over as many array tasks as allowed, each with at least as many as it makes at a time."""
    number = min(array_size, math.ceil(len(visits) / at_a_time))
    return tuple(tuple(visits[at::number]) for at in range(number))


def job_scripts(jobs: StudyJobs, folder: Path, config: RunConfig, request: JobRequest) -> list[JobScript]:
    """The job scripts of a study as :func:`submit_jobs` would submit them from ``folder``."""
    found = []
    if jobs.shards:
        text = visits_script(visits_job_name(jobs.study), folder, jobs.shards, config, request)
        found.append(_script(folder / "visits.sh", text, request.options()))
    if jobs.catalog:
        text = catalog_script(catalog_job_name(jobs.study), folder, config, request)
        after = [*jobs.after, *([_NUMBER_TO_COME] if jobs.shards else [])]
        found.append(_script(folder / "catalog.sh", text, [*request.options(), *catalog_dependency(after)]))
    return found


def _script(path: Path, text: str, options: Sequence[str]) -> JobScript:
    return JobScript(path, text, shlex.join(["sbatch", *options, str(path)]))


def submit_jobs(
    planned: SubmissionPlan, config: RunConfig, request: JobRequest, progress: Progress = SILENT
) -> list[Submission]:
    """Submit everything that is planned.

    Raises :class:`~icf_utils.errors.ClusterRefused` and :class:`~icf_utils.errors.MissingRequirement`; what was
    submitted before the error is recorded and runs.
    """
    return [_submit(jobs, config, request, progress) for jobs in planned.studies if not jobs.is_empty]


def _submit(jobs: StudyJobs, config: RunConfig, request: JobRequest, progress: Progress) -> Submission:
    active = {one.submission.number for one in find_active_submissions([jobs.study]).get(jobs.study.study, [])}
    records.remove_old_submissions(jobs.study, active)
    folder = records.create_folder(jobs.study)
    _write_folder(jobs, folder, config, request)
    submission = _new_submission(jobs, int(folder.name))
    if jobs.shards:
        submission = _submit_array(jobs, folder, submission, request, progress)
    if jobs.catalog:
        submission = _submit_catalog(jobs, folder, submission, request, progress)
    return submission


def _submit_array(
    jobs: StudyJobs, folder: Path, submission: Submission, request: JobRequest, progress: Progress
) -> Submission:
    try:
        job = commands.submit_script(folder / "visits.sh", request.options())
    except IcfError:
        records.remove_submission(jobs.study, folder)
        raise
    submission = replace(submission, array_job=job)
    records.write_submission(folder, submission)
    visits, tasks = format_count(sum(map(len, jobs.shards)), "visit"), format_count(len(jobs.shards), "task")
    progress.message(f"{submission.study}: job {job} makes {visits} in {tasks}")
    return submission


def _submit_catalog(
    jobs: StudyJobs, folder: Path, submission: Submission, request: JobRequest, progress: Progress
) -> Submission:
    after = [*jobs.after, *([submission.array_job] if submission.array_job else [])]
    job = commands.submit_script(folder / "catalog.sh", [*request.options(), *catalog_dependency(after)])
    submission = replace(submission, catalog_job=job)
    records.write_submission(folder, submission)
    visits = format_count(len(jobs.catalog), "visit")
    progress.message(f"{submission.study}: job {job} brings {visits} into the catalog")
    return submission


def _write_folder(jobs: StudyJobs, folder: Path, config: RunConfig, request: JobRequest) -> None:
    for number, shard in enumerate(jobs.shards):
        records.write_visits(folder / f"shard-{number}.json", shard)
    records.write_visits(folder / "catalog.json", jobs.catalog)
    for script in job_scripts(jobs, folder, config, request):
        records.write_text(script.path, script.text)


def _new_submission(jobs: StudyJobs, number: int) -> Submission:
    shards = tuple(tuple(visit_input.visit for visit_input in shard) for shard in jobs.shards)
    return Submission(
        number, jobs.study.study, "", "", shards, tuple(visit_input.visit for visit_input in jobs.catalog)
    )
