"""``icf-utils visit remove``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from icf_utils.cli.confirm import Confirmation, add_yes
from icf_utils.cli.console import Console
from icf_utils.cli.options import add_dry_run, add_id, add_store
from icf_utils.errors import printable
from icf_utils.formatting import format_count

if TYPE_CHECKING:
    from icf_utils.curation.remove import RemoveResult

_NAMED_AT_MOST = 10

NAME = "visit remove"
HELP = "remove a visit with all its traces"
DETAILS = """\
Removes the visit's files, its earlier versions, its pages and previews in the
catalog, its line in the list of visits, and what icf-utils has recorded of it.
Then searches the store for its identifier, UIDs and MD5s, prints each file that
still has one, and exits with 1 if there is any. Prints where else the visit may
be. With --receiver, the receiver's sessions of the visit are deleted as well."""
EXAMPLE = "icf-utils visit remove -o /data/store --id study-a visit-01 --reason withdrawn --tombstone"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_store(parser)
    add_id(parser)
    parser.add_argument(
        "--reason", metavar="TEXT", default="", help="why, for the tombstone; it must not name a person"
    )
    parser.add_argument(
        "--tombstone",
        action="store_true",
        help="leave VISIT_removed.json, by which the visit is not archived again",
    )
    parser.add_argument("--date", metavar="DATE", default="", help="date for the tombstone, as YYYY-MM-DD")
    parser.add_argument(
        "--receiver",
        metavar="SETTINGS",
        type=Path,
        help="also delete the sessions of the visit from the receiver with these settings",
    )
    add_dry_run(parser, "print what would be removed; change nothing")
    add_yes(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.curation.remove import remove_visit

    confirmation = Confirmation(console, args.yes, args.dry_run)
    result = remove_visit(
        args.store_dir,
        *args.id,
        reason=args.reason,
        date=args.date,
        tombstone=args.tombstone,
        missing_ok=args.receiver is not None,
        accept=lambda lines: confirmation.ask(lines, "remove this visit for good"),
        progress=console,
    )
    sessions = _forget_sessions(args) if args.receiver and result.removed else []
    ok = not result.traces if result.removed else args.dry_run
    lines = _lines(result, confirmation)
    if sessions:
        lines.append(f"removed {format_count(len(sessions), 'session')} of the receiver: {', '.join(sessions)}")
    console.result(args.command, {"visit": result, "sessions": sessions}, lines, ok=ok)
    return 0 if ok else 1


def _forget_sessions(args: argparse.Namespace) -> list[str]:
    """Remove what the receiver has of the visit; returns the ids of its sessions."""
    from icf_utils.receiver.journal import Journal
    from icf_utils.receiver.settings import load_receiver_settings

    with closing(Journal(load_receiver_settings(args.receiver).spool)) as journal:
        return journal.forget_visit(*args.id)


def _lines(result: RemoveResult, confirmation: Confirmation) -> list[str]:
    name = f"{result.study}/{result.visit}"
    if not result.removed:
        return [*confirmation.not_shown, f"{name}: nothing was removed"]
    pages = f", {format_count(result.pages, 'file')} of the catalog" if result.pages else ""
    records = f", {format_count(result.work_files, 'record')}" if result.work_files else ""
    lines = [f"{name}: removed {format_count(result.files, 'file')}{pages}{records}"]
    if not (result.files or pages or records):
        lines = [f"{name}: the store has no files of it"]
    lines += [f"{name} {successor}; to remove its images, remove that visit as well" for successor in result.successors]
    if result.tombstone:
        lines.append(f"its tombstone is '{printable(result.tombstone)}'")
    if result.traces:
        lines.append("these files of the store still have something of it:")
        lines += [f"  '{printable(trace.path)}': {trace.what}" for trace in result.traces]
    else:
        lines.append("a search of the store for its identifier, UIDs and MD5s found nothing")
    if result.shared:
        files = format_count(result.shared, "file")
        lines.append(
            f"other visits have images of it: {_named(result.shared_with)} (UIDs or MD5s are in {files} of theirs)"
        )
    return [*lines, "it may also be in:", *(f"  {place}" for place in result.elsewhere)]


def _named(visits: Sequence[str]) -> str:
    more = f" and {len(visits) - _NAMED_AT_MOST} more" if len(visits) > _NAMED_AT_MOST else ""
    return ", ".join(visits[:_NAMED_AT_MOST]) + more
