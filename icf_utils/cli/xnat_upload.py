"""``icf-utils xnat upload``."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from icf_utils.cli.console import Console
from icf_utils.cli.options import (
    add_allow,
    add_ca,
    add_dry_run,
    add_exclude,
    add_jobs,
    add_levels,
    add_login,
    add_store,
    number,
    positive_seconds,
    refused_of,
    targets_of,
)
from icf_utils.errors import InvalidSetting, printable
from icf_utils.formatting import format_count, format_size
from icf_utils.settings import UPLOAD_CHECKS

if TYPE_CHECKING:
    from icf_utils.xnat.model import UploadOutcome, UploadResult, UploadTarget
    from icf_utils.xnat.upload_body import SessionUpload
    from icf_utils.xnat.upload_inputs import UploadList

NAME = "xnat upload"
HELP = "upload sessions through XNAT's import service"
DETAILS = """\
Uploads a tree of folders (subject/session/scan), a zip or tar of one session, or
with -o visits of a store. Sends the sessions that XNAT does not have yet, counts
the images that XNAT has afterwards, and exits with 1 if a session is incomplete
or failed. A session exists if it has the StudyInstanceUID and the checksums of
the images here; where XNAT does not show them, it is reported as not proved.
Repeat the command after an interruption, and it continues.

