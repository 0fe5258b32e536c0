"""Processings as SLURM jobs: an array for each study, whose tasks run ``icf-utils process`` on a shard of visits.

Reads records and the queue, writes the folders of submissions, and submits; what became of a visit is decided from the
store. The records are those of :mod:`icf_utils.slurm`, which ``icf-utils run --slurm`` uses as well.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from icf_utils.errors import ClusterRefused, IcfError, MissingRequirement
from icf_utils.formatting import format_count
from icf_utils.pipeline.model import VisitInput
from icf_utils.processing.execute import ProcessConfig
from icf_utils.processing.model import Processing
from icf_utils.processing.records import read_failures
from icf_utils.processing.run import plan_processing
from icf_utils.processing.status import ProcessingStatus
from icf_utils.progress import SILENT, Progress
from icf_utils.slurm import commands, records
from icf_utils.slurm.model import JobRequest, QueuedTask, Submission
from icf_utils.slurm.records import process_job_name
from icf_utils.slurm.scripts import check_path, process_script
from icf_utils.slurm.submit import JobScript, find_active_submissions, split_visits
from icf_utils.slurm.wait import UnfinishedVisit, wait_for_jobs
from icf_utils.store.layout import Study

#: What icf-utils itself needs in a task, in MiB.
_OWN_MEMORY = 256


@dataclass(frozen=True)
class ProcessJobs:
    """The array to submit for a study: its ``shards``; ``queued`` are visits that earlier jobs will process."""

    study: Study
    shards: tuple[tuple[VisitInput, ...], ...]
    queued: tuple[str, ...]

    @property
    def visits(self) -> tuple[VisitInput, ...]:
        return tuple(visit for shard in self.shards for visit in shard)


@dataclass(frozen=True)
class ProcessRequest:
    """What a task requests, and how many visits it processes at a time."""

    job: JobRequest
    at_a_time: int


def request_of(processing: Processing, job: JobRequest, at_a_time: int) -> ProcessRequest:
    """Complete the options of a command by what the settings say: cores, memory, partition, time, account."""
    programs = -(-processing.memory * at_a_time // (1 << 20))
    memory = f"{programs + _OWN_MEMORY}M" if processing.memory else ""
    return ProcessRequest(
        replace(
            job,
            cpus=processing.cores * at_a_time,
            memory=job.memory or memory,
            partition=job.partition or processing.partition,
            time=job.time or processing.time,
            account=job.account or processing.account,
        ),
        at_a_time,
    )


def plan_jobs(
    visits: Sequence[VisitInput], config: ProcessConfig, request: ProcessRequest, ask_queue: bool = True
) -> list[ProcessJobs]:
    """Plan what to submit for visits that have to be processed. Raises as ``squeue`` does (``ClusterRefused``)."""
    check_path(config.root)
    wanted: dict[str, list[VisitInput]] = {}
    for plan, visit in zip(plan_processing(visits, config), visits, strict=True):
        if plan.reasons:
            wanted.setdefault(visit.study, []).append(visit)
    studies = [Study(config.root, name) for name in sorted(wanted)]
    active = find_active_submissions(studies, config.processing.name) if ask_queue else {}
    found = []
    for study in studies:
        queued = {visit for one in active.get(study.study, []) for visit in one.visits}
        new = [visit for visit in wanted[study.study] if visit.visit not in queued]
        shards = split_visits(new, request.job.array_size, request.at_a_time) if new else ()
        found.append(ProcessJobs(study, shards, tuple(sorted(queued))))
    return found


def process_scripts(jobs: Sequence[ProcessJobs], config: ProcessConfig, request: ProcessRequest) -> list[JobScript]:
    """The job scripts as :func:`submit_jobs` would submit them."""
    return [_script(one, records.next_folder(one.study), config, request) for one in jobs if one.shards]


def _script(jobs: ProcessJobs, folder: Path, config: ProcessConfig, request: ProcessRequest) -> JobScript:
    words = ["process", config.processing.name, "--store-dir", str(config.root), "--jobs", str(request.at_a_time)]
    words += ["--always-make"] if config.always else []
    words += ["--settings", str(config.settings.absolute())] if config.settings else []
    words += [f"--argument={word}" for word in config.arguments or ()]
    name = process_job_name(jobs.study, config.processing.name)
    text = process_script(name, folder, len(jobs.shards), words, request.job)
    path = folder / "visits.sh"
    return JobScript(path, text, shlex.join(["sbatch", *request.job.options(), str(path)]))


def submit_jobs(
    jobs: Sequence[ProcessJobs], config: ProcessConfig, request: ProcessRequest, progress: Progress = SILENT
) -> list[Submission]:
    """Submit the arrays. Raises ``ClusterRefused``, ``MissingRequirement``; what was submitted before is recorded."""
    return [_submit(one, config, request, progress) for one in jobs if one.shards]


def _submit(jobs: ProcessJobs, config: ProcessConfig, request: ProcessRequest, progress: Progress) -> Submission:
    name, study = config.processing.name, jobs.study
    active = find_active_submissions([study], name).get(study.study, [])
    records.remove_old_submissions(study, {one.submission.number for one in active}, name)
    folder = records.create_folder(study)
    for number, shard in enumerate(jobs.shards):
        records.write_visits(folder / f"shard-{number}.json", shard)
    script = _script(jobs, folder, config, request)
    records.write_text(script.path, script.text)
    try:
        job = commands.submit_script(script.path, request.job.options())
    except IcfError:
        records.remove_submission(study, folder)
        raise
    shards = tuple(tuple(visit.visit for visit in shard) for shard in jobs.shards)
    submission = Submission(int(folder.name), study.study, job, "", shards, (), name)
    records.write_submission(folder, submission)
    visits, tasks = format_count(len(jobs.visits), "visit"), format_count(len(shards), "task")
    progress.message(f"{study.study}: job {job} runs {name} on {visits} in {tasks}")
    return submission


def wait_for_processing(visits: Sequence[VisitInput], config: ProcessConfig, progress: Progress) -> None:
    """Wait until SLURM has finished all jobs of the processing on these visits' studies."""
    studies = [Study(config.root, name) for name in sorted({visit.study for visit in visits})]
    wait_for_jobs(studies, progress, config.processing.name)


