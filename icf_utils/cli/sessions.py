"""``icf-utils sessions``: the list, and the group of what can be done with sessions."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Any

from icf_utils.cli import sessions_delete, sessions_get, sessions_log, sessions_retry, sessions_serve
from icf_utils.cli.access import add_access, sessions_of
from icf_utils.cli.console import Console
from icf_utils.errors import InvalidSetting, printable
from icf_utils.formatting import format_count, format_size, format_table
from icf_utils.waiting import poll

if TYPE_CHECKING:
    from icf_utils.receiver.client import Sessions

COMMANDS = (sessions_get, sessions_log, sessions_retry, sessions_delete, sessions_serve)
HELP = "list what the receiver has taken in, wait for it, and get the results"
DETAILS = """\
Without a command: lists sessions, the newest first. With --wait, first waits
until none of them is received or processed any more, and exits with 1 if any
did not succeed, or no receiver works on them. Asks a running receiver at
--url, or reads the folder that the receiver's settings name."""
EXAMPLE = "icf-utils sessions --url http://127.0.0.1:8042 --sender SCANNER1 --wait"

_ACTIVE = ("receiving", "queued", "running")
_PAUSE = 1.0

#: Seconds that a receiver may be away, to be started again.
_AWAY = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_access(parser)
    add_filter(parser)
    parser.add_argument("--wait", action="store_true", help="wait until these sessions are finished")
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=float, default=0.0, help="with --wait: not longer than this"
    )


def add_filter(parser: argparse.ArgumentParser) -> None:
    """Which sessions."""
    parser.add_argument("--sender", metavar="AE", help="only those from this AE title")
    parser.add_argument("--called", metavar="AE", help="only those sent to this AE title")
    parser.add_argument("--study", metavar="STUDY", help="only those of this study")
    parser.add_argument("--visit", metavar="VISIT", help="only those of this visit")
    parser.add_argument(
        "--state",
        metavar="STATE",
        help="only those in this state (or several, with commas): receiving, queued, running, success, failed, partial",
    )


def words_of(args: argparse.Namespace) -> dict[str, str]:
    """The query that the options make."""
    given = {name: getattr(args, name) for name in ("sender", "called", "study", "visit", "state")}
    return {name: value for name, value in given.items() if value}


def run(args: argparse.Namespace, console: Console) -> int:
    sessions = sessions_of(args)
    words = words_of(args)
    if args.timeout and not args.wait:
        raise InvalidSetting("--timeout", "this is for --wait")
    found = _wait(sessions, words, args.timeout, console) if args.wait else sessions.list(words)
    unfinished = [item for item in found if item["state"] in _ACTIVE]
    bad = [item for item in found if item["state"] != "success"]
    ok = not args.wait or not bad
    console.result(args.command, {"sessions": found}, _lines(found), ok=ok)
    if args.wait and unfinished:
        if sessions.is_served():
            why = f"after {args.timeout:g} s"
        else:
            why = "and no receiver is running to go on with them; start it: icf-utils receive SETTINGS"
        console.message(f"{format_count(len(unfinished), 'session')} not finished {why}")
    return 0 if ok else 1


def _wait(
    sessions: Sessions, words: Mapping[str, str], timeout: float, console: Console
) -> Sequence[Mapping[str, Any]]:
    """The sessions when none is under way any more; those of the beginning are followed whatever state they get."""
    first = sessions.list(words)
    ids = {item["id"] for item in first}
    plain = {name: text for name, text in words.items() if name != "state"}
    found = first
    with console.task("sessions", len(ids), "session") as task:
        done, seen = 0, 0.0
        for waited in poll(_PAUSE, _PAUSE, timeout=timeout or inf):
            if waited:
                found = [item for item in sessions.list(plain) if "state" not in words or item["id"] in ids]
            seen = waited if sessions.is_served() else seen
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
    states = [str(item["state"]) for item in found]
    parts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    return [*lines, f"{format_count(len(found), 'session')}{': ' if parts else ''}{', '.join(parts)}"]
