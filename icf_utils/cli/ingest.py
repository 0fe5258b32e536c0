"""``icf-utils ingest``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from icf_utils.cli.console import Console
from icf_utils.cli.options import (
    add_allow,
    add_dry_run,
    add_exclude,
    add_jobs,
    add_levels,
    add_new,
    add_store,
    add_store_url,
    check_store,
    refused_of,
)
from icf_utils.cli.run import (
    SETTLE,
    VisitReporter,
    add_replace,
    add_settle,
    add_timezone,
    add_until,
    count_refused,
    exit_code,
    extent,
    preview_exit_code,
    refusal_lines,
    result_lines,
    settle_of,
)
from icf_utils.errors import InvalidSetting, printable
from icf_utils.formatting import format_count, format_size
from icf_utils.results import Notice, to_json_value
from icf_utils.settings import INPUT_CHECKS

if TYPE_CHECKING:
    from icf_utils.ingest.plan import IngestPlan, IngestVisit, NameTemplates
    from icf_utils.pipeline.model import RunConfig
    from icf_utils.sources.leave_out import LeftOut

NAME = "ingest"
HELP = "ingest many visits: a tree of folders, a table or unsorted files"
DETAILS = """\
Finds the visits below ROOT and takes each through the stages archive, metadata,
dataset and catalog. Nothing below ROOT is changed. Visits that are in the store
are skipped: repeat the command after an interruption, and it continues. Exits
with 1 if a visit failed or could not be named, and with 11 if all others were
taken but some are still growing (--settle)."""
EXAMPLE = "icf-utils ingest /export -o /data/store --study study-a --exclude exclude.json -j 4 --dry-run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", metavar="ROOT", help="folder that contains the visits")
    add_store(parser)
    parser.add_argument(
        "--study", metavar="TEMPLATE", help="study identifier; may contain fields, such as 'mri-{subject}'"
    )
    parser.add_argument(
        "--visit",
        metavar="TEMPLATE",
        help="visit identifier (default: '{subject}_{session}', with --heap '{study_key}')",
    )
    what = parser.add_mutually_exclusive_group()
    add_levels(what)
    what.add_argument("--table", metavar="FILE", help="CSV or TSV with the columns folder, study and visit")
    what.add_argument(
        "--heap",
        action="store_true",
        help="ROOT contains unsorted files of many visits: group them by StudyInstanceUID; fields are DICOM keywords",
    )
    parser.add_argument(
        "--allow-identifying",
        action="store_true",
        help="with --heap: allow fields that can identify a person, such as PatientID or StudyDate",
    )
    add_exclude(parser)
    add_jobs(parser, "visits")
    add_until(parser)
    add_timezone(parser)
    add_replace(parser)
    add_allow(parser, INPUT_CHECKS, "archive visits")
    add_settle(parser, "default: 'settle' in [run], or 5m")
    add_dry_run(parser, "print the plan; change nothing")
    add_store_url(parser)
    add_new(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.ingest.plan import refuse_root_in_store, refuse_skipped_images
    from icf_utils.pipeline.model import RunConfig, StageOptions
    from icf_utils.settings import load_settings
    from icf_utils.sources.leave_out import LeftOut

    store = Path(args.store_dir)
    refuse_root_in_store(Path(args.root), store)
    settings = load_settings(store)
    check_store(args, console, store)
    leave_out = LeftOut.of(settings.archive.leave_out)
    plan = _plan(args, console, store, leave_out)
    if "skipped-image" not in args.allow:
        plan = refuse_skipped_images(plan, Path(args.root), leave_out)
    jobs, until, zone = extent(args, settings.run)
    settle, refuse = settle_of(args, settings.run, SETTLE), refused_of(args, INPUT_CHECKS)
    options = StageOptions(
        args.store_url, args.store_id, time_zone=zone, settle=settle, refuse=refuse, replace_reason=args.replace
    )
    config = RunConfig(store, settings, options, until)
    if args.dry_run:
        return _dry_run(args, console, plan, config)
    return _ingest(args, console, plan, config, jobs)


def _plan(args: argparse.Namespace, console: Console, store: Path, leave_out: LeftOut) -> IngestPlan:
    from icf_utils.ingest.plan import plan_table, plan_tree, plan_unsorted
    from icf_utils.sources.tree import SCAN, Exclusions, parse_levels, read_exclusions

    root = Path(args.root)
    exclude = read_exclusions(args.exclude) if args.exclude else Exclusions()
    if args.allow_identifying and not args.heap:
        raise InvalidSetting("--allow-identifying", "needs --heap; names of folders are not checked")
    if args.table:
        if args.study or args.visit:
            raise InvalidSetting("--table", "cannot be combined with --study or --visit: the table names them")
        return plan_table(root, Path(args.table), store, exclude, leave_out)
    if args.heap:
        if exclude.patterns:
            raise InvalidSetting("--exclude", "cannot be combined with --heap, which has no folders of scans")
        return plan_unsorted(root, _names(args, None, "{study_key}"), args.allow_identifying, leave_out, console)
    levels = parse_levels(args.levels)
    named = [level for level in levels if level not in ("*", SCAN)]
    return plan_tree(root, _names(args, named, "{subject}_{session}"), levels, exclude, leave_out)


def _names(args: argparse.Namespace, fields: list[str] | None, visit: str) -> NameTemplates:
    """The templates. Without ``fields``, the words in braces are DICOM keywords, which are checked later."""
    from icf_utils.ingest.plan import NameTemplates
    from icf_utils.templates import parse_template

    if not args.study:
        raise InvalidSetting("--study", "name the study of the visits, such as --study study-a")
    texts = {"--study": args.study, "--visit": args.visit or visit}
    study, name = (parse_template(option, text, fields) for option, text in texts.items())
    return NameTemplates(study, name)


def _dry_run(args: argparse.Namespace, console: Console, plan: IngestPlan, config: RunConfig) -> int:
    from icf_utils.ingest.plan import preview_inputs
    from icf_utils.pipeline.checks import preview_refusals, refusal_text
    from icf_utils.pipeline.plan import make_plan

    with preview_inputs(plan.visits, config.root) as inputs:
        planned = make_plan(inputs, config)
        refused = preview_refusals(planned, config, console)
    problems = {found.visit_input.name: refusal_text(error) for found, error in refused}
    todo = {found.visit_input.name for found in planned if found.runs} - problems.keys()
    rows = [_row(item, item.name in todo, problems.get(item.name, "")) for item in plan.visits]
    lines = [_row_text(row) for row in rows if not row["problem"]]
    lines += refusal_lines(refused)
    current = len(rows) - len(todo) - len(refused)
    counts = f"{len(todo)} to do, {current} up to date{count_refused(refused)}"
    lines.append(f"{format_count(len(rows), 'visit')}: {counts}")
    _print_notices(console, plan)
    result = {"dry_run": True, "visits": rows, **_rest(plan)}
    console.result(args.command, result, [*_refused(plan), *lines], ok=not plan.refused and not refused)
    return 1 if plan.refused else preview_exit_code(refused)


def _row(item: IngestVisit, is_to_do: bool, problem: str) -> dict[str, object]:
    from icf_utils.sources.selection import list_files, select_files

    selection = item.selection
    if selection is None and item.folder.is_dir():
        selection = select_files(item.folder, list_files(os.fspath(item.folder)))
    files = len(selection.files) if selection else 1
    size = selection.size if selection else item.folder.stat().st_size
    row = {"study": item.study, "visit": item.visit, "folder": str(item.folder), "files": files, "size": size}
    state = "refused" if problem else "to do" if is_to_do else "up to date"
    return {**row, "excluded": list(item.excluded), "state": state, "problem": problem}


def _row_text(row: dict[str, object]) -> str:
    excluded = row["excluded"]
    assert isinstance(excluded, list)
    without = f", without {', '.join(map(printable, excluded))}" if excluded else ""
    size = format_size(int(str(row["size"])))
    return (
        f"{row['study']}/{row['visit']}: {row['state']}; '{printable(str(row['folder']))}', "
        f"{format_count(int(str(row['files'])), 'file')}, {size}{without}"
    )


def _ingest(args: argparse.Namespace, console: Console, plan: IngestPlan, config: RunConfig, jobs: int) -> int:
    from icf_utils.ingest.plan import write_input
    from icf_utils.pipeline.run import run_visits

    _print_notices(console, plan)
    visits = [write_input(item, config.root) for item in plan.visits]
    reporter = VisitReporter(console)
    try:
        result = run_visits(visits, config, jobs=jobs, progress=console, on_visit=reporter.report)
    except (KeyboardInterrupt, SystemExit):
        console.message(f"{format_count(reporter.number, 'visit')} finished; the same command continues from there")
        raise
    console.notices(result.notices)
    left_out = sum(len(item.excluded) for item in plan.visits)
    lines = [
        *_refused(plan),
        *result_lines(result),
        *([f"{format_count(left_out, 'scan')} excluded"] if left_out else []),
    ]
    ok = not result.failed and not plan.refused
    console.result(args.command, {"run": to_json_value(result), **_rest(plan)}, lines, ok=ok)
    return 1 if plan.refused else exit_code(result)


def _print_notices(console: Console, plan: IngestPlan) -> None:
    console.notices(plan.skipped, word="skipped")
    console.notices(_unmatched(plan))


def _unmatched(plan: IngestPlan) -> list[Notice]:
    return [Notice("unmatched-pattern", text, "matches no folder; check its spelling") for text in plan.unmatched]


def _rest(plan: IngestPlan) -> dict[str, object]:
    """Fields of the result that are not about a single visit."""
    refused = [{"subject": subject, "reason": reason} for subject, reason in plan.refused]
    excluded = {item.name: list(item.excluded) for item in plan.visits if item.excluded}
    notices = [*plan.skipped, *_unmatched(plan)]
    return {"refused": refused, "excluded": excluded, "skipped": to_json_value(notices)}


def _refused(plan: IngestPlan) -> list[str]:
    return [f"'{printable(subject)}': not ingested: {printable(reason)}" for subject, reason in plan.refused]
