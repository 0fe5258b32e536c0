"""``icf-utils catalog build``."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from icf_utils.cli.console import Console
from icf_utils.cli.options import add_store_url
from icf_utils.errors import InvalidSetting, printable
from icf_utils.formatting import format_count

if TYPE_CHECKING:
    from icf_utils.catalog.rebuild import CatalogBuildResult

HELP = "make the catalog of a study anew from its metadata"
DETAILS = """\
Reads the JSON files and datasets of all visits in STORE/STUDY, and puts the new
catalog in the old one's place when it is complete. Visits that are no longer in
the store are not in it any more. With --index, PATH is the store, and the page
of all its studies, STORE/index.html, is made from their catalogs."""
EXAMPLE = "icf-utils catalog build /data/store/study-a"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="a study's folder in a store; with --index, the store")
    parser.add_argument("--index", action="store_true", help="make the page of all studies of the store at PATH")
    add_store_url(parser)
    dates = parser.add_mutually_exclusive_group()
    dates.add_argument(
        "--hide-dates", action="store_true", default=None, help="leave out the visits' dates, now and from now on"
    )
    dates.add_argument("--show-dates", dest="hide_dates", action="store_false", help="show the visits' dates again")
    pictures = parser.add_mutually_exclusive_group()
    pictures.add_argument(
        "--previews",
        action="store_true",
        default=None,
        help="make a small picture of each series; faces may be recognised in images of heads",
    )
    pictures.add_argument(
        "--no-previews", dest="previews", action="store_false", help="leave out the pictures that there are"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    if args.index:
        return _index(args, console)
    from icf_utils.catalog.rebuild import build_catalog

    store, study = _store_and_study(args.path)
    result = build_catalog(
        store,
        study,
        store_url=args.store_url,
        store_id=args.store_id,
        hide_dates=args.hide_dates,
        previews=args.previews,
        progress=console,
    )
    console.notices(result.notices)
    console.result(args.command, result, _lines(result), ok=not result.unusable)
    return 1 if result.unusable else 0


def _store_and_study(path: str) -> tuple[str, str]:
    store, study = os.path.split(os.path.normpath(path))
    if study in ("", ".", ".."):
        store, study = os.path.split(os.path.abspath(path))
    return store or ".", study


def _lines(result: CatalogBuildResult) -> list[str]:
    if result.unusable:
        bad = [f"  {one.visit}: {one.problem}" for one in result.unusable]
        return [f"{printable(result.catalog)} was left as it is, since visits cannot be read:", *bad]
    count = f"{format_count(result.visits, 'visit')} with {format_count(result.images, 'image')}"
    pictures = f", {format_count(result.previews, 'preview')}" if result.previews else ""
    gone = f"; no longer in it: {', '.join(result.dropped)}" if result.dropped else ""
    return [f"{printable(result.catalog)}: {count}{pictures}{gone}"]


def _index(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.catalog.index_page import build_index

    if args.hide_dates is not None or args.previews is not None or args.store_url or args.store_id:
        raise InvalidSetting("--index", "the page of all studies is made from their catalogs and takes no other option")
    result = build_index(args.path)
    console.notices(result.notices)
    state = "" if result.changed else " (unchanged)"
    line = f"{printable(result.page)}: {format_count(result.studies, 'study')}{state}"
    console.result(args.command, result, [line])
    return 0
