"""``icf-utils run``."""

from __future__ import annotations

import argparse
import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from icf_utils import __version__
from icf_utils.cli.console import Console, is_on_terminal
from icf_utils.cli.options import (
    add_allow,
    add_dry_run,
    add_jobs,
    add_new,
    add_store,
    add_store_url,
    add_strip,
    add_targets,
    check_store,
    duration,
    refused_of,
    targets_of,
)
from icf_utils.cli.slurm import add_slurm, catalog_job, check_slurm, submit, visits_of_job
from icf_utils.durations import parse_duration
from icf_utils.errors import InvalidSetting, NotSettled, printable
from icf_utils.formatting import format_count, format_counter, format_size
from icf_utils.results import Notice, to_json_value
from icf_utils.settings import RUN_CHECKS, STAGE_NAMES

if TYPE_CHECKING:
    from icf_utils.pipeline.checks import Refusals
    from icf_utils.pipeline.model import (
        RunConfig,
        RunHead,
        RunResult,
        StageOutcome,
        StageState,
        VisitInput,
        VisitOutcome,
        VisitPlan,
    )
    from icf_utils.processing.model import Processing, ResultState
    from icf_utils.processing.run import ProcessRunResult
    from icf_utils.settings import RunSettings, Settings

#: Seconds for which an input that was found, and not named, must not have changed.
SETTLE = 300

NAME = "run"
HELP = "bring visits up to date: all stages, only where needed"
DETAILS = """\
Takes visits from their inputs through the stages archive, metadata, dataset and
catalog, and skips the stages that are up to date. If a visit fails, the others
continue, the exit code is 1, and the next run tries the visit again."""
EXAMPLE = "icf-utils run -o /data/store --table visits.csv -j 4 study-a"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_targets(parser, "all visits that have an input or are in the store")
    add_store(parser)
    add_inputs(parser)
    _add_extent(parser)
    _add_processings(parser)
    add_replace(parser)
    _add_reports(parser)
    add_slurm(parser)
    add_store_url(parser)
    parser.add_argument("--tags", metavar="FILE", help="file with the DICOM keywords of more tags to record")
    add_timezone(parser)
    add_strip(parser)
    add_new(parser)
    add_allow(parser, RUN_CHECKS, "archive visits")
    add_settle(parser, "default: 'settle' in [run], or 5m with --pattern, else 0")


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """``--table`` and ``--pattern``."""
    inputs = parser.add_mutually_exclusive_group()
    inputs.add_argument(
        "--table", metavar="FILE", help="visit table: CSV or TSV with the columns study, visit and input"
    )
    inputs.add_argument(
        "--pattern", metavar="PATTERN", help="path of the inputs, such as '/scanner/{study}/{visit}' (in quotes)"
    )


def add_until(parser: argparse.ArgumentParser) -> None:
    """``--until``."""
    names = ", ".join(STAGE_NAMES)
    parser.add_argument("--until", metavar="STAGE", choices=STAGE_NAMES, help=f"last stage to run: {names}")


def add_timezone(parser: argparse.ArgumentParser) -> None:
    """``--timezone``, where the store's settings may name one."""
    parser.add_argument(
        "--timezone", metavar="ZONE", help="time zone of the study times in the images (default: 'timezone' in [run])"
    )


def add_replace(parser: argparse.ArgumentParser) -> None:
    """``--replace``."""
    parser.add_argument(
        "--replace",
        metavar="REASON",
        default="",
        help="make inputs that have changed the next version of their visits, as 'visit replace' does; REASON is "
        "recorded (default: they fail)",
    )


def add_settle(parser: argparse.ArgumentParser, default: str) -> None:
    """``--settle``."""
    parser.add_argument(
        "--settle",
        metavar="DURATION",
        type=duration,
        help=f"leave inputs for a later run that changed less than this long ago, such as 30s, 5m or 0 ({default})",
    )


