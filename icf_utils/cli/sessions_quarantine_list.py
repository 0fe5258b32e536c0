"""``icf-utils sessions quarantine list``."""

from __future__ import annotations

import argparse

from icf_utils.cli.console import Console
from icf_utils.cli.sessions_access import add_access, add_filter, query_of, sessions_of
from icf_utils.errors import printable
from icf_utils.formatting import format_count, format_table

NAME = "sessions quarantine list"
HELP = "list the sessions with images in quarantine"
DETAILS = """\
Images are quarantined if they were sent again with different content."""
EXAMPLE = "icf-utils sessions quarantine list --settings receiver.toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_filter(parser, "all")
    add_access(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    found = [item for item in sessions_of(args).list(query_of(args)) if item["quarantined"]]
    rows = [("session", "state", "visit", "sender", "quarantined")]
    rows += [
        (
            item["id"],
            item["state"],
            f"{item['study']}/{item['visit']}",
            item["AETitleCaller"] or "-",
            item["quarantined"],
        )
        for item in found
    ]
    lines = format_table([[printable(str(text)) for text in row] for row in rows]) if found else []
    lines.append(f"{format_count(len(found), 'session')} with images in quarantine")
    console.result(args.command, {"sessions": found}, lines)
    return 0
