"""``icf-utils xnat send``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from icf_utils.cli.console import Console
from icf_utils.cli.options import add_dry_run, add_source, path_of_source, port
from icf_utils.cli.send import add_association, add_calling, peer_of
from icf_utils.errors import InvalidSetting, printable
from icf_utils.formatting import format_count, format_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from icf_utils.sender.model import ImageOutcome, SendResult
    from icf_utils.xnat.receiver_routing import ImageRoute, LabelChoice

NAME = "xnat send"
HELP = "send a visit to XNAT's DICOM receiver (C-STORE)"
DETAILS = """\
Prints the project, subject and session to which XNAT's rules will route the
images, tests the connection (C-ECHO), sends all DICOM files unchanged over one
association, and prints the reason for each that failed. Labels come from the
patient's data: without --show-identifying, only the attribute that each label
comes from is printed, and projects that a comment assigns."""
EXAMPLE = "icf-utils xnat send /scanner/export/0815 xnat.example.org --expect-project PILOT"

#: How many failed files are named; ``--json`` names all.
_NAMED_AT_MOST = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument("host", metavar="HOST", help="host name or address of the XNAT")
    parser.add_argument(
        "--port", metavar="PORT", type=port, default=8104, help="port of XNAT's receiver (default: 8104)"
    )
    parser.add_argument("--aec", metavar="AE", default="XNAT", help="called AE title: XNAT's (default: XNAT)")
    add_calling(parser)
    parser.add_argument(
        "--expect-project", metavar="ID", help="send nothing unless all images would be routed to this project"
    )
    parser.add_argument(
        "--show-identifying", action="store_true", help="also print the labels, which may be names and patient IDs"
    )
    add_dry_run(parser, "print the routing only; do not connect")
    add_association(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    import tempfile

    from icf_utils.sender.association import echo
    from icf_utils.sender.images import list_images
    from icf_utils.sender.send import send
    from icf_utils.sources.open import open_source
    from icf_utils.xnat.receiver_routing import all_name_project, list_routes, mask_routes

    peer = peer_of(args)
    with open_source(path_of_source(args), Path(tempfile.gettempdir()), single_file=True) as source:
        listing = list_images(source, progress=console)
        routes = list_routes(source, listing.images, console)
        seen = mask_routes(routes, args.show_identifying)
        if args.dry_run:
            console.notices(listing.skipped, word="would not be sent")
            wrong = bool(args.expect_project) and not all_name_project(routes, args.expect_project)
            bad = bool(listing.damaged) or wrong
            lines = [*_route_lines(seen), *_damaged_lines(listing.damaged), *_wrong_lines(args, wrong)]
            console.result(args.command, {"routes": seen, "damaged": listing.damaged}, lines, ok=not bad)
            return 1 if bad else 0
        if args.expect_project and not all_name_project(routes, args.expect_project):
            raise InvalidSetting("--expect-project", f"{_WRONG}: nothing was sent (see --dry-run)")
        for line in _route_lines(seen):
            console.message(line)
        seconds = echo(peer)
        console.message(f"{printable(peer.name)} answered C-ECHO in {seconds * 1000:.0f} ms")
        result = send(source, listing, peer, retries=args.retries, pause=args.pause, progress=console)
    console.notices(result.skipped, word="not sent")
    console.result(args.command, {"routes": seen, "sent": result}, _result_lines(result), ok=not result.failed)
    return 1 if result.failed else 0


_WRONG = "not all images name this project first"


def _wrong_lines(args: argparse.Namespace, wrong: bool) -> list[str]:
    return [f"--expect-project {printable(args.expect_project)}: {_WRONG}"] if wrong else []


def _damaged_lines(damaged: Iterable[tuple[str, str]]) -> list[str]:
    return [f"'{printable(name)}': {reason}" for name, reason in damaged]


def _route_lines(routes: Sequence[ImageRoute]) -> list[str]:
    """One line for each route. XNAT takes the first of the projects that exists there."""
    lines = []
    for one in routes:
        projects = ", else ".join(_choice(choice) for choice in one.projects)
        where = f"project {projects}, else Unassigned" if projects else "project Unassigned (nothing names one)"
        subject = f"subject {_choice(one.subject)}" if one.subject.source else "subject unknown"
        lines.append(f"{format_count(one.images, 'image')}: {where}; {subject}; session {_choice(one.session)}")
    return lines


def _choice(choice: LabelChoice) -> str:
    return f"'{printable(choice.label)}' ({choice.source})" if choice.source else f"'{printable(choice.label)}'"


def _result_lines(result: SendResult) -> list[str]:
    lines = [_line(image) for image in result.images if image.state == "warned"]
    lines += [_line(image) for image in result.failures[:_NAMED_AT_MOST]]
    if result.failed > _NAMED_AT_MOST:
        lines.append(f"... and {result.failed - _NAMED_AT_MOST} more failed")
    parts = [f"{format_count(result.sent, 'image')} sent to {printable(result.peer)} ({format_size(result.size)})"]
    parts += [f"{result.failed} failed"] if result.failed else []
    parts += [f"{format_count(len(result.skipped), 'other file')} left out"] if result.skipped else []
    return [*lines, "; ".join(parts)]


def _line(image: ImageOutcome) -> str:
    status = "" if image.status is None else f" (status 0x{image.status:04X})"
    return f"'{printable(image.name)}': {image.meaning}{status}"
