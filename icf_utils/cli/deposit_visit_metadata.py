"""``icf-utils deposit_visit_metadata``."""

from __future__ import annotations

import argparse

from icf_utils.cli.console import Console
from icf_utils.cli.options import add_id, add_store
from icf_utils.errors import printable
from icf_utils.formatting import format_count

NAME = "deposit_visit_metadata"
HELP = "describe a visit's archive and each of its images in JSON"
DETAILS = """\
Reads the archive and writes STORE/STUDY/VISIT_metadata_tarball.json and
VISIT_metadata_dicoms.json: name, size, MD5 and byte position of each image, and
selected DICOM tags. Tags that can identify a person are refused unless the
store's settings allow them."""
EXAMPLE = "icf-utils deposit_visit_metadata -o /data/store --id study-a visit-01"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_store(parser)
    add_id(parser)
    parser.add_argument(
        "--tags",
        metavar="FILE",
        help="file with the DICOM keywords of more tags to record, one a line (default: 'tags' in [metadata] of the "
        "store's icf.toml)",
    )


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.metadata.stage import deposit_visit_metadata

    result = deposit_visit_metadata(args.store_dir, *args.id, tags=args.tags, progress=console)
    console.notices(result.skipped, "no record")
    console.notices(result.notices)
    count = (
        f"{format_count(result.images, 'image')} described, "
        f"{format_count(len(result.skipped), 'other file')} without a record"
    )
    lines = [f"{printable(file.path)}: {file.state}" for file in result.files]
    console.result(args.command, result, [*lines, count])
    return 0
