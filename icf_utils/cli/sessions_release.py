"""``icf-utils sessions release``."""

from __future__ import annotations

import argparse

from icf_utils.cli.console import Console
from icf_utils.cli.sessions_access import add_access, add_ids, do_to_each, sessions_of

NAME = "sessions release"
HELP = "add held images to their visits"
DETAILS = """\
With 'late = "hold"' in a receiver's rule, images that arrive after their visit
was archived are held. Releasing a session makes them part of the visit's next
version. 'icf-utils sessions delete' deletes them instead."""
EXAMPLE = "icf-utils sessions release s000017 --settings receiver.toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_ids(parser)
    add_access(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    return do_to_each(args, console, sessions_of(args).release, "queued")
