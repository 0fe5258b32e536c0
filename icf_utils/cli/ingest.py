"""``icf-utils ingest``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from icf_utils.cli.console import Console
from icf_utils.cli.options import add_store, add_store_url
from icf_utils.cli.run import Teller, extent, number, result_lines, result_notices
from icf_utils.errors import InvalidSetting, printable
from icf_utils.formatting import format_count, format_size
from icf_utils.results import Notice, to_json_value
from icf_utils.settings import STAGE_NAMES

if TYPE_CHECKING:
    from icf_utils.ingest.plan import IngestPlan, NameTemplates, PlannedVisit
    from icf_utils.pipeline.model import RunConfig

HELP = "take in many visits at once: from a tree of folders, a table, or a heap of files"
DETAILS = """\
Finds the visits below ROOT and takes each through archive, metadata and dataset
to the catalog. Nothing below ROOT is changed. What is in the store already is
left alone, so the same command goes on after an interruption. Exits with 1 if
a visit failed or could not be named."""
EXAMPLE = "icf-utils ingest /export -o /data/store --study study-a --exclude exclude.json -j 4 --dry-run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", metavar="ROOT", help="the folder that the visits are in")
    add_store(parser)
    parser.add_argument("--study", metavar="TEMPLATE", help="study identifier; may have fields, as in 'mri-{subject}'")
    parser.add_argument(
        "--visit",
        metavar="TEMPLATE",
        help="visit identifier (default: '{subject}_{session}', with --heap '{study_key}')",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--levels",
        metavar="LEVELS",
        default="subject/session/scan",
        help="what the folders below ROOT stand for (default: subject/session/scan); '*' is a level without a name",
    )
    what.add_argument("--table", metavar="FILE", help="CSV or TSV with the columns folder, study and visit instead")
    what.add_argument(
        "--heap",
        action="store_true",
        help="ROOT holds files of many visits: tell them apart by StudyInstanceUID; fields are DICOM keywords",
    )
    parser.add_argument(
        "--allow-identifying",
        action="store_true",
        help="with --heap: fields may be keywords that can identify a person, such as PatientID or StudyDate",
    )
    parser.add_argument(
        "--exclude", metavar="FILE", help='leave out scans: {"Exclude": ["localizer", ...]}, parts of folder names'
    )
    _add_extent(parser)
    add_store_url(parser)


def _add_extent(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-j", "--jobs", metavar="N", type=number, help="visits at a time (default: one a processor)")
    parser.add_argument("--until", metavar="STAGE", choices=STAGE_NAMES, help="last stage")
    parser.add_argument("--timezone", metavar="ZONE", help="take study times as local times of this zone")
    parser.add_argument("-n", "--dry-run", action="store_true", help="print the plan; change nothing")


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.ingest.plan import refuse_root_in_store
    from icf_utils.pipeline.model import RunConfig, StageOptions
    from icf_utils.settings import load_settings

    store = Path(args.store_dir)
    refuse_root_in_store(Path(args.root), store)
    plan = _plan(args, console, store)
    settings = load_settings(store)
    jobs, until, zone = extent(args, settings.run)
    chain = RunConfig(store, settings, StageOptions(args.store_url, args.store_id, time_zone=zone), until)
    if args.dry_run:
        return _dry_run(args, console, plan, chain)
    return _ingest(args, console, plan, chain, jobs)


def _plan(args: argparse.Namespace, console: Console, store: Path) -> IngestPlan:
    from icf_utils.ingest.plan import plan_table, plan_tree, plan_unsorted
    from icf_utils.sources.tree import SCAN, Exclusions, parse_levels, read_exclusions

    root = Path(args.root)
    exclude = read_exclusions(Path(args.exclude)) if args.exclude else Exclusions()
    if args.allow_identifying and not args.heap:
        raise InvalidSetting("--allow-identifying", "this is for --heap: names of folders are taken as they are")
    if args.table:
        if args.study or args.visit:
            raise InvalidSetting("--table", "the table says study and visit; leave out --study and --visit")
        return plan_table(root, Path(args.table), store, exclude)
    if args.heap:
        if exclude.patterns:
            raise InvalidSetting("--exclude", "this is for folders of scans; a heap has none")
        return plan_unsorted(root, _names(args, None, "{study_key}"), args.allow_identifying, console)
    levels = parse_levels(args.levels)
    named = [level for level in levels if level not in ("*", SCAN)]
    return plan_tree(root, _names(args, named, "{subject}_{session}"), levels, exclude)


def _names(args: argparse.Namespace, fields: list[str] | None, visit: str) -> NameTemplates:
    """The templates; without ``fields``, the words in braces are DICOM keywords, which are checked later."""
    from icf_utils.ingest.plan import NameTemplates
    from icf_utils.templates import parse_template

    if not args.study:
        raise InvalidSetting("--study", "say which study the visits belong to, as in --study study-a")
    texts = {"--study": args.study, "--visit": args.visit or visit}
    study, name = (parse_template(option, text, fields) for option, text in texts.items())
    return NameTemplates(study, name)


def _dry_run(args: argparse.Namespace, console: Console, plan: IngestPlan, chain: RunConfig) -> int:
    from icf_utils.ingest.plan import is_list_current, preview_input
    from icf_utils.pipeline.plan import make_plan

    inputs = {item.name: preview_input(item, chain.root) for item in plan.visits}
    known = {found.visit_input.name: found for found in make_plan(list(inputs.values()), chain)}
    rows = []
    for item in plan.visits:
        changed = item.selection is not None and not is_list_current(item, chain.root)
        rows.append(_row(item, "to do" if changed or known[item.name].runs else "up to date"))
    todo = sum(row["state"] == "to do" for row in rows)
    lines = [_row_text(row) for row in rows]
    lines.append(f"{format_count(len(rows), 'visit')}: {todo} to do, {len(rows) - todo} up to date")
    _tell(console, plan)
    result = {"dry_run": True, "visits": rows, **_rest(plan)}
    console.result(args.command, result, [*_refused(plan), *lines], ok=not plan.refused)
    return 1 if plan.refused else 0


def _row(item: PlannedVisit, state: str) -> dict[str, object]:
    from icf_utils.sources.selection import list_files, select_files

    selection = item.selection
    if selection is None and item.folder.is_dir():
        selection = select_files(item.folder, list_files(os.fspath(item.folder)))
    files = len(selection.files) if selection else 1
    size = selection.size if selection else item.folder.stat().st_size
    row = {"study": item.study, "visit": item.visit, "folder": str(item.folder), "files": files, "size": size}
    return {**row, "excluded": list(item.excluded), "state": state}


def _row_text(row: dict[str, object]) -> str:
    excluded = row["excluded"]
    assert isinstance(excluded, list)
    without = f", without {', '.join(map(printable, excluded))}" if excluded else ""
    size = format_size(int(str(row["size"])))
    return (
        f"{row['study']}/{row['visit']}: {row['state']}; '{printable(str(row['folder']))}', "
        f"{format_count(int(str(row['files'])), 'file')}, {size}{without}"
    )


def _ingest(args: argparse.Namespace, console: Console, plan: IngestPlan, chain: RunConfig, jobs: int) -> int:
    from icf_utils.ingest.plan import write_input
    from icf_utils.pipeline.run import run_visits

    _tell(console, plan)
    visits = [write_input(item, chain.root) for item in plan.visits]
    teller = Teller(console)
    try:
        result = run_visits(visits, chain, jobs=jobs, progress=console, on_visit=teller.tell)
    except (KeyboardInterrupt, SystemExit):
        console.message(f"{format_count(teller.number, 'visit')} finished; the same command goes on from there")
        raise
    console.notices(result_notices(result))
    left_out = sum(len(item.excluded) for item in plan.visits)
    lines = [
        *_refused(plan),
        *result_lines(result),
        *([f"{format_count(left_out, 'scan')} excluded"] if left_out else []),
    ]
    ok = not result.failed and not plan.refused
    console.result(args.command, {"run": to_json_value(result), **_rest(plan)}, lines, ok=ok)
    return 0 if ok else 1


def _tell(console: Console, plan: IngestPlan) -> None:
    console.notices(plan.skipped, word="skipped")
    console.notices(_unmatched(plan))


def _unmatched(plan: IngestPlan) -> list[Notice]:
    return [Notice("unmatched-pattern", text, "excludes no folder; is it misspelt?") for text in plan.unmatched]


def _rest(plan: IngestPlan) -> dict[str, object]:
    """What is not about a visit, for scripts."""
    refused = [{"subject": subject, "reason": reason} for subject, reason in plan.refused]
    excluded = {item.name: list(item.excluded) for item in plan.visits if item.excluded}
    notices = [*plan.skipped, *_unmatched(plan)]
    return {"refused": refused, "excluded": excluded, "skipped": to_json_value(notices)}


def _refused(plan: IngestPlan) -> list[str]:
    return [f"'{printable(subject)}': not taken in: {printable(reason)}" for subject, reason in plan.refused]
