"""``icf-utils get``."""

from __future__ import annotations

import argparse
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from icf_utils.cli.console import Console
from icf_utils.cli.options import add_dry_run, add_login, add_selection, add_tls, connections, tls_of
from icf_utils.errors import InvalidSetting, printable
from icf_utils.formatting import format_count, format_size

if TYPE_CHECKING:
    from icf_utils.retrieve.get import GetResult
    from icf_utils.retrieve.plan import SeriesLine

NAME = "get"
HELP = "get images in a clone, faster than 'git annex get'"
DETAILS = """\
Gets the images at the PATHs (files and folders of a clone) as 'datalad get'
and 'git annex get' do, but with few requests, several at a time, and with
hundreds of images in each call of git-annex. Both icf-utils and git-annex
check each image. Images that are already in the clone are not transferred
again. If the command is interrupted, repeat it: it continues.

In a clone of a study, visits that contain a PATH are installed first. The
archive itself is left out unless its path is named."""
EXAMPLE = "icf-utils get visit-01/study-a_visit-01 --series 2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        nargs="*",
        default=["."],
        metavar="PATH",
        help="files and folders of a clone (default: the current folder)",
    )
    parser.add_argument(
        "-r", "--recursive", action="store_true", help="get the images of all subdatasets below the PATHs"
    )
    add_selection(parser, "NUMBER")
    parser.add_argument(
        "--from",
        dest="from_store",
        metavar="STORE",
        type=Path,
        help="read the archives from a store that is mounted here, instead of asking its web server",
    )
    add_login(parser, "the server that the clone is from", "a bearer token")
    add_tls(parser)
    add_dry_run(parser, "list the series that would be transferred; transfer nothing")
    parser.add_argument(
        "--connections", metavar="N", type=connections, default=4, help="requests at a time (default: 4)"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.cli.retrieve import finish, store_auth
    from icf_utils.dataset.cloning import SubdatasetInstaller, study_environment
    from icf_utils.fetch.authentication import Authenticator
    from icf_utils.retrieve.clone_images import CloneAccess
    from icf_utils.retrieve.get import get_images, plan_images
    from icf_utils.retrieve.selection import Selection, parse_tag

    args.ask_token = False
    selection = Selection(
        series=tuple(args.series), tags=tuple(map(parse_tag, args.tag)), modalities=tuple(args.modality)
    )
    if args.dry_run:
        plan = plan_images(args.paths, recursive=args.recursive, selection=selection)
        answer = Console(quiet=False, as_json=args.json)
        return finish(args, answer, plan, plan, map(_series_text, plan.series))
    if args.from_store and not args.from_store.is_dir():
        raise InvalidSetting("--from", f"the folder '{printable(args.from_store)}' does not exist")
    # the password of --user is asked for once
    authenticator = Authenticator("give --user NAME")
    access = CloneAccess(authenticator, cache(partial(store_auth, args)), tls=tls_of(args), store=args.from_store)
    installer = SubdatasetInstaller(
        lambda command: console.message(f"$ {printable(command)}"),
        lambda top: study_environment(top, access.authenticator, access.login, access.tls),
    )
    result = get_images(
        args.paths,
        recursive=args.recursive,
        selection=selection,
        access=access,
        installer=installer,
        connections=args.connections,
        progress=console,
    )
    return finish(args, console, result, result, [_summary(result)])


def _series_text(line: SeriesLine) -> str:
    place = "/".join(printable(name) for name in (line.study, line.visit) if name)
    series = f"series {printable(line.series)}" if line.series else "without a series"
    here = "" if not line.saved else ", all here" if line.saved == line.images else f", {line.saved} here"
    where = f"{place}: {series}" if place else series
    return f"{where}: {format_count(line.images, 'image')}, {format_size(line.size)}{here}"


def _summary(result: GetResult) -> str:
    known = f"; {format_count(result.unchanged, 'image')} already here" if result.unchanged else ""
    failed = f"; {format_count(len(result.failures), 'failure')}, see above" if result.failures else ""
    return f"got {format_count(result.images, 'image')} ({format_size(result.size)}){known}{failed}"
