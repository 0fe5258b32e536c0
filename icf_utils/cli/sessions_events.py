"""``icf-utils sessions events``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from icf_utils.cli.console import Console
from icf_utils.cli.sessions_access import add_access, sessions_of
from icf_utils.errors import InvalidSetting, printable
from icf_utils.formatting import format_count, format_table

NAME = "sessions events"
HELP = "list the events that a receiver reports, and their deliveries"
DETAILS = """\
The targets of events are in the receiver's settings ([[event]]). Lists the last
deliveries, the newest event first. An event that waits is attempted again by the
receiver; one that failed has had its attempts, until --retry queues it again."""
EXAMPLE = "icf-utils sessions events --state failed --settings receiver.toml"

_STATES = ("waiting", "delivered", "failed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--state", choices=_STATES, help="list deliveries in this state only (default: all)")
    parser.add_argument("--retry", action="store_true", help="queue all failed deliveries again instead")
    add_access(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    sessions = sessions_of(args)
    if args.retry:
        if args.state:
            raise InvalidSetting("--retry", "cannot be combined with --state")
        amount = sessions.retry_events()
        console.result(args.command, {"queued": amount}, [f"{format_count(amount, 'event')} queued again"])
        return 0
    found = sessions.events(args.state or "")
    console.result(args.command, {"events": found}, _lines(found))
    return 0


def _lines(found: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [("time", "event", "session", "target", "state", "attempts", "id")]
    for item in found:
        moment = datetime.fromtimestamp(float(item["time"]), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        words = [str(item[name] or "-") for name in ("type", "session", "target", "state", "attempts", "id")]
        rows.append((moment, *words))  # type: ignore[arg-type]
    lines = format_table([[printable(text) for text in row] for row in rows]) if found else []
    lines += [f"{printable(str(item['id']))}: {printable(str(item['message']))}" for item in found if item["message"]]
    states = [str(item["state"]) for item in found]
    parts = [f"{states.count(state)} {state}" for state in _STATES if state in states]
    return [*lines, f"{format_count(len(found), 'event')}{': ' if parts else ''}{', '.join(parts)}"]
