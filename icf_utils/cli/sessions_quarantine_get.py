"""``icf-utils sessions quarantine get``."""

from __future__ import annotations

import argparse

from icf_utils.cli.console import Console
from icf_utils.cli.options import add_directory
from icf_utils.cli.sessions_access import add_access, add_ids, download_each, sessions_of

NAME = "sessions quarantine get"
HELP = "download the images in quarantine as zips"
DETAILS = """\
Repeat the command after an interruption, and it continues."""
EXAMPLE = "icf-utils sessions quarantine get s000017 -d quarantine --settings receiver.toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_ids(parser)
    add_directory(parser)
    add_access(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    return download_each(args, console, sessions_of(args), args.ids, "quarantine")
