"""``icf-utils sessions resend``."""

from __future__ import annotations

import argparse

from icf_utils.cli.console import Console
from icf_utils.cli.sessions_access import add_access, add_ids, do_to_each, sessions_of

NAME = "sessions resend"
HELP = "send files of sessions on again"
DETAILS = """\
Sends files of finished sessions again to the targets that their rule names in
[[rule.send]]: to all that were needed, or to those of --target. The receiver
does it; 'icf-utils sessions --json' and the session's page show the states."""
EXAMPLE = "icf-utils sessions resend s000017 --target pacs --settings receiver.toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_ids(parser)
    parser.add_argument(
        "--target",
        metavar="NAME",
        action="append",
        default=[],
        help="send to this one only; can be repeated (default: all that were needed)",
    )
    add_access(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    sessions = sessions_of(args)
    return do_to_each(args, console, lambda session: sessions.resend(session, args.target), "queued")
