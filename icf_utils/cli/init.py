"""``icf-utils init``."""

from __future__ import annotations

import argparse

from icf_utils.cli.console import Console
from icf_utils.errors import printable

NAME = "init"
HELP = "make a folder a store, with the address under which readers reach it"
DETAILS = """\
Creates the folder, if it does not exist, and writes its settings file icf.toml,
or adds the address to it. Datasets and catalogs contain the address, and the
UUIDs of datasets are computed from it, or from --id, which stays the same when
the store moves to another address. An address that the store has is never
changed."""
EXAMPLE = "icf-utils init /data/store --url https://data.example.org --id example-imaging-store"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", help="folder of the store")
    parser.add_argument(
        "--url", metavar="URL", required=True, help="address of the store for its readers; file:///path is allowed"
    )
    parser.add_argument("--id", metavar="NAME", default="", help="identity of the store (default: the address)")


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.store.init_store import init_store

    result = init_store(args.store, args.url, args.id)
    identity = f", identity {printable(result.id)}" if result.id else ""
    console.result(
        args.command,
        result,
        [f"{printable(result.settings)}: {result.state} (address {printable(result.url)}{identity})"],
    )
    return 0