def settle_of(args: argparse.Namespace, settings: RunSettings, default: int) -> int:
    """The seconds for which an input must not have changed."""
    if args.settle is not None:
        return int(args.settle)
    for place, text in (("ICF_RUN_SETTLE", os.environ.get("ICF_RUN_SETTLE", "")), ("[run] settle", settings.settle)):
        if text:
            try:
                return parse_duration(text)
            except ValueError as error:
                raise InvalidSetting(place, printable(str(error))) from error
    return default


def _add_extent(parser: argparse.ArgumentParser) -> None:
    add_jobs(parser, "visits")
    add_until(parser)
    parser.add_argument("-B", "--always-make", action="store_true", help="run all stages, even those up to date")
    parser.add_argument(
        "--paranoid", action="store_true", help="re-read files whose size, times and inode have not changed"
    )
    failing = parser.add_mutually_exclusive_group()
    failing.add_argument("-k", "--keep-going", action="store_true", help="continue if a visit fails (the default)")
    failing.add_argument("-S", "--stop-on-error", action="store_true", help="start no more visits after a failure")


def _add_processings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--process",
        metavar="NAME",
        action="append",
        help="then run this [[processing]] on the visits that are complete; can be repeated (default: 'process' in "
        "[run])",
    )


def _add_reports(parser: argparse.ArgumentParser) -> None:
    add_dry_run(parser, "print what would run, and why; change nothing")
    parser.add_argument("--graph", metavar="FILE", help="draw visits and stages after the run, as .svg or .mmd")
    parser.add_argument(
        "--report", metavar="FILE", help="write what was done, how long it took and what failed, as .html or .json"
    )


@dataclass(frozen=True)
class _Choice:
    """The values of options, environment variables and settings; the first that is given counts."""

    table: Path | None
    pattern: str
    jobs: int
    until: str
    time_zone: str
    settle: int


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.settings import load_settings

    _check_files(args)
    check_slurm(args)
    store = Path(args.store_dir)
    settings = load_settings(store)
    choice = _choose(args, store, settings.run)
    of_job = visits_of_job(args)
    visits = wanted_visits(store, choice.table, choice.pattern, targets_of(args)) if of_job is None else of_job
    config = _run_config(args, store, settings, choice)
    check_store(args, console, store)
    processings = _processings(args, config)
    if args.catalog_of:
        return catalog_job(args, console, visits, config)
    if args.slurm:
        return submit(args, console, visits, config)
    if args.dry_run:
        return _dry_run(args, console, visits, config)
    return _run(args, console, visits, config, choice.jobs, processings)


def _processings(args: argparse.Namespace, config: RunConfig) -> list[Processing]:
    """The processings with which the run ends; none in a job of a cluster."""
    names = args.process or config.settings.run.process
    if not names or args.shard or args.catalog_of:
        return []
    if args.process and (args.slurm or config.until == "archive"):
        problem = "run 'icf-utils process' when the jobs have ended" if args.slurm else "needs the stage metadata"
        raise InvalidSetting("--process", problem)
    from icf_utils.processing.settings import find_processings, load_processings

    return find_processings(names, load_processings(config.root), "icf.toml")


def wanted_visits(store: Path, table: Path | None, pattern: str, targets: list[str]) -> list[VisitInput]:
    """The visits to work on. Raises :class:`~icf_utils.errors.InvalidSetting` if there are none."""
    from icf_utils.pipeline.visit_table import collect_visits, select_visits

    visits = select_visits(collect_visits(store, table, pattern), targets)
    if not visits:
        raise InvalidSetting("command line", "no visits found: give --table or --pattern, or another store with -o")
    return visits


def _check_files(args: argparse.Namespace) -> None:
    for option, name, kinds in (
        ("--graph", args.graph, (".svg", ".mmd")),
        ("--report", args.report, (".html", ".json")),
    ):
        if name and not name.endswith(kinds):
            raise InvalidSetting(option, f"'{printable(name)}' must end in {' or '.join(kinds)}")
        if name and not Path(name).absolute().parent.is_dir():
            raise InvalidSetting(option, f"the folder of '{printable(name)}' does not exist")


