"""``icf-utils visit refresh``."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from icf_utils.cli.console import Console
from icf_utils.cli.options import add_dry_run, add_store, add_targets, targets_of
from icf_utils.errors import IcfError
from icf_utils.formatting import format_count
from icf_utils.results import name_visit

NAME = "visit refresh"
HELP = "bring metadata, datasets and catalog to the store's present settings"
DETAILS = """\
After a change of settings: more tags, another address of the store, file names
in catalogs, datasets for git-annex alone. Archives are not changed, and read
only for tags that are not recorded yet. Datasets keep their ids and get a new
commit, so that existing clones can be updated. Deposits of the original tools
and of earlier versions are brought up to date as well."""
#: A notice about the study's catalog, which each of its visits gives.
_OF_THE_STUDY = "foreign-catalog"
EXAMPLE = "icf-utils visit refresh -o /data/store study-a --dry-run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_targets(parser, "all visits")
    add_store(parser)
    parser.add_argument("--store-url", metavar="URL", help="address of the store (default: 'url' in [store])")
    parser.add_argument(
        "--tags", metavar="FILE", type=Path, help="file with the DICOM keywords of the tags (default: [metadata] tags)"
    )
    parser.add_argument("--annex-url", action="store_true", default=None, help="also deposit for git-annex alone")
    parser.add_argument("--read-archives", action="store_true", help="read all archives again")
    add_dry_run(parser, "print what would change; change nothing")


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.catalog.index_page import renew_index
    from icf_utils.curation.refresh import RefreshOptions, RefreshResult, refresh_visit
    from icf_utils.pipeline.visit_table import collect_visits, select_visits
    from icf_utils.settings import load_settings
    from icf_utils.store.existing import refuse_no_store

    root = Path(args.store_dir)
    refuse_no_store(root)
    settings = load_settings(root)
    visits = select_visits(collect_visits(root), targets_of(args))
    options = RefreshOptions(args.store_url, args.tags, args.annex_url, args.read_archives)
    done: list[RefreshResult] = []
    failed: list[dict[str, str]] = []
    with console.task("visits", len(visits), "visit") as bar:
        for one in visits:
            try:
                result = refresh_visit(
                    root, one.study, one.visit, options=options, settings=settings, dry_run=args.dry_run
                )
                done.append(result)
            except IcfError as error:  # one failure must not stop the others
                if len(visits) == 1:
                    raise
                failed.append({"visit": one.name, "message": str(error)})
            bar.advance(1)
    named: set[str] = set()
    for result in done:
        notices = [item for item in result.notices if item.code != _OF_THE_STUDY or result.study not in named]
        named |= {result.study for item in notices if item.code == _OF_THE_STUDY}
        console.notices(name_visit(result.study, result.visit, notices))
    if done and not args.dry_run:
        of_store = renew_index(root, settings)
        console.notices(of_store)
        done[-1] = replace(done[-1], notices=(*done[-1].notices, *of_store))
    changed = [result for result in done if result.changes]
    verb = "would be changed" if args.dry_run else "changed"
    lines = [f"{result.study}/{result.visit}: {', '.join(result.changes)}" for result in changed]
    lines += [f"{item['visit']}: {item['message']}" for item in failed]
    ending = f", {len(failed)} failed" if failed else ""
    lines.append(f"{format_count(len(visits), 'visit')}: {len(changed)} {verb}{ending}")
    console.result(args.command, {"visits": done, "failed": failed}, lines, ok=not failed)
    return 1 if failed else 0
