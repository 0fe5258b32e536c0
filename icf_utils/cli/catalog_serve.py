"""``icf-utils catalog serve``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from icf_utils.cli.console import Console
from icf_utils.cli.options import add_store, port

NAME = "catalog serve"
HELP = "show catalogs in a browser on this machine"
DETAILS = """\
Serves the catalog of STUDY, or the catalogs of all studies of the store, on the
loopback interface of this machine until it is interrupted (Ctrl-C). Other files
of the store are not served, and other machines cannot connect."""
EXAMPLE = "icf-utils catalog serve -o /data/store study-a --port 8000"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "study",
        metavar="STUDY",
        nargs="?",
        default="",
        help="study, or the path of its folder or catalog (default: all)",
    )
    add_store(parser)
    parser.add_argument(
        "--port", metavar="PORT", type=port, default=0, help="port to listen on (default: any free one)"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.catalog.serve import CatalogServer
    from icf_utils.store.layout import Study

    # with a port that the system chose, nobody can use the server without its address: --quiet does not hide it
    speaker = console if args.port else Console(quiet=False, as_json=args.json)
    store = Path(args.store_dir)
    in_store = Study(store, args.study).folder if args.study and os.sep not in args.study else store
    folder = Path(args.study) if os.sep in args.study else in_store
    with CatalogServer(folder, args.port) as server:
        speaker.result(args.command, {"address": server.address}, [f"{server.address} (Ctrl-C stops the server)"])
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0
