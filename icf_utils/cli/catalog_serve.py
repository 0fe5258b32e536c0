"""``icf-utils catalog serve``."""

from __future__ import annotations

import argparse
from pathlib import Path

from icf_utils.cli.console import Console

HELP = "show a catalog in a browser on this machine"
DETAILS = """\
Serves the catalog of STORE/STUDY, or the catalogs of all studies of a store, on
the loopback address of this machine until Ctrl-C. Nothing else of the store can
be read there, and nobody on another machine can reach it."""
EXAMPLE = "icf-utils catalog serve /data/store/study-a --port 8000"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="a study's folder in a store, or the store")
    parser.add_argument("--port", metavar="N", type=_port, default=0, help="port to listen on (default: any free one)")


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"'{text}' is no port between 0 and 65535")
    return int(text)


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.catalog.serve import CatalogServer

    # whoever did not choose the port cannot know it: the address is no news that --quiet could leave out
    speaker = console if args.port else Console(quiet=False, as_json=args.json)
    with CatalogServer(Path(args.path), args.port) as server:
        speaker.result(args.command, {"address": server.address}, [f"{server.address} (Ctrl-C ends it)"])
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0
