"""``icf-utils catalogify_studyvisit_from_meta``."""

from __future__ import annotations

import argparse

from icf_utils.cli.console import Console
from icf_utils.cli.options import add_id, add_store, add_store_url
from icf_utils.errors import printable
from icf_utils.formatting import format_count

NAME = "catalogify_studyvisit_from_meta"
HELP = "add a visit to the browsable catalog of its study"
DETAILS = """\
Creates or updates STORE/STUDY/catalog from the visit's metadata: web pages that
any plain web server can serve and that load nothing from other hosts. Adding a
visit again changes nothing; the order of additions does not matter."""
EXAMPLE = "icf-utils catalogify_studyvisit_from_meta -o /data/store --id study-a visit-01"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_store(parser)
    add_id(parser)
    add_store_url(parser)
    parser.add_argument(
        "--hide-dates",
        action="store_true",
        help="hide the dates of all visits of the study, from now on ('icf-utils catalog build --show-dates' shows "
        "them again)",
    )
    parser.add_argument(
        "--previews",
        action="store_true",
        help="make a preview image of each series; faces may be recognisable in images of heads",
    )
    parser.add_argument(
        "--previews-of",
        metavar="KIND",
        action="append",
        default=[],
        help="also make previews of a kind of image that may show names (ultrasound, document, screen-capture, "
        "photograph, fluoroscopy, slide); can be repeated",
    )


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.catalog.stage import catalogify_studyvisit_from_meta

    result = catalogify_studyvisit_from_meta(
        args.store_dir,
        *args.id,
        store_url=args.store_url,
        store_id=args.store_id,
        hide_dates=args.hide_dates,
        previews=args.previews,
        previews_of=args.previews_of,
        progress=console,
    )
    console.notices(result.notices)
    count = f"{format_count(result.images, 'image')} in {format_count(result.series, 'series')}"
    files = f"{format_count(result.files_written, 'file')} written, {result.files_unchanged} unchanged"
    console.result(args.command, result, [f"{printable(result.catalog)}: {count} of visit {result.visit}; {files}"])
    return 0
