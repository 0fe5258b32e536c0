"""What the ``sessions`` commands share: how they reach the sessions, and an action on each of several."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from icf_utils.cli.console import Console
from icf_utils.cli.options import add_tls, tls_of
from icf_utils.errors import IcfError, InvalidSetting, printable
from icf_utils.formatting import format_count, format_size

if TYPE_CHECKING:
    from icf_utils.receiver.client import Sessions

_Result = TypeVar("_Result")

#: Environment variables that give the options' values.
URL_VARIABLE, SETTINGS_VARIABLE, TOKEN_VARIABLE = "ICF_SESSIONS_URL", "ICF_RECEIVER_SETTINGS", "ICF_SESSIONS_TOKEN"

#: States of a session, in the order in which it passes through them. Those after the third change on request only.
STATES = ("receiving", "queued", "running", "held", "success", "partial", "failed")


def add_access(parser: argparse.ArgumentParser) -> None:
    """``--url``, ``--token-file`` and ``--settings``."""
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--url", metavar="URL", help=f"address of the receiver's pages (default: ${URL_VARIABLE})")
    place.add_argument(
        "--settings",
        metavar="FILE",
        help=f"settings file of a receiver on this machine (default: ${SETTINGS_VARIABLE})",
    )
    parser.add_argument(
        "--token-file", metavar="FILE", type=Path, help=f"with --url: file with the token (default: ${TOKEN_VARIABLE})"
    )
    add_tls(parser, "with --url: ")


def add_ids(parser: argparse.ArgumentParser, nargs: str = "+") -> None:
    """``ID`` operands: sessions."""
    parser.add_argument("ids", nargs=nargs, metavar="ID", help="session, such as s000017")


def add_filter(parser: argparse.ArgumentParser, state: str) -> None:
    """Options that select sessions by what is known of them; ``state`` is what happens without ``--state``."""
    parser.add_argument("--sender", metavar="AE", help="select sessions sent by this AE title")
    parser.add_argument("--called", metavar="AE", help="select sessions sent to this AE title")
    parser.add_argument("--study", metavar="STUDY", help="select sessions of this study")
    parser.add_argument("--visit", metavar="VISIT", help="select sessions of this visit")
    parser.add_argument(
        "--state",
        metavar="STATE[,STATE...]",
        help=f"select sessions in this state: {', '.join(STATES)} (default: {state})",
    )


def query_of(args: argparse.Namespace) -> dict[str, str]:
    """The selection that the options of :func:`add_filter` make."""
    given = {name: getattr(args, name) for name in ("sender", "called", "study", "visit", "state")}
    return {name: value for name, value in given.items() if value}


def sessions_of(args: argparse.Namespace) -> Sessions:
    """The sessions of the receiver that the options name. Raises :class:`~icf_utils.errors.InvalidSetting`."""
    from icf_utils.credentials import find_secret
    from icf_utils.receiver.client import HttpSessions, LocalSessions
    from icf_utils.receiver.settings import load_receiver_settings

    url = args.url or ("" if args.settings else os.environ.get(URL_VARIABLE, ""))
    settings = args.settings or os.environ.get(SETTINGS_VARIABLE, "")
    if url:
        if not url.startswith(("http://", "https://")):
            raise InvalidSetting("--url", f"expected http:// or https://, found '{printable(url)}'")
        token = find_secret(TOKEN_VARIABLE, args.token_file, "Token")
        if token is None:
            raise InvalidSetting("--token-file", f"no token: name its file, or set {TOKEN_VARIABLE}")
        return HttpSessions(url, token, tls_of(args))
    if not settings:
        raise InvalidSetting("command line", "name the receiver: --url URL or --settings FILE")
    found = load_receiver_settings(Path(settings))
    processings = {rule.name: rule.process for rule in found.rules}
    return LocalSessions(found.spool, found.store, processings, found.listen.reserve * 1_000_000)


def do_to_each(args: argparse.Namespace, console: Console, action: Callable[[str], None], done: str) -> int:
    """Apply ``action`` to every named session and report each; ``done`` is the participle for the report."""
    results, failures = try_each(args.ids, action)
    good = list(results)
    lines = [f"{session_id}: {done}" for session_id in good]
    lines += failure_lines(failures)
    lines.append(f"{format_count(len(good), 'session')} {done}" + (f", {len(failures)} failed" if failures else ""))
    console.result(args.command, {done: good, "failed": failures}, lines, ok=not failures)
    return 1 if failures else 0


def download_each(
    args: argparse.Namespace,
    console: Console,
    sessions: Sessions,
    ids: Iterable[str],
    kind: str,
) -> int:
    """Download one zip of every session into ``--directory`` and report each."""
    results, failures = try_each(ids, lambda one: sessions.download(one, kind, Path(args.directory), console))
    got = list(results.values())
    lines = [f"'{printable(item.path)}': {format_size(item.size)}, SHA-256 {item.sha256}" for item in got]
    lines = [*lines, *failure_lines(failures)] or ["no such session"]
    console.result(args.command, {"downloads": got, "failed": failures}, lines, ok=not failures)
    return 1 if failures else 0


def try_each(ids: Iterable[str], action: Callable[[str], _Result]) -> tuple[dict[str, _Result], list[dict[str, str]]]:
    """Apply ``action`` to every session: the results by session, and the failures. A single failure is raised."""
    results: dict[str, _Result] = {}
    failures = []
    wanted = list(dict.fromkeys(ids))
    for session_id in wanted:
        try:
            results[session_id] = action(session_id)
        except IcfError as error:  # noqa: PERF203 - one failure must not stop the others
            if len(wanted) == 1:
                raise
            failures.append({"session": session_id, "message": str(error)})
    return results, failures


def failure_lines(failures: Iterable[Mapping[str, str]]) -> list[str]:
    """The failures of :func:`try_each` for people."""
    return [f"{printable(item['session'])}: {item['message']}" for item in failures]
