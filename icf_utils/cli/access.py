"""Options of the commands about sessions: where they are asked for."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from icf_utils.errors import InvalidSetting

if TYPE_CHECKING:
    from icf_utils.intake.client import Sessions

#: The environment's variables that stand for the options.
URL_VARIABLE, SETTINGS_VARIABLE = "ICF_SESSIONS_URL", "ICF_RECEIVER_SETTINGS"


def add_access(parser: argparse.ArgumentParser) -> None:
    """``--url``, ``--token-file`` and ``--settings``."""
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--url", metavar="URL", help=f"the receiver's pages (or ${URL_VARIABLE})")
    place.add_argument(
        "--settings", metavar="FILE", help=f"settings of a receiver on this machine (or ${SETTINGS_VARIABLE})"
    )
    parser.add_argument(
        "--token-file", metavar="FILE", help="with --url: the file of its token (default: $ICF_SESSIONS_TOKEN)"
    )


def sessions_of(args: argparse.Namespace) -> Sessions:
    """Where the options say. Raises :class:`~icf_utils.errors.InvalidSetting` where they say nothing."""
    from icf_utils.credentials import find_secret
    from icf_utils.intake.client import HttpSessions, LocalSessions
    from icf_utils.intake.settings import load_receiver_settings

    url = args.url or ("" if args.settings else os.environ.get(URL_VARIABLE, ""))
    settings = args.settings or os.environ.get(SETTINGS_VARIABLE, "")
    if url:
        if not url.startswith(("http://", "https://")):
            raise InvalidSetting("--url", "it begins with http:// or https://")
        token = find_secret("ICF_SESSIONS_TOKEN", Path(args.token_file) if args.token_file else None, "Token")
        if token is None:
            raise InvalidSetting("--token-file", "the token is missing: name its file, or set ICF_SESSIONS_TOKEN")
        return HttpSessions(url, token)
    if not settings:
        raise InvalidSetting("command line", "say where the sessions are: --url URL, or --settings FILE")
    found = load_receiver_settings(Path(settings))
    return LocalSessions(found.spool, found.store)
