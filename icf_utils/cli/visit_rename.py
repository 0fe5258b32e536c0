"""``icf-utils visit rename``."""

from __future__ import annotations

import argparse

from icf_utils.cli.confirm import Confirmation, add_yes
from icf_utils.cli.console import Console
from icf_utils.cli.options import add_dry_run, add_id, add_store

NAME = "visit rename"
HELP = "give a visit another identifier, or put it into another study"
DETAILS = """\
Writes the archive as if it had been made under the new name; metadata, dataset
and catalog follow. The dataset keeps its history: in a clone, set the new
address and run 'datalad update --how merge'. The old name stays in the history
and in earlier commits; to get rid of it, remove the visit and archive it again."""
EXAMPLE = "icf-utils visit rename -o /data/store --id study-a visit-01 --to study-b visit-07"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_store(parser)
    add_id(parser)
    parser.add_argument("--to", nargs=2, metavar=("STUDY", "VISIT"), required=True, help="the new identifiers")
    parser.add_argument(
        "--reason", metavar="TEXT", default="", help="why, in one line; 'renamed from STUDY/VISIT' is added"
    )
    parser.add_argument("--date", metavar="DATE", default="", help="date for the history, as YYYY-MM-DD")
    add_dry_run(parser, "print what would change; change nothing")
    add_yes(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.curation.rename import rename_visit

    old, new = "/".join(args.id), "/".join(args.to)
    confirmation = Confirmation(console, args.yes, args.dry_run)
    result = rename_visit(
        args.store_dir,
        *args.id,
        *args.to,
        reason=args.reason,
        date=args.date,
        accept=lambda lines: confirmation.ask(lines, "rename this visit"),
        progress=console,
    )
    console.notices(result.notices)
    done = {
        "renamed": f"{old}: is now {new}, version {result.version}",
        "unchanged": f"{old}: was renamed before; {new} is version {result.version} of it",
        "declined": f"{old}: nothing was changed",
    }
    ok = result.state != "declined" or args.dry_run
    console.result(args.command, result, [*confirmation.not_shown, done[result.state]], ok=ok)
    return 0 if ok else 1
