"""``icf-utils sessions rerun``."""

from __future__ import annotations

import argparse

from icf_utils.cli.console import Console
from icf_utils.cli.sessions_access import add_access, add_ids, do_to_each, sessions_of

NAME = "sessions rerun"
HELP = "run the processings of sessions again"
DETAILS = """\
Queues finished sessions, also those that succeeded. Their processings run with
today's settings, whether needed or not; a new output replaces the old one.
Stages that are up to date are skipped."""
EXAMPLE = "icf-utils sessions rerun s000017 --processing dcm2niix --settings receiver.toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_ids(parser)
    parser.add_argument(
        "--processing",
        metavar="NAME",
        action="append",
        default=[],
        help="run this one only; can be repeated (default: all that the session's rule names)",
    )
    add_access(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    sessions = sessions_of(args)
    return do_to_each(args, console, lambda session: sessions.rerun(session, args.processing), "queued")
