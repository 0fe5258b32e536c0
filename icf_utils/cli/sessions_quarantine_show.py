"""``icf-utils sessions quarantine show``."""

from __future__ import annotations

import argparse
from datetime import datetime, timezone

from icf_utils.cli.console import Console
from icf_utils.cli.sessions_access import add_access, sessions_of
from icf_utils.errors import printable
from icf_utils.formatting import format_count, format_size, format_table

NAME = "sessions quarantine show"
HELP = "show what differs in the images in quarantine"
DETAILS = """\
For each image: when it was received, and the names of the elements that differ
from the image that the visit has. Values are not shown."""
EXAMPLE = "icf-utils sessions quarantine show s000017 --settings receiver.toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="session, such as s000017")
    add_access(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    found = sessions_of(args).quarantine(args.id)
    rows = [("image", "received", "size", "differs in")]
    for item in found:
        received = datetime.fromtimestamp(float(item["received"]), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        differs = ", ".join(map(str, item["differs"])) or "not known"
        rows.append((str(item["image"]), received, format_size(int(item["size"])), differs))
    lines = format_table([[printable(text) for text in row] for row in rows]) if found else []
    lines.append(f"{format_count(len(found), 'image')} in quarantine")
    console.result(args.command, {"session": args.id, "images": found}, lines)
    return 0
