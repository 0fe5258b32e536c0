"""``icf-utils xnat``: the commands for XNAT."""

from __future__ import annotations

from collections.abc import Sequence

from icf_utils.cli import xnat_prearchive, xnat_send, xnat_upload
from icf_utils.cli.command import Command

NAME = "xnat"
HELP = "bring sessions into an XNAT"
DETAILS = """\
Three ways: 'upload' by XNAT's web service; 'prearchive' on XNAT's own disk;
'send' to XNAT's DICOM receiver."""
COMMANDS: Sequence[Command] = (xnat_upload, xnat_prearchive, xnat_send)
