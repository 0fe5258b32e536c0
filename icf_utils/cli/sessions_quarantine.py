"""``icf-utils sessions quarantine``: the group of commands about images that were sent again with different content."""

from __future__ import annotations

from collections.abc import Sequence

from icf_utils.cli import (
    sessions_quarantine_accept,
    sessions_quarantine_drop,
    sessions_quarantine_get,
    sessions_quarantine_list,
    sessions_quarantine_show,
)
from icf_utils.cli.command import Command

NAME = "sessions quarantine"
COMMANDS: Sequence[Command] = (
    sessions_quarantine_list,
    sessions_quarantine_show,
    sessions_quarantine_get,
    sessions_quarantine_accept,
    sessions_quarantine_drop,
)
HELP = "images that were sent again with different content: list, show, accept, drop"
DETAILS = """\
An image that is sent again with different content is kept in the quarantine of
its session. Accepting the images of a session makes the visit's next version;
dropping deletes them."""
EXAMPLE = "icf-utils sessions quarantine list --settings receiver.toml"
