"""``icf-utils verify``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icf_utils.cli.console import Console
from icf_utils.cli.options import add_store, add_store_url, add_strip, add_targets, targets_of
from icf_utils.durations import parse_duration
from icf_utils.errors import InvalidSetting, printable
from icf_utils.formatting import format_count
from icf_utils.results import name_visit

if TYPE_CHECKING:
    from icf_utils.verify.checks import Finding, VerifyResult, VisitCheck
    from icf_utils.verify.repair import Repair

NAME = "verify"
HELP = "re-read a store's files and check them against each other"
DETAILS = """\
Checks checksum and metadata against the archive, and dataset and catalog
against the metadata. Prints what is wrong with each file, and exits with 1 if
anything is. Changes nothing without --repair, which rebuilds damaged and
missing files from the archive, if any other file that is left proves it. It
never changes an archive, and it keeps the damaged files in
STORE/STUDY/.icf/damaged."""
EXAMPLE = "icf-utils verify -o /data/store --id study-a visit-01 --rebuild /scanner/export/0815"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_targets(parser, "all visits")
    add_store(parser)
    add_store_url(parser)
    parser.add_argument(
        "--rebuild", metavar="INPUT", help="also check that this input still gives the archive (of a single visit)"
    )
    parser.add_argument(
        "--timezone",
        metavar="ZONE",
        default="UTC",
        help="with --rebuild: time zone that the archive was made with (default: UTC)",
    )
    add_strip(parser)
    parser.add_argument(
        "--fetch", action="store_true", help="fetch archives of another store ([store] archives) whole, to check them"
    )
    parser.add_argument(
        "--signers",
        metavar="FILE",
        type=Path,
        help="require a signature of each visit by somebody whom this file names (ALLOWED SIGNERS in ssh-keygen(1))",
    )
    parser.add_argument("-j", "--jobs", metavar="N", type=int, default=1, help="verify N visits at a time (default: 1)")
    parser.add_argument(
        "--for",
        dest="duration",
        metavar="TIME",
        type=_duration,
        help="begin no further visit after this time, such as 2h; start with those verified longest ago; implies --log",
    )
    parser.add_argument(
        "--log",
        action="store_true",
        help="record when each visit was verified, for 'status --fixity' and --for; a visit that "
        "was found to be correct is only read while its bytes stay the same",
    )
    parser.add_argument(
        "--repair", action="store_true", help="rebuild from the archive what is damaged or missing, and say what"
    )
    parser.add_argument(
        "--accept-archive",
        action="store_true",
        help="with --repair: rely on an archive of which nothing is left that could prove it",
    )


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.fetch.authentication import Authenticator
    from icf_utils.store.existing import refuse_no_store
    from icf_utils.verify.elsewhere import ElsewhereOptions
    from icf_utils.verify.signatures import check_signers_file
    from icf_utils.verify.verify import VerifyResult, verify_store, verify_visit

    refuse_no_store(Path(args.store_dir))
    signers = None if args.signers is None else check_signers_file(args.signers)
    store = {"store_url": args.store_url, "store_id": args.store_id, "signers": signers}
    elsewhere = ElsewhereOptions(args.fetch, Authenticator())
    is_many = args.jobs != 1 or args.duration is not None or args.log
    if args.repair:
        return _repair(args, console, signers)
    if args.accept_archive:
        raise InvalidSetting("--accept-archive", "needs --repair")
    single = _single_visit(args)
    if args.rebuild and not single:
        raise InvalidSetting("--rebuild", "an input is one visit: name it with --id")
    if is_many:
        result = _verify_many(args, console, store)
    elif single:
        check = verify_visit(
            args.store_dir,
            *single,
            **store,
            rebuild=args.rebuild,
            time_zone=args.timezone,
            strip=args.strip_components,
            elsewhere=elsewhere,
            progress=console,
        )
        result = VerifyResult((check,))
    else:
        targets = targets_of(args)
        result = verify_store(args.store_dir, targets, **store, elsewhere=elsewhere, progress=console)
    console.notices(notice for check in result.visits for notice in name_visit(check.study, check.visit, check.notices))
    shown = [check for check in result.visits if check.findings or (check.visit and not args.quiet)]
    lines = [line for check in shown for line in _lines(check)] if result.visits else ["no visits"]
    if result.left and not args.quiet:
        lines.append(f"{format_count(result.left, 'visit')} left for the next time")
    console.result(args.command, result, lines, ok=not result.findings)
    return 1 if result.findings else 0


def _duration(text: str) -> int:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _verify_many(args: argparse.Namespace, console: Console, store: Mapping[str, Any]) -> VerifyResult:
    from icf_utils.verify.many_visits import ManyVisitsOptions, verify_many_visits

    if args.rebuild:
        raise InvalidSetting("--rebuild", "cannot be combined with --jobs, --for and --log")
    is_logged = args.log or args.duration is not None
    options = ManyVisitsOptions(
        jobs=args.jobs, seconds=args.duration, log=is_logged, fetch=args.fetch, may_ask=True, **store
    )
    return verify_many_visits(Path(args.store_dir), targets_of(args), options=options, progress=console)


def _single_visit(args: argparse.Namespace) -> list[str] | None:
    """Study and visit, if exactly one visit is named."""
    targets = targets_of(args)
    return targets[0].split("/", 1) if len(targets) == 1 and "/" in targets[0] else None


def _repair(args: argparse.Namespace, console: Console, signers: Path | None) -> int:
    from icf_utils.verify.repair import RepairResult, repair_store, repair_visit

    if args.rebuild:
        raise InvalidSetting("--repair", "cannot be combined with --rebuild; check the input afterwards")
    if args.fetch:
        raise InvalidSetting("--repair", "cannot be combined with --fetch")
    if args.jobs != 1 or args.duration is not None or args.log:
        raise InvalidSetting("--repair", "cannot be combined with --jobs, --for and --log")
    accept: bool = args.accept_archive
    store = {"store_url": args.store_url, "store_id": args.store_id, "signers": signers}
    if single := _single_visit(args):
        done = repair_visit(args.store_dir, *single, **store, accept_archive=accept, progress=console)
        result = RepairResult((done,))
    else:
        result = repair_store(args.store_dir, targets_of(args), **store, accept_archive=accept, progress=console)
    lines = []
    for visit in result.visits:
        name = f"{visit.study}/{visit.visit}" if visit.visit else visit.study
        lines += [f"{name}: repaired {_repaired(repair)}" for repair in visit.repairs]
        wanted = visit.visit and not args.quiet
        lines += _lines(visit.check) if visit.check.findings or wanted else []
    console.result(args.command, result, lines, ok=not result.findings)
    return 1 if result.findings else 0


def _repaired(repair: Repair) -> str:
    kept = f"; the damaged file is kept as '{printable(repair.kept)}'" if repair.kept else ""
    return f"'{printable(repair.path)}': {repair.action}{kept}"


def _lines(check: VisitCheck) -> list[str]:
    without = f"; not made yet: {', '.join(check.absent)}" if check.absent else ""
    state = format_count(len(check.findings), "problem") if check.findings else "everything is correct"
    if not check.visit:  # what the visits of a study share
        return [f"{check.study}: {state}", *(f"  {_text(finding)}" for finding in check.findings)]
    by = f"; signed by {check.signed_by}" if check.signed_by else ""
    summary = f"{check.study}/{check.visit}: {state} ({format_count(check.images, 'image')}{without}{by})"
    return [summary, *(f"  {_text(finding)}" for finding in check.findings)]


def _text(finding: Finding) -> str:
    subject = f" '{printable(finding.subject)}'" if finding.subject else ""
    return f"'{printable(finding.path)}':{subject} {finding.problem}"
