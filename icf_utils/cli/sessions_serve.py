"""``icf-utils sessions serve``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from icf_utils.cli.console import Console

if TYPE_CHECKING:
    from icf_utils.receiver.journal import Journal
    from icf_utils.receiver.settings import ReceiverSettings
    from icf_utils.receiver.web.app import WebServer

HELP = "serve pages about the sessions: for people, for scripts, with downloads"
DETAILS = """\
For a receiver that runs without them ('icf-utils receive --http' serves the
same). Listens on the loopback interface unless --http says otherwise. Whoever
asks must show the token: the one in --token-file or $ICF_SESSIONS_TOKEN, else
one that is made and kept in the file 'token' of the receiver's spool."""
EXAMPLE = "icf-utils sessions serve --settings receiver.toml --http 127.0.0.1:8042"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", metavar="FILE", required=True, help="the receiver's settings")
    parser.add_argument("--http", metavar="HOST:PORT", default="", help="where to listen (default: 127.0.0.1:8042)")
    add_pages(parser)


def add_pages(parser: argparse.ArgumentParser) -> None:
    """What the pages need, for this command and for the receiver."""
    parser.add_argument("--token-file", metavar="FILE", help="the file of the pages' token, which only you can read")
    parser.add_argument(
        "--magickbox", action="store_true", help="answer at MagickBox's getScratch.php and getOutputZip.php, too"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.receiver.journal import Journal
    from icf_utils.receiver.settings import load_receiver_settings

    settings = load_receiver_settings(Path(args.settings))
    journal = Journal(settings.spool)
    server = pages(args, console, settings, journal, args.http)
    console.message(f"serving {server.url}; the token is in {_place_of_token(args, settings)}")
    try:
        server.run()
    finally:
        journal.close()
    return 0


def pages(
    args: argparse.Namespace, console: Console, settings: ReceiverSettings, journal: Journal, address: str
) -> WebServer:
    """The server of the pages, not yet running."""
    from icf_utils.receiver.web.app import WebServer
    from icf_utils.receiver.web.settings import WebSettings, is_loopback, parse_address, token_for

    host, port = parse_address(address)
    if not is_loopback(host):
        console.message(
            f"warning: {host} can be reached from elsewhere, and this is not encrypted; use a proxy with TLS"
        )
    token = token_for(settings.spool, Path(args.token_file) if args.token_file else None)
    rules = {rule.name: rule.study for rule in settings.rules}
    chosen = WebSettings(
        settings.store,
        token,
        rules,
        compatible=args.magickbox,
        reserve=settings.listen.reserve * 1_000_000,
        upload_limit=settings.http.upload_limit * 1_000_000,
        unpacked_limit=settings.http.unpacked_limit * 1_000_000,
    )
    return WebServer(journal, chosen, host, port, console)


@contextmanager
def pages_beside(args: argparse.Namespace, console: Console, settings: ReceiverSettings) -> Iterator[None]:
    """Serve the pages in a thread during the block, if ``--http`` was given."""
    from icf_utils.receiver.journal import Journal

    if args.http is None:
        yield
        return
    journal = Journal(settings.spool)
    server = pages(args, console, settings, journal, args.http)
    server.start()
    console.message(f"serving {server.url}; the token is in {_place_of_token(args, settings)}")
    try:
        yield
    finally:
        server.stop()
        journal.close()


def _place_of_token(args: argparse.Namespace, settings: ReceiverSettings) -> str:
    import os

    from icf_utils.errors import printable
    from icf_utils.receiver.web.settings import TOKEN_NAME, TOKEN_VARIABLE

    if args.token_file:
        return f"'{printable(args.token_file)}'"
    return TOKEN_VARIABLE if os.environ.get(TOKEN_VARIABLE) else f"'{printable(settings.spool / TOKEN_NAME)}'"