A password is taken from --password-file, XNAT_PASS, ~/.netrc or the terminal, a
token (alias:secret) from --token-file or XNAT_TOKEN; never from the command
line, where other users can see it."""
EXAMPLE = "icf-utils xnat upload /data/export --url https://xnat.example.org --project PILOT --user me --jobs 4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "targets",
        metavar="SOURCE",
        nargs="*",
        help="a folder, zip or tar; with -o, studies or visits of the store (STUDY or STUDY/VISIT)",
    )
    add_store(parser, default=None)
    parser.add_argument(
        "--id",
        nargs=2,
        action="append",
        default=[],
        metavar=("STUDY", "VISIT"),
        help="upload a visit of the store; the same as STUDY/VISIT",
    )
    _add_target(parser)
    add_login(parser, "XNAT", "a token (alias:secret)", " (default: XNAT_USER, or the user in ~/.netrc)")
    _add_labels(parser)
    add_jobs(parser, "sessions", 2)
    parser.add_argument(
        "--retries", metavar="N", type=number, default=5, help="repeat a failed upload up to N times (default: 5)"
    )
    parser.add_argument(
        "--pause",
        metavar="SECONDS",
        type=positive_seconds,
        default=2.0,
        help="seconds to wait before the first repetition, doubled each time (default: 2)",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=positive_seconds,
        default=900.0,
        help="seconds to wait for each response (default: 900)",
    )
    parser.add_argument(
        "--wait",
        metavar="SECONDS",
        type=positive_seconds,
        default=600.0,
        help="seconds for XNAT to show an uploaded session and to finish processing it (default: 600)",
    )
    parser.add_argument(
        "--state", metavar="DIR", help="folder for the upload journal, if the input is not from a store"
    )
    parser.add_argument("--log", metavar="FILE", help="append a line for each session, with XNAT's responses")
    add_allow(parser, UPLOAD_CHECKS, "upload sessions")
    add_dry_run(parser, "print what would be uploaded; upload nothing")


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", metavar="URL", required=True, help="address of the XNAT")
    parser.add_argument("--project", metavar="ID", required=True, help="project ID (not its title)")
    parser.add_argument(
        "--dest",
        choices=("prearchive", "archive"),
        default="prearchive",
        help="part of the project (default: prearchive, where sessions wait until someone archives them)",
    )
    parser.add_argument(
        "--overwrite",
        choices=("append", "delete"),
        default="",
        help="if the session exists: add to it or replace it (default: do not upload it, and report that)",
    )
    parser.add_argument(
        "--direct-archive", action="store_true", help="with --dest archive: bypass the prearchive (XNAT 1.8.3 or later)"
    )
    parser.add_argument(
        "--again",
        action="store_true",
        help="upload even if the prearchive contains this DICOM study under another label",
    )
    add_ca(parser)


def _add_labels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--subject",
        metavar="TEMPLATE",
        default="",
        help="label of the subject (default: {subject}, the folder's name; for visits of a store: {visit})",
    )
    parser.add_argument(
        "--session",
        metavar="TEMPLATE",
        default="",
        help="label of the session (default: {subject}_{session}; for visits of a store: {study}_{visit})",
    )
    add_levels(parser)
    add_exclude(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.xnat.login import find_xnat_login
    from icf_utils.xnat.model import cleartext_notices
    from icf_utils.xnat.upload import plan_upload, upload

    target = _target(args)
    found = _uploads(args)
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
    for item in result.sessions:
        console.notices([replace(notice, subject=f"{item.label}: {notice.subject}") for notice in item.notices])
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
        args.again,
        ca=args.ca,
        timeout=args.timeout,
        wait=args.wait,
        retries=args.retries,
        pause=args.pause,
    )


def _uploads(args: argparse.Namespace) -> UploadList:
    from icf_utils.sources.tree import parse_levels, read_exclusions
    from icf_utils.xnat.upload_inputs import UploadList, list_tree_uploads, make_file_upload

    if args.store_dir is not None or args.id:
        return _stored_uploads(args)
    if len(args.targets) != 1:
        raise InvalidSetting("command line", "name one SOURCE, or visits of a store with -o")
    refuse = refused_of(args, UPLOAD_CHECKS)
    source, state = Path(args.targets[0]), Path(args.state) if args.state else None
    if source.is_file():
        return UploadList((make_file_upload(source, args.subject, args.session, state, refuse),))
    exclude = read_exclusions(args.exclude) if args.exclude else None
    levels = parse_levels(args.levels)
    return list_tree_uploads(source, args.subject, args.session, levels, exclude, state=state, refuse=refuse)


def _stored_uploads(args: argparse.Namespace) -> UploadList:
    from icf_utils.xnat.upload_inputs import UploadList, list_store_uploads, refuse_shared_visits

    if args.store_dir is None and args.targets:
        raise InvalidSetting("--id", "cannot be combined with SOURCE; name the store with -o")
    targets = targets_of(args)
    if not targets:
        raise InvalidSetting("command line", "name the visits to upload: STUDY, STUDY/VISIT or --id STUDY VISIT")
    store, refuse = Path(args.store_dir or "."), refused_of(args, UPLOAD_CHECKS)
    uploads: list[SessionUpload] = []
    for target in dict.fromkeys(targets):
        study, _, visit = target.partition("/")
        if not visit or study not in targets:
            uploads += list_store_uploads(store, study, visit, args.subject, args.session, refuse)
    refused = refuse_shared_visits(store, uploads) if "shared-study" in refuse else []
    left = {item.subject for item in refused}
    return UploadList(tuple(item for item in uploads if item.where not in left), refused=tuple(refused))


#: Notices that may point to a mistake, unlike those about scans that --exclude leaves out.
_WARNINGS = ("unmatched-pattern", "all-scans-excluded", "link-in-tree")

_WORDS = {
    "uploaded": "uploaded",
    "present": "exists with the same images",
    "before": "was uploaded before, and exists",
    "planned": "would be uploaded",
}


#: Behind a session whose images XNAT shows checksums of.
_CHECKSUMS = {True: ", checksums equal", False: ", images changed by XNAT"}


def _lines(result: UploadResult, quiet: bool) -> list[str]:
    lines = [f"{printable(item.subject)}: NOT UPLOADED: {item.message}" for item in result.refused]
    lines += [_line(item) for item in result.sessions if item in result.failed or not quiet]
    states = ", ".join(
        f"{number} {word}"
        for word in ("uploaded", "present", "before", "planned", "unproved", "failed")
        if (number := sum(item.state == word for item in result.sessions))
    )
    refused = f"{len(result.refused)} not uploaded" if result.refused else ""
    number, found = len(result.sessions) + len(result.refused), ", ".join(filter(None, (states, refused)))
    return [*lines, f"{format_count(number, 'session')} for {result.project} ({result.dest}): {found}"]


def _line(item: UploadOutcome) -> str:
    name = f"{item.subject}/{item.label}"
    if item.state == "failed":
        return f"{name}: FAILED: {item.problem if item.answers else shown_lines(item.problem)}"
    if item.state == "unproved":
        return f"{name}: NOT PROVED: {item.problem}"
    others = f", {format_count(len(item.left_out), 'other file')} left out" if item.left_out else ""
    if item.copies:
        others += f", {format_count(len(item.copies), 'identical copy', 'identical copies')} passed over"
    again = f", on attempt {item.tries}" if item.tries > 1 else ""
    places = f": {', '.join(printable(uri) for uri in item.uris)}" if item.uris else ""
    images = format_count(item.sent, "image")
    checksums = "" if item.identical is None else _CHECKSUMS[item.identical]
    return f"{name}: {_WORDS[item.state]} ({images}, {format_size(item.size)}{others}{again}{checksums}){places}"


def shown_lines(text: str) -> str:
    """An error of several lines, indented."""
    return text.replace("\n", "\n  ")
