"""``icf-utils sessions log``."""

from __future__ import annotations

import argparse

from icf_utils.cli.console import Console
from icf_utils.cli.sessions_access import add_access, sessions_of
from icf_utils.errors import printable

NAME = "sessions log"
HELP = "print the log of a session"
DETAILS = "Prints the messages of the receiver and of the stages about the session."
EXAMPLE = "icf-utils sessions log s000017 --settings receiver.toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="session, such as s000017")
    add_access(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    text = sessions_of(args).log(args.id).decode("utf-8", "replace")
    console.result(args.command, {"id": args.id, "log": text}, [printable(line) for line in text.splitlines()])
    return 0
