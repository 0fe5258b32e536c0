"""What the commands about sessions share: where these are asked for, and doing something to each of several."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from icf_utils.cli.console import Console
from icf_utils.errors import IcfError, InvalidSetting, printable
from icf_utils.formatting import format_count

if TYPE_CHECKING:
    from icf_utils.receiver.client import Sessions

#: The environment's variables that stand for the options.
URL_VARIABLE, SETTINGS_VARIABLE = "ICF_SESSIONS_URL", "ICF_RECEIVER_SETTINGS"


def add_access(parser: argparse.ArgumentParser) -> None:
    """``--url``, ``--token-file`` and ``--settings``."""
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--url", metavar="URL", help=f"the receiver's pages (or ${URL_VARIABLE})")
    place.add_argument(
        "--settings", metavar="FILE", help=f"settings of a receiver on this machine (or ${SETTINGS_VARIABLE})"
    )
    parser.add_argument(
        "--token-file", metavar="FILE", help="with --url: the file of its token (default: $ICF_SESSIONS_TOKEN)"
    )


def add_sessions(parser: argparse.ArgumentParser) -> None:
    """The sessions to do something to, and where they are."""
    parser.add_argument("ids", nargs="+", metavar="ID", help="sessions, such as s000017")
    add_access(parser)


def sessions_of(args: argparse.Namespace) -> Sessions:
    """Where the options say. Raises :class:`~icf_utils.errors.InvalidSetting` where they say nothing."""
    from icf_utils.credentials import find_secret
    from icf_utils.receiver.client import HttpSessions, LocalSessions
    from icf_utils.receiver.settings import load_receiver_settings

    url = args.url or ("" if args.settings else os.environ.get(URL_VARIABLE, ""))
    settings = args.settings or os.environ.get(SETTINGS_VARIABLE, "")
    if url:
        if not url.startswith(("http://", "https://")):
            raise InvalidSetting("--url", "it begins with http:// or https://")
        token = find_secret("ICF_SESSIONS_TOKEN", Path(args.token_file) if args.token_file else None, "Token")
        if token is None:
            raise InvalidSetting("--token-file", "the token is missing: name its file, or set ICF_SESSIONS_TOKEN")
        return HttpSessions(url, token)
    if not settings:
        raise InvalidSetting("command line", "say where the sessions are: --url URL, or --settings FILE")
    found = load_receiver_settings(Path(settings))
    return LocalSessions(found.spool, found.store)


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
    lines += [f"{printable(item['session'])}: {item['message']}" for item in failures]
    lines.append(f"{format_count(len(good), 'session')} {done}" + (f", {len(failures)} not" if failures else ""))
    console.result(args.command, {done: good, "failed": failures}, lines, ok=not failures)
    return 1 if failures else 0
