"""``icf-utils visit history``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from icf_utils.cli.console import Console
from icf_utils.cli.options import add_id, add_store
from icf_utils.errors import printable
from icf_utils.formatting import format_size, format_table

if TYPE_CHECKING:
    from icf_utils.metadata.history import VersionRecord

NAME = "visit history"
HELP = "show the versions of a visit"
DETAILS = """\
Prints a line for each version, the first one first: its number, size and MD5 of
its archive, its commit in the dataset, and when and why it was made. The last
one is in the store."""
EXAMPLE = "icf-utils visit history -o /data/store --id study-a visit-01"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_store(parser)
    add_id(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.curation.history import list_versions

    result = list_versions(args.store_dir, *args.id)
    rows = [("version", "size", "MD5", "commit", "date", "reason"), *map(_row, result.versions)]
    console.result(args.command, result, format_table(rows, right=(0, 1)))
    return 0


def _row(version: VersionRecord) -> tuple[str, ...]:
    kept = f"kept as {version.kept}" if version.kept else ""
    reason = printable("; ".join(filter(None, (version.reason, kept))))
    found = (version.commit[:10], version.date, reason)
    return (str(version.version), format_size(version.size), version.md5, *(text or "-" for text in found))