def inputs_from(args: argparse.Namespace, store: Path, settings: RunSettings) -> tuple[Path | None, str]:
    """Table or pattern; options take precedence over the environment, and this over the store's settings."""
    if args.table or args.pattern:
        return Path(args.table) if args.table else None, args.pattern or ""
    table, pattern = os.environ.get("ICF_RUN_TABLE", ""), os.environ.get("ICF_RUN_PATTERN", "")
    if not table and not pattern:
        table, pattern = (str(store / settings.table) if settings.table else ""), settings.pattern
        pattern = str(store / pattern) if pattern else ""
    if table and pattern:
        raise InvalidSetting("[run]", "'table' cannot be combined with 'pattern'")
    return Path(table) if table else None, pattern


def _choose(args: argparse.Namespace, store: Path, settings: RunSettings) -> _Choice:
    table, pattern = inputs_from(args, store, settings)
    settle = settle_of(args, settings, SETTLE if pattern else 0)
    return _Choice(table, pattern, *extent(args, settings), settle)


def extent(args: argparse.Namespace, settings: RunSettings) -> tuple[int, str, str]:
    """The number of visits at a time, the last stage and the time zone."""
    from icf_utils.pipeline.run import count_processors

    until = args.until or os.environ.get("ICF_RUN_UNTIL") or settings.until
    if until not in STAGE_NAMES:
        raise InvalidSetting("until", f"unknown stage '{printable(until)}' (expected {', '.join(STAGE_NAMES)})")
    zone = args.timezone or os.environ.get("ICF_RUN_TIMEZONE") or settings.timezone
    return _jobs(args.jobs, settings.jobs) or count_processors(), until, zone


def _jobs(option: int | None, setting: int) -> int:
    text = os.environ.get("ICF_RUN_JOBS", "")
    if option is not None:
        return option
    if text and not text.isdecimal():
        raise InvalidSetting("ICF_RUN_JOBS", f"expected a number, found '{printable(text)}'")
    if setting < 0:
        raise InvalidSetting("[run] jobs", "must not be negative")
    return int(text) if text else setting


def _run_config(args: argparse.Namespace, store: Path, settings: Settings, choice: _Choice) -> RunConfig:
    from icf_utils.pipeline.model import RunConfig, StageOptions

    tags = Path(args.tags) if args.tags else None
    options = StageOptions(
        args.store_url,
        args.store_id,
        tags,
        choice.time_zone,
        args.strip_components,
        args.replace,
        choice.settle,
        refused_of(args, RUN_CHECKS),
    )
    return RunConfig(store, settings, options, choice.until, args.always_make, args.paranoid)


def _dry_run(args: argparse.Namespace, console: Console, visits: list[VisitInput], config: RunConfig) -> int:
    from icf_utils.pipeline.checks import preview_refusals, refusal_text, without_refused
    from icf_utils.pipeline.graph import plan_cells, write_graph
    from icf_utils.pipeline.plan import make_plan

    plans = make_plan(visits, config)
    refused = preview_refusals(plans, config, console)
    if args.graph:
        write_graph(Path(args.graph), plan_cells(plans), config.stage_names)
    todo = [plan for plan in without_refused(plans, refused) if plan.runs]
    lines = [f"{plan.visit_input.name} {item.stage}: {'; '.join(item.reasons)}" for plan in todo for item in plan.runs]
    stages = sum(len(plan.runs) for plan in todo)
    lines += refusal_lines(refused)
    lines.append(
        f"{format_count(len(plans), 'visit')}: {len(todo)} to do ({format_count(stages, 'stage')}), "
        f"{len(plans) - len(todo) - len(refused)} up to date{count_refused(refused)}"
    )
    problems = {plan.visit_input.name: refusal_text(error) for plan, error in refused}
    rows = [_plain_plan(plan, problems.get(plan.visit_input.name, "")) for plan in plans]
    console.result(args.command, {"dry_run": True, "visits": rows}, lines, ok=not refused)
    return preview_exit_code(refused)


