"""``icf-utils process``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from icf_utils.cli.console import Console, is_on_terminal
from icf_utils.cli.options import add_dry_run, add_store, add_targets, number, targets_of
from icf_utils.cli.slurm import add_slurm, check_slurm, job_request, visits_of_job
from icf_utils.errors import InvalidSetting, printable
from icf_utils.formatting import format_count, format_counter, format_size
from icf_utils.results import to_json_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icf_utils.pipeline.model import VisitInput
    from icf_utils.processing.execute import ProcessConfig
    from icf_utils.processing.model import Processing, ProcessingResult
    from icf_utils.processing.run import PlannedProcessing
    from icf_utils.slurm.model import Submission

NAME = "process"
HELP = "run your own program on visits of a store, and deposit what it makes"
DETAILS = """\
Runs the [[processing]] NAME of the store's icf.toml on each visit that has not
been processed yet, or whose archive, version, settings or arguments have
changed. The program gets the images in an input folder and writes into an
output folder, which is deposited as VISIT_NAME_output.tar with its provenance.
If a visit fails, the others continue, the exit code is 1, and the same command
tries it again."""
EXAMPLE = "icf-utils process dcm2niix -o /data/store study-a -j 4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("processing", metavar="NAME", help="a [[processing]] of the store's icf.toml")
    add_targets(parser, "all in the store")
    add_store(parser)
    parser.add_argument(
        "--settings", metavar="FILE", help="file with the [[processing]], such as a receiver's (default: icf.toml)"
    )
    parser.add_argument("-j", "--jobs", metavar="N", type=number, help="visits at a time (default: 'workers')")
    parser.add_argument(
        "-a",
        "--argument",
        metavar="WORD",
        action="append",
        help="a word for the program, for {arguments} and task.json; can be repeated (default: those of the output "
        "that is there)",
    )
    parser.add_argument("-B", "--always-make", action="store_true", help="run even where the output is up to date")
    add_dry_run(parser, "print which visits would be processed, and why; run nothing")
    parser.add_argument(
        "--check", action="store_true", help="run it on one visit and print what happened; deposit nothing"
    )
    parser.add_argument(
        "--local", action="store_true", help="run on this machine, even if the settings say: on = 'slurm'"
    )
    add_slurm(parser, "a SLURM job array of visits for each study; memory and cores are those of the settings")
    parser.add_argument("--keep", metavar="DIR", help="with --check: copy the output to this new folder")


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.pipeline.visit_table import collect_visits, select_visits

    config = _config(args)
    is_on_slurm = _is_on_slurm(args, config.processing)
    of_job = visits_of_job(args)
    if of_job is not None:
        return _run(args, console, config, of_job)
    visits = select_visits(collect_visits(config.root, None, ""), targets_of(args))
    if not visits:
        raise InvalidSetting("command line", "no visits found: name another store with -o")
    if args.keep and not args.check:
        raise InvalidSetting("--keep", "needs --check")
    if args.check:
        return _check(args, console, config, visits)
    if is_on_slurm:
        return _submit(args, console, config, visits)
    if args.dry_run:
        return _dry_run(args, console, config, visits)
    return _run(args, console, config, visits)


def _is_on_slurm(args: argparse.Namespace, processing: Processing) -> bool:
    """Whether the visits are handed to SLURM: by the option, or by the settings unless an option says otherwise."""
    if args.local and args.slurm:
        raise InvalidSetting("--local", "cannot be combined with --slurm")
    args.slurm = args.slurm or (processing.is_on_slurm and not (args.local or args.check or args.shard))
    check_slurm(args)
    if args.container:
        raise InvalidSetting("--container", "is set by 'container' of the [[processing]]")
    return bool(args.slurm)


def _submit(args: argparse.Namespace, console: Console, config: ProcessConfig, visits: Sequence[VisitInput]) -> int:
    from dataclasses import replace

    from icf_utils.processing import slurm

    config = replace(config, root=config.root.absolute())
    request = slurm.request_of(config.processing, job_request(args), args.jobs or config.processing.workers)
    if args.dry_run:
        scripts = slurm.process_scripts(slurm.plan_jobs(visits, config, request, ask_queue=False), config, request)
        lines = [f"# {printable(one.path)}\n{one.text}# submitted by: {one.command}\n" for one in scripts]
        console.result(args.command, {"dry_run": True, "scripts": to_json_value(scripts)}, lines or ["nothing to do"])
        return 0
    planned = slurm.plan_jobs(visits, config, request)
    submissions = slurm.submit_jobs(planned, config, request, console)
    if args.wait:
        return _wait(args, console, config, visits, submissions)
    new, queued = sum(len(jobs.visits) for jobs in planned), sum(len(jobs.queued) for jobs in planned)
    numbers = ", ".join(one.array_job for one in submissions)
    line = f"{format_count(new, 'visit')} to process, {queued} already queued, {len(visits) - new - queued} up to date"
    result = {"slurm": True, "jobs": to_json_value(submissions)}
    console.result(args.command, result, [f"{line}; jobs {numbers}" if numbers else line])
    return 0


def _wait(
    args: argparse.Namespace,
    console: Console,
    config: ProcessConfig,
    visits: Sequence[VisitInput],
    submissions: Sequence[Submission],
) -> int:
    from dataclasses import replace

    from icf_utils.processing import slurm

    try:
        slurm.wait_for_processing(visits, config, console)
    except (KeyboardInterrupt, SystemExit):
        console.message("the jobs continue; 'squeue' lists them, 'scancel' stops them")
        raise
    left = slurm.find_unprocessed(visits, replace(config, always=False))
    lines = [f"{one.study}/{one.visit}: {one.stage} failed: {one.reason}" for one in left]
    lines.append(f"{format_count(len(visits), 'visit')}: {len(visits) - len(left)} done, {len(left)} failed")
    result = {"slurm": True, "jobs": to_json_value(submissions), "failed": to_json_value(left)}
    console.result(args.command, result, lines, ok=not left)
    return 1 if left else 0


def _config(args: argparse.Namespace) -> ProcessConfig:
    from icf_utils.processing.digests import arguments_problem
    from icf_utils.processing.execute import ProcessConfig
    from icf_utils.processing.settings import find_processings, load_processings

    store = Path(args.store_dir)
    file = Path(args.settings) if args.settings else None
    known = load_processings(store, file)
    (processing,) = find_processings([args.processing], known, file.name if file else "icf.toml")
    arguments = tuple(args.argument) if args.argument else None
    if problem := arguments_problem(arguments or ()):
        raise InvalidSetting("--argument", problem)
    return ProcessConfig(store, processing, arguments, args.always_make, file)


def _check(args: argparse.Namespace, console: Console, config: ProcessConfig, visits: Sequence[VisitInput]) -> int:
    from icf_utils.processing.trial import try_processing

    if len(visits) != 1 and targets_of(args):
        raise InvalidSetting("--check", f"takes one visit, but {len(visits)} are selected: name it as STUDY/VISIT")
    keep = Path(args.keep) if args.keep else None
    trial = try_processing(config, visits[0].study, visits[0].visit, keep)
    lines = [f"{trial.visit}: {trial.state}: {trial.message}", *(f"  {line}" for line in trial.log.splitlines())]
    lines += [f"output: {format_count(len(trial.files), 'file')}; nothing was deposited"]
    lines += [f"  {printable(path)} ({format_size(size)})" for path, size in trial.files[:50]]
    lines += [f"  ... and {len(trial.files) - 50} more"] if len(trial.files) > 50 else []
    console.result(args.command, to_json_value(trial), lines, ok=trial.state != "failed")
    return 1 if trial.state == "failed" else 0


def _dry_run(args: argparse.Namespace, console: Console, config: ProcessConfig, visits: Sequence[VisitInput]) -> int:
    from icf_utils.processing.run import plan_processing

    plans = plan_processing(visits, config, with_program=True)
    lines = [f"{plan.study}/{plan.visit}: {_why(plan)}" for plan in plans if plan.reasons or plan.problem]
    todo, cannot = [plan for plan in plans if plan.reasons], [plan for plan in plans if plan.problem]
    problems = f", {len(cannot)} that cannot be processed" if cannot else ""
    rest = len(plans) - len(todo) - len(cannot)
    lines.append(f"{format_count(len(plans), 'visit')}: {len(todo)} to process, {rest} up to date{problems}")
    console.result(args.command, {"dry_run": True, "visits": to_json_value(plans)}, lines, ok=not cannot)
    return 1 if cannot else 0


def _why(plan: PlannedProcessing) -> str:
    return f"cannot be processed: {plan.problem}" if plan.problem else "; ".join(plan.reasons)


def _run(args: argparse.Namespace, console: Console, config: ProcessConfig, visits: Sequence[VisitInput]) -> int:
    from icf_utils.processing.run import run_processing

    result = run_processing(
        visits, config, jobs=args.jobs or 0, progress=console, on_visit=ProcessingReporter(console).report
    )
    ok = not result.failed
    console.result(args.command, result, processing_lines(result.visits), ok=ok)
    return 0 if ok else 1


class ProcessingReporter:
    """Prints a line for each visit that was worked on, where no terminal shows a bar."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def report(self, result: ProcessingResult, number: int, total: int) -> None:
        if not is_on_terminal() and result.state != "up to date":
            place = format_counter(number, total)
            text = f"{place} {result.name}: {result.processing}: {result.state} in {result.seconds:.1f} s"
            self._console.message(text)


def processing_lines(results: Sequence[ProcessingResult]) -> list[str]:
    """What failed or is partial, by name, and a summary."""
    lines = []
    for result in results:
        if result.state in ("failed", "not reached", "partial"):
            log = f"; see '{printable(result.log)}'" if result.log else ""
            lines.append(f"{result.name}: {result.processing} {result.state}: {result.message}{log}")
    states = [result.state for result in results]
    texts = [
        f"{states.count('success') + states.count('partial')} processed",
        f"{states.count('up to date')} up to date",
    ]
    texts += [f"{states.count(state)} {state}" for state in ("partial", "failed", "not reached") if state in states]
    made = [result for result in results if result.state in ("success", "partial")]
    work = sum(result.files for result in made), sum(result.size for result in made)
    output = f"; {format_count(work[0], 'file')}, {format_size(work[1])}" if made else ""
    return [*lines, f"{format_count(len(results), 'visit')}: {', '.join(texts)}{output}"]
