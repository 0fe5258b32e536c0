"""``icf-utils sessions get``."""

from __future__ import annotations

import argparse
from pathlib import Path

from icf_utils.cli.access import add_access, sessions_of
from icf_utils.cli.console import Console
from icf_utils.errors import IcfError, InvalidSetting, printable
from icf_utils.formatting import format_size

HELP = "download the results of sessions, or what came in, as zips"
DETAILS = """\
A zip holds the visit's files of the store (archive, checksum, metadata,
dataset), or with --input the images as they came. Its checksum is compared;
an interrupted download goes on where it stopped. Instead of ids, --sender or
--study names all finished sessions from there."""
EXAMPLE = "icf-utils sessions get s000017 -o results --url http://127.0.0.1:8042"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="*", metavar="ID", help="sessions, such as s000017")
    parser.add_argument("-o", "--output-dir", metavar="DIR", default=".", help="where to (default: here)")
    parser.add_argument("--input", action="store_true", help="the images as they came, not the results")
    parser.add_argument("--sender", metavar="AE", help="all successful (and partial) sessions from this AE title")
    parser.add_argument("--study", metavar="STUDY", help="all successful (and partial) sessions of this study")
    add_access(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    sessions = sessions_of(args)
    words = {name: value for name, value in (("sender", args.sender), ("study", args.study)) if value}
    if bool(args.ids) == bool(words):
        raise InvalidSetting("command line", "name sessions by their ids, or by --sender or --study")
    ids = args.ids or [str(item["id"]) for item in sessions.list({**words, "state": "success,partial"})]
    kind, folder = "input" if args.input else "output", Path(args.output_dir)
    got, failures = [], []
    for session_id in dict.fromkeys(ids):
        try:
            got.append(sessions.download(session_id, kind, folder, console))
        except IcfError as error:  # noqa: PERF203 - one must not keep the others from coming
            if len(ids) == 1:
                raise
            failures.append({"session": session_id, "message": str(error)})
    lines = [f"'{printable(item.path)}': {format_size(item.size)}, SHA-256 {item.sha256}" for item in got]
    lines += [f"{printable(item['session'])}: {item['message']}" for item in failures]
    lines = lines or ["there is no such session"]
    console.result(args.command, {"downloads": got, "failed": failures}, lines, ok=not failures)
    return 1 if failures else 0
