"""``icf-utils visit``: what changes a visit that is in the store."""

from __future__ import annotations

from collections.abc import Sequence

from icf_utils.cli import (
    visit_history,
    visit_merge,
    visit_refresh,
    visit_remove,
    visit_rename,
    visit_replace,
)
from icf_utils.cli.command import Command

NAME = "visit"
HELP = "change a visit that is in the store, or show its versions"
DETAILS = """\
Each command makes one change as a whole: after an interruption, the store has
the old state or the new one, and the next command for the study finishes what
was begun. All other commands never replace a file of a deposit."""
COMMANDS: Sequence[Command] = (
    visit_replace,
    visit_merge,
    visit_rename,
    visit_remove,
    visit_refresh,
    visit_history,
)
