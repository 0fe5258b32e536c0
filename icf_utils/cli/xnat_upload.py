"""``icf-utils xnat upload``."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from icf_utils.cli.console import Console
from icf_utils.cli.options import positive_seconds, small_number
from icf_utils.errors import InvalidSetting, printable
from icf_utils.formatting import format_count, format_size

if TYPE_CHECKING:
    from icf_utils.xnat.model import UploadOutcome, UploadResult, UploadTarget
    from icf_utils.xnat.upload_inputs import UploadList

HELP = "upload sessions by XNAT's import service"
DETAILS = """\
SOURCE is a tree of folders (subject/session/scan), a zip or tar of one session,
or with --study or --id a store. Sends what is not there yet, looks how many
images XNAT has afterwards, and exits with 1 if any session is not as it should
be. A run that was ended goes on when it is started again.

The password comes from XNAT_PASS, --password-file, ~/.netrc or a question; a
token (alias:secret) from XNAT_TOKEN or --token-file. Never from the command
line, where others can read it."""
EXAMPLE = "icf-utils xnat upload /data/export --url https://xnat.example.org --project PILOT --user me --jobs 4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="a folder, zip or tar; with --study or --id, a store")
    parser.add_argument("--id", nargs=2, metavar=("STUDY-ID", "VISIT-ID"), help="send the archive of this visit")
    parser.add_argument("--study", metavar="STUDY-ID", help="send the archives of all visits of this study")
    _add_target(parser)
    _add_login(parser)
    _add_labels(parser)
    parser.add_argument("--jobs", metavar="N", type=small_number, default=2, help="sessions at a time (default: 2)")
    parser.add_argument(
        "--retries", metavar="N", type=small_number, default=5, help="send again up to N times (default: 5)"
    )
    parser.add_argument(
        "--pause", metavar="SECONDS", type=positive_seconds, default=2.0, help="wait so long before that, then longer"
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=positive_seconds,
        default=900.0,
        help="patience with an answer (default: 900)",
    )
    parser.add_argument(
        "--patience",
        metavar="SECONDS",
        type=positive_seconds,
        default=600.0,
        help="how long XNAT may take to show a session after its answer, and to end its work on it (default: 600)",
    )
    parser.add_argument("--state", metavar="FOLDER", help="folder of the upload journal, for inputs without a store")
    parser.add_argument("--log", metavar="FILE", help="add a line to this file for each session, with XNAT's answers")
    parser.add_argument("--dry-run", action="store_true", help="say what would be sent, and send nothing")


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", metavar="URL", required=True, help="address of the XNAT")
    parser.add_argument("--project", metavar="ID", required=True, help="ID (not title) of the project")
    parser.add_argument(
        "--dest",
        choices=("prearchive", "archive"),
        default="prearchive",
        help="where in the project (default: prearchive, where people look at sessions before they are archived)",
    )
    parser.add_argument(
        "--overwrite",
        choices=("append", "delete"),
        default="",
        help="what to do with a session that is there: add to it, or replace it (default: leave it, and say so)",
    )
    parser.add_argument(
        "--direct-archive", action="store_true", help="with --dest archive: past the prearchive (XNAT 1.8.3 or later)"
    )
    parser.add_argument(
        "--ca", metavar="FILE", type=Path, help="certificates to believe (PEM; default: well-known ones)"
    )


def _add_login(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--user", metavar="NAME", default="", help="who logs in (default: XNAT_USER, or as netrc says)")
    parser.add_argument("--password-file", metavar="FILE", type=Path, help="file with the password on its only line")
    parser.add_argument("--token-file", metavar="FILE", type=Path, help="file with a token: alias:secret")


def _add_labels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--subject",
        metavar="TEMPLATE",
        default="",
        help="the subject's label (default: {subject}, the folder's name; of a store's visit: {visit})",
    )
    parser.add_argument(
        "--label",
        metavar="TEMPLATE",
        default="",
        help="the session's label (default: {subject}_{session}; of a store's visit: {study}_{visit})",
    )
    parser.add_argument(
        "--levels",
        metavar="LEVELS",
        default="subject/session/scan",
        help="levels of the folders (default: %(default)s)",
    )
    parser.add_argument(
        "--exclude", metavar="FILE", type=Path, help='JSON {"Exclude": [...]}: scans whose name holds one are left out'
    )


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.xnat.login import find_xnat_login
    from icf_utils.xnat.model import cleartext_notices
    from icf_utils.xnat.upload import plan_upload, upload

    target = _target(args)
    found = _parcels(args)
    uploads, notices = found.uploads, found.notices
    console.notices([item for item in notices if item.code in _WARNINGS])
    console.notices([item for item in notices if item.code not in _WARNINGS], "left out")
    if args.dry_run:
        result = plan_upload(uploads, target)
    else:
        console.notices(cleartext_notices(args.url))  # before the password goes
        login = find_xnat_login(args.url, args.user, args.password_file, args.token_file)
        log = Path(args.log) if args.log else None
        result = upload(uploads, target, login, jobs=args.jobs, log=log, progress=console)
    result = replace(result, notices=(*notices, *result.notices), refused=found.refused)
    ok = not result.failed and not result.refused
    console.result(args.command, result, _lines(result, args.quiet), ok=ok)
    return 0 if ok else 1


def _target(args: argparse.Namespace) -> UploadTarget:
    from icf_utils.xnat.model import UploadTarget

    return UploadTarget(
        args.url,
        args.project,
        args.dest,
        args.overwrite,
        args.direct_archive,
        ca=args.ca,
        timeout=args.timeout,
        patience=args.patience,
        retries=args.retries,
        pause=args.pause,
    )


def _parcels(args: argparse.Namespace) -> UploadList:
    from icf_utils.sources.tree import parse_levels, read_exclusions
    from icf_utils.xnat.upload_inputs import UploadList, list_store_uploads, list_tree_uploads, make_file_upload

    source, state = Path(args.source), Path(args.state) if args.state else None
    if args.id and args.study:
        raise InvalidSetting("--study", "this and --id exclude each other")
    if args.id or args.study:
        study, visit = args.id or (args.study, "")
        return UploadList(list_store_uploads(source, study, visit, args.subject, args.label))
    if source.is_file():
        return UploadList((make_file_upload(source, args.subject, args.label, state),))
    exclude = read_exclusions(args.exclude) if args.exclude else None
    return list_tree_uploads(source, args.subject, args.label, parse_levels(args.levels), exclude, state)


#: What may be a mistake, unlike a scan that was left out as told.
_WARNINGS = ("unmatched-pattern", "all-scans-excluded", "link-in-tree")

_WORDS = {
    "uploaded": "uploaded",
    "present": "is there already, with as many images",
    "before": "was uploaded before, and is there",
    "planned": "would be sent",
}


def _lines(result: UploadResult, quiet: bool) -> list[str]:
    lines = [f"{printable(item.subject)}: NOT SENT: {item.message}" for item in result.refused]
    lines += [_line(item) for item in result.sessions if item.state == "failed" or not quiet]
    states = ", ".join(
        f"{number} {word}"
        for word in ("uploaded", "present", "before", "planned", "failed")
        if (number := sum(item.state == word for item in result.sessions))
    )
    refused = f"{len(result.refused)} not sent" if result.refused else ""
    number, found = len(result.sessions) + len(result.refused), ", ".join(filter(None, (states, refused)))
    return [*lines, f"{format_count(number, 'session')} for {result.project} ({result.dest}): {found}"]


def _line(item: UploadOutcome) -> str:
    name = f"{item.subject}/{item.label}"
    if item.state == "failed":
        return f"{name}: FAILED: {item.problem if item.answers else shown_lines(item.problem)}"
    others = f", {format_count(len(item.left_out), 'other file')} not for XNAT" if item.left_out else ""
    again = f", at the {item.tries}. try" if item.tries > 1 else ""
    places = f": {', '.join(printable(uri) for uri in item.uris)}" if item.uris else ""
    images = format_count(item.sent, "image")
    return f"{name}: {_WORDS[item.state]} ({images}, {format_size(item.size)}{others}{again}){places}"


def shown_lines(text: str) -> str:
    """An error of several lines, set in."""
    return text.replace("\n", "\n  ")
