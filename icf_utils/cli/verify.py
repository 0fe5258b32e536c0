"""``icf-utils verify``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from icf_utils.cli.console import Console
from icf_utils.cli.options import add_id, add_store, add_store_url, add_strip
from icf_utils.errors import InvalidSetting, printable
from icf_utils.formatting import format_count

if TYPE_CHECKING:
    from icf_utils.verify.checks import Finding, VisitCheck
    from icf_utils.verify.repair import Repair

HELP = "check again, from the bytes, every promise between a store's files"
DETAILS = """\
Checks checksum and metadata against the archive, and dataset and catalog
against the metadata. Prints what is wrong per file and exits with 1 if
anything is. Without --id, all visits are checked. Changes nothing, unless
--repair is given: then what is wrong is built again from the archive, which
itself is never touched; damaged files are kept in STORE/STUDY/.icf/damaged."""
EXAMPLE = "icf-utils verify -o /data/store --id study-a visit-01 --rebuild /scanner/export/0815"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_store(parser)
    add_id(parser, required=False)
    add_store_url(parser)
    parser.add_argument(
        "--rebuild", metavar="INPUT", help="check too that this input still gives the archive (with --id)"
    )
    parser.add_argument(
        "--timezone", metavar="ZONE", default="UTC", help="with --rebuild: the zone that the archive was made with"
    )
    add_strip(parser)
    parser.add_argument(
        "--repair", action="store_true", help="build again from the archive what is wrong beside it, and say what"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.verify.verify import VerifyResult, verify_store, verify_visit

    store = {"store_url": args.store_url, "store_id": args.store_id}
    if args.repair:
        return _repair(args, console)
    if args.id:
        check = verify_visit(
            args.store_dir,
            *args.id,
            **store,
            rebuild=args.rebuild,
            time_zone=args.timezone,
            strip=args.strip_components,
            progress=console,
        )
        result = VerifyResult((check,))
    elif args.rebuild:
        raise InvalidSetting("--rebuild", "this needs --id: an input is one visit")
    else:
        result = verify_store(args.store_dir, **store, progress=console)
    lines = [line for check in result.visits if check.findings or not args.quiet for line in _lines(check)]
    console.result(args.command, result, lines, ok=not result.findings)
    return 1 if result.findings else 0


def _repair(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.verify.repair import RepairResult, repair_store, repair_visit

    if args.rebuild:
        raise InvalidSetting("--repair", "what is repaired comes from the archive; use --rebuild afterwards")
    url, name = args.store_url, args.store_id
    if args.id:
        done = repair_visit(args.store_dir, *args.id, store_url=url, store_id=name, progress=console)
        result = RepairResult((done,))
    else:
        result = repair_store(args.store_dir, store_url=url, store_id=name, progress=console)
    lines = []
    for visit in result.visits:
        lines += [f"{visit.study}/{visit.visit}: repaired {_repaired(repair)}" for repair in visit.repairs]
        lines += _lines(visit.check) if visit.check.findings or not args.quiet else []
    console.result(args.command, result, lines, ok=not result.findings)
    return 1 if result.findings else 0


def _repaired(repair: Repair) -> str:
    kept = f"; the damaged one is kept as '{printable(repair.kept)}'" if repair.kept else ""
    return f"'{printable(repair.path)}': {repair.action}{kept}"


def _lines(check: VisitCheck) -> list[str]:
    without = f"; not made yet: {', '.join(check.absent)}" if check.absent else ""
    state = format_count(len(check.findings), "problem") if check.findings else "everything is as it should be"
    summary = f"{check.study}/{check.visit}: {state} ({format_count(check.images, 'image')}{without})"
    return [summary, *(f"  {_text(finding)}" for finding in check.findings)]


def _text(finding: Finding) -> str:
    subject = f" '{printable(finding.subject)}'" if finding.subject else ""
    return f"'{printable(finding.path)}':{subject} {finding.problem}"
