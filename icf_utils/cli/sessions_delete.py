"""``icf-utils sessions delete``."""

from __future__ import annotations

import argparse

from icf_utils.cli.console import Console
from icf_utils.cli.sessions_access import add_access, add_ids, do_to_each, sessions_of

NAME = "sessions delete"
HELP = "delete finished sessions with their images and logs"
DETAILS = """\
Nothing is deleted from the store. If a session cannot be deleted, it is printed,
the others are deleted, and the exit code is 1."""
EXAMPLE = "icf-utils sessions delete s000017 --settings receiver.toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_ids(parser)
    add_access(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    return do_to_each(args, console, sessions_of(args).delete, "deleted")