def refusal_lines(refused: Refusals) -> list[str]:
    """For a dry run: the visits that the run would refuse, and why."""
    from icf_utils.pipeline.checks import refusal_text

    lines = []
    for plan, error in refused:
        what = "would wait" if isinstance(error, NotSettled) else "would fail"
        lines.append(f"{plan.visit_input.name}: {what}: {refusal_text(error)}")
    return lines


def count_refused(refused: Refusals) -> str:
    """For the summary of a dry run: how many visits the run would refuse."""
    waiting = sum(isinstance(error, NotSettled) for _, error in refused)
    counts = {"that would fail": len(refused) - waiting, "not settled": waiting}
    return "".join(f", {count} {word}" for word, count in counts.items() if count)


def preview_exit_code(refused: Refusals) -> int:
    """The exit code of a dry run: that of the run, as far as it is known."""
    if any(not isinstance(error, NotSettled) for _, error in refused):
        return 1
    return NotSettled.exit_code if refused else 0


def _plain_plan(plan: VisitPlan, problem: str) -> dict[str, object]:
    stages = [{"stage": item.stage, "runs": item.runs, "reasons": list(item.reasons)} for item in plan.decisions]
    return {"study": plan.visit_input.study, "visit": plan.visit_input.visit, "stages": stages, "problem": problem}


def _run(
    args: argparse.Namespace,
    console: Console,
    visits: list[VisitInput],
    config: RunConfig,
    jobs: int,
    processings: list[Processing],
) -> int:
    from icf_utils.pipeline.graph import outcome_cells, write_graph
    from icf_utils.pipeline.report import RunProcessings, write_report
    from icf_utils.pipeline.run import run_visits

    reporter = VisitReporter(console)
    head = _run_head(args)
    try:
        result = run_visits(
            visits, config, jobs=jobs, keep_going=not args.stop_on_error, progress=console, on_visit=reporter.report
        )
    except (KeyboardInterrupt, SystemExit):
        console.message(f"{format_count(reporter.number, 'visit')} finished; the next run continues from there")
        raise
    if args.report:
        write_report(Path(args.report), result, head)
    if args.graph:
        write_graph(Path(args.graph), outcome_cells(result), config.stage_names)
    console.notices(result.notices)
    done = _process(console, config, result, visits, jobs, processings)
    if args.report and done:  # so far, the report has the stages alone: processings take long, and may be interrupted
        write_report(Path(args.report), result, head, RunProcessings(_outcomes(done), to_json_value(done)))
    ok = not result.failed and not any(one.failed for one in done)
    lines = [*result_lines(result), *(line for one in done for line in _processing_lines(one))]
    value = {"run": to_json_value(result), "processings": to_json_value(done)} if processings else result
    console.result(args.command, value, lines, ok=ok)
    return 1 if any(one.failed for one in done) else exit_code(result)


def _run_head(args: argparse.Namespace) -> RunHead:
    """What the report says about the run. Reads the clock."""
    from icf_utils.pipeline.model import RunHead

    return RunHead(
        time.time(), str(Path(args.store_dir).absolute()), __version__, shlex.join(["icf-utils", *args.command_line])
    )


def exit_code(result: RunResult) -> int:
    """0 for success, 1 if a visit failed, and the code of :class:`NotSettled` if some only have to wait."""
    if len(result.unsettled) < len(result.failed):
        return 1
    return NotSettled.exit_code if result.unsettled else 0


