"""``icf-utils visit merge``."""

from __future__ import annotations

import argparse

from icf_utils.cli.confirm import Confirmation, add_yes
from icf_utils.cli.console import Console
from icf_utils.cli.options import add_allow, add_dry_run, add_id, add_store, refused_of
from icf_utils.cli.visit_replace import add_keep, print_replaced
from icf_utils.settings import MERGE_CHECKS

NAME = "visit merge"
HELP = "make one visit of two"
DETAILS = """\
Puts the images of the visit VISIT2 into the visit, whose next version this is,
and removes VISIT2: for images that arrived late and became a visit of their own,
such as a receiver's revisions. A file that both have counts once; two files of
one name with different content are refused."""
EXAMPLE = "icf-utils visit merge -o /data/store --id study-a visit-01 --from visit-01_2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_store(parser)
    add_id(parser)
    parser.add_argument(
        "--from",
        dest="other",
        metavar="VISIT2",
        required=True,
        help="visit of the same study, which is then removed",
    )
    parser.add_argument("--reason", metavar="TEXT", default="", help="why; 'merged with VISIT2' is added")
    parser.add_argument("--date", metavar="DATE", default="", help="date for the history, as YYYY-MM-DD")
    add_keep(parser)
    add_allow(parser, MERGE_CHECKS, "merge visits")
    add_dry_run(parser, "print the difference; change nothing")
    add_yes(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.curation.merge import merge_visits

    confirmation = Confirmation(console, args.yes, args.dry_run)
    result = merge_visits(
        args.store_dir,
        args.id[0],
        args.id[1],
        args.other,
        reason=args.reason,
        date=args.date,
        keep=args.keep,
        refuse=refused_of(args, MERGE_CHECKS),
        accept=lambda difference: confirmation.ask(difference.lines(), f"merge, and remove {args.other}"),
        progress=console,
    )
    again = f"; {args.other} was removed again" if result.difference else ""
    has_it = f"has {args.other} already; they were merged before{again}"
    return print_replaced(args, console, result, confirmation, has_it)
