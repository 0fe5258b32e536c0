"""``icf-utils receive``."""

from __future__ import annotations

import argparse
import threading
from pathlib import Path

from icf_utils.cli.console import Console
from icf_utils.cli.sessions_serve import add_pages, serve_in_background

NAME = "receive"
HELP = "receive images by DICOM C-STORE and archive each visit"
DETAILS = """\
Listens for DICOM associations; the called AE title determines the study. An
image is on the disk before success is returned for it. When no image of a visit
has arrived for a while, the visit goes through all stages of 'icf-utils run'.
Runs until it is interrupted; after a restart, unfinished work continues."""
EXAMPLE = "icf-utils receive /etc/icf/receiver.toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "settings",
        metavar="SETTINGS",
        help="settings file (TOML) with folders, [listen] and a [[rule]] for each AE title",
    )
    parser.add_argument("--check", action="store_true", help="check the settings and exit")
    parser.add_argument(
        "--http",
        metavar="HOST:PORT",
        nargs="?",
        const="",
        help="also serve the pages of 'sessions serve' (default address: 127.0.0.1:8042)",
    )
    add_pages(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    from icf_utils.receiver.processings import check_processings
    from icf_utils.receiver.settings import check_machine, literal_title_notes, load_receiver_settings

    settings = load_receiver_settings(Path(args.settings))
    try:
        from icf_utils.receiver.server import Receiver
    except ModuleNotFoundError as error:
        from icf_utils.installation import missing_package

        raise missing_package(error.name or "pynetdicom", "intake") from error
    rules = [f"{rule.called_ae}: study {rule.study}, visits {rule.visit}" for rule in settings.rules]
    for note in literal_title_notes(settings):
        console.message(note)
    if args.check:
        check_machine(settings)
        check_processings(settings)
        console.result(args.command, {"rules": [rule.name for rule in settings.rules]}, rules)
        return 0
    with Receiver(settings, console) as receiver:
        console.message(f"listening on {settings.listen.host}:{receiver.port}; " + "; ".join(rules))
        with serve_in_background(args, console, settings):
            while not threading.Event().wait(3600.0):
                pass
    return 0
