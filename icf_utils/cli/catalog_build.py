"""``icf-utils catalog build``."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from icf_utils.cli.console import Console
from icf_utils.cli.options import add_store, add_store_url
from icf_utils.errors import InvalidSetting, printable
from icf_utils.formatting import format_count

if TYPE_CHECKING:
    from icf_utils.catalog.rebuild import CatalogBuildResult

NAME = "catalog build"
HELP = "rebuild the catalog of a study from its metadata"
DETAILS = """\
Reads the JSON files and datasets of all visits of STUDY, builds a new catalog,
and puts it in the place of the old one when it is complete. Visits that are no
longer in the store disappear from it. With --index instead of a study, builds
STORE/index.html, a page of all studies, from their catalogs."""
EXAMPLE = "icf-utils catalog build -o /data/store study-a"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", metavar="STUDY", nargs="?", help="study of the store, or the path of its folder")
    add_store(parser)
    parser.add_argument("--index", action="store_true", help="build the page of all studies of the store")
    add_store_url(parser)
    dates = parser.add_mutually_exclusive_group()
    dates.add_argument(
        "--hide-dates", action="store_true", default=None, help="hide the dates of all visits from now on"
    )
    dates.add_argument("--show-dates", dest="hide_dates", action="store_false", help="show the dates of visits again")
    pictures = parser.add_mutually_exclusive_group()
    pictures.add_argument(
        "--previews",
        action="store_true",
        default=None,
        help="make a preview image of each series; faces may be recognisable in images of heads",
    )
    pictures.add_argument(
        "--no-previews", dest="previews", action="store_false", help="leave out the existing preview images"
    )
    pictures.add_argument(
        "--previews-of",
        metavar="KIND",
        action="append",
        default=[],
        help="also make previews of a kind of image that may show names (ultrasound, document, screen-capture, "
        "photograph, fluoroscopy, slide); can be repeated",
    )


def run(args: argparse.Namespace, console: Console) -> int:
    if args.index:
        return _index(args, console)
    from icf_utils.catalog.rebuild import build_catalog

    store, study = _store_and_study(args)
    result = build_catalog(
        store,
        study,
        store_url=args.store_url,
        store_id=args.store_id,
        hide_dates=args.hide_dates,
        previews=args.previews,
        previews_of=args.previews_of,
        progress=console,
    )
    console.notices(result.notices)
    console.result(args.command, result, _lines(result), ok=not result.unusable)
    return 1 if result.unusable else 0


def _store_and_study(args: argparse.Namespace) -> tuple[str, str]:
    if not args.study:
        raise InvalidSetting("STUDY", "name a study of the store, or give --index for the page of all studies")
    store, study = os.path.split(os.path.abspath(args.study))
    return (store, study) if os.sep in args.study else (args.store_dir, args.study)


def _lines(result: CatalogBuildResult) -> list[str]:
    if result.unusable:
        bad = [f"  {one.visit}: {one.problem}" for one in result.unusable]
        return [f"{printable(result.catalog)}: not changed, because these visits cannot be read:", *bad]
    count = f"{format_count(result.visits, 'visit')} with {format_count(result.images, 'image')}"
    pictures = f", {format_count(result.previews, 'preview')}" if result.previews else ""
    gone = f"; removed: {', '.join(result.dropped)}" if result.dropped else ""
    return [f"{printable(result.catalog)}: {count}{pictures}{gone}"]


def _index(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.catalog.index_page import build_index

    others = (args.study, args.hide_dates, args.previews, args.store_url, args.store_id)
    if any(other is not None for other in others):
        raise InvalidSetting("--index", "cannot be combined with a study or with options for one study's catalog")
    result = build_index(args.store_dir)
    console.notices(result.notices)
    state = "" if result.changed else " (unchanged)"
    line = f"{printable(result.page)}: {format_count(result.studies, 'study')}{state}"
    console.result(args.command, result, [line])
    return 0
