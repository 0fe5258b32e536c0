"""``icf-utils make_studyvisit_archive``."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from icf_utils.cli.console import Console
from icf_utils.cli.options import add_id, add_new, add_store, add_strip, check_store
from icf_utils.errors import printable
from icf_utils.formatting import format_count, format_size

NAME = "make_studyvisit_archive"
HELP = "archive the DICOM files of a visit as a reproducible TAR"
DETAILS = """\
Writes STORE/STUDY/VISIT_dicom.tar and VISIT_dicom.tar.md5sum. The bytes depend
only on the content and the names of the input files: the same visit gives the
same archive on every machine. An existing archive is never overwritten."""
EXAMPLE = "icf-utils make_studyvisit_archive -o /data/store --id study-a visit-01 /scanner/export/0815"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_store(parser)
    add_id(parser)
    parser.add_argument(
        "--timezone",
        metavar="ZONE",
        default="UTC",
        help="time zone of the study times in the images, such as Europe/Berlin (default: UTC)",
    )
    add_strip(parser)
    add_new(parser)
    parser.add_argument(
        "input",
        metavar="INPUT",
        help="folder, .zip or .tar (plain, .gz, .bz2, .xz or .zst) with the files of one visit",
    )


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.archive.stage import make_studyvisit_archive
    from icf_utils.metadata.stage import make_describer
    from icf_utils.store.layout import Visit

    check_store(args, console, Path(args.store_dir))
    with closing(make_describer(Visit(Path(args.store_dir), *args.id), None, None)) as describer:
        result = make_studyvisit_archive(
            args.input,
            args.store_dir,
            *args.id,
            time_zone=args.timezone,
            strip=args.strip_components,
            observer=describer,
            progress=console,
        )
    console.notices(result.notices)
    files = f"{format_count(result.dicom_files, 'DICOM file')}, {format_count(result.other_files, 'other file')}"
    details = f"{files}, {format_size(result.size)}, MD5 {result.md5}"
    console.result(args.command, result, [f"{printable(result.archive.path)}: {result.archive.state} ({details})"])
    return 0
