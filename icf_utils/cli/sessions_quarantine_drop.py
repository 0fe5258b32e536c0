"""``icf-utils sessions quarantine drop``."""

from __future__ import annotations

import argparse

from icf_utils.cli.console import Console
from icf_utils.cli.sessions_access import add_access, add_ids, do_to_each, sessions_of

NAME = "sessions quarantine drop"
HELP = "delete the images in quarantine"
DETAILS = """\
The visit keeps the images that it has."""
EXAMPLE = "icf-utils sessions quarantine drop s000017 --settings receiver.toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_ids(parser)
    add_access(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    return do_to_each(args, console, sessions_of(args).drop, "dropped")
