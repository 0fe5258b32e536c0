"""``icf-utils send``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from icf_utils.cli.console import Console
from icf_utils.cli.options import seconds, small_number
from icf_utils.errors import InvalidSetting, printable
from icf_utils.formatting import format_count, format_size

if TYPE_CHECKING:
    from icf_utils.sender.model import ImageOutcome, SendResult
    from icf_utils.sender.peer import Peer

HELP = "send a visit, some of its series or a folder to a DICOM node (C-STORE)"
DETAILS = """\
Sends every DICOM file of SOURCE through one association, each as it is: nothing
is decoded, compressed or changed. Says what became of each file that did not
arrive, tries it again, and exits with 1 if any is left that did not."""
EXAMPLE = "icf-utils send /data/store pacs.example.org 104 --aec PACS --id study-a visit-01 --series 3"

#: So many failed files are named; ``--json`` names all.
_NAMED_AT_MOST = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="a folder, zip or tar; with --id, the root of a store")
    parser.add_argument("host", metavar="HOST", help="name or address of the receiver")
    parser.add_argument("port", metavar="PORT", type=small_number, help="its port")
    add_titles(parser)
    parser.add_argument("--id", nargs=2, metavar=("STUDY-ID", "VISIT-ID"), help="send the archive of this visit")
    parser.add_argument(
        "--series",
        metavar="SERIES",
        action="append",
        default=[],
        help="send this series only: its SeriesNumber or SeriesInstanceUID; may be given several times",
    )
    add_association(parser)


def add_titles(parser: argparse.ArgumentParser) -> None:
    """``--aec`` and ``--aet``."""
    parser.add_argument("--aec", metavar="AE", required=True, help="AE title of the receiver (called)")
    parser.add_argument("--aet", metavar="AE", default="ICF-UTILS", help="our own (calling; default: ICF-UTILS)")


def add_association(parser: argparse.ArgumentParser) -> None:
    """``--retries``, ``--pause``, ``--timeout`` and the options of TLS."""
    parser.add_argument(
        "--retries", metavar="N", type=small_number, default=2, help="send what failed up to N times again (default: 2)"
    )
    parser.add_argument(
        "--pause", metavar="SECONDS", type=seconds, default=5.0, help="wait so long before that (default: 5)"
    )
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=seconds, default=30.0, help="patience with each answer (default: 30)"
    )
    parser.add_argument("--tls", action="store_true", help="encrypt; the receiver's certificate must be valid for HOST")
    parser.add_argument("--ca", metavar="FILE", help="with --tls: certificates to believe (PEM; default: the system's)")
    parser.add_argument("--cert", metavar="FILE", help="with --tls: our own certificate (PEM)")
    parser.add_argument("--key", metavar="FILE", help="with --tls: its key (PEM), if it is not in the same file")


def run(args: argparse.Namespace, console: Console) -> int:
    import tempfile

    from icf_utils.sender.images import list_images
    from icf_utils.sender.send import send
    from icf_utils.sources.open import open_source

    peer = peer_of(args)
    with open_source(source_of(args), Path(tempfile.gettempdir())) as source:
        listing = list_images(source, args.series, console)
        result = send(source, listing, peer, retries=args.retries, pause=args.pause, progress=console)
    report(args, console, result, listing.other_series)
    return 1 if result.failed else 0


def peer_of(args: argparse.Namespace) -> Peer:
    """The receiver that the options name."""
    from icf_utils.fetch.tls import TlsFiles
    from icf_utils.sender.peer import Peer

    files = [Path(name) if name else None for name in (args.ca, args.cert, args.key)]
    if any(files) and not args.tls:
        raise InvalidSetting("--ca, --cert, --key", "these are for --tls")
    return Peer(args.host, args.port, args.aec, args.aet, TlsFiles(*files) if args.tls else None, args.timeout)


def report(args: argparse.Namespace, console: Console, result: SendResult, other_series: int = 0) -> None:
    """Say what arrived, what did not, and what was left out."""
    console.notices(result.skipped, word="not sent")
    lines = [_line(image) for image in result.images if image.state == "warned"]
    lines += [_line(image) for image in result.failures[:_NAMED_AT_MOST]]
    if result.failed > _NAMED_AT_MOST:
        lines.append(f"... and {result.failed - _NAMED_AT_MOST} more failed")
    parts = [f"{format_count(result.sent, 'image')} sent to {printable(result.peer)} ({format_size(result.size)})"]
    parts += [f"{result.failed} failed"] if result.failed else []
    parts += [f"{format_count(len(result.skipped), 'other file')} left out"] if result.skipped else []
    parts += [f"{format_count(other_series, 'image')} of other series left out"] if other_series else []
    console.result(args.command, result, [*lines, "; ".join(parts)], ok=not result.failed)


def _line(image: ImageOutcome) -> str:
    status = "" if image.status is None else f" (status 0x{image.status:04X})"
    return f"'{printable(image.name)}': {image.meaning}{status}"


def source_of(args: argparse.Namespace) -> Path:
    """What to send: a path, or with ``--id`` the archive of a visit."""
    from icf_utils.errors import DepositMissing
    from icf_utils.store.layout import Visit

    if not args.id:
        return Path(args.source)
    visit = Visit(Path(args.source), *args.id)
    if not visit.archive.exists():
        raise DepositMissing(visit.archive, "check --id; with it, SOURCE is the root of a store")
    return visit.archive
