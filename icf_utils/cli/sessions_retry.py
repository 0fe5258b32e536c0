"""``icf-utils sessions retry``."""

from __future__ import annotations

import argparse

from icf_utils.cli.access import add_sessions, do_to_each, sessions_of
from icf_utils.cli.console import Console

HELP = "try failed sessions again"
DETAILS = """\
For those that failed for a reason that has passed, such as a store that was
not writable. Steps that are done are not done again. The receiver takes them
up; 'icf-utils sessions --wait' waits for it."""
EXAMPLE = "icf-utils sessions retry s000017 --settings receiver.toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_sessions(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    return do_to_each(args, console, sessions_of(args).retry, "queued")
