"""``icf-utils sessions quarantine accept``."""

from __future__ import annotations

import argparse

from icf_utils.cli.console import Console
from icf_utils.cli.sessions_access import add_access, add_ids, failure_lines, sessions_of, try_each

NAME = "sessions quarantine accept"
HELP = "correct visits by their quarantined images"
DETAILS = """\
All images in a session's quarantine are accepted at once: the visit gets its
next version, with these images in place of the earlier ones. Of several contents
of an image, the last one received is accepted."""
EXAMPLE = "icf-utils sessions quarantine accept s000017 --settings receiver.toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_ids(parser)
    add_access(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    results, failures = try_each(args.ids, sessions_of(args).accept)
    accepted = [{"session": session_id, "new": new} for session_id, new in results.items()]
    lines = [f"{item['session']}: accepted; session {item['new']} corrects the visit" for item in accepted]
    lines += failure_lines(failures)
    console.result(args.command, {"accepted": accepted, "failed": failures}, lines, ok=not failures)
    return 1 if failures else 0