def _process(
    console: Console,
    config: RunConfig,
    result: RunResult,
    visits: list[VisitInput],
    jobs: int,
    processings: list[Processing],
) -> list[ProcessRunResult]:
    """Run the processings on the visits none of whose stages has failed, one processing after the other."""
    if not processings:
        return []
    from icf_utils.cli.process import ProcessingReporter
    from icf_utils.processing.execute import ProcessConfig
    from icf_utils.processing.run import run_processing

    failed = {visit.name for visit in result.visits if visit.failed}
    ready = [visit for visit in visits if visit.name not in failed]
    return [
        run_processing(
            ready,
            ProcessConfig(config.root, processing),
            jobs=min(jobs, processing.workers),
            progress=console,
            on_visit=ProcessingReporter(console).report,
        )
        for processing in processings
    ]


#: How the report shows what a processing ended with.
_STATES: dict[ResultState, StageState] = {
    "success": "done",
    "partial": "done",
    "failed": "failed",
    "up to date": "up to date",
    "not reached": "not reached",
}


def _outcomes(done: Sequence[ProcessRunResult]) -> dict[str, list[StageOutcome]]:
    """What the processings did, by the name of the visit, as the report shows it."""
    from icf_utils.pipeline.model import StageFailure, StageOutcome

    found: dict[str, list[StageOutcome]] = {}
    for one in (visit for run in done for visit in run.visits):
        message = f"{one.message}; see '{printable(one.log)}'" if one.log else one.message
        is_partial = one.state == "partial"
        found.setdefault(one.name, []).append(
            StageOutcome(
                stage=one.processing,
                state=_STATES[one.state],
                reasons=one.reasons,
                seconds=one.seconds,
                size=one.size,
                notices=(Notice("processing-partial", one.processing, message),) if is_partial else (),
                failure=StageFailure(one.code, message, 1) if one.state == "failed" else None,
            )
        )
    return found


def _processing_lines(result: ProcessRunResult) -> list[str]:
    from icf_utils.cli.process import processing_lines

    *problems, summary = processing_lines(result.visits)
    return [*problems, f"{result.processing}: {summary}"]


class VisitReporter:
    """Prints a line for each visit that is finished, where no terminal shows a bar."""

    def __init__(self, console: Console) -> None:
        self._console, self.number = console, 0

    def report(self, outcome: VisitOutcome, number: int, total: int) -> None:
        self.number = number
        if not is_on_terminal():
            seconds = sum(stage.seconds for stage in outcome.stages)
            place = format_counter(number, total)
            self._console.message(f"{place} {outcome.name}: {summary(outcome)} in {seconds:.1f} s")


def summary(outcome: VisitOutcome) -> str:
    """The outcome of a visit in a few words."""
    if outcome.is_unsettled:
        return "not settled"
    if outcome.failed:
        return f"{outcome.failed.stage} failed"
    done = [stage.stage for stage in outcome.stages if stage.state == "done"]
    return ", ".join(done) or "up to date"


def result_lines(result: RunResult) -> list[str]:
    """The failures of a run by name, and a summary."""
    lines = []
    for visit in result.failed:
        assert visit.failed is not None
        assert visit.failed.failure is not None
        what = "not settled" if visit.is_unsettled else f"{visit.failed.stage} failed"
        lines.append(f"{visit.name}: {what}: {visit.failed.failure.message}")
    unsettled = len(result.unsettled)
    counts = {**result.counts, "failed": result.counts["failed"] - unsettled, "not settled": unsettled}
    texts = [f"{counts['done']} made", f"{counts['up to date']} up to date"]
    texts += [f"{counts[state]} {state}" for state in ("failed", "not settled", "not reached") if counts[state]]
    made = [stage for visit in result.visits for stage in visit.stages if stage.state == "done"]
    size = format_size(sum(stage.size for stage in made))
    work = f"; {format_count(len(made), 'stage')}, {size}" if made else ""
    return [*lines, f"{format_count(len(result.visits), 'visit')}: {', '.join(texts)}{work}"]
