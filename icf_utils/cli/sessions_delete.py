"""``icf-utils sessions delete``, and what it shares with ``retry``: doing something to each of several sessions."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from icf_utils.cli.access import add_access, sessions_of
from icf_utils.cli.console import Console, counted
from icf_utils.errors import IcfError, shown

HELP = "delete finished sessions with their images and logs"
DETAILS = """\
What is in the store stays there. One that cannot be deleted does not keep the
others; each is named, and the exit code is 1 then."""
EXAMPLE = "icf-utils sessions delete s000017 --settings receiver.toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="+", metavar="ID", help="sessions, such as s000017")
    add_access(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    return do_to_each(args, console, sessions_of(args).delete, "deleted")


def do_to_each(args: argparse.Namespace, console: Console, action: Callable[[str], None], done: str) -> int:
    """Do it to every session that was named, and say of each what became of it; ``done`` is the word for that."""
    ids = list(dict.fromkeys(args.ids))
    good, failures = [], []
    for session_id in ids:
        try:
            action(session_id)
            good.append(session_id)
        except IcfError as error:  # noqa: PERF203 - one must not keep the others
            if len(ids) == 1:
                raise
            failures.append({"session": session_id, "message": str(error)})
    lines = [f"{session_id}: {done}" for session_id in good]
    lines += [f"{shown(item['session'])}: {item['message']}" for item in failures]
    lines.append(f"{counted(len(good), 'session')} {done}" + (f", {len(failures)} not" if failures else ""))
    console.result(args.command, {done: good, "failed": failures}, lines, ok=not failures)
    return 1 if failures else 0
