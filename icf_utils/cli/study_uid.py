"""``icf-utils study-uid``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from icf_utils.cli.console import Console
from icf_utils.cli.options import add_id, add_store
from icf_utils.errors import IcfError, InputRefused, InvalidSetting, printable
from icf_utils.results import Notice

if TYPE_CHECKING:
    from icf_utils.metadata.study_uids import StudyListing

NAME = "study-uid"
HELP = "print the StudyInstanceUID of files, folders, archives or a visit"
DETAILS = """\
Prints the UID of one PATH or of a deposited visit (-o and --id); for several
PATHs, a line with UID and PATH for each. Warns, and exits with 1, if a PATH has
images of several DICOM studies or images without a StudyInstanceUID."""
EXAMPLE = "icf-utils study-uid /scanner/export/0815"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", metavar="PATH", nargs="*", help="DICOM file, folder, zip or tar")
    add_store(parser)
    add_id(parser, required=False, what="read the archive of this visit")
    parser.add_argument("--same", action="store_true", help="also warn if the PATHs do not have the same UID")


def run(args: argparse.Namespace, console: Console) -> int:
    if bool(args.paths) == bool(args.id):
        raise InvalidSetting("command line", "name either PATHs or a deposited visit (-o and --id)")
    found, failed = _visit(args, console) if args.id else _paths(args.paths, console)
    uids = {study.uid for finding in found for study in finding.studies}
    notices = [notice for finding in found for notice in finding.notices] + failed
    if args.same and len(uids) > 1:
        notices.append(
            Notice("several-studies", args.paths[0], f"this and the other paths have {len(uids)} different UIDs")
        )
    alone = len(found) + len(failed) == 1
    result = {"paths": found, "same": len(uids) == 1, "notices": notices}
    console.notices(notices)
    console.result(args.command, result, [line for one in found for line in _lines(one, alone)], ok=not notices)
    return 1 if notices else 0


def _visit(args: argparse.Namespace, console: Console) -> tuple[list[StudyListing], list[Notice]]:
    from icf_utils.metadata.study_uids import find_visit_studies
    from icf_utils.store.layout import Visit

    return [find_visit_studies(Visit(Path(args.store_dir), *args.id), progress=console)], []


def _paths(paths: list[str], console: Console) -> tuple[list[StudyListing], list[Notice]]:
    """What was found, and a notice for each path without a result. The error of a single path is raised."""
    from icf_utils.metadata.study_uids import find_studies

    if len(paths) == 1:
        return [find_studies(Path(paths[0]), progress=console)], []
    results = [_find_or_notice(path, console) for path in paths]
    return (
        [one for one in results if not isinstance(one, Notice)],
        [one for one in results if isinstance(one, Notice)],
    )


def _find_or_notice(path: str, console: Console) -> StudyListing | Notice:
    from icf_utils.metadata.study_uids import find_studies

    try:
        return find_studies(Path(path), progress=console)
    except InputRefused as error:
        return Notice("no-study", path, "; ".join(reason for _, reason in error.refusals[:3]))
    except IcfError as error:
        return Notice("no-study", path, str(error))


def _lines(finding: StudyListing, alone: bool) -> list[str]:
    if alone:
        return [study.uid for study in finding.studies]
    return [f"{study.uid}  {printable(finding.path)}" for study in finding.studies]
