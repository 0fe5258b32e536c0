"""``icf-utils verify``."""

from __future__ import annotations

import argparse

from icf_utils.cli.console import Console
from icf_utils.cli.options import add_id, add_store, add_store_url

HELP = "check again, from the bytes, every promise between a store's files"
DETAILS = """\
Checks checksum and metadata against the archive, the dataset against the metadata, the catalog against the metadata.
Prints what is wrong per file and exits with 1 if anything is. Changes nothing. Without --id, all visits are checked."""
EXAMPLE = "icf-utils verify -o /data/store --id study-a visit-01 --rebuild /scanner/export/0815"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_store(parser)
    add_id(parser, required=False)
    add_store_url(parser)
    parser.add_argument("--tags", metavar="FILE", help="the file of tags that the metadata was made with")
    parser.add_argument(
        "--rebuild", metavar="INPUT", help="check too that this input still gives the same archive (with --id)"
    )
    parser.add_argument(
        "--timezone", metavar="ZONE", default="UTC", help="with --rebuild: the zone that the archive was made for"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.verify.stage import verify

    raise NotImplementedError(verify)
