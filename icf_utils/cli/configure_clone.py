"""``icf-utils configure-clone``."""

from __future__ import annotations

import argparse

from icf_utils.cli.console import Console
from icf_utils.cli.options import add_ca
from icf_utils.errors import printable

NAME = "configure-clone"
HELP = "let a clone get single images without the whole archive"
DETAILS = """\
Changes the git configuration of the clone at PATH, so that 'git annex get' and
'datalad get' transfer only the bytes of the requested images. Works with clones
made by DataLad or by git alone. git-annex refuses every push from a clone until
its special remotes are verified: --trust does so. --store-url points the clone at
a store that has moved. --undo restores the configuration."""
EXAMPLE = "icf-utils configure-clone visit-01"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "clone", nargs="?", default=".", metavar="PATH", help="folder of the clone (default: the current directory)"
    )
    parser.add_argument(
        "--local-store",
        metavar="STORE",
        action="append",
        default=[],
        help="let the dataset name files of this store on this machine (file://); may be given several times",
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="let git-annex push, export and copy from the clone: compare the dataset's two special remotes with what "
        "icf-utils writes, and mark them as verified",
    )
    parser.add_argument(
        "--store-url",
        metavar="URL",
        default="",
        help="the store has moved to this address: ask for archives and updates there",
    )
    add_ca(parser)
    parser.add_argument(
        "--undo",
        action="store_true",
        help="restore the configuration: images come through DataLad's archivist, and --trust is taken back",
    )


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.dataset.special_remote.configure import configure_clone

    result = configure_clone(args.clone, args.undo, tuple(args.local_store), args.ca, args.trust, args.store_url)
    names = ", ".join(f"'{printable(name)}'" for name in result.remotes) or "no remote"
    how = "images are transferred as byte ranges" if not args.undo else "images are transferred as before"
    how += "; git-annex may push" if args.trust else ""
    was = "already " if result.state == "unchanged" else ""
    console.result(
        args.command, result, [f"{printable(result.clone)}: {was}{names}: {how} (git-annex-remote-{result.program})"]
    )
    return 0
