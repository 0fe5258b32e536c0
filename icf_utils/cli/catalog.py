"""``icf-utils catalog``: the catalog of a study as a whole."""

from __future__ import annotations

from collections.abc import Sequence

from icf_utils.cli import catalog_build, catalog_serve
from icf_utils.cli.command import Command

NAME = "catalog"
HELP = "rebuild the catalog of a study, or show it in a browser"
DETAILS = """\
'icf-utils run' and 'icf-utils catalogify_studyvisit_from_meta' add single
visits to a catalog."""
COMMANDS: Sequence[Command] = (catalog_build, catalog_serve)
