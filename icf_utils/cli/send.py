"""``icf-utils send``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from icf_utils.cli.console import Console
from icf_utils.cli.options import add_source, add_tls, number, path_of_source, port, seconds, tls_of
from icf_utils.errors import InvalidSetting, printable
from icf_utils.formatting import format_count, format_size

if TYPE_CHECKING:
    from icf_utils.sender.model import ImageOutcome, SendResult
    from icf_utils.sender.peer import Peer

NAME = "send"
HELP = "send a folder, a file, a visit or some of its series to a DICOM node (C-STORE)"
DETAILS = """\
Sends all DICOM files of SOURCE, or of a deposited visit, over one association.
Files are sent unchanged: nothing is compressed or anonymised. Only if the receiver
accepts implicit VR little endian alone, uncompressed images are converted to it;
no value changes, and they are counted. Repeats failed files, prints the reason
for each that remains, and exits with 1 then."""
EXAMPLE = "icf-utils send pacs.example.org 104 --aec PACS -o /data/store --id study-a visit-01 --series 3"

#: How many failed files are named; ``--json`` names all.
_NAMED_AT_MOST = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument("host", metavar="HOST", help="host name or address of the receiver")
    parser.add_argument("port", metavar="PORT", type=port, help="port of the receiver")
    add_titles(parser)
    parser.add_argument(
        "--series",
        metavar="SERIES",
        action="append",
        default=[],
        help="send only this series (SeriesNumber or SeriesInstanceUID); may be given several times",
    )
    parser.add_argument(
        "--arguments",
        metavar="WORDS",
        default="",
        help="words for the programs that process the images, announced to an icf-utils receiver before sending",
    )
    parser.add_argument(
        "--url", metavar="URL", help="with --arguments: address of the receiver's pages (default: $ICF_SESSIONS_URL)"
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        type=Path,
        help="with --arguments: file with the receiver's token (default: $ICF_SESSIONS_TOKEN)",
    )
    add_association(parser)


def add_titles(parser: argparse.ArgumentParser) -> None:
    """``--aec`` and ``--aet``."""
    parser.add_argument("--aec", metavar="AE", required=True, help="called AE title: the receiver's")
    add_calling(parser)


def add_calling(parser: argparse.ArgumentParser) -> None:
    """``--aet``."""
    parser.add_argument(
        "--aet", metavar="AE", default="ICF-UTILS", help="calling AE title: the sender's (default: ICF-UTILS)"
    )


def add_association(parser: argparse.ArgumentParser) -> None:
    """``--retries``, ``--pause``, ``--timeout`` and the options of TLS."""
    parser.add_argument(
        "--retries", metavar="N", type=number, default=2, help="repeat failed files up to N times (default: 2)"
    )
    parser.add_argument(
        "--pause",
        metavar="SECONDS",
        type=seconds,
        default=5.0,
        help="seconds to wait before each repetition (default: 5)",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=seconds,
        default=30.0,
        help="seconds to wait for each response (default: 30)",
    )
    parser.add_argument("--tls", action="store_true", help="use TLS; the receiver's certificate must be valid for HOST")
    add_tls(parser, "with --tls: ")


def run(args: argparse.Namespace, console: Console) -> int:
    import tempfile

    from icf_utils.sender.images import list_images
    from icf_utils.sender.send import send
    from icf_utils.sources.open import open_source

    peer = peer_of(args)
    with open_source(path_of_source(args), Path(tempfile.gettempdir()), single_file=True) as source:
        listing = list_images(source, args.series, console)
        _announce(args, {image.study_uid for image in listing.images} - {""})
        result = send(source, listing, peer, retries=args.retries, pause=args.pause, progress=console)
    report(args, console, result, listing.other_series)
    return 1 if result.failed else 0


def _announce(args: argparse.Namespace, study_uids: set[str]) -> None:
    """Give the receiver the arguments of this send, for each study in it."""
    import os

    from icf_utils.credentials import find_secret

    url = args.url or os.environ.get("ICF_SESSIONS_URL", "")
    if not args.arguments:
        if args.url or args.token_file:
            raise InvalidSetting("--url, --token-file", "need --arguments")
        return
    from icf_utils.receiver.arguments import split_words
    from icf_utils.receiver.client import HttpSessions
    from icf_utils.receiver.identify import study_key

    words = split_words(args.arguments)
    if not url.startswith(("http://", "https://")):
        raise InvalidSetting("--url", "give the address of the receiver's pages: arguments cannot go with C-STORE")
    token = find_secret("ICF_SESSIONS_TOKEN", args.token_file)
    if token is None:
        raise InvalidSetting("--token-file", "no token: name its file, or set ICF_SESSIONS_TOKEN")
    receiver = HttpSessions(url, token, tls_of(args))
    for uid in sorted(study_uids):
        receiver.announce(study_key(uid), words)


def peer_of(args: argparse.Namespace) -> Peer:
    """The receiver that the options name."""
    from icf_utils.fetch.tls import TlsFiles
    from icf_utils.sender.peer import Peer

    files = (args.ca, args.cert, args.key)
    if any(files) and not args.tls:
        raise InvalidSetting("--ca, --cert, --key", "need --tls")
    return Peer(args.host, args.port, args.aec, args.aet, TlsFiles(*files) if args.tls else None, args.timeout)


def report(args: argparse.Namespace, console: Console, result: SendResult, other_series: int = 0) -> None:
    """Print what was sent, what failed and what was left out."""
    console.notices(result.skipped, word="not sent")
    lines = [_line(image) for image in result.images if image.state == "warned"]
    lines += [_line(image) for image in result.failures[:_NAMED_AT_MOST]]
    if result.failed > _NAMED_AT_MOST:
        lines.append(f"... and {result.failed - _NAMED_AT_MOST} more failed")
    parts = [f"{format_count(result.sent, 'image')} sent to {printable(result.peer)} ({format_size(result.size)})"]
    parts += [f"{result.converted} converted to implicit VR little endian"] if result.converted else []
    parts += [f"{result.failed} failed"] if result.failed else []
    parts += [f"{format_count(len(result.skipped), 'other file')} left out"] if result.skipped else []
    parts += [f"{format_count(other_series, 'image')} of other series left out"] if other_series else []
    console.result(args.command, result, [*lines, "; ".join(parts)], ok=not result.failed)


def _line(image: ImageOutcome) -> str:
    status = "" if image.status is None else f" (status 0x{image.status:04X})"
    return f"'{printable(image.name)}': {image.meaning}{status}"
