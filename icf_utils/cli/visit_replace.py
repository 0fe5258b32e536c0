"""``icf-utils visit replace``."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from icf_utils.cli.confirm import Confirmation, add_yes
from icf_utils.cli.console import Console
from icf_utils.cli.options import add_allow, add_dry_run, add_id, add_store, add_strip, refused_of
from icf_utils.cli.run import add_timezone
from icf_utils.errors import printable
from icf_utils.settings import REPLACE_CHECKS

if TYPE_CHECKING:
    from icf_utils.curation.replace import ReplaceResult

NAME = "visit replace"
HELP = "make an input the next version of a visit"
DETAILS = """\
Archives INPUT and puts it in the place of the visit's archive; metadata,
dataset, catalog and the list of visits follow in the same step. Existing clones
get the new version by 'datalad update --how merge'. Prints first what is added,
changed and removed, and asks; without a terminal, --yes is needed."""
EXAMPLE = "icf-utils visit replace -o /data/store --id study-a visit-01 /scanner/export/0815 --reason 'late images'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_store(parser)
    add_id(parser)
    parser.add_argument("input", metavar="INPUT", help="folder, zip or tar with all images of the visit")
    add_reason(parser)
    add_keep(parser)
    add_timezone(parser)
    add_strip(parser)
    add_allow(parser, REPLACE_CHECKS, "accept an input")
    add_dry_run(parser, "print the difference; change nothing")
    add_yes(parser)


def add_reason(parser: argparse.ArgumentParser) -> None:
    """``--reason`` and ``--date``."""
    parser.add_argument(
        "--reason",
        metavar="TEXT",
        required=True,
        help="why, in one line; readers of the dataset see it, so it must not name a person",
    )
    parser.add_argument(
        "--date", metavar="DATE", default="", help="date of the change for the history, as YYYY-MM-DD (default: none)"
    )


def add_keep(parser: argparse.ArgumentParser) -> None:
    """``--keep``."""
    parser.add_argument(
        "--keep", action="store_true", help="keep the old archive as VISIT_dicom.v<n>.tar (default: remove its bytes)"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.curation.replace import replace_visit
    from icf_utils.settings import load_settings

    settings = load_settings(Path(args.store_dir))
    confirmation = Confirmation(console, args.yes, args.dry_run)
    result = replace_visit(
        args.input,
        args.store_dir,
        *args.id,
        reason=args.reason,
        date=args.date,
        keep=args.keep,
        time_zone=args.timezone or settings.run.timezone,
        strip=args.strip_components,
        refuse=refused_of(args, REPLACE_CHECKS),
        accept=lambda difference: confirmation.ask(
            difference.lines(), "put the archive back" if difference.instead else "replace this visit"
        ),
        settings=settings,
        progress=console,
    )
    return print_replaced(args, console, result, confirmation)


def print_replaced(
    args: argparse.Namespace,
    console: Console,
    result: ReplaceResult,
    confirmation: Confirmation,
    unchanged: str = "is what the input gives; nothing was changed",
) -> int:
    """Print what became of a visit that was to get a next version; returns the exit code.

    ``unchanged`` says of the version in the store why it stays. Brings the page of all studies up to date before.
    """
    from icf_utils.catalog.index_page import renew_index
    from icf_utils.settings import load_settings

    if result.state != "declined":  # also for a version that was there: the command before may have been killed
        root = Path(args.store_dir)
        result = replace(result, notices=(*result.notices, *renew_index(root, load_settings(root))))
    console.notices(result.notices)
    ok = result.state != "declined" or args.dry_run
    console.result(args.command, result, _lines(result, confirmation, unchanged), ok=ok)
    return 0 if ok else 1


def _lines(result: ReplaceResult, confirmation: Confirmation, unchanged: str) -> list[str]:
    name = f"{result.study}/{result.visit}"
    if result.state == "unchanged":
        return [f"{name}: version {result.version} {unchanged}"]
    if result.state == "declined":
        return [*confirmation.not_shown, f"{name}: nothing was changed"]
    if result.state == "restored":
        return [*confirmation.not_shown, f"{name}: the archive of version {result.version} was put back"]
    kept = f"; the old archive is kept as '{printable(result.kept)}'" if result.kept else ""
    return [*confirmation.not_shown, f"{name}: replaced by version {result.version}{kept}"]
