"""``icf-utils xnat``: the commands for XNAT."""

from __future__ import annotations

from icf_utils.cli import xnat_prearchive, xnat_send, xnat_upload

HELP = "bring sessions into an XNAT"
DETAILS = "See 'icf-utils xnat COMMAND --help' for each of the ways."
COMMANDS = (xnat_upload, xnat_prearchive, xnat_send)
