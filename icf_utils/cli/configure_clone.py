"""``icf-utils configure-clone``."""

from __future__ import annotations

import argparse

from icf_utils.cli.console import Console
from icf_utils.errors import printable

NAME = "configure-clone"
HELP = "have a clone of a dataset get single images without the whole archive"
DETAILS = """\
Changes the configuration of the clone at PATH, nothing else: 'git annex get' and
'datalad get' then fetch just the bytes of the images that are asked for. Works
for clones that were made with DataLad and without. --undo goes back."""
EXAMPLE = "icf-utils configure-clone visit-01"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("clone", nargs="?", default=".", metavar="PATH", help="folder of the clone (default: this one)")
    parser.add_argument(
        "--local-store",
        metavar="FOLDER",
        action="append",
        default=[],
        help="let the dataset name files in this store on this machine (file://); can be repeated",
    )
    parser.add_argument("--undo", action="store_true", help="get images by DataLad's archivist again")


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.dataset.special_remote.configure import configure_clone

    result = configure_clone(args.clone, args.undo, tuple(args.local_store))
    names = ", ".join(f"'{printable(name)}'" for name in result.remotes) or "no remote"
    how = "images come by byte ranges" if not args.undo else "images come as before"
    was = "already " if result.state == "unchanged" else ""
    console.result(
        args.command, result, [f"{printable(result.clone)}: {was}{names}: {how} (git-annex-remote-{result.program})"]
    )
    return 0
