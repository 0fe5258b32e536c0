"""``icf-utils sessions retry``."""

from __future__ import annotations

import argparse

from icf_utils.cli.console import Console
from icf_utils.cli.sessions_access import add_access, add_ids, do_to_each, sessions_of

NAME = "sessions retry"
HELP = "try failed sessions again"
DETAILS = """\
Use it once the cause of the failure is fixed, such as a store that was not
writable. The receiver repeats the stages that are not done; 'icf-utils sessions
--wait' waits for it."""
EXAMPLE = "icf-utils sessions retry s000017 --settings receiver.toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_ids(parser)
    add_access(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    return do_to_each(args, console, sessions_of(args).retry, "queued")
