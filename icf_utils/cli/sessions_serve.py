"""``icf-utils sessions serve``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from icf_utils.cli.console import Console

if TYPE_CHECKING:
    from icf_utils.progress import Progress
    from icf_utils.receiver.journal import Journal
    from icf_utils.receiver.settings import ReceiverSettings
    from icf_utils.receiver.web.app import WebServer

NAME = "sessions serve"
HELP = "serve web pages, JSON and downloads about sessions"
DETAILS = """\
For a receiver that was started without --http, which serves the same pages.
Listens on the loopback interface unless --http names another address. Requests
need the token from --token-file or $ICF_SESSIONS_TOKEN, or else from the file
'token' in the receiver's spool, which is created at the first start."""
EXAMPLE = "icf-utils sessions serve --settings receiver.toml --http 127.0.0.1:8042"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", metavar="FILE", required=True, help="settings file of the receiver")
    parser.add_argument(
        "--http", metavar="HOST:PORT", default="", help="address to listen on (default: 127.0.0.1:8042)"
    )
    add_pages(parser)


def add_pages(parser: argparse.ArgumentParser) -> None:
    """Options of the pages, for this command and for ``receive``."""
    parser.add_argument(
        "--token-file", metavar="FILE", type=Path, help="file with the token of the pages; only its owner may read it"
    )
    parser.add_argument(
        "--magickbox", action="store_true", help="also answer MagickBox's getScratch.php and getOutputZip.php"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.receiver.journal import Journal
    from icf_utils.receiver.settings import load_receiver_settings

    settings = load_receiver_settings(Path(args.settings))
    journal = Journal(settings.spool)
    server = pages(args, console, settings, journal, args.http)
    console.message(f"serving {server.url}; the token is in {_token_place(args, settings)}")
    try:
        server.run()
    finally:
        journal.close()
    return 0


def pages(
    args: argparse.Namespace, progress: Progress, settings: ReceiverSettings, journal: Journal, address: str
) -> WebServer:
    """The server of the pages, not yet started."""
    from icf_utils.receiver.processings import list_buckets
    from icf_utils.receiver.web.app import WebServer
    from icf_utils.receiver.web.settings import WebSettings, is_loopback, parse_address, token_for
    from icf_utils.settings import load_settings

    host, port = parse_address(address)
    if not is_loopback(host):
        progress.message(
            f"warning: other machines can connect to {host}, and the connection is not encrypted; use a proxy with TLS"
        )
    token = token_for(settings.spool, args.token_file)
    rules = {rule.name: rule.study for rule in settings.rules if not rule.study_template.fields}
    chosen = WebSettings(
        settings.store,
        token,
        rules,
        compatible=args.magickbox,
        processings={rule.name: rule.process for rule in settings.rules},
        buckets=list_buckets(settings),
        late={rule.name: rule.late for rule in settings.rules},
        reserve=settings.listen.reserve * 1_000_000,
        upload_limit=settings.http.upload_limit * 1_000_000,
        unpacked_limit=settings.http.unpacked_limit * 1_000_000,
        store_url=load_settings(settings.store).store.url,
    )
    return WebServer(journal, chosen, host, port, progress)


@contextmanager
def serve_in_background(args: argparse.Namespace, progress: Progress, settings: ReceiverSettings) -> Iterator[None]:
    """Serve the pages in a thread during the block, if ``--http`` is given."""
    from icf_utils.receiver.journal import Journal

    if args.http is None:
        yield
        return
    journal = Journal(settings.spool)
    server = pages(args, progress, settings, journal, args.http)
    server.start()
    progress.message(f"serving {server.url}; the token is in {_token_place(args, settings)}")
    try:
        yield
    finally:
        server.stop()
        journal.close()


def _token_place(args: argparse.Namespace, settings: ReceiverSettings) -> str:
    import os

    from icf_utils.errors import printable
    from icf_utils.receiver.web.settings import TOKEN_NAME, TOKEN_VARIABLE

    if args.token_file:
        return f"'{printable(args.token_file)}'"
    return TOKEN_VARIABLE if os.environ.get(TOKEN_VARIABLE) else f"'{printable(settings.spool / TOKEN_NAME)}'"
