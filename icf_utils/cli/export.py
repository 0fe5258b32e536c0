"""``icf-utils export``."""

from __future__ import annotations

import argparse
from pathlib import Path

from icf_utils.cli.console import Console
from icf_utils.cli.options import add_store, add_targets, targets_of
from icf_utils.errors import IcfError
from icf_utils.formatting import format_count, format_size

NAME = "export"
HELP = "export visits as bags (BagIt) or OCFL objects"
DETAILS = """\
Writes each visit, with all of its files, to FOLDER/STUDY/VISIT, for repositories
that accept bags (BagIt 1.0, RFC 8493) or objects of the Oxford Common File
Layout. If FOLDER is on the store's file system, files are hard links, not
copies. The digests are those of VISIT_SHA256SUMS; validate the result with
bagit.py or ocfl-validate.py. An existing bag or object is not replaced."""
EXAMPLE = "icf-utils export -o /data/store --bagit --to /data/bags study-a"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_targets(parser, "all visits")
    add_store(parser)
    form = parser.add_mutually_exclusive_group(required=True)
    form.add_argument("--bagit", action="store_true", help="make a bag of each visit")
    form.add_argument("--ocfl", action="store_true", help="make an OCFL object of each visit; FOLDER is a storage root")
    parser.add_argument("--to", metavar="FOLDER", type=Path, required=True, help="folder of the bags or objects")
    parser.add_argument(
        "--fetch",
        action="store_true",
        help="with --bagit: name archives and outputs in fetch.txt, by their web addresses, instead of adding them",
    )


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.errors import InvalidSetting
    from icf_utils.export.model import ExportResult
    from icf_utils.export.write import export_bag, export_ocfl
    from icf_utils.pipeline.visit_table import collect_visits, select_visits
    from icf_utils.settings import load_settings
    from icf_utils.store.existing import refuse_no_store

    root = Path(args.store_dir)
    refuse_no_store(root)
    if args.fetch and not args.bagit:
        raise InvalidSetting("--fetch", "needs --bagit")
    settings = load_settings(root)
    visits = select_visits(collect_visits(root), targets_of(args))
    done: list[ExportResult] = []
    failed: list[dict[str, str]] = []
    with console.task("export", len(visits), "visit") as bar:
        for one in visits:
            try:
                if args.bagit:
                    done.append(export_bag(root, one.study, one.visit, args.to, fetch=args.fetch, settings=settings))
                else:
                    done.append(export_ocfl(root, one.study, one.visit, args.to, settings=settings))
            except InvalidSetting:
                raise
            except IcfError as error:  # one failure must not stop the others
                if len(visits) == 1:
                    raise
                failed.append({"visit": one.name, "message": str(error)})
            bar.advance(1)
    lines = [f"{item['visit']}: {item['message']}" for item in failed]
    written = [result for result in done if result.state == "written"]
    size = format_size(sum(result.bytes for result in written))
    ending = f", {len(failed)} failed" if failed else ""
    lines.append(
        f"{format_count(len(visits), 'visit')}: {len(written)} exported ({size}), "
        f"{len(done) - len(written)} exported before{ending}"
    )
    console.result(args.command, {"visits": done, "failed": failed}, lines, ok=not failed)
    return 1 if failed else 0
