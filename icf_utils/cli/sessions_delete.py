"""``icf-utils sessions delete``."""

from __future__ import annotations

import argparse

from icf_utils.cli.access import add_sessions, do_to_each, sessions_of
from icf_utils.cli.console import Console

HELP = "delete finished sessions with their images and logs"
DETAILS = """\
What is in the store stays there. One that cannot be deleted does not keep the
others; each is named, and the exit code is 1 then."""
EXAMPLE = "icf-utils sessions delete s000017 --settings receiver.toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_sessions(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    return do_to_each(args, console, sessions_of(args).delete, "deleted")
