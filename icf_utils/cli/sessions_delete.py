"""``icf-utils sessions delete``."""

from __future__ import annotations

import argparse

from icf_utils.cli.access import add_access, sessions_of
from icf_utils.cli.console import Console, counted

HELP = "delete finished sessions with their images and logs"
DETAILS = "What is in the store stays there."
EXAMPLE = "icf-utils sessions delete s000017 --settings receiver.toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="+", metavar="ID", help="sessions, such as s000017")
    add_access(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    sessions = sessions_of(args)
    ids = list(dict.fromkeys(args.ids))
    for session_id in ids:
        sessions.delete(session_id)
    console.result(args.command, {"deleted": ids}, [f"{counted(len(ids), 'session')} deleted"])
    return 0
