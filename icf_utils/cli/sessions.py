"""``icf-utils sessions``: the list of sessions, and the group of commands for them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from math import inf
from typing import TYPE_CHECKING, Any

from icf_utils.cli import (
    sessions_delete,
    sessions_events,
    sessions_get,
    sessions_log,
    sessions_quarantine,
    sessions_release,
    sessions_rerun,
    sessions_resend,
    sessions_retry,
    sessions_serve,
)
from icf_utils.cli.command import Command, Group
from icf_utils.cli.console import Console
from icf_utils.cli.options import seconds
from icf_utils.cli.sessions_access import STATES, add_access, add_filter, query_of, sessions_of
from icf_utils.errors import InvalidSetting, printable
from icf_utils.formatting import format_count, format_size, format_table
from icf_utils.waiting import poll

if TYPE_CHECKING:
    from icf_utils.receiver.client import Sessions

NAME = "sessions"
COMMANDS: Sequence[Command | Group] = (
    sessions_get,
    sessions_log,
    sessions_retry,
    sessions_rerun,
    sessions_resend,
    sessions_quarantine,
    sessions_events,
    sessions_release,
    sessions_delete,
    sessions_serve,
)
HELP = "list the receiver's sessions, wait for them, download results"
DETAILS = """\
Without a command: lists sessions, the newest first. With --wait, first waits
until all of them are finished, and exits with 1 if any did not succeed or is
held, or no receiver is working on them. Asks a running receiver at --url, or reads the spool
that the receiver's settings name."""
EXAMPLE = "icf-utils sessions --url http://127.0.0.1:8042 --sender SCANNER1 --wait"

_ACTIVE = STATES[:3]
_PAUSE = 1.0

#: Seconds without a receiver, while it is restarted, after which waiting ends.
_AWAY = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_access(parser)
    add_filter(parser, "all")
    parser.add_argument("--rejected", action="store_true", help="list the last rejected associations instead")
    parser.add_argument("--wait", action="store_true", help="wait until the selected sessions are finished")
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=seconds,
        default=0.0,
        help="with --wait: longest time to wait (default: no limit)",
    )


def run(args: argparse.Namespace, console: Console) -> int:
    sessions = sessions_of(args)
    query = query_of(args)
    if args.rejected:
        if query or args.wait:
            raise InvalidSetting("--rejected", "cannot be combined with a selection or --wait")
        rejected = sessions.rejected()
        console.result(args.command, {"rejected": rejected}, _rejected_lines(rejected))
        return 0
    if args.timeout and not args.wait:
        raise InvalidSetting("--timeout", "needs --wait")
    found = _wait(sessions, query, args.timeout, console) if args.wait else sessions.list(query)
    unfinished = [item for item in found if item["state"] in _ACTIVE]
    bad = [item for item in found if item["state"] != "success"]
    ok = not args.wait or not bad
    console.result(args.command, {"sessions": found}, _lines(found), ok=ok)
    if problem := sessions.space_problem():
        console.warning(f"the receiver refuses images: {problem}")
    if args.wait and unfinished:
        if sessions.is_served():
            why = f"after {args.timeout:g} s"
        else:
            why = "and no receiver is running; start it with: icf-utils receive SETTINGS"
        console.message(f"{format_count(len(unfinished), 'session')} not finished {why}")
    return 0 if ok else 1


def _wait(
    sessions: Sessions, query: Mapping[str, str], timeout: float, console: Console
) -> Sequence[Mapping[str, Any]]:
    """The sessions when all are finished. Sessions selected at first stay selected whatever state they reach."""
    first = sessions.list(query)
    ids = {item["id"] for item in first}
    of_any_state = {name: text for name, text in query.items() if name != "state"}
    found = first
    with console.task("sessions", len(ids), "session") as task:
        done, seen, problem = 0, 0.0, ""
        for waited in poll(_PAUSE, _PAUSE, timeout=timeout or inf):
            if waited:
                found = [item for item in sessions.list(of_any_state) if "state" not in query or item["id"] in ids]
            seen = waited if sessions.is_served() else seen
            before, problem = problem, sessions.space_problem()
            if problem and problem != before:
                console.warning(f"the receiver refuses images: {problem}")
            finished = sum(item["state"] not in _ACTIVE for item in found)
            task.advance(max(0, finished - done))
            done = max(done, finished)
            if finished == len(found) or waited - seen > _AWAY:
                break
    return found


def _lines(found: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [("session", "state", "visit", "sender", "images", "size", "seconds")]
    rows += [
        (
            str(item["id"]),
            str(item["state"]),
            f"{item['study']}/{item['visit']}",
            str(item["AETitleCaller"]) or "-",
            str(item["images"]),
            format_size(int(item["size"])),
            str(item.get("processingTime", "-")),
        )
        for item in found
    ]
    lines = format_table([[printable(text) for text in row] for row in rows]) if found else []
    for item in found:
        if item["failure"]:
            failure = " ".join(map(printable, str(item["failure"]).split()))
            lines.append(f"{item['id']}: {failure}")
        if item["state"] in ("partial", "failed", "held"):
            lines += [f"{item['id']}: {printable(str(note))}" for note in item["notes"]]
    states = [str(item["state"]) for item in found]
    parts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    return [*lines, f"{format_count(len(found), 'session')}{': ' if parts else ''}{', '.join(parts)}"]


def _rejected_lines(found: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [("time", "address", "calling AE", "called AE", "reason")]
    for item in found:
        moment = datetime.fromtimestamp(float(item["time"]), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        titles = (str(item["AETitleCaller"]) or "-", str(item["AETitleCalled"]) or "-")
        rows.append((moment, str(item["address"]), *titles, str(item["reason"])))
    lines = format_table([[printable(text) for text in row] for row in rows]) if found else []
    return [*lines, format_count(len(found), "rejected association")]
