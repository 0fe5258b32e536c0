"""``icf-utils sessions get``."""

from __future__ import annotations

import argparse

from icf_utils.cli.console import Console
from icf_utils.cli.options import add_directory
from icf_utils.cli.sessions_access import add_access, add_filter, add_ids, download_each, query_of, sessions_of
from icf_utils.errors import InvalidSetting

NAME = "sessions get"
HELP = "download the results of sessions, or the received images, as zips"
DETAILS = """\
A zip contains the visit's files in the store (archive, checksum, metadata,
dataset), or with --input the images as they were received. Its checksum is
verified; repeat the command after an interruption, and it continues. Name
sessions by ID, or select finished sessions with --sender, --study, ..."""
EXAMPLE = "icf-utils sessions get s000017 -d results --url http://127.0.0.1:8042"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_ids(parser, "*")
    add_directory(parser)
    parser.add_argument("--input", action="store_true", help="download the received images instead of the results")
    add_filter(parser, "success,partial")
    add_access(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    sessions = sessions_of(args)
    query = query_of(args)
    if bool(args.ids) == bool(query):
        raise InvalidSetting("command line", "name sessions by ID, or select them with --sender, --study, ...")
    ids = args.ids or [str(item["id"]) for item in sessions.list({"state": "success,partial", **query})]
    return download_each(args, console, sessions, ids, "input" if args.input else "output")
