"""``icf-utils deposit_visit_dataset``."""

from __future__ import annotations

import argparse

from icf_utils.cli.console import Console
from icf_utils.cli.options import add_id, add_store, add_store_url
from icf_utils.errors import printable
from icf_utils.formatting import format_count

NAME = "deposit_visit_dataset"
HELP = "deposit a DataLad dataset that gives access to each image of a visit"
DETAILS = """\
Writes STORE/STUDY/VISIT_XDLRA--refs and VISIT_XDLRA--repo-export from the
visit's metadata, and prints the command that clones the dataset. The same visit
gives the same commits on every machine. --annex-url adds VISIT.annex and the
folder VISIT_annex, for clones without DataLad."""
EXAMPLE = "icf-utils deposit_visit_dataset -o /data/store --id study-a visit-01 --store-url https://data.example.org"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_store(parser)
    add_id(parser)
    add_store_url(parser)
    parser.add_argument(
        "--commit-date",
        metavar="DATE",
        help="date of the commits, such as 2024-05-31 or 2024-05-31T12:00:00+02:00; everyone who clones can see it "
        "(default: the time of the visit)",
    )
    parser.add_argument(
        "--annex-url",
        action=argparse.BooleanOptionalAction,
        help="also allow clones with git and git-annex alone (default: 'annex_url' in [dataset] of the store's "
        "icf.toml, else no; a visit that allows them already continues to)",
    )


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.dataset.stage import deposit_visit_dataset

    result = deposit_visit_dataset(
        args.store_dir,
        *args.id,
        store_url=args.store_url,
        store_id=args.store_id,
        commit_date=args.commit_date,
        annex_url=args.annex_url,
        progress=console,
    )
    console.notices(result.notices)
    lines = [f"{printable(file.path)}: {file.state}" for file in result.files]
    lines += [f"dataset {result.dataset_id} of {format_count(result.images, 'image')}; clone it with"]
    lines += [f"  datalad clone '{result.clone_url}' {result.visit}"]
    if result.annex_url:
        lines += ["or without DataLad, with", f"  git clone '{result.annex_url}' {result.visit}"]
    console.result(args.command, result, lines)
    return 0