def find_unprocessed(visits: Sequence[VisitInput], config: ProcessConfig) -> list[UnfinishedVisit]:
    """The visits that are not processed although their jobs have ended, and why."""
    name = config.processing.name
    failures = {
        (study, visit): failure
        for study in {visit.study for visit in visits}
        for (visit, processing), failure in read_failures(Study(config.root, study)).items()
        if processing == name
    }
    found = []
    for plan in plan_processing(visits, config):
        if plan.reasons or plan.problem:
            failure = failures.get((plan.study, plan.visit))
            ended = _ended(Study(config.root, plan.study), plan.visit, name)
            reason = plan.problem or (failure.message if failure else ended)
            found.append(UnfinishedVisit(plan.study, plan.visit, name, reason))
    return found


def _ended(study: Study, visit: str, processing: str) -> str:
    """Where to look if a visit was not processed although nothing is recorded."""
    for submission in reversed(records.read_submissions(study)):
        for task, shard in enumerate(submission.shards):
            if submission.processing == processing and visit in shard:
                log = records.slurm_folder(study) / f"{submission.number:04}" / f"visits-{task}.log"
                return f"its job ended before it was processed; see '{log}'"
    return "no job was submitted for it"


def with_queue(root: Path, processings: Sequence[ProcessingStatus]) -> list[ProcessingStatus]:
    """Mark what waits in SLURM's queue as ``queued``; nothing where SLURM cannot be asked."""
    queued: dict[tuple[str, str, str], QueuedTask] = {}
    studies = [Study(root, name) for name in sorted({one.study for one in processings})]
    for name in sorted({one.processing for one in processings}):
        try:
            active = find_active_submissions(studies, name)
        except (ClusterRefused, MissingRequirement):
            return list(processings)
        for study, found in active.items():
            for one in found:
                queued |= {(study, visit, name): task for visit, task in one.visits.items()}
    return [_with_task(one, queued.get((one.study, one.visit, one.processing))) for one in processings]


def _with_task(status: ProcessingStatus, task: QueuedTask | None) -> ProcessingStatus:
    """A failure stays visible until the visit's next job starts."""
    waits = task and (status.state == "not made" or (status.state == "failed" and task.is_pending))
    return replace(status, state="queued", failure=None) if waits else status
