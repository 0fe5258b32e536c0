"""The options of ``icf-utils run`` that submit its work to SLURM, and what the jobs run."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from icf_utils.cli.console import Console
from icf_utils.errors import InvalidSetting, printable
from icf_utils.formatting import format_count
from icf_utils.results import name_visit, to_json_value

if TYPE_CHECKING:
    from icf_utils.pipeline.model import RunConfig, VisitInput
    from icf_utils.slurm.model import JobRequest, Submission
    from icf_utils.slurm.submit import SubmissionPlan

#: Options that need ``--slurm``, by the names of their values.
_NEED_SLURM = ("partition", "time", "mem", "account", "array_size", "sbatch", "container", "wait")

#: Options of a run that cannot be combined with ``--slurm``.
_NOT_WITH_SLURM = ("report", "graph", "stop_on_error")


def add_slurm(
    parser: argparse.ArgumentParser,
    jobs: str = "one SLURM job array of visits for each study, then a job for its catalog",
) -> None:
    """``--slurm`` and the options of its jobs."""
    group = parser.add_argument_group("on a cluster", jobs)
    group.add_argument(
        "--slurm", action="store_true", help="submit jobs for the visits; with -n, print the job scripts"
    )
    group.add_argument("--partition", metavar="P", help="partition to submit to, as for sbatch")
    group.add_argument("--time", metavar="T", help="time limit for each task, such as 02:00:00")
    group.add_argument("--mem", metavar="M", help="memory for each task, such as 4G")
    group.add_argument("--account", metavar="A", help="account to charge")
    group.add_argument("--array-size", metavar="N", type=_count, help="most tasks for each study (default: 200)")
    group.add_argument(
        "--sbatch",
        metavar="OPTION",
        action="append",
        help="one more option for sbatch, such as --sbatch=--qos=long; can be repeated",
    )
    group.add_argument("--container", metavar="IMAGE.sif", help="run the jobs in this Apptainer image")
    group.add_argument("--wait", action="store_true", help="wait until all jobs have ended, and print what failed")
    group.add_argument("--shard", metavar="FILE", help=argparse.SUPPRESS)
    group.add_argument("--catalog-of", metavar="FILE", help=argparse.SUPPRESS)


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text[:10]) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"expected a number of tasks, found '{text}'")
    return int(text)


def check_slurm(args: argparse.Namespace) -> None:
    """Refuse options that contradict each other."""
    for name in _NEED_SLURM if not args.slurm else _NOT_WITH_SLURM:
        if getattr(args, name, None):
            problem = "cannot be combined with --slurm" if args.slurm else "needs --slurm"
            raise InvalidSetting(f"--{name.replace('_', '-')}", problem)


def visits_of_job(args: argparse.Namespace) -> list[VisitInput] | None:
    """The visits of a SLURM job; None for a run that is not one."""
    name = args.shard or args.catalog_of
    if not name:
        return None
    from icf_utils.slurm.records import read_visits

    return read_visits(Path(name))


def catalog_job(args: argparse.Namespace, console: Console, visits: list[VisitInput], config: RunConfig) -> int:
    """Build the catalogs, in the job after the arrays."""
    from icf_utils.slurm.catalog_job import run_catalog_job

    result = run_catalog_job(visits, config, console)
    stages = ((visit, stage) for visit in result.visits for stage in visit.stages)
    console.notices(notice for visit, stage in stages for notice in name_visit(visit.study, visit.visit, stage.notices))
    failed = [visit for visit in result.visits if visit.failed]
    lines = [
        f"{visit.name}: {visit.failed.failure.message}" for visit in failed if visit.failed and visit.failed.failure
    ]
    lines.append(
        f"catalog: {format_count(len(result.visits), 'visit')}, {len(failed)} failed; "
        f"{len(result.not_ready)} left out because they are not complete"
    )
    console.result(args.command, result, lines, ok=not failed)
    return 1 if failed else 0


def submit(args: argparse.Namespace, console: Console, visits: list[VisitInput], config: RunConfig) -> int:
    """Submit the run to SLURM."""
    from icf_utils.slurm.submit import plan_jobs, submit_jobs

    config = replace(config, root=Path(os.path.abspath(config.root)))
    request = job_request(args)
    if args.dry_run:
        planned = plan_jobs(visits, config, request, ask_queue=False, progress=console)
        return _print_scripts(args, console, planned, config, request)
    planned = plan_jobs(visits, config, request, progress=console)
    submissions = submit_jobs(planned, config, request, console)
    if args.wait:
        return _wait(args, console, visits, config, planned, submissions)
    lines = [*_refused_lines(planned), *_summary(planned, submissions)]
    lines += ["follow them with: icf-utils status; repeat this command if visits fail"] if submissions else []
    result = {"slurm": True, "jobs": to_json_value(submissions), "refused": _refused_rows(planned)}
    console.result(args.command, result, lines, ok=not planned.refused)
    return 1 if planned.refused else 0


def _refused_lines(planned: SubmissionPlan) -> list[str]:
    return [f"{row['subject']}: not submitted: {row['reason']}" for row in _refused_rows(planned)]


def _refused_rows(planned: SubmissionPlan) -> list[dict[str, str]]:
    from icf_utils.pipeline.checks import refusal_text

    return [{"subject": plan.visit_input.name, "reason": refusal_text(error)} for plan, error in planned.refused]


def job_request(args: argparse.Namespace) -> JobRequest:
    """The resources that the options request."""
    from icf_utils.slurm.model import ARRAY_SIZE, JobRequest

    return JobRequest(
        partition=args.partition or "",
        time=args.time or "",
        memory=args.mem or "",
        account=args.account or "",
        array_size=args.array_size or ARRAY_SIZE,
        container=_image(args.container),
        cpus=args.jobs or 1,
        more=tuple(args.sbatch or ()),
    )


def _image(name: str | None) -> Path | None:
    if name is None:
        return None
    path = Path(os.path.abspath(name))
    if not path.exists():
        raise InvalidSetting("--container", f"'{printable(path)}' does not exist")
    return path


def _print_scripts(
    args: argparse.Namespace, console: Console, planned: SubmissionPlan, config: RunConfig, request: JobRequest
) -> int:
    from icf_utils.slurm.records import next_folder
    from icf_utils.slurm.submit import job_scripts

    found = [
        script for jobs in planned.studies for script in job_scripts(jobs, next_folder(jobs.study), config, request)
    ]
    lines = []
    for script in found:
        lines += [f"# {printable(script.path)}", script.text.rstrip("\n"), f"# submitted by: {script.command}", ""]
    result = {"dry_run": True, "scripts": to_json_value(found), "refused": _refused_rows(planned)}
    console.result(
        args.command, result, [*lines, *_refused_lines(planned), *_summary(planned, [])], ok=not planned.refused
    )
    return 1 if planned.refused else 0


def _summary(planned: SubmissionPlan, submissions: list[Submission]) -> list[str]:
    new = sum(len(shard) for jobs in planned.studies for shard in jobs.shards)
    catalog = sum(len(jobs.catalog) for jobs in planned.studies) - new
    queued = sum(len(jobs.queued) for jobs in planned.studies)
    texts = [f"{format_count(new, 'visit')} to make"]
    texts += [f"{catalog} to add to the catalog"] if catalog > 0 else []
    texts += [f"{queued} already queued"] if queued else []
    texts += [f"{len(planned.refused)} refused"] if planned.refused else []
    numbers = [job for one in submissions for job in (one.array_job, one.catalog_job) if job]
    jobs = f"; jobs {', '.join(numbers)}" if numbers else ""
    return [f"{', '.join([*texts, f'{planned.up_to_date} up to date'])}{jobs}"]


def _wait(
    args: argparse.Namespace,
    console: Console,
    visits: list[VisitInput],
    config: RunConfig,
    planned: SubmissionPlan,
    submissions: list[Submission],
) -> int:
    from icf_utils.slurm.wait import find_unfinished_visits, wait_for_jobs
    from icf_utils.store.layout import Study

    try:
        wait_for_jobs([Study(config.root, name) for name in sorted({visit.study for visit in visits})], console)
    except (KeyboardInterrupt, SystemExit):
        console.message("the jobs continue; 'squeue' lists them, 'scancel' stops them")
        raise
    left = find_unfinished_visits(visits, replace(config, always_make=False))
    refused = {plan.visit_input.name for plan, _ in planned.refused}
    left = [one for one in left if f"{one.study}/{one.visit}" not in refused]
    lines = [f"{one.study}/{one.visit}: {one.stage} failed: {one.reason}" for one in left]
    lines += _refused_lines(planned)
    counts = f"{len(visits) - len(left) - len(refused)} done, {len(left)} failed"
    lines.append(f"{format_count(len(visits), 'visit')}: {counts}{f', {len(refused)} refused' if refused else ''}")
    result = {"slurm": True, "jobs": to_json_value(submissions), "failed": to_json_value(left)}
    result["refused"] = _refused_rows(planned)
    ok = not left and not refused
    console.result(args.command, result, lines, ok=ok)
    return 0 if ok else 1
