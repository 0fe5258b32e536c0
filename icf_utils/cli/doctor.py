"""``icf-utils doctor``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from icf_utils.cli.console import Console
from icf_utils.cli.options import add_ca
from icf_utils.errors import InvalidSetting
from icf_utils.formatting import format_count

if TYPE_CHECKING:
    from icf_utils.doctor.model import Check

NAME = "doctor"
HELP = "check the installation, and a store with its address"
DETAILS = """\
Checks Python packages, extras and programs. With a store, also its settings,
rights, free space, file system and clock, and its address: whether the server
answers, serves byte ranges, requires authentication and hides what readers must
not see. Exits with 1 if something does not work. Changes nothing; where it may,
it writes a temporary file to the store, and removes it."""
EXAMPLE = "icf-utils doctor /data/store"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", nargs="?", help="root of the store; the same as -o STORE")
    parser.add_argument("-o", "--store-dir", metavar="STORE", help="root of the store (default: none is checked)")
    parser.add_argument("--store", dest="store_dir", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    add_ca(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.doctor.examine import examine
    from icf_utils.doctor.model import Examination

    if args.store and args.store_dir:
        raise InvalidSetting("command line", "name the store once")
    store = args.store or args.store_dir
    result = Examination(tuple(examine(Path(store) if store else None, args.ca)))
    notable = [check for check in result.checks if check.state in ("failed", "warning")]
    lines = [line for check in (notable if args.quiet else result.checks) for line in _lines(check)]
    console.result(args.command, result, [*lines, _summary(result.checks)], ok=not result.failed)
    if args.quiet and not args.json and not result.failed:  # then --quiet hides the result, but not its warnings
        for check in notable:
            console.warning(f"{check.subject}: {check.message}{'; ' if check.remedy else ''}{check.remedy}")
    return 1 if result.failed else 0


def _lines(check: Check) -> list[str]:
    lines = [f"{check.state:<8} {check.subject}: {check.message}"]
    return [*lines, f"{'':<8} {check.remedy}"] if check.remedy else lines


def _summary(checks: Sequence[Check]) -> str:
    failed, warnings = (sum(check.state == state for check in checks) for state in ("failed", "warning"))
    return f"{format_count(len(checks), 'check')}: {failed} failed, {format_count(warnings, 'warning')}"
