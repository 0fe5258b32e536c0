"""``icf-utils catalog``: a study's catalog as a whole."""

from __future__ import annotations

from icf_utils.cli import catalog_build, catalog_serve

HELP = "make a study's catalog anew, or look at it"
DETAILS = """\
Visits come into the catalog by catalogify_studyvisit_from_meta, or by a run."""
COMMANDS = (catalog_build, catalog_serve)
