"""``icf-utils sessions quarantine get``."""

from __future__ import annotations

import argparse
from pathlib import Path

from icf_utils.cli.console import Console
from icf_utils.cli.options import add_directory
from icf_utils.cli.sessions_access import add_access, add_ids, sessions_of
from icf_utils.errors import IcfError, printable
from icf_utils.formatting import format_size

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
    sessions, got, failures = sessions_of(args), [], []
    for session_id in dict.fromkeys(args.ids):
        try:
            got.append(sessions.download(session_id, "quarantine", Path(args.directory), console))
        except IcfError as error:  # noqa: PERF203 - one failure must not stop the others
            if len(args.ids) == 1:
                raise
            failures.append({"session": session_id, "message": str(error)})
    lines = [f"'{printable(item.path)}': {format_size(item.size)}, SHA-256 {item.sha256}" for item in got]
    lines += [f"{printable(item['session'])}: {item['message']}" for item in failures]
    console.result(args.command, {"downloads": got, "failed": failures}, lines, ok=not failures)
    return 1 if failures else 0
