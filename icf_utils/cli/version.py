"""``icf-utils --version``, and with ``-v`` the versions that a report of a problem should name."""

from __future__ import annotations

import argparse

from icf_utils import __version__
from icf_utils.cli.console import Console

_PROGRAM = "icf-utils"


def show_version(args: argparse.Namespace, console: Console) -> int:
    """Print the version; returns the exit code."""
    if not args.verbose:
        console.result("", {"version": __version__}, [f"{_PROGRAM} {__version__}"])
        return 0
    from icf_utils.doctor.components import EXTRAS, check_extra, list_components
    from icf_utils.formatting import format_table

    components = list_components()
    extras = {extra: check_extra(extra).state == "ok" for extra in EXTRAS}
    rows = [
        (one.name, one.version or ("version not known" if one.path else "not installed"), one.path)
        for one in components
    ]
    there = ", ".join(extra for extra, is_there in extras.items() if is_there) or "none"
    result = {"version": __version__, "components": components, "extras": extras}
    console.result("", result, [*format_table(rows), f"extras: {there}"])
    return 0
